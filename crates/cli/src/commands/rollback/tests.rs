use df_core::{Digest, ImageId, ReleaseId, Timestamp};
use df_fleet::message::GenerationResult;

use super::*;

/// Returns an application with its current generation, and of each its number, what it holds, how it went and the epoch of its data.
pub(super) fn state(current: u64, generations: &[(u64, u8, GenerationResult, u32)]) -> AppState {
    let generation = |(number, n, result, data_epoch): &(u64, u8, GenerationResult, u32)| Generation {
        number: *number,
        release: ReleaseId(Digest::of(&[*n])),
        commit: format!("{n:02x}").repeat(20).parse().expect("a commit"),
        image: ImageId(Digest::of(&[*n])),
        since: Timestamp(i64::try_from(*number).expect("small")),
        result: *result,
        data_epoch: *data_epoch,
    };
    let app = "greeter".parse().expect("a name");
    let generations = generations.iter().map(generation).collect();
    AppState { app, current, wanted: true, running: vec![], generations, staged: vec![], given_up: None }
}

fn words(state: Option<&AppState>, aim: &Aim, force: bool) -> String {
    let Intent { action, reason, changes } = intent("n1", state, aim, force);
    format!("{action} ({reason}){}", if changes { "!" } else { "" })
}

fn refused(state: &AppState, aim: &Aim, force: bool) -> Option<(String, String)> {
    match refusal("n1", Some(state), aim, force)? {
        Event::Error { message, next, .. } => Some((message, next.expect("there is always something to do"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plan_says_where_each_node_would_go_and_why_not() {
    use GenerationResult::Good;
    let of = |n| Aim::Word(Some(RollbackTarget::Generation(n)));
    let state = state(3, &[(1, 0xaa, Good, 1), (2, 0xbb, Good, 2), (3, 0xcc, Good, 2)]);
    let table = [
        (Aim::Word(None), false, "rollback to generation 2, commit bbbbbbbbbbbb (generation 3 serves)!"),
        (of(3), false, "nothing (it serves already)"),
        (of(9), false, "nothing (no such generation there)"),
        (of(1), false, "nothing (refused: generation 1 is for data of epoch 1, and the data is of epoch 2 now)"),
        (of(1), true, "rollback to generation 1, commit aaaaaaaaaaaa (generation 3 serves)!"),
        (
            Aim::Picked([("n1".to_owned(), 2)].into()),
            false,
            "rollback to generation 2, commit bbbbbbbbbbbb (generation 3 serves)!",
        ),
        (Aim::Picked([("n2".to_owned(), 2)].into()), false, "nothing (no such generation there)"),
    ];
    for (aim, force, expected) in table {
        assert_eq!(words(Some(&state), &aim, force), expected, "{aim:?}");
    }
    assert_eq!(words(None, &Aim::Word(None), false), "nothing (no version was ever deployed there)");
}

#[test]
fn what_the_data_does_not_stand_is_refused_with_what_is_safe() {
    use GenerationResult::Good;
    let state = |current| state(current, &[(1, 0xaa, Good, 1), (2, 0xbb, Good, 2), (3, 0xcc, Good, 2)]);
    let of = |n| Aim::Word(Some(RollbackTarget::Generation(n)));
    assert_eq!(refused(&state(3), &Aim::Word(None), false), None);
    assert_eq!(refused(&state(3), &of(1), true), None);
    // The node says what is wrong with these.
    assert_eq!([refused(&state(3), &of(9), false), refused(&state(3), &of(3), false)], [None, None]);
    let (message, next) = refused(&state(3), &of(1), false).expect("refused");
    let why = "generation 1 is for data of epoch 1, and the data is of epoch 2 now";
    assert_eq!(message, format!("{why}; generation 2 is the last safe one, and --force goes all the same"));
    assert_eq!(next, "df rollback --to 2 --address n1");
    let (message, next) = refused(&state(2), &Aim::Word(None), false).expect("refused");
    assert_eq!(message, format!("{why}; what serves is the last safe one, and --force goes all the same"));
    assert_eq!(next, "df deploy --address n1");
    let (message, _) = refused(&state(2), &Aim::Picked(BTreeMap::new()), false).expect("refused");
    assert!(message.contains("no generation of the version that was picked"), "{message}");
}
