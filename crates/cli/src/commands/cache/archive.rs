//! Images as tar archives: the exchange form with programs that know nothing of df.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use df_cache::blobs::Blobs;
use df_cache::import::ImportOptions;
use df_cache::s3::Item;
use df_cache::tar::{self, ReadOptions};
use df_core::Manifest;

use super::{Place, costs};
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::units::count;
use crate::session::{Session, now};
use crate::store::Shelf;

/// Puts an image from an archive; it gets no release, because no commit is known for it.
pub fn put(session: &Session, place: &Place, file: &Path) -> Result<Exit, Failure> {
    let archive = File::open(file).map_err(|error| {
        Failure::new(Exit::Usage, "archive", format!("{}: {error}", file.display())).next("df cache get --tar")
    })?;
    let workspace = Shelf::open(session)?.store().workspace().map_err(|error| place.unread(&error))?;
    let import = ImportOptions { outside_links: &session.config.build.outside_links };
    let options = ReadOptions { import, ..ReadOptions::default() };
    let located = tar::read(&mut BufReader::new(archive), workspace.path(), options);
    let located = located.map_err(|error| Failure::here("archive", &error))?;
    let image = located.manifest.image();
    if session.is_dry_run() {
        return plan(session, place, &located.manifest);
    }
    let added = place.store().put_image(&located.manifest, &located.files, now()).map_err(|error| place.unwritten(&error))?;
    let placed = Placed { image: Some(image), ..place.placed(added.bytes, added.n_blobs, "an archive, without a release") };
    session.output().result(&Event::Stored(placed));
    Ok(Exit::Done)
}

/// Says what an image lacks there, and for a bucket what putting it costs.
fn plan(session: &Session, place: &Place, manifest: &Manifest) -> Result<Exit, Failure> {
    let (image, unread) = (manifest.image(), |error| place.unread(&error));
    let held = place.store().has(image).map_err(unread)?;
    let lacking = place.store().lacking(manifest).map_err(unread)?;
    let found = if held {
        "it is there already".into()
    } else {
        format!("{} not there, before compression", count(lacking.len(), "file"))
    };
    let (requests, reason) = match place.bucket() {
        None => (0, found),
        Some(bucket) => {
            let work = bucket.requests_of_put(&[Item { manifest, release: None, documents: &[] }]).map_err(unread)?;
            (costs::estimate(&work).requests, format!("{found}; {}", costs::words(&work)))
        }
    };
    let event = Event::Planned {
        node: None,
        action: format!("put image {} into {}", image.short(), place.name),
        bytes: Some(lacking.iter().map(|(_, len)| len).sum()),
        requests: Some(requests),
        reason,
        changes: !held,
    };
    session.output().result(&event);
    Ok(session.planned(!held))
}

/// Writes an image as an archive into a file that does not exist yet.
pub fn write(place: &Place, manifest: &Manifest, blobs: &dyn Blobs, to: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, "output", format!("{}: {error}", to.display()));
    let mut out = BufWriter::new(File::create_new(to).map_err(failed)?);
    let written = tar::write(manifest, blobs, &mut out).map_err(|error| place.unread_damaged(&error));
    let written = written.and_then(|()| out.flush().map_err(failed));
    if written.is_err() {
        // Half an archive is none.
        let _ = std::fs::remove_file(to);
    }
    written
}
