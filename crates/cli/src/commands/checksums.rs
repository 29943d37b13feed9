//! `df compare-checksums`: what serves on each node, read back from disk, against the current version here.

use df_cache::diff;
use df_core::{ImageId, Manifest, Release};
use df_fleet::message::{Generation, Reply, Request};
use df_fleet::{Images as _, NodeError};

use crate::across::{self, Work, state_of};
use crate::event::Event;
use crate::exit::{Exit, NodeEnd};
use crate::failure::Failure;
use crate::output::Output;
use crate::pipeline;
use crate::session::Session;
use crate::store::Shelf;

/// Compares image and files on each node; anything that differs is exit 8.
pub fn run(session: &Session) -> Result<Exit, Failure> {
    session.nodes()?;
    let shelf = Shelf::open(session)?;
    let here = current_here(session, &shelf);
    if here.is_none() {
        session
            .output()
            .note("HEAD has no image here, so each node's files are compared with its own manifest alone; next: df build");
    }
    across::ask(session, "compare-checksums", |work: Work| {
        let (here, shelf) = (here.clone(), shelf.clone());
        async move { compare(work, here.as_ref(), &shelf).await }
    })
}

/// Returns HEAD's release, when it was built here.
fn current_here(session: &Session, shelf: &Shelf) -> Option<Release> {
    pipeline::begin(session, None).ok()?.known(session, shelf.store()).ok()?
}

async fn compare(work: Work, here: Option<&Release>, shelf: &Shelf) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let state = state_of(&reached.survey, &app);
    let current = state.and_then(|s| s.generations.iter().find(|g| g.number == s.current)).cloned();
    let mut differs = match (&current, here) {
        (Some(current), Some(here)) => compare_images(&output, &label, here, current, shelf),
        _ => false,
    };
    // What was only copied there is compared all the same.
    let copied = here.map(|here| here.image).filter(|image| reached.survey.images.contains(image));
    let Some(image) = current.as_ref().map(|current| current.image).or(copied) else {
        let image = here.map_or_else(|| "-".into(), |here| here.image.to_string());
        difference(&output, &label, ("", "missing"), image, "no version");
        return Ok(NodeEnd::Differs);
    };
    let Reply::Checked { differences } = reached.connection.ask(&Request::Check { image }).await? else {
        return Err(NodeError::Answer);
    };
    for d in &differences {
        differs = true;
        difference(&output, &label, (&d.path, &d.kind), d.expected.clone(), &d.found);
    }
    if !differs {
        let what = current.map_or_else(|| "no generation, but".to_owned(), |current| format!("generation {} is", current.number));
        let line = format!("  {label:<16} {what} image {}, every file read back", image.short());
        output.table(&[], &[line]);
    }
    reached.connection.close().await;
    Ok(if differs { NodeEnd::Differs } else { NodeEnd::Done })
}

/// Returns whether the image there is another one than here, and says by which files when both are at hand.
fn compare_images(output: &Output, node: &str, here: &Release, there: &Generation, shelf: &Shelf) -> bool {
    if there.image == here.image {
        if there.release != here.id() {
            output.note(format!("  {node:<16} the image is the same, its release (commit or settings) is another"));
        }
        return false;
    }
    difference(
        output,
        node,
        ("", "image"),
        format!("{} of {}", here.image, here.commit.short()),
        &format!("{} of {}", there.image, there.commit.short()),
    );
    let manifest = |image: ImageId| -> Option<Manifest> { shelf.manifest(image).ok() };
    if let (Some(ours), Some(theirs)) = (manifest(here.image), manifest(there.image)) {
        for d in diff::manifests(&ours, &theirs) {
            difference(output, node, (&String::from_utf8_lossy(&d.path), d.kind.as_str()), d.expected, &d.found);
        }
    }
    true
}

fn difference(output: &Output, node: &str, (path, kind): (&str, &str), here: String, there: &str) {
    output.result(&Event::Difference {
        node: Some(node.to_owned()),
        path: path.into(),
        kind: kind.into(),
        here,
        there: there.into(),
    });
}
