//! The images' way to the nodes, seen from the command line: bars, events, and what a copy would cost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_core::{AppName, ImageId, Release};
use df_fleet::choice::{Crowd, Link};
use df_fleet::message::Survey;
use df_fleet::partial;
use df_fleet::plan::{self, Unfit, Way};
use df_fleet::survey::{self, Found};
use df_fleet::through::{Through, without_signature};
use df_fleet::transfer::{CopyError, Errand, Progress};
use df_fleet::{Chosen, Claim, Connection, Copied, Credentials, Deltas, Node, Options, Reached, Seen, Wish};

use crate::across;
use crate::event::Event;
use crate::exit::NodeEnd;
use crate::failure::{self, Failure, chain};
use crate::output::Output;
use crate::preparing::{self, Sight};
use crate::render::units;
use crate::session::Session;
use crate::store::Shelf;
use crate::{through, trust};

/// A copy that was noted no longer ago is not noted again: it would cost each copy that changes nothing a round trip.
const RECENTLY: Duration = Duration::from_secs(3600);

/// A release on its way to nodes.
#[derive(Clone)]
pub struct Freight {
    /// The release.
    pub release: Release,
    deltas: Arc<Deltas>,
    wish: Wish,
    /// Who vouches for it.
    credentials: Arc<Credentials>,
    /// What nodes were last seen to hold, and how their lines were.
    seen: Arc<Seen>,
    /// Where nodes fetch from, and what it is called; `None`: the bytes are sent to them.
    through: Option<(Arc<Through>, String)>,
}

/// What a copy to a node would be.
pub struct Cost {
    /// The way, its bytes and its time.
    pub chosen: Chosen,
    /// How most of it is packed.
    pub codec: String,
}

impl Freight {
    /// Prepares a release of this machine's cache.
    ///
    /// # Errors
    /// Its image is not there, or cannot be sent as it is wished.
    pub fn of(session: &Session, shelf: &Shelf, release: Release, wish: Wish) -> Result<Self, Failure> {
        let deltas = Deltas::to(Arc::new(shelf.clone()), release.image);
        let deltas = deltas.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
        deltas.allows(&wish).map_err(|error| Failure::usage("copy", &error).next("the same without --codec"))?;
        let credentials = Arc::new(trust::credentials(session, shelf.store(), &release)?);
        let seen = Arc::new(Seen::load(&session.state));
        deltas.expect(expected(session, &seen, release.image));
        Ok(Self { release, deltas: Arc::new(deltas), wish, credentials, seen, through: None })
    }

    /// Has nodes fetch the bytes from the cache of df.yaml, when that is wanted.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn through_cache(self, session: &Session, is_wanted: bool) -> Result<Self, Failure> {
        if !is_wanted {
            return Ok(self);
        }
        // To a cache all of it travels once, however many nodes fetch it.
        self.deltas.expect(Crowd::default());
        Ok(Self { through: Some(through::open(session)?), ..self })
    }

    /// Returns what nodes fetch from is called.
    pub fn fetched_from(&self) -> Option<&str> {
        self.through.as_ref().map(|(_, name)| name.as_str())
    }

    /// Returns whether nodes fetch by requests to a bucket, which cost.
    pub fn asks_a_bucket(&self) -> bool {
        self.through.as_ref().is_some_and(|(through, _)| through.beside().is_none())
    }

    /// Begins to make what will probably travel, while nodes are connected to.
    pub fn prepare(&self, session: &Session) {
        preparing::meanwhile(session, &self.seen, &self.deltas, &self.wish);
    }

    /// Says whether a node can run what the release starts.
    ///
    /// # Errors
    /// Says what it lacks.
    pub fn runs_on(&self, reached: &Reached) -> Result<(), Unfit> {
        plan::runs(&reached.survey, &self.release, self.deltas.manifest())
    }

    /// Returns how the image gets to a node, how many bytes that takes and how long; the delta is made for the answer, unless only the node can tell.
    ///
    /// # Errors
    /// An image cannot be read, or the wish cannot be fulfilled.
    pub async fn cost(&self, reached: &mut Reached, app: &AppName) -> Result<Cost, CopyError> {
        let link = self.link(&reached.connection);
        let chosen = partial::choose(reached, &self.deltas, app, link, self.wish).await?;
        let chosen = if self.through.is_some() { without_signature(chosen) } else { chosen };
        match chosen.way {
            Way::Held | Way::Rsync(_) => Ok(Cost { chosen, codec: chosen.way.codec().to_owned() }),
            way @ (Way::Patch(_) | Way::Whole) => {
                let delta = self.deltas.patch(way.base(), chosen.level, chosen.codec).await?;
                let line = self.deltas.line(&reached.connection.node.address, link);
                Ok(Cost { chosen: chosen.exactly(delta.len(), &line), codec: delta.codec().to_owned() })
            }
        }
    }

    /// Returns how the line to a node is thought to be.
    fn link(&self, connection: &Connection) -> Link {
        let thought = self.seen.link(&connection.node.address);
        match connection.round_trip() {
            Some(measured) if !connection.node.address.is_local() => Link { round_trip: measured.as_secs_f64(), ..thought },
            _ => thought,
        }
    }
}

