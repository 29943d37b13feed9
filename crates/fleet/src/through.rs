//! Through a cache: the bytes go there once, and each node fetches them. What goes to a node is a request, however long they are.
//!
//! ```text
//! (once for all nodes) is it there? else put it          then to each node: lock, who vouches, fetch -> events -> received
//! ```
//!
//! A node that says that its URL ran out gets another. What a cache gives that is not what was put there is put there anew, once for all nodes. Where a node gets
//! nothing from the cache, whatever the reason, the bytes are sent to it as always, and somebody is told why.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use df_core::ImageId;
use df_wire::message::{FaultKind, Incoming, Source};
use df_wire::{Event, Reply, Request};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::choice::Way;
use crate::choosing::Chosen;
use crate::connection::{Connection, NodeError, SILENCE};
use crate::deltas::{Delta, Deltas};
use crate::survey::{self, Reached};
use crate::transfer::{CopyError, Errand, Progress};

/// How many URLs a node may refuse one after the other without getting further.
const RENEWED: u32 = 3;
/// How many URLs a node gets in all: a hundred hours of fetching. One that says each time that it came a byte further gets no more.
const URLS: u32 = 600;
/// How many times a connection that broke is opened again.
const REOPENED: u32 = 2;

/// What is put somewhere for nodes to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    /// The image that it is a delta to; `None`: whole.
    pub base: Option<ImageId>,
    /// The image that it makes.
    pub image: ImageId,
}

/// Where nodes fetch from. Its calls wait for a network.
pub trait Depot: Send + Sync {
    /// Returns whether an object of this length is there.
    ///
    /// # Errors
    /// It cannot be asked.
    fn holds(&self, object: &Object, len: u64) -> io::Result<bool>;

    /// Puts an object there, in place of one that is.
    ///
    /// # Errors
    /// It cannot be put.
    fn put(&self, object: &Object, delta: &Delta) -> io::Result<()>;

    /// Returns by what a node finds an object from now on, for a quarter of an hour.
    ///
    /// # Errors
    /// There is no such thing.
    fn source(&self, object: &Object) -> io::Result<Source>;
}

/// The objects of one command: each goes to the cache once, however many nodes fetch it.
pub struct Through {
    depot: Arc<dyn Depot>,
    beside: Option<PathBuf>,
    placed: Mutex<HashMap<Object, Arc<Placed>>>,
}

#[derive(Default)]
struct Placed {
    delta: OnceCell<Result<Delta, Arc<str>>>,
    anew: OnceCell<Result<(), Arc<str>>>,
}

/// An image that a node fetched.
pub(crate) struct Fetched {
    /// Bytes that the node fetched.
    pub bytes: u64,
    /// From where in the delta on.
    pub from: u64,
    /// How most of it was packed.
    pub codec: String,
}

/// An image did not get to a node through the cache.
pub(crate) enum Missed {
    /// Because of the cache: sent directly, it may.
    Cache(String),
    /// Nor will it otherwise.
    Copy(CopyError),
}

impl From<NodeError> for Missed {
    fn from(error: NodeError) -> Self {
        Self::Copy(error.into())
    }
}

impl Through {
    /// Prepares to put objects into a depot; `beside`: it is that directory, which only nodes on this machine reach.
    pub fn new(depot: Arc<dyn Depot>, beside: Option<PathBuf>) -> Self {
        Self { depot, beside, placed: Mutex::default() }
    }

    /// Returns the directory, where it is one.
    pub fn beside(&self) -> Option<&Path> {
        self.beside.as_deref()
    }

