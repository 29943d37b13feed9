//! `df cache` with the address of a node: what it holds, said, handed out, mended, and let go of.

use df_core::{ImageId, Timestamp};
use df_fleet::message::{Difference, FaultKind, Reply, Request};
use df_fleet::{Node, NodeError};

use super::{Place, moving, persist};
use crate::across::{self, Work};
use crate::args::{self, CacheCommand};
use crate::commands::{cp, gc};
use crate::event::{Event, Placed};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::render::units::{bytes, count};
use crate::session::{Session, now};
use crate::store::Shelf;
use crate::time::Older;

/// Clocks differ: what a node made a moment ago is not younger than now.
const DAY: i64 = 86_400;

/// Returns whether addresses name nodes, and no cache.
pub fn is_meant(addresses: &[String]) -> bool {
    !addresses.is_empty() && addresses.iter().all(|address| !address.starts_with("s3:") && !address.starts_with("file:"))
}

/// Does one thing with what nodes hold.
pub fn run(command: &CacheCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        CacheCommand::Status => across::ask(session, "cache status", status),
        CacheCommand::Verify(args) if args.is_partial() => Err(in_part(args, session)),
        CacheCommand::Verify(_) => across::ask(session, "cache verify", verify),
        CacheCommand::Diff => diff(session),
        CacheCommand::Gc(args) => {
            let why = args.why || session.call.globals.verbose > 0;
            gc::on_nodes(session, &args::Gc { old: args.old, why })
        }
        CacheCommand::Put { what } if what.as_deref().is_some_and(|what| what.ends_with(".tar")) => {
            Err(refused("takes releases, no archives", "df cache put FILE.tar"))
        }
        CacheCommand::Put { what } => copy(session, what.clone()),
        CacheCommand::Update => copy(session, None),
        CacheCommand::Get { version, output, tar } => {
            let place = Place::node(session, &only(session, "get VERSION")?, None)?;
            moving::get(session, &place, version.as_deref(), output.as_deref(), *tar)
        }
        CacheCommand::Flush => flush(session),
        CacheCommand::Repair => repair(session),
        CacheCommand::Persist(args) => {
            let node = Place::node(session, &only(session, "persist --s3-bucket BUCKET")?, None)?;
            persist::from_node(args, session, &node)
        }
    }
}

/// Lets go of all that serves nobody: what serves or runs stays, and what a rollback goes to.
fn flush(session: &Session) -> Result<Exit, Failure> {
    if !session.is_dry_run() {
        let nodes: Vec<String> = session.nodes()?.iter().map(Node::label).collect();
        let question = format!(
            "Remove from {} all versions of {} but what serves, what runs and what a rollback goes to?",
            nodes.join(", "),
            session.app()
        );
        super::confirm(session, &question, || format!("df cache flush --yes --address {}", nodes.join(" --address ")))?;
    }
    let old = args::Old { count: Some(0), older: Some(Older::Before(Timestamp(now().0 + DAY))) };
    gc::on_nodes(session, &args::Gc { old, why: false })
}

/// Mends each node in turn; one that fails does not stop the others.
fn repair(session: &Session) -> Result<Exit, Failure> {
    let claim = across::claim(session, "cache repair");
    let (mut exits, mut ends) = (vec![], vec![]);
    for node in session.nodes()? {
        let mended = Place::node(session, &node, (!session.is_dry_run()).then_some(&claim));
        match mended.and_then(|place| super::repair::run(session, &place)) {
            Ok(exit) => {
                ends.push(if exit == Exit::Differs { NodeEnd::Differs } else { NodeEnd::Done });
                exits.push(exit);
            }
            Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
            Err(failure) => {
                session.output().error(&failure.event_of(&node.label()));
                ends.push(match failure.exit {
                    Exit::Unreachable => NodeEnd::Unreachable,
                    Exit::Locked => NodeEnd::Locked,
                    Exit::Refused => NodeEnd::Refused,
                    _ => NodeEnd::Failed,
                });
            }
        }
    }
    let is_planned = exits.contains(&Exit::Changes) && ends.iter().all(|end| *end == NodeEnd::Done);
    Ok(if is_planned { Exit::Changes } else { of_nodes(&ends) })
}

/// Returns the one node of the command.
fn only(session: &Session, command: &str) -> Result<Node, Failure> {
    match <[Node; 1]>::try_from(session.nodes()?) {
        Ok([node]) => Ok(node),
        Err(_) => {
            Err(Failure::new(Exit::Usage, "cache", "one node at a time").next(format!("df cache {command} --address NODE")))
        }
    }
}

