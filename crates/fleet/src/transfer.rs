//! The journey of an image to one node: the lock, the bytes and what remembers them travel in one go, and what a node refuses is answered once.
//!
//! ```text
//! survey -> (a signature, where the base is only there) -> lock, who vouches, receive, bytes, stage          said without waiting
//!        <- done, done, received, done                                                                      one round trip later
//! ```
//!
//! Nothing is lost by not waiting: a node does what it is told in order, and without the lock or the base it refuses and reads past the bytes. `next` says
//! what follows on a failure: the same bytes from the place that the node names, one whole copy, the lock asked for patiently, or a new connection that goes on
//! where the one that broke had come to. Each happens a stated number of times.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use df_core::{AppName, ImageId};
use df_delta::EncodeError;
use df_wire::message::{Fault, FaultKind, Incoming};
use df_wire::{Reply, Request};
use tokio::time::sleep;

use crate::choice::{Link, Meter, Way};
use crate::choosing::{Chosen, Wish, WishError};
use crate::connection::{NodeError, Say};
use crate::deltas::{Delta, Deltas};
use crate::partial;
use crate::survey::{self, Claim, Reached};
use crate::through::{self, Missed, Through};
use crate::trust::{Credentials, Untrusted};

mod travelling;

use travelling::Travelling;

/// How many times a connection that broke is opened again.
const REOPENED: u32 = 2;
/// How long the second of them waits: what broke one at once breaks the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times a node may name another place to begin.
const MOVED: u32 = 2;

/// A copy did not come about on a node; it holds what it held.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CopyError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    #[error("the delta cannot be made")]
    Encode(#[source] Arc<EncodeError>),
    #[error("an image of this machine cannot be read")]
    Here(#[source] io::Error),
    #[error("the old bytes lie in {0} places, more than a node is asked for")]
    Scattered(usize),
    #[error("the node sent a manifest that is not that of image {}", .0.short())]
    Manifest(ImageId),
}

/// How a copy went.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// The image.
    pub image: ImageId,
    /// How it got there.
    pub way: Way,
    /// How most of it was packed: `elf`, `copy`, `patch`, `rsync`, `whole`, or `none`.
    pub codec: String,
    /// What the line was like, when enough went over it to tell.
    pub link: Option<Link>,
    /// Bytes sent to the node since its greeting, protocol included.
    pub bytes_sent: u64,
    /// Bytes that the node sent since its greeting, protocol included.
    pub bytes_received: u64,
    /// Bytes of the delta that did not travel, because an earlier session had brought them.
    pub bytes_resumed: u64,
    /// Bytes of the image's files.
    pub image_bytes: u64,
    /// Bytes that the node fetched from a cache.
    pub bytes_fetched: u64,
    /// It came through a cache.
    pub through_cache: bool,
    /// Why it did not, though it was to.
    pub missed: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What is told while bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes will be sent from now on.
    Total(u64),
    /// So many more were sent.
    Sent(u64),
}

/// What is brought to nodes.
#[derive(Clone, Copy)]
pub struct Errand<'a> {
    /// The image.
    pub deltas: &'a Arc<Deltas>,
    /// Whose image it is, for the choice of a base.
    pub app: &'a AppName,
    /// What was asked for beside the image.
    pub wish: Wish,
    /// How the line to the node is thought to be.
    pub link: Link,
    /// Whose work it is, for a node that is not locked yet, or not any more.
    pub claim: &'a Claim,
    /// Who vouches for the release.
    pub credentials: &'a Credentials,
    /// The canonical bytes of the release, for a node that does not remember it.
    pub stage: Option<&'a str>,
    /// Where nodes fetch the bytes from; `None`: they are sent.
    pub through: Option<&'a Through>,
    /// Whether nothing else is asked of the node afterwards: its session ends with the copy, without a round trip for that.
    pub is_last: bool,
}

/// Brings an image to a node that was surveyed.
///
/// # Errors
/// The node holds what it held, and perhaps a part of the image, to go on from.
pub async fn copy(
    reached: &mut Reached,
    errand: &Errand<'_>,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied, CopyError> {
    let node = reached.connection.node.address.clone();
    let copied = bring(reached, errand, told).await;
    // What it had of the uplink is for the others.
    errand.deltas.leave(&node);
    copied
}

