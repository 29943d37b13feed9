//! Whether a release needs nothing to be on this node.

use std::io;
use std::time::Duration;

use df_core::{AppName, ImageId, ReleaseId, Timestamp};

use crate::layout::Layout;
use crate::{generation, staged, store};

/// How long after a release was copied here nothing needs to be said of it again: far less than its record keeps the image.
const LATELY: Duration = Duration::from_secs(3600);

/// Returns whether a release's image is held, and a generation keeps it or it was copied here lately. Reads records only, nothing of the image.
///
/// # Errors
/// A record cannot be read.
pub fn has(layout: &Layout, release: ReleaseId, now: Timestamp) -> io::Result<bool> {
    for app in generation::apps(layout).map_err(io::Error::other)? {
        let image = match staged_lately(layout, &app, release, now)? {
            Some(image) => Some(image),
            None => in_generation(layout, &app, release)?,
        };
        if let Some(image) = image {
            return Ok(store::holds(layout, image));
        }
    }
    Ok(false)
}

fn staged_lately(layout: &Layout, app: &AppName, release: ReleaseId, now: Timestamp) -> io::Result<Option<ImageId>> {
    // A record of the future says nothing: a clock went back.
    let lately = now.minus(LATELY)..=now;
    let staged = staged::list(layout, app)?;
    Ok(staged.into_iter().find(|it| it.release == release && lately.contains(&it.since)).map(|it| it.image))
}

fn in_generation(layout: &Layout, app: &AppName, release: ReleaseId) -> io::Result<Option<ImageId>> {
    let records = generation::list(layout, app).map_err(io::Error::other)?;
    Ok(records.into_iter().find(|record| record.release.id() == release).map(|record| record.release.image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::layout::make_dir;

    #[test]
    fn a_release_is_had_while_its_image_and_something_that_keeps_it_are_here() {
        let (_dir, layout) = fixture::layout();
        let (now, release) = (Timestamp(1_000_000), fixture::release("greeter", 1));
        let has = |now| has(&layout, release.id(), now).expect("read");
        staged::add(&layout, &release, now).expect("remembered");
        assert!(!has(now), "no image");
        make_dir(&layout.image(release.image)).expect("made");
        std::fs::write(layout.manifest(release.image), "").expect("written");
        assert!(has(now) && has(Timestamp(now.0 + 3600)));
        assert!(!has(Timestamp(now.0 + 3601)), "copied long ago: its record has to be made young");
        assert!(!has(Timestamp(now.0 - 1)), "copied in the future");
        staged::remove(&layout, &release).expect("forgotten");
        assert!(!has(now), "nothing keeps it");
        generation::create(&layout, &release, 0, "me", now).expect("made");
        assert!(has(Timestamp(now.0 + 9999)));
        std::fs::remove_file(layout.manifest(release.image)).expect("removed");
        assert!(!has(now));
    }
}
