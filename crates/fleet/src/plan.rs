//! What a copy to one node takes: decided from its survey, before anything moves.

use df_core::{AppName, ImageId};
use df_wire::message::{AppState, Survey};

use crate::program::ARCH;

/// How an image gets to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// It is there.
    Held,
    /// As a delta to an image that is there and here: made here, once for all nodes that hold it.
    Patch(ImageId),
    /// As a delta to an image that is only there: from the node's signature of it.
    Rsync(ImageId),
    /// Whole.
    Whole,
}

impl Way {
    /// Returns the word for the codec: `none`, `patch`, `rsync`, `whole`.
    pub fn codec(self) -> &'static str {
        match self {
            Self::Held => "none",
            Self::Patch(_) => "patch",
            Self::Rsync(_) => "rsync",
            Self::Whole => "whole",
        }
    }

    /// Returns the base.
    pub fn base(self) -> Option<ImageId> {
        match self {
            Self::Patch(base) | Self::Rsync(base) => Some(base),
            Self::Held | Self::Whole => None,
        }
    }
}

/// A release cannot run on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is a machine of type {0}; this df builds for {ARCH}")]
pub struct Unfit(String);

/// Says whether a node can run what is built here.
///
/// # Errors
/// Its machine is another.
pub fn fits(survey: &Survey) -> Result<(), Unfit> {
    if survey.arch == ARCH { Ok(()) } else { Err(Unfit(df_core::text::escape(survey.arch.as_bytes()))) }
}

/// Chooses how an image gets to a node: what serves is the best base, then newer generations before older, then whatever else is held.
///
/// `full` sends it whole whatever is there: a node that holds it damaged puts the new one in its place.
///
/// `is_here` says whether an image's bytes are on this machine.
pub fn way(survey: &Survey, app: &AppName, image: ImageId, full: bool, is_here: impl Fn(ImageId) -> bool) -> Way {
    if full {
        return Way::Whole;
    }
    if survey.images.contains(&image) {
        return Way::Held;
    }
    let bases = bases(survey, app);
    let here = bases.iter().copied().find(|base| is_here(*base)).map(Way::Patch);
    here.or_else(|| bases.first().copied().map(Way::Rsync)).unwrap_or(Way::Whole)
}

/// Returns the images of a node, those most like a new version of the application first.
fn bases(survey: &Survey, app: &AppName) -> Vec<ImageId> {
    let (own, others): (Vec<&AppState>, Vec<&AppState>) = survey.apps.iter().partition(|state| state.app == *app);
    let current = own.iter().flat_map(|state| state.generations.iter().filter(|g| g.number == state.current));
    let newest = own.iter().flat_map(|state| state.generations.iter().rev());
    let staged = own.iter().flat_map(|state| state.staged.iter().rev().map(|s| s.image));
    let other = others.iter().flat_map(|state| state.generations.iter().rev().map(|g| g.image));
    let named = current.chain(newest).map(|g| g.image).chain(staged).chain(other);
    let mut bases: Vec<ImageId> = vec![];
    for base in named.chain(survey.images.iter().copied()) {
        if survey.images.contains(&base) && !bases.contains(&base) {
            bases.push(base);
        }
    }
    bases
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::{Digest, ReleaseId, Timestamp};
    use df_wire::message::{Generation, GenerationResult};

    fn image(name: &str) -> ImageId {
        ImageId(Digest::of(name.as_bytes()))
    }

    fn generation(number: u64, name: &str) -> Generation {
        let commit = "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit");
        Generation {
            number,
            release: ReleaseId(Digest::of(b"")),
            commit,
            image: image(name),
            since: Timestamp(0),
            result: GenerationResult::Good,
        }
    }

    /// An application, its current generation, and its generations with their images.
    type App<'a> = (&'a str, u64, &'a [(u64, &'a str)]);

    fn survey(images: &[&str], apps: &[App<'_>]) -> Survey {
        let apps = apps.iter().map(|(app, current, generations)| AppState {
            app: app.parse().expect("a name"),
            current: *current,
            wanted: true,
            running: vec![],
            generations: generations.iter().map(|(n, name)| generation(*n, name)).collect(),
            staged: vec![],
        });
        let images = images.iter().map(|name| image(name)).collect();
        Survey {
            arch: ARCH.into(),
            kernel: String::new(),
            libc: None,
            free: 0,
            now: Timestamp(0),
            images,
            lock: None,
            apps: apps.collect(),
        }
    }

    #[test]
    fn the_best_base_that_is_here_else_the_best_there_else_whole() {
        let greeter: AppName = "greeter".parse().expect("a name");
        let node =
            survey(&["v1", "v2", "v3", "x"], &[("other", 1, &[(1, "x")]), ("greeter", 2, &[(1, "v1"), (2, "v2"), (3, "v3")])]);
        let check = |full, here: &[&str], expected: Way| {
            let here: Vec<ImageId> = here.iter().map(|name| image(name)).collect();
            assert_eq!(way(&node, &greeter, image("v4"), full, |base| here.contains(&base)), expected);
        };
        check(false, &["v1", "v2", "v3"], Way::Patch(image("v2")));
        check(false, &["v1", "v3"], Way::Patch(image("v3")));
        check(false, &["x"], Way::Patch(image("x")));
        check(false, &[], Way::Rsync(image("v2")));
        check(true, &["v2"], Way::Whole);
        assert_eq!(way(&survey(&[], &[]), &greeter, image("v4"), false, |_| true), Way::Whole);
        assert_eq!(way(&survey(&["v4"], &[]), &greeter, image("v4"), false, |_| true), Way::Held);
        assert_eq!(way(&survey(&["v4"], &[]), &greeter, image("v4"), true, |_| true), Way::Whole);
    }

    #[test]
    fn another_machine_is_refused_in_words() {
        let mut node = survey(&[], &[]);
        node.arch = "aarch64\x1b".into();
        assert_eq!(
            fits(&node).expect_err("another machine").to_string(),
            r"it is a machine of type aarch64\u{1b}; this df builds for x86_64"
        );
    }
}