    /// Has a node fetch an image.
    pub(crate) async fn fetch(
        &self,
        reached: &mut Reached,
        errand: &Errand<'_>,
        chosen: &Chosen,
        told: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, Missed> {
        if self.beside.is_some() && !reached.connection.node.address.is_local() {
            return Err(Missed::Cache("the cache is a directory of this machine".into()));
        }
        let deltas = errand.deltas;
        let object = Object { base: chosen.way.base(), image: deltas.image() };
        let delta = self.place(object, deltas, chosen).await.map_err(Missed::Cache)?;
        prepare(reached, errand).await?;
        let mut from = come_to(&reached.survey.incoming, object, &delta);
        let start = from;
        told(Progress::Total(delta.len() - from));
        let (mut tries, mut bytes) = (Tries::default(), 0);
        loop {
            let source = self.source(object).await.map_err(Missed::Cache)?;
            let request = Request::Fetch {
                image: object.image,
                base: object.base,
                delta: delta.digest(),
                from,
                len: delta.len(),
                image_len: deltas.manifest().total_len(),
                source,
            };
            let asked = ask(&mut reached.connection, &request, told).await;
            bytes += asked.came;
            let error = match asked.reply {
                Ok(Reply::Received { fetched, .. }) => {
                    let codec = delta.codec().to_owned();
                    return Ok(Fetched { bytes: bytes.saturating_sub(asked.came) + fetched, from: start, codec });
                }
                Ok(_) => return Err(NodeError::Answer.into()),
                Err(error) => error,
            };
            match next(&error, from, delta.len(), &mut tries) {
                Next::From(offset) => from = offset,
                Next::Anew => {
                    self.put_anew(object, &delta).await.map_err(Missed::Cache)?;
                    from = 0;
                }
                Next::Reopen => {
                    survey::anew(reached, errand.claim).await?;
                    prepare(reached, errand).await?;
                    from = come_to(&reached.survey.incoming, object, &delta);
                }
                Next::Directly { offset, why } => {
                    remember(&mut reached.survey.incoming, object, &delta, offset);
                    return Err(Missed::Cache(why));
                }
                Next::Fail => return Err(error.into()),
            }
        }
    }

    /// Makes an object and puts it into the cache, unless it is there; once for all nodes.
    async fn place(&self, object: Object, deltas: &Deltas, chosen: &Chosen) -> Result<Delta, String> {
        let placed = self.placed(object);
        let delta = placed.delta.get_or_init(|| async {
            let codec = chosen.codec.filter(|_| object.base.is_some());
            let made = deltas.patch(object.base, chosen.level, codec).await;
            let delta = made.map_err(|error| Arc::from(chain(&error)))?;
            let (depot, put) = (self.depot.clone(), delta.clone());
            waiting(move || if depot.holds(&object, put.len())? { Ok(()) } else { depot.put(&object, &put) }).await?;
            Ok(delta)
        });
        delta.await.clone().map_err(|why: Arc<str>| why.to_string())
    }

    /// Puts an object there again that is another one now; once for all nodes.
    async fn put_anew(&self, object: Object, delta: &Delta) -> Result<(), String> {
        let placed = self.placed(object);
        let (depot, delta) = (self.depot.clone(), delta.clone());
        let put = placed.anew.get_or_init(|| waiting(move || depot.put(&object, &delta)));
        put.await.clone().map_err(|why| why.to_string())
    }

    async fn source(&self, object: Object) -> Result<Source, String> {
        let depot = self.depot.clone();
        waiting(move || depot.source(&object)).await.map_err(|why| why.to_string())
    }

    fn placed(&self, object: Object) -> Arc<Placed> {
        self.placed.lock().expect("nobody panics while holding it").entry(object).or_default().clone()
    }
}

/// Takes the lock and says who vouches, as it is needed.
async fn prepare(reached: &mut Reached, errand: &Errand<'_>) -> Result<(), Missed> {
    let vouch = errand.credentials.requests(reached.survey.trust.as_ref()).map_err(|error| Missed::Copy(error.into()))?;
    if !reached.connection.holds_lock {
        survey::lock(&mut reached.connection, errand.claim).await?;
    }
    for request in &vouch {
        match reached.connection.ask(request).await? {
            Reply::Done => {}
            _ => return Err(NodeError::Answer.into()),
        }
    }
    Ok(())
}

struct Asked {
    reply: Result<Reply, NodeError>,
    /// Bytes that the node told of on the way.
    came: u64,
}

async fn ask(connection: &mut Connection, request: &Request, told: &mut (dyn FnMut(Progress) + Send)) -> Asked {
    let mut came = 0;
    let mut hear = |event| {
        if let Event::Applied { bytes } = event {
            told(Progress::Sent(bytes.saturating_sub(came)));
            came = came.max(bytes);
        }
    };
    let reply = connection.ask_with(request, SILENCE, &mut hear).await;
    Asked { reply, came }
}

/// What happened on one journey so far.
#[derive(Debug, Default)]
struct Tries {
    urls: u32,
    renewed: u32,
    moved: u32,
    anew: bool,
    reopened: u32,
}

/// What follows on a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The same with another URL, from here on.
    From(u64),
    /// The object put there again.
    Anew,
    /// A new connection.
    Reopen,
    /// Not through the cache.
    Directly { offset: u64, why: String },
    /// Nothing.
    Fail,
}

