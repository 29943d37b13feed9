//! `df rollback --pick`: the generations that the nodes could serve, for a person to choose one.
//!
//! One node's generations are chosen by their numbers. Where several nodes act together, whose numbers need not agree, a row is a version, and each node goes
//! to its own generation of it. No node is locked while a person thinks: the one that is chosen is named by number afterwards, and numbers never come back.

use std::collections::BTreeMap;

use df_core::{CommitId, ImageId, ReleaseId, Timestamp};
use df_fleet::going_back;
use df_fleet::message::{AppState, GenerationResult};

use crate::across::{self, state_of};
use crate::asking;
use crate::event::Event;
use crate::exit::{Exit, of_nodes};
use crate::failure::Failure;
use crate::render::{table, units};
use crate::session::{Session, now};

/// How often a wrong answer may be mended.
const N_TRIES: usize = 3;

/// One version that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    release: ReleaseId,
    commit: CommitId,
    image: ImageId,
    data_epoch: u32,
    since: Timestamp,
    result: GenerationResult,
    /// The generation of each node that has one: the one that a rollback to the version goes to.
    of_nodes: BTreeMap<String, u64>,
    /// On how many nodes it serves.
    n_serving: usize,
    /// On some node the data has another form.
    crosses: bool,
}

/// Shows the generations of the nodes, and has a person choose one; returns the generation of each node.
///
/// # Errors
/// Nobody is there to choose, or chose nothing; or no node can be asked.
pub(super) fn pick(session: &Session, force: bool) -> Result<BTreeMap<String, u64>, Failure> {
    let crew = across::reach(session, "rollback", false)?;
    if crew.reached.is_empty() {
        // Each said why itself.
        return Err(Failure::new(of_nodes(&crew.ends), "rollback", "no node can be asked for its generations").next("df doctor"));
    }
    let states: Vec<(String, &AppState)> = crew
        .reached
        .iter()
        .filter_map(|reached| Some((reached.connection.node.label(), state_of(&reached.survey, session.app())?)))
        .collect();
    let rows = rows(&states);
    if rows.is_empty() {
        let message = format!("no version of {} was ever deployed there", session.app());
        return Err(Failure::new(Exit::Failed, "rollback", message).next("df deploy"));
    }
    let is_alone = crew.reached.len() == 1;
    show(session, &states, &rows, is_alone, force);
    if !asking::is_possible(&session.call) {
        let message = "nobody is at a terminal here to pick one; nothing was changed";
        return Err(Failure::new(Exit::Usage, "rollback", message).next("df rollback --to GENERATION-OR-COMMIT"));
    }
    // Whoever thinks for long must not hold sessions open.
    session.call.block_on(async {
        for reached in crew.reached {
            reached.connection.close().await;
        }
    });
    ask(session, &rows, is_alone)
}

fn ask(session: &Session, rows: &[Row], is_alone: bool) -> Result<BTreeMap<String, u64>, Failure> {
    let nothing =
        || Failure::new(Exit::Usage, "rollback", "nothing was picked, and nothing was changed").next("df rollback --pick");
    let question = match is_alone {
        true => "Which generation shall serve? (Enter: none) ",
        false => "Which version shall serve, by its number in the first column? (Enter: none) ",
    };
    for _ in 0..N_TRIES {
        let answer = asking::line(&session.call, "rollback", question)?.unwrap_or_default();
        if answer.is_empty() {
            return Err(nothing());
        }
        match chosen(rows, is_alone, &answer) {
            Some(row) => return Ok(row.of_nodes.clone()),
            None => session.output().note(format!("\"{answer}\" is none of these")),
        }
    }
    Err(nothing())
}

/// Returns the versions that nodes have generations of, the youngest first.
fn rows(states: &[(String, &AppState)]) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![];
    for (node, state) in states {
        // The one that a rollback to the version goes to: the newest good one, else the newest.
        let mut generations: Vec<_> = state.generations.iter().collect();
        generations.sort_by_key(|g| (g.number == state.current, g.result == GenerationResult::Good, g.number));
        for g in generations {
            let crosses = going_back::crosses(state, g).is_some();
            let is_serving = usize::from(g.number == state.current);
            match rows.iter_mut().find(|row| row.release == g.release) {
                Some(row) => {
                    row.of_nodes.insert(node.clone(), g.number);
                    row.since = row.since.max(g.since);
                    row.n_serving += is_serving;
                    row.crosses |= crosses;
                    if g.result == GenerationResult::Good {
                        row.result = g.result;
                    }
                }
                None => rows.push(Row {
                    release: g.release,
                    commit: g.commit.clone(),
                    image: g.image,
                    data_epoch: g.data_epoch,
                    since: g.since,
                    result: g.result,
                    of_nodes: BTreeMap::from([(node.clone(), g.number)]),
                    n_serving: is_serving,
                    crosses,
                }),
            }
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.since, row.of_nodes.values().copied().max())));
    rows
}

