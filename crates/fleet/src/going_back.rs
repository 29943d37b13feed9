//! Where a rollback goes on a node, and whether the application's own data stands it.
//!
//! Pure: a survey says all that is needed. The node decides by the same rules when it is asked; here they serve for plans, and for refusing a rollback
//! before the first of several nodes has moved.

use df_wire::message::{AppState, Generation, GenerationResult, RollbackTarget};

/// The beginning of a commit's id has at least so many digits.
const COMMIT_DIGITS: usize = 4;

/// A rollback to a version that may not understand the data as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// The form of the data that the version knows which would serve.
    pub to: u32,
    /// The form that the data has: that of what serves.
    pub from: u32,
    /// The newest good generation before the serving one that knows the data as it is; the serving one itself when there is none.
    pub safe: u64,
}

/// Returns the generation that `current` names.
pub fn serving(state: &AppState) -> Option<&Generation> {
    state.generations.iter().find(|g| g.number == state.current)
}

/// Returns the generation that a rollback goes to: the one that is named, else the newest good one before the current that holds another release (after a
/// restart, the one before holds the same).
pub fn target<'a>(state: &'a AppState, to: Option<&RollbackTarget>) -> Option<&'a Generation> {
    let newest = |fits: &dyn Fn(&Generation) -> bool| state.generations.iter().rev().find(|g| fits(g));
    match to {
        None => newest(&|g| is_earlier(state, g)),
        Some(RollbackTarget::Generation(number)) => newest(&|g| g.number == *number),
        Some(RollbackTarget::Commit(prefix)) if prefix.len() >= COMMIT_DIGITS => {
            let of_commit = |g: &Generation| g.commit.as_str().starts_with(prefix.as_str());
            newest(&|g| of_commit(g) && g.result == GenerationResult::Good).or_else(|| newest(&of_commit))
        }
        Some(RollbackTarget::Commit(_)) => None,
    }
}

/// Returns why the data does not stand a generation in place of the current one; `None` when it does.
pub fn crosses(state: &AppState, target: &Generation) -> Option<Epochs> {
    let from = serving(state)?.data_epoch;
    if target.data_epoch == from {
        return None;
    }
    let knows_it = |g: &&Generation| is_earlier(state, g) && g.data_epoch == from;
    let safe = state.generations.iter().rev().find(knows_it).map_or(state.current, |g| g.number);
    Some(Epochs { to: target.data_epoch, from, safe })
}

/// Returns whether a generation served well before the current one, and is another release.
fn is_earlier(state: &AppState, g: &Generation) -> bool {
    let current = serving(state).map(|g| g.release);
    g.number < state.current && g.result == GenerationResult::Good && Some(g.release) != current
}

#[cfg(test)]
mod tests {
    use super::*;
    use GenerationResult::{Bad, Good, Unknown};
    use df_core::{Digest, ImageId, ReleaseId, Timestamp};

    /// Each generation: what it holds, how it went, the epoch of its data.
    fn state(current: u64, generations: &[(u8, GenerationResult, u32)]) -> AppState {
        let generation = |(at, (n, result, epoch)): (usize, &(u8, GenerationResult, u32))| Generation {
            number: at as u64 + 1,
            release: ReleaseId(Digest::of(&[*n])),
            commit: format!("{n:02x}").repeat(20).parse().expect("a commit"),
            image: ImageId(Digest::of(&[*n])),
            since: Timestamp(0),
            result: *result,
            data_epoch: *epoch,
        };
        AppState {
            app: "greeter".parse().expect("a name"),
            current,
            wanted: true,
            running: vec![],
            generations: generations.iter().enumerate().map(generation).collect(),
            staged: vec![],
            given_up: None,
        }
    }

    #[test]
    fn it_goes_to_the_newest_good_one_before_or_where_it_is_told() {
        let state =
            state(6, &[(0xaa, Good, 1), (0xbb, Good, 1), (0xcc, Bad, 1), (0xaa, Bad, 1), (0xdd, Unknown, 1), (0xee, Good, 1)]);
        let commit = |digits: &str| Some(RollbackTarget::Commit(digits.into()));
        let table = [
            (None, Some(2)),
            (Some(RollbackTarget::Generation(3)), Some(3)),
            (Some(RollbackTarget::Generation(9)), None),
            (commit("aaaa"), Some(1)),
            (commit("cccc"), Some(3)),
            (commit("aaa"), None),
            (commit("ffff"), None),
        ];
        for (to, expected) in table {
            assert_eq!(target(&state, to.as_ref()).map(|g| g.number), expected, "{to:?}");
        }
        assert!(target(&super::tests::state(0, &[]), None).is_none());
    }

    #[test]
    fn a_change_of_the_data_stands_in_the_way_and_the_last_safe_one_is_named() {
        let check = |current, generations: &[_], to: u64, expected| {
            let state = state(current, generations);
            let target = target(&state, Some(&RollbackTarget::Generation(to))).expect("it is there");
            assert_eq!(crosses(&state, target), expected, "{current} to {to}");
        };
        let changed = [(1, Good, 1), (2, Good, 2), (3, Bad, 2), (4, Good, 2)];
        check(4, &changed, 1, Some(Epochs { to: 1, from: 2, safe: 2 }));
        check(4, &changed, 2, None);
        // What came before was of the other form, and what served again is the same release: only the serving one is safe.
        check(3, &[(1, Good, 1), (2, Good, 2), (2, Good, 2)], 1, Some(Epochs { to: 1, from: 2, safe: 3 }));
        // Forward is across it, too.
        check(1, &changed, 4, Some(Epochs { to: 2, from: 1, safe: 1 }));
    }
}
