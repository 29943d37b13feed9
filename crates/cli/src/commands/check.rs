//! `df build --check`: the commit is built once more, from nothing and under other conditions, and must give the same image.

use std::path::Path;

use df_build::Difference;
use df_build::compare::Varied;
use df_cache::export;
use df_cache::import::{self, ImportOptions};
use df_cache::store::Store as _;
use df_core::Release;
use df_core::spec::Sandbox;

use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline::Journey;
use crate::session::Session;
use crate::store::Shelf;

/// Builds again and compares with the image in the cache, whenever that was built; says what differs.
pub fn run(session: &Session, shelf: &Shelf, journey: &Journey, release: &Release) -> Result<Exit, Failure> {
    let built = journey.build_from_nothing(session)?;
    let failed = |error: &dyn std::error::Error| Failure::here("check", error);
    let options = ImportOptions { outside_links: &journey.config.build.outside_links };
    let again = import::located(&built.output, options).map_err(|error| failed(&error))?.manifest.image();
    let differences = if again == release.image { vec![] } else { differences(shelf, release, &built.output)? };
    session.output().result(&Event::Checked {
        app: release.app.clone(),
        commit: release.commit.clone(),
        image: release.image,
        again,
        reproducible: again == release.image,
        differs: paths(&differences),
        differences,
    });
    Ok(if again == release.image { Exit::Done } else { Exit::Differs })
}

/// Compares an image of the cache with a tree.
fn differences(shelf: &Shelf, release: &Release, tree: &Path) -> Result<Vec<Difference>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::here("check", error).next("df cache verify");
    let workspace = shelf.store().workspace().map_err(|error| failed(&error))?;
    let exported = workspace.path().join("image");
    let manifest = shelf.store().manifest(release.image).map_err(|error| failed(&error))?;
    export::tree(&manifest, shelf.store(), &exported).map_err(|error| failed(&error))?;
    let varied = if release.sandbox == Sandbox::Strict { Varied::of_strict_builds() } else { vec![] };
    df_build::compare(&exported, tree, &varied).map_err(|error| failed(&error))
}

/// Lists each path once.
fn paths(differences: &[Difference]) -> Vec<String> {
    let mut paths: Vec<String> = differences.iter().map(|difference| difference.path.clone()).collect();
    paths.dedup();
    paths
}
