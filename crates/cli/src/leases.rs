//! What nodes have in their generations is said to the bucket of df.yaml, so that a collection from a machine that knows no node keeps it, too.
//!
//! It is said behind what changed the nodes, all of them in one commit, and in none when the bucket knows it. A bucket that cannot be told is no failure of what serves already: that is said, with
//! what to type next. Who a node is the node itself says; what it is called is for people.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_cache::s3::aws::S3Address;
use df_cache::s3::objects::Requests;
use df_cache::s3::{Holder, Lease, S3Store, word};
use df_core::{AppName, CommitId};
use df_fleet::message::Survey;
use df_fleet::seen::Generations;
use df_fleet::{Connection, Node, Seen, survey};

use crate::across::{self, state_of};
use crate::bucket;
use crate::commands::cache::costs;
use crate::config::Remote;
use crate::event::Event;
use crate::failure::chain;
use crate::render::units;
use crate::session::Session;

/// How long a bucket is asked, unless `--timeout` says otherwise: whoever deployed waits for nothing else any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// What nodes said that they have, for the bucket of df.yaml. Clones write into the same.
#[derive(Clone)]
pub struct Ledger {
    bucket: Option<S3Address>,
    said: Arc<Mutex<Vec<(Node, Survey)>>>,
    /// Sessions that end when it was told: as long as they have the nodes' locks, nobody tells of a newer state before.
    open: Arc<Mutex<Vec<Connection>>>,
}

impl Ledger {
    /// Begins with nothing said. Without a bucket in df.yaml nobody is asked, and nothing told.
    pub fn of(session: &Session) -> Self {
        Self { bucket: bucket_of(session).cloned(), said: Arc::default(), open: Arc::default() }
    }

    /// Notes what a node said.
    pub fn note(&self, node: &Node, survey: &Survey) {
        if self.bucket.is_some() {
            self.said.lock().expect("nobody panics while holding it").push((node.clone(), survey.clone()));
        }
    }

    /// Ends a session, after it asked what the node has now and when the bucket was told. A node that does not answer has what it had before, as far as anybody knows.
    pub async fn close(&self, mut connection: Connection) {
        if self.bucket.is_some()
            && let Ok(survey) = survey::again(&mut connection).await
        {
            self.note(&connection.node.clone(), &survey);
            self.open.lock().expect("nobody panics while holding it").push(connection);
        } else {
            connection.close().await;
        }
    }

    /// Returns the commit that all nodes serve, if it is one.
    pub fn serving(&self, app: &AppName) -> Option<CommitId> {
        let said = self.said.lock().expect("nobody panics while holding it");
        let commit = |survey: &Survey| {
            let state = state_of(survey, app)?;
            Some(state.generations.iter().find(|it| it.number == state.current)?.commit.clone())
        };
        let commits: Option<BTreeSet<CommitId>> = said.iter().map(|(_, survey)| commit(survey)).collect();
        commits.filter(|commits| commits.len() == 1)?.pop_first()
    }

    /// Tells the bucket; where that fails, `again` is what to type so that it is told.
    pub fn tell(&self, session: &Session, again: &str) {
        let said = std::mem::take(&mut *self.said.lock().expect("nobody panics while holding it"));
        let known: Vec<(&Node, Generations)> =
            said.iter().filter_map(|(node, survey)| Some((node, Generations::of(survey)?))).collect();
        if let (Some(address), false) = (&self.bucket, known.is_empty()) {
            remember(session, &known);
            let leases: Vec<Lease> = known.into_iter().map(|(node, has)| lease(node, has)).collect();
            if let Err(why) = change(session, address, |store| store.lease(&leases)) {
                warn(session, &untold(address, &leases, &why, again));
            }
        }
        let open = std::mem::take(&mut *self.open.lock().expect("nobody panics while holding it"));
        session.call.block_on(across::all(open.into_iter().map(Connection::close).collect(), session.parallel()));
    }
}

/// Says that a bucket was not told, and what to type.
fn untold(address: &S3Address, leases: &[Lease], Untold { why, mend }: &Untold, again: &str) -> String {
    let who = match leases {
        [one] => format!("{} has", one.holder.name),
        many => format!("{} have", units::nodes(many.len())),
    };
    format!(
        "{address} was not told what {who} now: {why}; a df cache gc that knows no node may let go of it there; next: {mend}{again}"
    )
}

/// Says in a plan what telling the bucket takes.
pub fn plan(session: &Session) {
    if let Some(address) = bucket_of(session) {
        // The head and a table, and its record, a table and the head.
        let work = Requests { get: 2, put: 3, ..Requests::default() };
        session.output().result(&Event::Planned {
            node: None,
            action: format!("tell {address} what nodes have"),
            bytes: Some(0),
            requests: Some(costs::estimate(&work).requests),
            reason: format!("unless it knows; {}", costs::words(&work)),
            changes: false,
        });
    }
}

