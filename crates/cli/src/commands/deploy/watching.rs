//! `df deploy --watch`: each new commit is deployed when it is made, while a person works.
//!
//! What is looked at is where the revision stands, again and again, at first often and then once a second: that is true for every way in which git moves a
//! branch, also one on another file system. A commit that fails, whatever of it, is said to fail, and the next one is waited for.

use std::time::Duration;

use df_core::CommitId;

use super::{confirm, run};
use crate::args;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pipeline;
use crate::session::Session;

/// How often it is looked at first, when somebody is likely to be at work.
const SOON: Duration = Duration::from_millis(100);
/// But never more seldom than this.
const SELDOM: Duration = Duration::from_secs(1);

/// Deploys the commit that the revision is, and then each that it becomes, until Ctrl-C.
pub fn watch(args: &args::Deploy, mut session: Session) -> Result<Exit, Failure> {
    let revision = args.commit_hash.as_deref().unwrap_or("HEAD");
    // What is wrong before the first commit was tried will not mend itself.
    let n_nodes = session.nodes()?.len();
    // Asked once for all commits: who says no deploys none.
    confirm(&session, n_nodes)?;
    session.call.globals.yes = true;
    let mut commit = pipeline::commit(&session, revision)?;
    loop {
        let exit = deploy(args, &mut session, &commit);
        if session.call.interrupt.is_pressed() {
            return Ok(exit);
        }
        session.output().step(&Event::Waiting { commit: commit.clone(), exit: exit.code() });
        match next(&session, revision, &commit) {
            Some(next) => commit = next,
            None => return Ok(Exit::Done),
        }
    }
}

/// Deploys one commit, and reports what fails.
fn deploy(args: &args::Deploy, session: &mut Session, commit: &CommitId) -> Exit {
    // df.yaml may have changed with the commit.
    let read = session.call.find().map(|(config, _)| session.config = config);
    let one = args::Deploy { commit_hash: Some(commit.to_string()), watch: false, ..args.clone() };
    read.and_then(|()| run(&one, session)).unwrap_or_else(|failure| {
        session.output().progress().finish();
        session.output().error(&failure.event());
        failure.exit
    })
}

/// Waits until the revision is another commit, and stays that for a moment: a rebase passes many. `None`: Ctrl-C.
fn next(session: &Session, revision: &str, done: &CommitId) -> Option<CommitId> {
    let _expected = session.call.interrupt.while_expected();
    let mut pause = Pause::default();
    let mut seen: Option<CommitId> = None;
    loop {
        let goes_on = session.call.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(pause.next()) => true,
                () = session.call.interrupt.pressed() => false,
            }
        });
        if !goes_on {
            return None;
        }
        // In the midst of a rewrite there may be no such commit.
        let now = pipeline::commit(session, revision).ok().filter(|now| now != done);
        match now {
            Some(now) if seen.as_ref() == Some(&now) => return Some(now),
            Some(now) => {
                pause = Pause::default();
                seen = Some(now);
            }
            None => seen = None,
        }
    }
}

/// How long it is waited between two looks.
#[derive(Debug, PartialEq, Eq)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(SOON)
    }
}

impl Pause {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause + pause / 8).min(SELDOM);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_seldom_but_a_commit_never_waits_longer_than_two_of_them() {
        let mut pause = Pause::default();
        assert_eq!(pause.next(), SOON);
        let pauses: Vec<Duration> = (0..30).map(|_| pause.next()).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]) && pauses[29] == SELDOM, "{pauses:?}");
    }
}