/// Decides what follows on a failure; each happens a stated number of times, unless the node got further meanwhile.
fn next(error: &NodeError, from: u64, len: u64, tries: &mut Tries) -> Next {
    let fault = match error {
        NodeError::Fault(fault) => fault,
        NodeError::Broken { .. } if tries.reopened < REOPENED => {
            tries.reopened += 1;
            return Next::Reopen;
        }
        _ => return Next::Fail,
    };
    let directly = |offset: u64| Next::Directly { offset: offset.min(len), why: df_core::text::escape(fault.message.as_bytes()) };
    match fault.kind {
        FaultKind::Expired { offset } if offset <= len => {
            tries.urls += 1;
            tries.renewed = if offset > from { 0 } else { tries.renewed + 1 };
            if tries.renewed < RENEWED && tries.urls < URLS { Next::From(offset) } else { directly(offset) }
        }
        FaultKind::Elsewhere { offset } if offset <= len && tries.moved < 2 => {
            tries.moved += 1;
            Next::From(offset)
        }
        FaultKind::DeltaRefused if !tries.anew => {
            tries.anew = true;
            Next::Anew
        }
        FaultKind::Unfetched { offset } => directly(offset),
        FaultKind::Expired { .. }
        | FaultKind::Elsewhere { .. }
        | FaultKind::DeltaRefused
        | FaultKind::Missing
        | FaultKind::Damaged
        | FaultKind::Unsupported => directly(0),
        _ => Next::Fail,
    }
}

/// Returns up to where a node has worked an object in.
fn come_to(incoming: &[Incoming], object: Object, delta: &Delta) -> u64 {
    let is_it = |it: &&Incoming| it.image == object.image && it.base == object.base && it.delta == delta.digest();
    incoming.iter().find(is_it).map(|it| it.offset).filter(|&offset| offset <= delta.len()).unwrap_or(0)
}

/// Notes up to where a node has worked an object in, for who goes on with it.
fn remember(incoming: &mut Vec<Incoming>, object: Object, delta: &Delta, offset: u64) {
    incoming.retain(|it| it.image != object.image);
    if offset > 0 {
        incoming.push(Incoming { image: object.image, base: object.base, delta: delta.digest(), offset, partial: None });
    }
}

/// Returns a choice that can be made here, without the node's help.
pub fn without_signature(chosen: Chosen) -> Chosen {
    if matches!(chosen.way, Way::Rsync(_)) { chosen.whole() } else { chosen }
}

async fn waiting<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Arc<str>> {
    let done = spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Arc::from(chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    df_core::text::shorten(&df_core::text::escape(text.as_bytes()), df_core::limits::TEXT_LEN)
}

#[cfg(test)]
mod tests {
    use df_wire::message::Fault;

    use super::*;

    fn fault(kind: FaultKind) -> NodeError {
        NodeError::Fault(Box::new(Fault { kind, message: "why\u{1b}".into(), log: String::new(), probes: vec![], serving: None }))
    }

    #[test]
    fn urls_are_renewed_as_long_as_it_goes_on() {
        let mut tries = Tries::default();
        let expired = |offset| fault(FaultKind::Expired { offset });
        for n in 1..100 {
            assert_eq!(next(&expired(n), n - 1, 100, &mut tries), Next::From(n));
        }
        assert_eq!(next(&expired(99), 99, 100, &mut tries), Next::From(99));
        assert_eq!(next(&expired(99), 99, 100, &mut tries), Next::From(99));
        let why = r"why\u{1b}".to_owned();
        assert_eq!(next(&expired(99), 99, 100, &mut tries), Next::Directly { offset: 99, why });
        assert!(matches!(next(&expired(101), 0, 100, &mut Tries::default()), Next::Directly { offset: 0, .. }), "a lie");
    }

    #[test]
    fn a_node_that_comes_one_byte_further_with_each_url_gets_no_more_of_them() {
        let (mut tries, mut from, len) = (Tries::default(), 0, 1 << 40);
        while let Next::From(offset) = next(&fault(FaultKind::Expired { offset: from + 1 }), from, len, &mut tries) {
            from = offset;
            assert!(from <= u64::from(URLS), "it goes on for ever");
        }
        assert_eq!(from, u64::from(URLS) - 1);
    }

    #[test]
    fn other_bytes_are_put_there_again_once() {
        let mut tries = Tries::default();
        assert_eq!(next(&fault(FaultKind::DeltaRefused), 0, 100, &mut tries), Next::Anew);
        assert!(matches!(next(&fault(FaultKind::DeltaRefused), 0, 100, &mut tries), Next::Directly { .. }));
        assert!(matches!(next(&fault(FaultKind::DiskFull), 0, 100, &mut tries), Next::Fail));
        assert!(matches!(next(&fault(FaultKind::Untrusted), 0, 100, &mut tries), Next::Fail));
    }

    #[test]
    fn a_connection_is_opened_again_twice() {
        let mut tries = Tries::default();
        let broken = NodeError::Broken { said: String::new() };
        let follows: Vec<Next> = (0..3).map(|_| next(&broken, 0, 100, &mut tries)).collect();
        assert_eq!(follows, [Next::Reopen, Next::Reopen, Next::Fail]);
    }
}