/// Ends what the bucket keeps for a node that is off the list.
pub fn end(session: &Session, node: &Node) {
    let Some(address) = bucket_of(session) else { return };
    let seen = Seen::load(&session.state);
    let identity = seen.node(&node.address).and_then(|it| it.generations.as_ref()).map(|has| word(has.identity));
    let place = place(node);
    // By both: somebody else may have told of it by another address, and it may have been set up anew since.
    let is_meant = |who: &str, name: &str| {
        identity.as_deref() == Some(who)
            || name == place
            || name.strip_suffix(&place).is_some_and(|begin| begin.ends_with(" at "))
    };
    match change(session, address, |store| store.end_leases(is_meant)) {
        Ok(ended) if ended.is_empty() => {}
        Ok(_) => session.output().note(format!("{address} keeps nothing for {} any more", node.label())),
        Err(Untold { why, mend }) => {
            let name = node.name.as_ref().map_or_else(String::new, |name| format!(" --name {name}"));
            let (label, address_of) = (node.label(), &node.address);
            let next = format!("{mend}df add {address_of}{name}, then df rm {label}");
            warn(session, &format!("{address} goes on keeping what {label} has: {why}; next: {next}"));
        }
    }
}

/// Returns what nodes on the list were last seen to have, for who brings images to the bucket, so called, that it lacked then. Of other buckets nobody is told what nodes have later.
pub fn remembered(session: &Session, place: &str) -> Vec<Lease> {
    let is_meant = bucket_of(session).is_some_and(|address| address.to_string() == place);
    let Some(inventory) = session.inventory().ok().filter(|_| is_meant) else { return vec![] };
    let seen = Seen::load(&session.state);
    let has = |node: &Node| Some(lease(node, seen.node(&node.address)?.generations.clone()?));
    inventory.nodes().iter().filter_map(has).collect()
}

fn bucket_of(session: &Session) -> Option<&S3Address> {
    match &session.config.cache.remote {
        Some(Remote::Bucket(address)) => Some(address),
        Some(Remote::Directory(_)) | None => None,
    }
}

/// Why a bucket was not told.
struct Untold {
    why: String,
    /// What mends it, and words that lead to what is to be typed then; empty where nothing needs to be mended.
    mend: String,
}

impl Untold {
    fn new(why: String, next: Option<String>) -> Self {
        // What is to be typed again follows.
        let mend = next.and_then(|next| Some(next.split("type it again").next()?.trim_end_matches(", then ").to_owned()));
        let mend = mend.filter(|mend| !mend.is_empty()).map_or_else(String::new, |mend| format!("{mend}, then "));
        Self { why, mend }
    }
}

/// Opens the bucket and does something there.
fn change<T>(
    session: &Session,
    address: &S3Address,
    act: impl FnOnce(&S3Store) -> Result<T, df_cache::PutError>,
) -> Result<T, Untold> {
    let patience = session.call.globals.timeout.unwrap_or(PATIENCE);
    let store = bucket::open_below(&session.cache_dir(), &session.config.cache, Some(patience), address, false);
    let store = store.map_err(|failure| Untold::new(failure.message, failure.next))?;
    act(&store).map_err(|error| {
        let next = bucket::failure::unwritten(&address.to_string(), &error).next;
        Untold::new(chain(&error), next)
    })
}

fn lease(node: &Node, has: Generations) -> Lease {
    let place = place(node);
    let name = node.name.as_ref().map_or_else(|| place.clone(), |name| format!("{name} at {place}"));
    Lease { holder: Holder { identity: has.identity, name }, images: has.images }
}

/// Returns where a node is, in words that mean the same on another machine.
fn place(node: &Node) -> String {
    match node.address.is_local() {
        true => format!("{} on {}", node.address, rustix::system::uname().nodename().to_string_lossy()),
        false => node.address.to_string(),
    }
}

fn remember(session: &Session, known: &[(&Node, Generations)]) {
    let seen = Seen::load(&session.state);
    let is_news =
        |(node, has): &(&Node, Generations)| seen.node(&node.address).and_then(|it| it.generations.as_ref()) != Some(has);
    if known.iter().any(is_news) {
        let written = Seen::edit(&session.state, |seen| {
            known.iter().for_each(|(node, has)| seen.has(&node.address, has.clone(), crate::session::now()));
        });
        if written.is_ok() {
            session.hide_state();
        }
    }
}

/// Says what went wrong beside what was asked for; also to who wants no steps.
fn warn(session: &Session, message: &str) {
    session.output().error(&Event::Note { message: message.to_owned() });
}