/// Returns the nodes that will probably be served side by side: those that were not seen to hold the image, by what they were seen to hold.
fn expected(session: &Session, seen: &Seen, image: ImageId) -> Crowd {
    let nodes = session.nodes().unwrap_or_default();
    let mut crowd = Crowd::new(seen.uplink(nodes.iter().map(|node| &node.address)), session.parallel());
    for node in &nodes {
        let images = seen.node(&node.address).and_then(|node| node.apps.get(session.app()));
        if let Some(images) = images.filter(|images| !images.contains(&image)) {
            crowd.join(&node.address, images, seen.link(&node.address));
        }
    }
    crowd
}

/// Returns the nodes that can run what the release starts; of the others it reports what they lack, and nothing goes to them.
pub fn fit(session: &Session, phase: &'static str, freight: &Freight, reached: Vec<Reached>) -> (Vec<Reached>, Vec<NodeEnd>) {
    let (mut fit, mut ends) = (vec![], vec![]);
    for reached in reached {
        match freight.runs_on(&reached) {
            Ok(()) => fit.push(reached),
            Err(unfit) => {
                session.output().error(&of_unfit(&reached.connection.node.label(), phase, &unfit));
                ends.push(NodeEnd::Failed);
            }
        }
    }
    (fit, ends)
}

/// Brings a release to every node of a command, each on a journey of its own: what it lacks goes to it, and how that ended is told, whatever the others do.
///
/// # Errors
/// There is no node, or no program for nodes; or Ctrl-C came: nodes hold what they held, or the new image beside it.
pub fn carry(session: &Session, phase: &'static str, freight: &Freight) -> Result<Vec<NodeEnd>, Failure> {
    journeys(session, phase, freight, |courier, node| async move { courier.journey(&node).await })
}

/// Sends each node of a command on a journey of its own, and returns how they ended.
fn journeys<T, F>(
    session: &Session,
    phase: &'static str,
    freight: &Freight,
    journey: impl Fn(Arc<Courier>, Node) -> F,
) -> Result<Vec<T>, Failure>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let nodes = session.nodes()?;
    let courier = Arc::new(Courier::of(session, phase, freight)?);
    session.output().progress().phase(&format!(
        "copying image {} to {}",
        freight.release.image.short(),
        units::nodes(nodes.len())
    ));
    let jobs = nodes.into_iter().map(|node| {
        let (courier, address) = (courier.clone(), node.address.clone());
        let journey = journey(courier.clone(), node);
        async move {
            let ended = journey.await;
            courier.freight.deltas.leave(&address);
            ended
        }
    });
    let jobs = jobs.collect();
    let ended = session.call.block_on(async {
        tokio::select! {
            ended = across::all_in_places(jobs, session) => Ok(ended),
            () = session.call.interrupt.pressed() => Err(across::interrupted(phase)),
        }
    });
    courier.remember(session);
    ended
}

/// Nodes before an activation.
pub struct Gathered {
    /// Those that hold the release now, with their locks.
    pub there: Vec<Reached>,
    /// Those that need nothing.
    pub done: Vec<Reached>,
    /// How it ended with the others.
    pub ends: Vec<NodeEnd>,
}

/// Takes every node of a command and brings the release to it, each on a journey of its own; one of which `is_done` says so needs nothing. What fails is
/// reported here.
///
/// # Errors
/// As [`carry`].
pub fn gather(
    session: &Session,
    phase: &'static str,
    freight: &Freight,
    is_done: fn(&Survey, &Release) -> bool,
) -> Result<Gathered, Failure> {
    let ended = journeys(session, phase, freight, move |courier, node| async move { courier.fetch(&node, is_done).await })?;
    let mut gathered = Gathered { there: vec![], done: vec![], ends: vec![] };
    for ended in ended {
        match ended {
            Ok((reached, true)) => gathered.done.push(reached),
            Ok((reached, false)) => gathered.there.push(reached),
            Err(end) => gathered.ends.push(end),
        }
    }
    Ok(gathered)
}

