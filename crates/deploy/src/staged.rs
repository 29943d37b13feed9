//! Releases that were copied to a node and not run yet: they keep their images for a while.

use std::fs;
use std::io;

use df_cache::durable;
use df_core::{AppName, Release, ReleaseId, Timestamp};
use df_wire::message::Staged;
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, make_dir};

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    release: String,
    since: Timestamp,
}

/// Remembers a release, durably.
///
/// # Errors
/// It cannot be written.
pub fn add(layout: &Layout, release: &Release, now: Timestamp) -> io::Result<()> {
    make_dir(&layout.staged(&release.app))?;
    let text = String::from_utf8(release.encode()).expect("JSON is UTF-8");
    let json = serde_json::to_vec(&Stored { format: 1, release: text, since: now }).expect("plain data");
    durable::write(&layout.staged_release(&release.app, release.id()), &json, 0o644)
}

/// Returns the releases of an application that were copied here, oldest first; records that do not parse are passed over.
///
/// # Errors
/// The directory cannot be read.
pub fn list(layout: &Layout, app: &AppName) -> io::Result<Vec<Staged>> {
    let mut found: Vec<Staged> = releases(layout, app)?
        .into_iter()
        .map(|(release, since)| Staged { release: release.id(), commit: release.commit, image: release.image, since })
        .collect();
    found.sort_by_key(|staged| (staged.since, staged.release));
    Ok(found)
}

/// Returns a release that was copied here.
///
/// # Errors
/// The directory cannot be read.
pub fn find(layout: &Layout, app: &AppName, id: ReleaseId) -> io::Result<Option<Release>> {
    Ok(releases(layout, app)?.into_iter().map(|(release, _)| release).find(|release| release.id() == id))
}

/// Removes records older than a moment.
///
/// # Errors
/// A record cannot be removed.
pub fn forget(layout: &Layout, app: &AppName, older: Timestamp) -> io::Result<()> {
    for (release, since) in releases(layout, app)? {
        if since < older {
            fs::remove_file(layout.staged_release(app, release.id()))?;
        }
    }
    Ok(())
}

/// Removes the record of a release that became a generation.
///
/// # Errors
/// It cannot be removed.
pub fn remove(layout: &Layout, release: &Release) -> io::Result<()> {
    match fs::remove_file(layout.staged_release(&release.app, release.id())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn releases(layout: &Layout, app: &AppName) -> io::Result<Vec<(Release, Timestamp)>> {
    let entries = match fs::read_dir(layout.staged(app)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut found = vec![];
    for entry in entries {
        let bytes = fs::read(entry?.path())?;
        let stored = serde_json::from_slice::<Stored>(&bytes).ok().filter(|stored| stored.format == 1);
        if let Some((Ok(release), since)) = stored.map(|stored| (Release::decode(stored.release.as_bytes()), stored.since)) {
            found.push((release, since));
        }
    }
    Ok(found)
}