/// Returns the row that an answer means: its number in the first column, or the beginning of its commit.
fn chosen<'a>(rows: &'a [Row], is_alone: bool, answer: &str) -> Option<&'a Row> {
    let by_key = rows.iter().enumerate().find(|(at, row)| key(*at, row, is_alone) == answer).map(|(_, row)| row);
    by_key.or_else(|| {
        let mut of_commit = rows.iter().filter(|row| answer.len() >= 4 && row.commit.as_str().starts_with(answer));
        of_commit.next().filter(|_| of_commit.next().is_none())
    })
}

fn key(at: usize, row: &Row, is_alone: bool) -> String {
    match row.of_nodes.values().next() {
        Some(generation) if is_alone => generation.to_string(),
        _ => (at + 1).to_string(),
    }
}

fn show(session: &Session, states: &[(String, &AppState)], rows: &[Row], is_alone: bool, force: bool) {
    let now = now();
    let events: Vec<Event> = states
        .iter()
        .flat_map(|(node, state)| state.generations.iter().map(move |g| (node, state, g)))
        .map(|(node, state, g)| Event::Generation {
            node: node.clone(),
            app: state.app.clone(),
            generation: g.number,
            release: g.release,
            commit: g.commit.clone(),
            image: g.image,
            since: g.since,
            result: g.result,
            data_epoch: g.data_epoch,
            current: g.number == state.current,
        })
        .collect();
    let cells = |(at, row): (usize, &Row)| {
        let places: Vec<String> = row.of_nodes.iter().map(|(node, generation)| format!("{node} {generation}")).collect();
        [
            key(at, row, is_alone),
            row.commit.short().to_owned(),
            row.image.short(),
            units::age(row.since, now),
            result(row.result).to_owned(),
            places.join(", "),
            remarks(row, states.len(), force),
        ]
    };
    let cells: Vec<[String; 7]> = rows.iter().enumerate().map(cells).collect();
    let lines = if is_alone {
        let cells: Vec<[String; 6]> = cells
            .into_iter()
            .map(|[key, commit, image, age, result, _, remarks]| [key, commit, image, age, result, remarks])
            .collect();
        table::render(["GENERATION", "COMMIT", "IMAGE", "AGE", "RESULT", ""], &cells)
    } else {
        table::render(["PICK", "COMMIT", "IMAGE", "AGE", "RESULT", "GENERATIONS", ""], &cells)
    };
    session.output().table(&events, &lines);
}

fn result(result: GenerationResult) -> &'static str {
    match result {
        GenerationResult::Good => "good",
        GenerationResult::Bad => "bad",
        GenerationResult::Unknown => "unknown",
    }
}

fn remarks(row: &Row, n_nodes: usize, force: bool) -> String {
    let serves = match row.n_serving {
        0 => None,
        n if n == n_nodes => Some("serves".to_owned()),
        n => Some(format!("serves on {}", units::nodes(n))),
    };
    let data = row.crosses.then(|| {
        let needs = if force { "" } else { ", needs --force" };
        format!("data of epoch {}{needs}", row.data_epoch)
    });
    serves.into_iter().chain(data).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::state;
    use super::*;

    #[test]
    fn a_row_is_a_version_with_the_generation_that_each_node_would_go_to() {
        use GenerationResult::{Bad, Good};
        let (one, two) = (
            state(4, &[(1, 0xaa, Good, 1), (2, 0xbb, Good, 2), (3, 0xaa, Bad, 1), (4, 0xcc, Good, 2)]),
            state(9, &[(7, 0xbb, Good, 2), (8, 0xbb, Bad, 2), (9, 0xbb, Good, 2)]),
        );
        let rows = rows(&[("n1".into(), &one), ("n2".into(), &two)]);
        let of_nodes = |row: &Row| row.of_nodes.iter().map(|(node, g)| format!("{node} {g}")).collect::<Vec<_>>().join(" ");
        let shown: Vec<_> = rows.iter().map(|row| (of_nodes(row), row.n_serving, row.result, row.crosses)).collect();
        assert_eq!(
            shown,
            [("n1 2 n2 9".to_owned(), 1, Good, false), ("n1 4".to_owned(), 1, Good, false), ("n1 1".to_owned(), 0, Good, true),]
        );
        let picked = |answer: &str| chosen(&rows, false, answer).map(of_nodes);
        assert_eq!(picked("1").as_deref(), Some("n1 2 n2 9"));
        assert_eq!(picked("aaaa").as_deref(), Some("n1 1"));
        assert_eq!([picked("0"), picked("4"), picked("aaa"), picked("dddd"), picked("")], [const { None }; 5]);
        assert_eq!(remarks(&rows[0], 2, false), "serves on 1 node");
        assert_eq!(remarks(&rows[2], 2, false), "data of epoch 1, needs --force");
        assert_eq!(remarks(&rows[2], 2, true), "data of epoch 1");
    }

    #[test]
    fn the_generations_of_one_node_are_chosen_by_their_numbers() {
        use GenerationResult::Good;
        let one = state(12, &[(3, 0xaa, Good, 1), (12, 0xbb, Good, 1)]);
        let rows = rows(&[("n1".into(), &one)]);
        let picked = |answer: &str| chosen(&rows, true, answer).and_then(|row| row.of_nodes.get("n1").copied());
        assert_eq!([picked("3"), picked("12"), picked("1"), picked("2")], [Some(3), Some(12), None, None]);
    }
}