/// What every journey of a command needs.
pub struct Courier {
    phase: &'static str,
    app: AppName,
    freight: Freight,
    /// The canonical bytes of the release.
    release: String,
    claim: Claim,
    options: Options,
    output: Output,
    is_verbose: bool,
    /// What was learnt of nodes.
    sights: Mutex<Vec<Sight>>,
}

impl Courier {
    /// Prepares journeys with a release.
    ///
    /// # Errors
    /// There is no program for nodes.
    pub fn of(session: &Session, phase: &'static str, freight: &Freight) -> Result<Self, Failure> {
        Ok(Self {
            phase,
            app: session.app().clone(),
            freight: freight.clone(),
            release: String::from_utf8(freight.release.encode()).expect("a release is JSON"),
            claim: across::claim(session, phase),
            options: Options {
                beside: freight.through.as_ref().and_then(|(it, _)| Some(it.beside()?.to_owned())),
                ..session.options()?
            },
            output: session.output().clone(),
            is_verbose: session.call.globals.verbose > 0,
            sights: Mutex::default(),
        })
    }

    /// Remembers what was learnt of nodes.
    fn remember(&self, session: &Session) {
        preparing::remember(session, &self.sights.lock().expect("nobody panics while holding it"));
    }

    fn saw(&self, connection: &Connection, survey: Option<&Survey>, link: Option<Link>) {
        let (address, brought) = (connection.node.address.clone(), Some(self.freight.release.image));
        let sight = Sight { address, survey: survey.cloned(), brought, link };
        self.sights.lock().expect("nobody panics while holding it").push(sight);
    }

    /// Asks a node for the release, and brings it what it lacks.
    async fn journey(&self, node: &Node) -> NodeEnd {
        let found = match self.freight.wish.full {
            // What is there may be damaged.
            true => survey::one(node, &self.options, None).await.map(|reached| Found::Lacking(Box::new(reached))),
            false => survey::unless(node, &self.options, self.freight.release.id()).await,
        };
        let mut reached = match found {
            Ok(Found::Lacking(reached)) => reached,
            Ok(Found::Held(connection)) => {
                self.output.step(&self.held(&connection));
                // A copy that changes nothing writes nothing.
                if !self.freight.seen.is_latest(&node.address, &self.app, self.freight.release.image) {
                    self.saw(&connection, None, None);
                }
                connection.close().await;
                return NodeEnd::Done;
            }
            Err(error) => {
                self.output.error(&failure::of_node(&node.label(), self.phase, &error));
                return failure::end_of(&error);
            }
        };
        if self.is_verbose {
            across::mention_line(&self.output, &reached.connection);
        }
        if let Err(end) = self.check(&reached) {
            return end;
        }
        match self.bring_and(&mut reached, true).await {
            Ok(()) => {
                reached.connection.close().await;
                NodeEnd::Done
            }
            Err(end) => end,
        }
    }

    /// Takes a node, and brings it the release unless it needs nothing; returns whether that was so.
    async fn fetch(&self, node: &Node, is_done: fn(&Survey, &Release) -> bool) -> Result<(Reached, bool), NodeEnd> {
        let mut reached = survey::one(node, &self.options, Some(&self.claim)).await.map_err(|error| {
            self.output.error(&failure::of_node(&node.label(), self.phase, &error));
            failure::end_of(&error)
        })?;
        if self.is_verbose {
            across::mention_line(&self.output, &reached.connection);
        }
        let release = &self.freight.release;
        if is_done(&reached.survey, release) {
            self.output.note(format!("  {:<16} serves {} already", node.label(), release.commit.short()));
            return Ok((reached, true));
        }
        self.check(&reached)?;
        self.bring(&mut reached).await.map(|()| (reached, false))
    }

    /// Reports what a node lacks that the release needs to run.
    fn check(&self, reached: &Reached) -> Result<(), NodeEnd> {
        self.freight.runs_on(reached).map_err(|unfit| {
            self.output.error(&of_unfit(&reached.connection.node.label(), self.phase, &unfit));
            NodeEnd::Failed
        })
    }

    /// Brings the image to a node that was surveyed, and tells how it went.
    pub async fn bring(&self, reached: &mut Reached) -> Result<(), NodeEnd> {
        self.bring_and(reached, false).await
    }