fn copy(session: &Session, version: Option<String>) -> Result<Exit, Failure> {
    cp::run(&args::Cp { full: false, version, packing: args::Packing::default() }, session)
}

async fn status(work: Work) -> Result<NodeEnd, NodeError> {
    let Work { label, reached, output, .. } = work;
    let survey = &reached.survey;
    let n_generations: usize = survey.apps.iter().map(|app| app.generations.len()).sum();
    let why = format!("{n_generations} generations, {} free", bytes(survey.free));
    let line = format!("  {label:<16} {} images, {why}", survey.images.len());
    let placed = Placed { place: label, objects: survey.images.len() as u64, why, ..Placed::default() };
    output.table(&[Event::Stored(placed)], &[line]);
    reached.connection.close().await;
    Ok(NodeEnd::Done)
}

/// Has the node read back each image that it holds or that its generations need.
async fn verify(work: Work) -> Result<NodeEnd, NodeError> {
    let Work { label, mut reached, output, .. } = work;
    let (images, mut n_differences) = (reached.images(), 0);
    for &image in &images {
        let whys: Vec<String> = match reached.connection.ask(&Request::Check { image }).await {
            Ok(Reply::Checked { differences }) => differences.iter().map(in_words).collect(),
            Ok(_) => return Err(NodeError::Answer),
            // That is what was asked: the next image may be whole.
            Err(NodeError::Fault(fault)) if matches!(fault.kind, FaultKind::Missing | FaultKind::Damaged) => vec![fault.message],
            Err(error) => return Err(error),
        };
        for why in whys {
            n_differences += 1;
            let placed = Placed { place: label.clone(), image: Some(image), objects: 1, why, ..Placed::default() };
            output.result(&Event::Missing(placed));
        }
    }
    reached.connection.close().await;
    if n_differences == 0 {
        output.note(format!("  {label:<16} {} images, every file read back", images.len()));
        return Ok(NodeEnd::Done);
    }
    let found = count(n_differences, "difference");
    output.note(format!("  {label:<16} {found}; next: df cache repair --address {label}"));
    Ok(NodeEnd::Differs)
}

fn in_words(found: &Difference) -> String {
    format!("{}: {}, expected {}, found {}", found.path, found.kind, found.expected, found.found)
}

/// Compares the images of each node with the releases here.
fn diff(session: &Session) -> Result<Exit, Failure> {
    let mut here: Vec<(String, ImageId)> = vec![];
    for stored in Shelf::open(session)?.releases(session.app())? {
        if !here.iter().any(|(_, image)| *image == stored.release.image) {
            here.push((stored.release.commit.to_string(), stored.release.image));
        }
    }
    across::ask(session, "cache diff", |work: Work| {
        let here = here.clone();
        async move {
            let Work { label, reached, output, .. } = work;
            let there = &reached.survey.images;
            let difference = |path: &str, kind: &str, here: String, there: String| {
                let (path, kind) = (path.to_owned(), kind.to_owned());
                output.result(&Event::Difference { node: Some(label.clone()), path, kind, here, there });
            };
            let missing: Vec<_> = here.iter().filter(|(_, image)| !there.contains(image)).collect();
            let extra: Vec<_> = there.iter().filter(|image| !here.iter().any(|(_, known)| known == *image)).collect();
            missing.iter().for_each(|(commit, image)| difference(commit, "missing", image.to_string(), "not there".into()));
            extra.iter().for_each(|image| difference("", "extra", "not here".into(), image.to_string()));
            reached.connection.close().await;
            Ok(if missing.is_empty() && extra.is_empty() { NodeEnd::Done } else { NodeEnd::Differs })
        }
    })
}

/// Refuses to read a part: a node knows no way to do that, and reading everything is not what was asked for.
fn in_part(args: &args::CacheVerify, session: &Session) -> Failure {
    let flag = match args {
        args::CacheVerify { quick: true, .. } => "--quick",
        args::CacheVerify { sample: Some(_), .. } => "--sample",
        _ => "--slice",
    };
    let nodes = session.call.globals.address.join(" --address ");
    let why = format!("reads every file of its images back; {flag} is for caches");
    refused(&why, &format!("df cache verify --address {nodes}"))
}

fn refused(why: &str, next: &str) -> Failure {
    Failure::new(Exit::Usage, "cache", format!("a node {why}; nothing was changed")).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_caches_are_no_nodes() {
        let meant = |words: &[&str]| is_meant(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(meant(&["web1"]) && meant(&["ssh://web1", "local:x"]));
        for words in [&[][..], &["s3://b"], &["file:x"], &["web1", "s3://b"]] {
            assert!(!meant(words), "{words:?}");
        }
    }
}
