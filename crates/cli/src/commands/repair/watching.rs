//! `df repair --watch`: nodes are looked at again and again, and what falls ill is repaired.
//!
//! When each node is looked at next is decided by [`Course`], which is pure: soon while it is well; after a repair, or when it cannot be asked, twice as late as the
//! time before, so that what cannot be mended is not killed all the time. Each event is a line; what goes on as it was is none.

use std::time::{Duration, Instant};

use df_fleet::Node;

use super::look::{self, Depth, Found};
use super::{Triage, perform, triage};
use crate::args;
use crate::exit::{Exit, NodeEnd};
use crate::failure::{self, Failure};
use crate::session::Session;

/// How often a node is looked at that is well.
const LOOK: Duration = Duration::from_secs(5);
/// No node is left alone for longer.
const LONGEST: Duration = Duration::from_secs(300);

/// How a node was found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Well, or meant not to run.
    Well(String),
    /// Ill; a repair was tried.
    Treated,
    /// It could not be asked: why.
    Silent(String),
}

/// What a node went through, and when it is looked at next.
#[derive(Debug)]
struct Course {
    node: Node,
    due: Instant,
    /// How often in a row something had to be done about it, or it was silent.
    n_troubles: u32,
    /// Its files were read back from disk once.
    is_read: bool,
    /// How it was found last.
    last: Option<Seen>,
}

impl Course {
    fn new(node: Node, now: Instant) -> Self {
        Self { node, due: now, n_troubles: 0, is_read: false, last: None }
    }

    /// Takes note of how it was found; returns whether that is worth a line.
    fn note(&mut self, seen: Seen, now: Instant) -> bool {
        let is_news = self.last.as_ref() != Some(&seen);
        match seen {
            // One that stays well is trusted again step by step.
            Seen::Well(_) => self.n_troubles = self.n_troubles.saturating_sub(1),
            Seen::Treated | Seen::Silent(_) => self.n_troubles += 1,
        }
        let is_well = matches!(seen, Seen::Well(_));
        self.due = now + if is_well { LOOK } else { back_off(self.n_troubles) };
        self.last = Some(seen);
        is_news
    }
}

/// Looks at the nodes of the context, and repairs what is ill, until Ctrl-C.
pub(super) fn watch(args: args::Repair, session: &Session) -> Result<Exit, Failure> {
    let _expected = session.call.interrupt.while_expected();
    let mut courses: Vec<Course> = session.nodes()?.into_iter().map(|node| Course::new(node, Instant::now())).collect();
    loop {
        match round(args, session, &mut courses) {
            Err(_) if session.call.interrupt.is_pressed() => return Ok(Exit::Done),
            ended => ended?,
        }
        let due = courses.iter().map(|course| course.due).min().expect("a context is never empty");
        let goes_on = session.call.block_on(async {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => true,
                () = session.call.interrupt.pressed() => false,
            }
        });
        if !goes_on {
            return Ok(Exit::Done);
        }
    }
}

/// Looks at the nodes whose time has come. Files are read back once, and then only of a node whose program is sick: a disk must not be busy for ever.
fn looked<'a>(session: &Session, courses: &'a mut [Course]) -> Result<Vec<(&'a mut Course, Found)>, Failure> {
    let begun = Instant::now();
    let (read, mut unread): (Vec<_>, Vec<_>) =
        courses.iter_mut().filter(|course| course.due <= begun).partition(|course| course.is_read);
    let mut looked = vec![];
    for (course, found) in at(session, read, Depth::Programs)? {
        match found {
            Found::Ill(_) => unread.push(course),
            found => looked.push((course, found)),
        }
    }
    for (course, found) in at(session, unread, Depth::Files)? {
        course.is_read |= !matches!(found, Found::Failed(_));
        looked.push((course, found));
    }
    Ok(looked)
}

fn at<'a>(session: &Session, courses: Vec<&'a mut Course>, depth: Depth) -> Result<Vec<(&'a mut Course, Found)>, Failure> {
    let nodes: Vec<Node> = courses.iter().map(|course| course.node.clone()).collect();
    let found = look::at(session, &nodes, depth)?;
    Ok(courses.into_iter().zip(found).map(|(course, (_, found))| (course, found)).collect())
}

/// Looks at the nodes whose time has come, and repairs what is ill.
fn round(args: args::Repair, session: &Session, courses: &mut [Course]) -> Result<(), Failure> {
    let mut patients = vec![];
    let mut ill = vec![];
    for (course, found) in looked(session, courses)? {
        let label = course.node.label();
        // A full copy is for what is ill: not for all, again and again.
        match triage(false, found) {
            Triage::Well(words) => {
                if course.note(Seen::Well(words.clone()), Instant::now()) {
                    session.output().note(format!("{label} {words}"));
                }
            }
            Triage::Failed(error) => {
                let why = failure::chain(&error);
                if course.note(Seen::Silent(why), Instant::now()) {
                    session.output().error(&failure::of_node(&label, "repair", &error));
                }
            }
            Triage::Ill(found) => {
                session.output().note(format!("{label} generation {} is ill: {}", found.generation, found.why));
                patients.push((course.node.clone(), found));
                ill.push(course);
            }
        }
    }
    let ends: Vec<NodeEnd> = perform(session, patients, args.full_copy)?;
    for course in ill {
        course.note(Seen::Treated, Instant::now());
    }
    if ends.iter().any(|end| *end != NodeEnd::Done) {
        session.output().note("what could not be repaired is tried again, later each time");
    }
    Ok(())
}

/// Returns how long a node is left alone after so many troubles in a row.
fn back_off(n_troubles: u32) -> Duration {
    LOOK.saturating_mul(2_u32.saturating_pow(n_troubles.min(16).saturating_sub(1))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_mended_is_left_alone_longer_each_time() {
        assert_eq!([1, 2, 3, 6, 7, 99].map(|n| back_off(n).as_secs()), [5, 10, 20, 160, 300, 300]);
    }

    #[test]
    fn what_goes_on_as_it_was_is_no_news() {
        let address = df_fleet::Address::parse("host", std::path::Path::new("/")).expect("an address");
        let begun = Instant::now();
        let mut course = Course::new(Node { name: None, address, listen: None, sudo: false }, begun);
        let well = || Seen::Well("generation 1 is well".into());
        let silent = || Seen::Silent("refused".into());
        let seen = [well(), well(), silent(), silent(), Seen::Treated, well(), Seen::Well("generation 2 is well".into())];
        let news: Vec<(bool, u64)> =
            seen.into_iter().map(|seen| (course.note(seen, begun), (course.due - begun).as_secs())).collect();
        assert_eq!(news, [(true, 5), (false, 5), (true, 5), (false, 10), (true, 20), (true, 5), (true, 5)]);
        // It is not forgotten at once that there was trouble.
        course.note(Seen::Treated, begun);
        assert_eq!((course.due - begun).as_secs(), 10);
    }
}