    /// As [`Self::bring`]; `is_last`: and ends the session with that.
    async fn bring_and(&self, reached: &mut Reached, is_last: bool) -> Result<(), NodeEnd> {
        let label = reached.connection.node.label();
        let bar = self.output.progress().spinner(&label);
        let mut told = |progress| match progress {
            Progress::Total(total) => bar.set_total(total),
            Progress::Sent(bytes) => bar.advance(bytes),
        };
        let stage = (!is_remembered(reached, &self.freight.release)).then_some(self.release.as_str());
        let errand = Errand {
            deltas: &self.freight.deltas,
            app: &self.app,
            wish: self.freight.wish,
            link: self.freight.link(&reached.connection),
            claim: &self.claim,
            credentials: &self.freight.credentials,
            stage,
            through: self.freight.through.as_ref().map(|(through, _)| &**through),
            is_last,
        };
        let copied = df_fleet::transfer::copy(reached, &errand, &mut told).await;
        drop(bar);
        match copied {
            Ok(copied) => {
                self.saw(&reached.connection, Some(&reached.survey), copied.link);
                if let Some(why) = &copied.missed {
                    self.output.note(format!("  {label}: sent directly, because it did not come through the cache: {why}"));
                }
                self.output.step(&event(label, &copied));
                Ok(())
            }
            Err(error) => {
                self.output.error(&of_copy(&label, "copy", &error));
                Err(end_of(&error))
            }
        }
    }

    /// Returns the event for a node that holds and remembers the release: one question, one answer.
    fn held(&self, connection: &Connection) -> Event {
        let (bytes_sent, bytes_received) = connection.traffic();
        let copied = Copied {
            image: self.freight.release.image,
            way: Way::Held,
            codec: Way::Held.codec().to_owned(),
            link: None,
            bytes_sent,
            bytes_received,
            bytes_resumed: 0,
            bytes_fetched: 0,
            through_cache: false,
            missed: None,
            image_bytes: self.freight.release.image_len,
            seconds: connection.greeted().elapsed().as_secs_f64(),
        };
        event(connection.node.label(), &copied)
    }
}

/// Returns whether a node remembers a release already, so that its image is not collected. What was copied longer ago is remembered anew: its age is
/// what a collection goes by.
fn is_remembered(reached: &Reached, release: &Release) -> bool {
    let (id, recently) = (release.id(), reached.survey.now.minus(RECENTLY));
    across::state_of(&reached.survey, &release.app).is_some_and(|state| {
        let is_staged = state.staged.iter().any(|staged| staged.release == id && staged.since >= recently);
        is_staged || state.generations.iter().any(|g| g.release == id)
    })
}

fn event(node: String, copied: &Copied) -> Event {
    Event::Copied {
        node,
        image: copied.image,
        base: copied.way.base(),
        codec: copied.codec.clone(),
        bytes_sent: copied.bytes_sent,
        bytes_received: copied.bytes_received,
        bytes_resumed: copied.bytes_resumed,
        image_bytes: copied.image_bytes,
        through_cache: copied.through_cache,
        bytes_fetched: copied.bytes_fetched,
        seconds: copied.seconds,
    }
}

/// Returns the event for a copy that did not come about.
pub fn of_copy(node: &str, phase: &str, error: &CopyError) -> Event {
    match error {
        CopyError::Node(error) => failure::of_node(node, phase, error),
        CopyError::Untrusted(error) => Event::Error {
            node: Some(node.to_owned()),
            phase: phase.to_owned(),
            message: format!("{error}; nothing was sent"),
            serving: Some("what served before".into()),
            next: Some(trust::next(error).into()),
            log: vec![],
        },
        CopyError::Wish(error) => Event::Error {
            node: Some(node.to_owned()),
            phase: phase.to_owned(),
            message: error.to_string(),
            serving: Some("what served before".into()),
            next: Some("the same without --codec".into()),
            log: vec![],
        },
        error => Event::Error {
            node: Some(node.to_owned()),
            phase: phase.to_owned(),
            message: chain(error),
            serving: Some("what served before".into()),
            next: Some("df cache repair".into()),
            log: vec![],
        },
    }
}

/// Returns the event for a node that cannot run a release.
pub fn of_unfit(node: &str, phase: &str, unfit: &Unfit) -> Event {
    Event::Error {
        node: Some(node.to_owned()),
        phase: phase.to_owned(),
        message: format!("it cannot run this version: {unfit}"),
        serving: Some("what served before".into()),
        next: Some(unfit.next().into()),
        log: vec![],
    }
}

fn end_of(error: &CopyError) -> NodeEnd {
    match error {
        CopyError::Node(error) => failure::end_of(error),
        CopyError::Untrusted(_) => NodeEnd::Refused,
        _ => NodeEnd::Failed,
    }
}
