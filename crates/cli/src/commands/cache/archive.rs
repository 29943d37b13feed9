//! Images as tar archives: the exchange form with programs that know nothing of df.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use df_cache::blobs::Blobs;
use df_cache::import::ImportOptions;
use df_cache::tar::{self, ReadOptions};
use df_core::Manifest;

use super::Place;
use crate::event::{Event, Placed};
use crate::exit::Exit;
use crate::failure::Failure;
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
        let held = place.store().has(image).map_err(|error| place.unread(&error))?;
        let event = Event::Planned {
            node: None,
            action: format!("put image {} into {}", image.short(), place.name),
            bytes: Some(located.manifest.total_len()),
            requests: Some(0),
            reason: if held { "it is there already".into() } else { String::new() },
            changes: !held,
        };
        session.output().result(&event);
        return Ok(session.planned(!held));
    }
    let added = place.store().put_image(&located.manifest, &located.files, now()).map_err(|error| place.unwritten(&error))?;
    let placed = Placed { image: Some(image), ..place.placed(added.bytes, added.n_blobs, "an archive, without a release") };
    session.output().result(&Event::Stored(placed));
    Ok(Exit::Done)
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
