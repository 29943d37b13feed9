//! What the exit code says.
//!
//! Every failure that a person can cause has its code here. Scripts rely on the numbers: they never change their meaning.

use std::process::ExitCode;

/// How a command ended, for the script that called it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; also a `df rollback` that succeeded.
    Done,
    /// Failed, and no node's `current` moved.
    Failed,
    /// The words or a configuration are wrong, or the command would act on no node at all.
    Usage,
    /// The plan has changes; only with `--detailed-exitcode`.
    Changes,
    /// Someone else has the lock.
    Locked,
    /// Some nodes failed, and every node serves a whole version.
    SomeFailed,
    /// Nodes are left on different versions.
    Mixed,
    /// `current` moved and df put it back.
    PutBack,
    /// Something differs: a failed probe, a damaged image, a build that is not reproducible.
    Differs,
    /// Unreachable: a node, a cache.
    Unreachable,
    /// Refused: not trusted.
    Refused,
    /// The words are not ours, and PATH has no next `df`.
    NoNextDf,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Changes,
        Self::Locked,
        Self::SomeFailed,
        Self::Mixed,
        Self::PutBack,
        Self::Differs,
        Self::Unreachable,
        Self::Refused,
        Self::NoNextDf,
        Self::Interrupted,
    ];

    /// Returns the number that the caller sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Changes => 3,
            Self::Locked => 4,
            Self::SomeFailed => 5,
            Self::Mixed => 6,
            Self::PutBack => 7,
            Self::Differs => 8,
            Self::Unreachable => 9,
            Self::Refused => 10,
            Self::NoNextDf => 127,
            Self::Interrupted => 130,
        }
    }

    /// Returns what the number means, as the manual says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "Done; a rollback that succeeds too.",
            Self::Failed => "Failed, and no node's current moved.",
            Self::Usage => "The words or the configuration are wrong, or the command would act on no node.",
            Self::Changes => "The plan has changes (only with --detailed-exitcode).",
            Self::Locked => "Locked by someone else.",
            Self::SomeFailed => "Some nodes failed, and every node serves a whole version.",
            Self::Mixed => "Nodes are left on different versions.",
            Self::PutBack => "A node's current moved and df put it back.",
            Self::Differs => {
                "Something differs: a failed probe, compare-checksums, cache diff, cache verify, a build that is not reproducible."
            }
            Self::Unreachable => "A node or a cache cannot be reached.",
            Self::Refused => "Refused: not trusted.",
            Self::NoNextDf => "The words are not ours, and PATH has no other df.",
            Self::Interrupted => "Interrupted.",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// How a command ended on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeEnd {
    /// It did what was asked, and serves what it served before.
    Done,
    /// It did what was asked, and serves another version now.
    Moved,
    /// It was not asked: the command stopped before its turn. It serves what it served before.
    NotAsked,
    /// It failed, and serves what it served before.
    Failed,
    /// Its `current` moved and was put back.
    PutBack,
    /// It answered, and something there is not what it should be: a failed probe of `df verify`, other bytes. A probe that fails in
    /// the course of a deploy is [`NodeEnd::Failed`] or [`NodeEnd::PutBack`].
    Differs,
    /// Someone else has its lock; nothing moved.
    Locked,
    /// It does not trust what was sent; nothing moved.
    Refused,
    /// It could not be reached, so what it serves is not known.
    Unreachable,
}

/// Returns what the ends of all nodes come to.
///
/// Of several that apply the gravest counts: 6, 7, 5, 9, in that order. A command over no node at all is a wrong use of it.
pub fn of_nodes(ends: &[NodeEnd]) -> Exit {
    use NodeEnd::{Differs, Failed, Locked, Moved, NotAsked, PutBack, Refused, Unreachable};
    let any = |wanted: &[NodeEnd]| ends.iter().any(|end| wanted.contains(end));
    let all_asked = |wanted: &[NodeEnd]| ends.iter().all(|end| *end == NotAsked || wanted.contains(end));
    const STUCK: &[NodeEnd] = &[Failed, Locked, Refused];
    match () {
        () if ends.is_empty() => Exit::Usage,
        () if any(&[Moved]) && any(&[Failed, Locked, Refused, PutBack, NotAsked]) => Exit::Mixed,
        () if any(&[PutBack]) => Exit::PutBack,
        () if any(STUCK) && !all_asked(STUCK) => Exit::SomeFailed,
        () if any(&[Unreachable]) => Exit::Unreachable,
        () if any(&[Failed]) => Exit::Failed,
        () if any(&[Refused]) => Exit::Refused,
        () if any(&[Locked]) => Exit::Locked,
        () if any(&[Differs]) => Exit::Differs,
        // A command that stopped before it asked any node did not do what was asked.
        () if all_asked(&[]) => Exit::Failed,
        () => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::NodeEnd::*;
    use super::*;

    #[test]
    fn the_gravest_end_counts() {
        let table: &[(&[NodeEnd], u8)] = &[
            (&[], 2),
            (&[Done, Done], 0),
            (&[Moved, Moved], 0),
            (&[Moved, Done], 0),
            (&[NotAsked, NotAsked], 1),
            // One kind alone.
            (&[Failed], 1),
            (&[Failed, Failed], 1),
            (&[Locked], 4),
            (&[PutBack], 7),
            (&[PutBack, PutBack], 7),
            (&[Differs, Done], 8),
            (&[Unreachable], 9),
            (&[Refused], 10),
            // A canary that fails stops the rest: nothing moved.
            (&[Failed, NotAsked, NotAsked], 1),
            (&[Locked, NotAsked], 4),
            (&[Refused, NotAsked], 10),
            (&[PutBack, NotAsked], 7),
            // Some did it and some did not.
            (&[Done, Failed], 5),
            (&[Done, Locked], 5),
            (&[Done, Refused], 5),
            (&[Differs, Failed], 5),
            (&[Done, Unreachable], 9),
            (&[Moved, Unreachable], 9),
            (&[Done, Differs, Unreachable], 9),
            (&[Failed, Unreachable], 5),
            (&[Locked, Refused], 10),
            (&[Failed, Locked], 1),
            // Versions apart are the gravest, then a current that was put back.
            (&[Moved, Failed], 6),
            (&[Moved, NotAsked], 6),
            (&[Moved, PutBack], 6),
            (&[Moved, PutBack, Failed, Unreachable], 6),
            (&[Moved, Locked], 6),
            (&[PutBack, Failed, Unreachable], 7),
            (&[PutBack, Done], 7),
            (&[PutBack, Unreachable], 7),
            (&[Done, Failed, Unreachable], 5),
        ];
        for (ends, code) in table {
            assert_eq!(of_nodes(ends).code(), *code, "{ends:?}");
            let backwards: Vec<_> = ends.iter().rev().copied().collect();
            assert_eq!(of_nodes(&backwards).code(), *code, "the order of nodes matters for {ends:?}");
        }
    }

    #[test]
    fn codes_are_those_of_the_contract() {
        let codes: Vec<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 127, 130]);
        assert!(Exit::ALL.iter().all(|exit| exit.meaning().ends_with('.')));
    }
}