async fn bring(reached: &mut Reached, errand: &Errand<'_>, told: &mut (dyn FnMut(Progress) + Send)) -> Result<Copied, CopyError> {
    let start = Instant::now();
    let deltas = errand.deltas;
    // Before anything is made for a node that would refuse it.
    let mut vouch = errand.credentials.requests(reached.survey.trust.as_ref())?;
    let chosen = partial::choose(reached, deltas, errand.app, errand.link, errand.wish).await?;
    let mut leg = Leg { chosen, from: None };
    let (mut tries, mut bytes_resumed) = (Tries::default(), 0);
    let (mut fetched, mut missed) = (None, None);
    if let Some(through) = errand.through.filter(|_| chosen.way != Way::Held) {
        let chosen = through::without_signature(chosen);
        match through.fetch(reached, errand, &chosen, told).await {
            Ok(it) => {
                bytes_resumed = it.from;
                fetched = Some((chosen.way, it));
                leg.chosen = Chosen::held(&errand.wish);
            }
            Err(Missed::Copy(error)) => return Err(error),
            Err(Missed::Cache(why)) => {
                // What is worked in already is gone on with.
                leg.chosen = chosen;
                missed = Some(why);
            }
        }
    }
    let arrived = loop {
        let stumble = match walk(reached, errand, &vouch, leg, told).await {
            Ok(arrived) => {
                bytes_resumed = bytes_resumed.max(arrived.from);
                break arrived;
            }
            Err(stumble) => stumble,
        };
        match next(&stumble, leg.chosen.way, &mut tries) {
            Next::Fail => return Err(stumble.into_error()),
            Next::From(offset) => leg.from = Some(offset),
            Next::Whole => {
                deltas.forget(&leg.chosen);
                leg = Leg { chosen: leg.chosen.whole(), from: None };
            }
            Next::Lock if reached.connection.is_open() => survey::lock(&mut reached.connection, errand.claim).await?,
            Next::Lock => {}
            Next::Reopen => {
                reopen(reached, errand.claim, &mut tries, stumble.into_error()).await?;
                let is_there = !errand.wish.full && reached.survey.images.contains(&deltas.image());
                leg = Leg { chosen: if is_there { Chosen::held(&errand.wish) } else { leg.chosen }, from: None };
            }
        }
        if !reached.connection.is_open() {
            survey::anew(reached, errand.claim).await?;
        }
        vouch = errand.credentials.requests(reached.survey.trust.as_ref())?;
    };
    let (bytes_sent, bytes_received) = reached.connection.traffic();
    let through_cache = fetched.is_some();
    let (way, codec, bytes_fetched) = match fetched {
        Some((way, it)) => (way, it.codec, it.bytes),
        None => (leg.chosen.way, arrived.codec, 0),
    };
    Ok(Copied {
        image: deltas.image(),
        way,
        codec,
        bytes_fetched,
        through_cache,
        missed,
        link: arrived.link,
        bytes_sent,
        bytes_received,
        bytes_resumed,
        image_bytes: deltas.manifest().total_len(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// One attempt: which way, and from where in the delta; `None`: from where the survey says.
#[derive(Debug, Clone, Copy)]
struct Leg {
    chosen: Chosen,
    from: Option<u64>,
}

/// An attempt that failed.
struct Stumble {
    error: CopyError,
    /// Whether it was the bytes that the node did not take, or the way to them.
    at_bytes: bool,
    /// Whether bytes had travelled.
    has_sent: bool,
    /// Whether the session ended over it.
    is_cut: bool,
}

impl Stumble {
    /// Returns what to tell a person: a node whose bytes stopped in the middle has no fault of its own.
    fn into_error(self) -> CopyError {
        match self.error {
            CopyError::Node(NodeError::Fault(fault)) if self.is_cut && fault.kind == FaultKind::Failed => {
                NodeError::Broken { said: df_core::text::escape(fault.message.as_bytes()) }.into()
            }
            error => error,
        }
    }
}

/// What happened on one journey so far.
#[derive(Debug, Default)]
struct Tries {
    reopened: u32,
    moved: u32,
    locked: bool,
}

/// What follows on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The same bytes, from another place on.
    From(u64),
    /// The whole image, once.
    Whole,
    /// The lock, patiently, and then the same again.
    Lock,
    /// A new connection that goes on where the broken one came to.
    Reopen,
    /// Nothing.
    Fail,
}

/// Decides what follows on a failure; what was tried as often as it may be is not tried again.
fn next(stumble: &Stumble, way: Way, tries: &mut Tries) -> Next {
    match &stumble.error {
        CopyError::Node(NodeError::Fault(fault)) => match &fault.kind {
            FaultKind::Locked(_) if !tries.locked => {
                tries.locked = true;
                Next::Lock
            }
            FaultKind::Elsewhere { offset } if stumble.at_bytes && tries.moved < MOVED => {
                tries.moved += 1;
                Next::From(*offset)
            }
            FaultKind::Elsewhere { .. } | FaultKind::DeltaRefused | FaultKind::Missing | FaultKind::Damaged
                if stumble.at_bytes && way != Way::Whole =>
            {
                Next::Whole
            }
            // What a node says whose bytes stopped in the middle.
            FaultKind::Failed if stumble.at_bytes && stumble.is_cut && stumble.has_sent && tries.reopened < REOPENED => {
                tries.reopened += 1;
                Next::Reopen
            }
            _ => Next::Fail,
        },
        // A silent node is not asked again: it would cost as long once more.
        CopyError::Node(NodeError::Broken { .. }) if stumble.has_sent && tries.reopened < REOPENED => {
            tries.reopened += 1;
            Next::Reopen
        }
        CopyError::Node(_) | CopyError::Wish(_) | CopyError::Untrusted(_) => Next::Fail,
        CopyError::Encode(_) | CopyError::Scattered(_) | CopyError::Manifest(_) | CopyError::Here(_) if way != Way::Whole => {
            Next::Whole
        }
        CopyError::Encode(_) | CopyError::Scattered(_) | CopyError::Manifest(_) | CopyError::Here(_) => Next::Fail,
    }
}

/// Opens the connection again; when that fails too, once more after a pause. What broke the first one is the error in the end.
async fn reopen(reached: &mut Reached, claim: &Claim, tries: &mut Tries, broke: CopyError) -> Result<(), CopyError> {
    if tries.reopened > 1 {
        sleep(PAUSE).await;
    }
    match survey::anew(reached, claim).await {
        Ok(()) => Ok(()),
        Err(NodeError::Unreachable { .. } | NodeError::Broken { .. }) if tries.reopened < REOPENED => {
            tries.reopened += 1;
            sleep(PAUSE).await;
            survey::anew(reached, claim).await.map_err(|_| broke)
        }
        Err(NodeError::Unreachable { .. } | NodeError::Broken { .. }) => Err(broke),
        Err(error) => Err(error.into()),
    }
}

/// An attempt that succeeded.
struct Arrived {
    /// From where in the delta the bytes went.
    from: u64,
    codec: String,
    link: Option<Link>,
}

/// Makes one attempt.
async fn walk(
    reached: &mut Reached,
    errand: &Errand<'_>,
    vouch: &[Request],
    leg: Leg,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Arrived, Stumble> {
    let deltas = errand.deltas;
    let before = |error: CopyError| Stumble { error, at_bytes: true, has_sent: false, is_cut: false };
    let connection = &mut reached.connection;
    let delta = match leg.chosen.way {
        Way::Held => None,
        _ => Some(deltas.by(connection, &leg.chosen).await.map_err(before)?),
    };
    let from = delta.as_ref().map_or(0, |delta| begin(&reached.survey.incoming, deltas.image(), leg, delta));
    let receive = delta.as_ref().map(|delta| Request::Receive {
        image: deltas.image(),
        base: leg.chosen.way.base(),
        delta: Some(delta.digest()),
        from,
        len: delta.len() - from,
        image_len: deltas.manifest().total_len(),
    });
    let changes = receive.is_some() || errand.stage.is_some() || !vouch.is_empty();
    let lock = (!connection.holds_lock && changes).then(|| errand.claim.request());
    let stage = errand.stage.map(|release| Request::Stage { release: release.to_owned() });
    let mut said: Vec<Say<'_>> = vec![];
    said.extend(lock.iter().chain(vouch).map(Say::Ask));
    if let (Some(delta), Some(receive)) = (&delta, &receive) {
        told(Progress::Total(delta.len() - from));
        said.extend([Say::Ask(receive), Say::Bytes { delta, from }]);
    }
    said.extend(stage.as_ref().map(Say::Ask));
    said.extend(errand.is_last.then_some(Say::Farewell));
    let (mut has_sent, mut meter) = (false, Meter::default());
    let mut travelling = Travelling::among(deltas.travelling());
    let begun = Instant::now();
    let mut sent = |n_bytes| {
        has_sent |= n_bytes > 0;
        meter.add(n_bytes, begun.elapsed());
        travelling.look();
        told(Progress::Sent(n_bytes));
    };
    let exchanged = connection.exchange(&said, &mut sent).await;
    let replies = exchanged.map_err(|error| Stumble { error, at_bytes: false, has_sent, is_cut: true })?;
    let mut replies = replies.into_iter();
    let is_cut = connection.is_cut();
    let stumble = |error, at_bytes| Stumble { error, at_bytes, has_sent, is_cut };
    if lock.is_some() {
        expect(&mut replies, |reply| matches!(reply, Reply::Done)).map_err(|error| stumble(error, false))?;
        connection.holds_lock = true;
    }
    for _ in vouch {
        expect(&mut replies, |reply| matches!(reply, Reply::Done)).map_err(|error| stumble(error, false))?;
    }
    if receive.is_some() {
        expect(&mut replies, |reply| matches!(reply, Reply::Received { .. })).map_err(|error| stumble(error, true))?;
    }
    if stage.is_some() {
        expect(&mut replies, |reply| matches!(reply, Reply::Done)).map_err(|error| stumble(error, false))?;
    }
    let round_trip = connection.round_trip();
    let codec = delta.map_or_else(|| "none".to_owned(), |delta| delta.codec().to_owned());
    let link = meter.link(round_trip, &errand.link).map(|link| travelling.together(link));
    Ok(Arrived { from, codec, link })
}

/// Returns from where on a delta is sent: from where the node said last, else from where it had come to when an earlier session was cut.
fn begin(incoming: &[Incoming], image: ImageId, leg: Leg, delta: &Delta) -> u64 {
    let is_same = |it: &&Incoming| it.image == image && it.base == leg.chosen.way.base() && it.delta == delta.digest();
    let from = leg.from.or_else(|| incoming.iter().find(is_same).map(|it| it.offset));
    // A place beyond the end is a lie.
    from.filter(|&from| from <= delta.len()).unwrap_or(0)
}

fn expect(replies: &mut impl Iterator<Item = Reply>, is_right: impl Fn(&Reply) -> bool) -> Result<(), CopyError> {
    match replies.next() {
        Some(Reply::Fault(fault)) => Err(fault_of(fault)),
        Some(reply) if is_right(&reply) => Ok(()),
        _ => Err(NodeError::Answer.into()),
    }
}

fn fault_of(fault: Box<Fault>) -> CopyError {
    NodeError::Fault(fault).into()
}

#[cfg(test)]
mod totals;

#[cfg(test)]
mod tests {
    use df_core::Digest;
    use df_wire::message::LockHolder;

    use super::*;

    fn stumble(kind: FaultKind, at_bytes: bool) -> Stumble {
        let fault = Fault { kind, message: String::new(), log: String::new(), probes: vec![], serving: None };
        Stumble { error: fault_of(Box::new(fault)), at_bytes, has_sent: true, is_cut: false }
    }

    fn broken(has_sent: bool) -> Stumble {
        Stumble { error: NodeError::Broken { said: String::new() }.into(), at_bytes: false, has_sent, is_cut: true }
    }

    const PATCH: Way = Way::Patch(ImageId(Digest::from_bytes([1; 32])));

    #[test]
    fn a_base_that_is_gone_costs_one_whole_copy() {
        for kind in [FaultKind::DeltaRefused, FaultKind::Missing, FaultKind::Damaged] {
            let tries = &mut Tries::default();
            assert_eq!(next(&stumble(kind.clone(), true), PATCH, tries), Next::Whole);
            assert_eq!(next(&stumble(kind.clone(), true), Way::Whole, tries), Next::Fail);
            assert_eq!(next(&stumble(kind, false), PATCH, tries), Next::Fail, "what is staged is there or it is not");
        }
        assert_eq!(next(&stumble(FaultKind::DiskFull, true), PATCH, &mut Tries::default()), Next::Fail);
    }

    #[test]
    fn each_thing_is_tried_a_stated_number_of_times() {
        let tries = &mut Tries::default();
        let held = || {
            stumble(
                FaultKind::Locked(LockHolder { who: String::new(), command: String::new(), since: df_core::Timestamp(0) }),
                false,
            )
        };
        assert_eq!(next(&held(), PATCH, tries), Next::Lock);
        assert_eq!(next(&held(), PATCH, tries), Next::Fail);
        let elsewhere = || stumble(FaultKind::Elsewhere { offset: 7 }, true);
        assert_eq!(next(&elsewhere(), PATCH, tries), Next::From(7));
        assert_eq!(next(&elsewhere(), PATCH, tries), Next::From(7));
        assert_eq!(next(&elsewhere(), PATCH, tries), Next::Whole);
        assert_eq!(next(&elsewhere(), Way::Whole, tries), Next::Fail);
        assert_eq!(next(&broken(true), PATCH, tries), Next::Reopen);
        assert_eq!(next(&broken(true), PATCH, tries), Next::Reopen);
        assert_eq!(next(&broken(true), PATCH, tries), Next::Fail);
        let in_the_middle = || Stumble { is_cut: true, ..stumble(FaultKind::Failed, true) };
        assert_eq!(next(&in_the_middle(), PATCH, &mut Tries::default()), Next::Reopen);
        assert_eq!(next(&stumble(FaultKind::Failed, true), PATCH, tries), Next::Fail, "an error of its disk stays one");
        assert_eq!(next(&broken(false), PATCH, &mut Tries::default()), Next::Fail, "nothing had travelled");
        let silent = Stumble { error: NodeError::Silent(PAUSE).into(), at_bytes: false, has_sent: true, is_cut: false };
        assert_eq!(next(&silent, PATCH, &mut Tries::default()), Next::Fail);
    }

    #[test]
    fn a_delta_goes_on_where_the_node_says_and_a_lie_costs_the_whole_delta() {
        let (delta, image) = (Delta::of(vec![0; 100], "patch"), ImageId(Digest::of(b"image")));
        let incoming = |offset| Incoming { image, base: PATCH.base(), delta: delta.digest(), offset, partial: None };
        let leg = |way, from| Leg { chosen: Chosen { way, ..Chosen::held(&Wish::default()) }, from };
        for (told, leg, expected) in [
            (vec![], leg(PATCH, None), 0),
            (vec![incoming(40)], leg(PATCH, None), 40),
            (vec![incoming(100)], leg(PATCH, None), 100),
            (vec![incoming(101)], leg(PATCH, None), 0),
            (vec![incoming(u64::MAX)], leg(PATCH, None), 0),
            (vec![incoming(40)], leg(PATCH, Some(60)), 60),
            (vec![incoming(40)], leg(PATCH, Some(0)), 0),
            (vec![incoming(40)], leg(Way::Whole, None), 0),
            (vec![Incoming { delta: Digest::of(b"another"), ..incoming(40) }], leg(PATCH, None), 0),
            (vec![Incoming { image: ImageId(Digest::of(b"another")), ..incoming(40) }, incoming(3)], leg(PATCH, None), 3),
        ] {
            assert_eq!(begin(&told, image, leg, &delta), expected, "{told:?} {leg:?}");
        }
    }
}
