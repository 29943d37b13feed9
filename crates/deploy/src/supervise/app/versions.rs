//! Starting versions, and letting them end.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::{Endpoint, Release};
use df_wire::message::{ProbeOutcome, RunState};
use distributive_flow::parent::NotifySocket;
use distributive_flow::protocol::NotifyAddress;

use super::super::probing::{self, Round};
use super::super::start::{self, Place};
use super::activate::readiness;
use super::hearing::{Said, Terms};
use super::moved::Leaves;
use super::ports::Entrance;
use super::watching::{await_ready, end, watch};
use super::{App, Message, Starting, Version};
use crate::activation::{Readiness, Style};
use crate::front::{self, FrontError};
use crate::listeners::{Group, GroupError};
use crate::process::Exit;
use crate::serve::now;
use crate::{activation, claim, generation};

/// How long the launcher may take until the program runs.
const LAUNCH: Duration = Duration::from_secs(20);
/// A queue counts as drained when it was empty for so long: handshakes under way end in it a round trip later.
const QUIET: Duration = Duration::from_millis(200);
/// How many programs this supervisor started: each gets a notify socket of its own name.
static N_STARTED: AtomicU64 = AtomicU64::new(0);

/// A version did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub(super) enum LaunchFailed {
    #[error("{} is held by the application {holder}", claim::name(address))]
    Claimed { address: Endpoint, holder: df_core::AppName },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Prepare(#[from] start::StartError),
    #[error(transparent)]
    Front(#[from] FrontError),
    #[error(transparent)]
    Launch(#[from] crate::launch::LaunchError),
    #[error("the log {}", path.display())]
    Log {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the notify socket")]
    Notify(#[source] std::io::Error),
    #[error("the release runs nothing")]
    Nothing,
}

/// Adds a line to a program's log; a disk that is full takes none, and that is no reason to start or end anything.
fn note(mut log: &fs::File, words: &str) {
    let _ = writeln!(log, "df-node: {words}");
}

/// Returns a number that the standard library draws from the system's randomness, for tables that strangers must not be able to fill.
fn unguessable() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl LaunchFailed {
    /// Returns whether somebody else has a port.
    pub(super) fn is_port(&self) -> bool {
        matches!(self, Self::Claimed { .. } | Self::Group(GroupError::Claim(_) | GroupError::Place(_)))
    }
}

impl App {
    /// Starts the program of a run with these listeners. The run's version is entered first, so that it is known whatever happens.
    pub(super) fn launch(
        &mut self,
        run: u64,
        generation: u64,
        release: &Arc<Release>,
        listen: IpAddr,
        listeners: &[OwnedFd],
    ) -> Result<u32, LaunchFailed> {
        let section = release.run.as_ref().ok_or(LaunchFailed::Nothing)?;
        let layout = &self.node.layout;
        let places = start::places(section, listen);
        let address =
            format!("@df-{}", df_core::Digest::of(format!("{} {} {run}", layout.root.display(), self.app).as_bytes()).short());
        // Every user of the machine could listen at a name that can be guessed, before the program does.
        let address = format!("{address}-{}-{:016x}", N_STARTED.fetch_add(1, Ordering::Relaxed), unguessable());
        let addresses = start::Addresses { handoff: format!("{address}-h"), notify: address };
        let behind = front::behind(&places)?;
        let spec = start::prepare(layout, release, section, generation, &behind, &addresses)?;
        if !self.versions.values().any(|version| version.process.is_some()) {
            start::empty_tmp(layout, release).map_err(|source| LaunchFailed::Log { path: layout.app_tmp(&self.app), source })?;
        }
        let notify = NotifyAddress::parse(addresses.notify.as_ref())
            .map_err(std::io::Error::other)
            .and_then(NotifySocket::bind)
            .map_err(LaunchFailed::Notify)?;
        let log = self.open_log(generation)?;
        let borrowed: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        let launched = front::wrap(&spec, &behind, &release.verify, section.drain)?;
        let process = Arc::new(self.node.launcher.spawn(&launched, &borrowed, log.as_fd(), LAUNCH)?);
        if let Some(words) = spec.limits.in_words(&process.record().members) {
            note(&log, &format!("limits: {words}"));
        }
        let pid = process.pid();
        let said = Arc::new(Said::default());
        watch(run, process.clone(), Some(notify), said.clone(), self.inbox.clone());
        let version = Version {
            generation,
            release: release.clone(),
            places,
            behind,
            spec: Ok(spec),
            process: Some(process),
            state: RunState::Starting,
            since: now(),
            listen,
            handoff: addresses.handoff,
            notify: addresses.notify,
            said,
            alone: self.flight.as_ref().is_some_and(|flight| flight.new_run == run && flight.plan.style == Style::Exclusive),
            retiring: false,
            leaving: None,
        };
        self.versions.insert(run, version);
        self.write_records();
        Ok(pid)
    }

    fn open_log(&self, generation: u64) -> Result<fs::File, LaunchFailed> {
        let path = self.node.layout.log(&self.app, generation);
        let failed = |source| LaunchFailed::Log { path: path.clone(), source };
        super::super::prepare(&self.node.layout, &self.app).map_err(failed)?;
        // Another program of the generation may write to it: it keeps its name.
        OpenOptions::new().create(true).append(true).open(&path).map_err(failed)
    }

    /// Adds what df-node has to say to what a program said.
    pub(super) fn note(&self, generation: u64, words: &str) {
        match self.open_log(generation) {
            Ok(log) => note(&log, words),
            Err(error) => eprintln!("{} generation {generation}: {words}; {error}", self.app),
        }
    }

    /// Returns a round of probes of a run.
    pub(super) fn round(&self, run: u64) -> Option<Round> {
        let version = self.versions.get(&run)?;
        let with_group =
            |place: &Place| (place.clone(), self.groups.get(&place.address).filter(|_| probing::has_listener(place)).cloned());
        Some(Round {
            probes: probing::questions(&version.release.verify, &version.places),
            ports: version.places.iter().map(with_group).collect(),
            run,
            spec: version.spec.clone(),
            launcher: self.node.launcher.clone(),
        })
    }

    /// Starts a generation to serve, without trial: after `start`, a crash or a boot.
    pub(super) fn start_serving(
        &mut self,
        run: u64,
        generation: u64,
        release: &Arc<Release>,
        listen: IpAddr,
        starting: Starting,
    ) -> Result<(), LaunchFailed> {
        let section = release.run.as_ref().ok_or(LaunchFailed::Nothing)?;
        let places = start::places(section, listen);
        self.claim(&places)?;
        let listeners = self.open_listeners(run, None, section, &places, Entrance::ToServe)?;
        // Before the program is there: a successor has to know the listeners.
        self.write_records();
        self.launch(run, generation, release, listen, &listeners)?;
        for place in places.iter().filter(|place| probing::has_listener(place)) {
            let group = &self.groups[&place.address];
            // One on trial stays on trial: it is not its fault that the serving one crashed.
            let trial = group.record().trial.filter(|trial| *trial != run);
            group.steer(run, trial)?;
        }
        self.serving = Some(run);
        self.starting = Some(starting);
        self.write_records();
        let is_asked = readiness(release) == Readiness::Probes;
        let terms = Terms { ready: section.ready, says_ready: self.says_ready(generation), is_asked };
        let (round, inbox) = (self.round(run), self.inbox.clone());
        let Some(version) = self.versions.get(&run) else { return Ok(()) };
        let (process, said) = (version.process.clone(), version.said.clone());
        thread::spawn(move || await_ready(run, round, process, terms, &said, &inbox));
        Ok(())
    }

    /// Lets a version end in order: its queue empties, it is introduced to the one that serves and told, it has its time, then it is killed and its
    /// listeners are closed. For its queue it is waited for its time, and no longer than `patience`: one that was taken back may take nobody any more.
    pub(super) fn retire(&mut self, run: u64, patience: Duration) {
        let Some(version) = self.versions.get_mut(&run) else { return };
        version.state = RunState::Draining;
        version.retiring = true;
        let drain = version.release.run.as_ref().map_or(Duration::ZERO, |section| section.drain);
        let (inbox, count) = (self.inbox.clone(), version.hands_over().then(|| version.counting()));
        let groups: Vec<Arc<Group>> =
            version.places.iter().filter_map(|place| self.groups.get(&place.address).cloned()).collect();
        thread::spawn(move || {
            let deadline = Instant::now() + drain.min(patience);
            for group in &groups {
                let _ = group.wait_drained(run, QUIET, deadline.saturating_duration_since(Instant::now()));
            }
            let open = count.map(|count| count()).unwrap_or_default();
            let _ = inbox.send(Message::Drained { run, open });
        });
    }

    /// Nobody waits at a version that leaves any more: what is open goes to whoever serves by now, and it is told to end.
    pub(super) fn drained(&mut self, run: u64, open: BTreeMap<Label, Option<u32>>) {
        let is_introduced = self.introduce(run);
        let Some(version) = self.versions.get_mut(&run) else { return };
        // Who waited for it may have lost its patience.
        let _ = version.leaving.take().map(|leaving| leaving.send(Leaves { open, is_introduced }));
        let drain = version.release.run.as_ref().map_or(Duration::ZERO, |section| section.drain);
        let (process, said, inbox) = (version.process.clone(), version.said.clone(), self.inbox.clone());
        thread::spawn(move || {
            if let Some(process) = process {
                end(&process, drain, &said);
            }
            let _ = inbox.send(Message::Retired { run });
        });
    }

    pub(super) fn retired(&mut self, run: u64) {
        self.close_listeners(run);
        self.versions.remove(&run);
        self.write_records();
    }

    /// The process of a run ended: part of an activation, a crash, or what was wanted.
    pub(super) fn ended(&mut self, run: u64, pid: u32, exit: Exit) {
        let Some(version) = self.versions.get_mut(&run) else { return };
        if version.process.as_ref().is_none_or(|process| process.pid() != pid) {
            return;
        }
        let (retiring, generation) = (version.retiring, version.generation);
        let process = version.process.take();
        let exceeded = process.as_ref().and_then(|process| process.exceeded());
        // What the program left behind goes with it.
        let _ = process.map(|process| process.kill_all());
        let how = exceeded.as_ref().map_or_else(|| exit.to_string(), |exceeded| format!("{exit}; {exceeded}"));
        if exceeded.is_some() {
            self.note(generation, &format!("the program ended: {how}"));
        }
        self.write_records();
        let (new, old) = self.flight.as_ref().map_or((None, None), |flight| (Some(flight.new_run), flight.old_run));
        if new == Some(run) {
            self.advance(activation::Event::NewExited(format!("the program ended: {how}")));
        } else if old == Some(run) {
            let is_told = self.flight.as_ref().is_some_and(|flight| flight.plan.style == Style::Exclusive);
            self.advance(activation::Event::OldExited);
            if !is_told && self.serving == Some(run) {
                self.crashed(&format!("the program ended: {how}"));
            }
        } else if retiring {
            return;
        } else if self.serving == Some(run) {
            self.crashed(&format!("the program ended: {how}"));
        } else {
            self.close_listeners(run);
            self.versions.remove(&run);
        }
        self.write_records();
    }

    /// A version that was started to serve is ready, or is not.
    pub(super) fn started(&mut self, run: u64, result: Result<(), String>, outcomes: Vec<ProbeOutcome>) {
        if self.starting.as_ref().is_none_or(|starting| starting.run != run) {
            return;
        }
        let Some(starting) = self.starting.take() else { return };
        if result.is_ok()
            && let Some(version) = self.versions.get_mut(&run)
        {
            version.state = RunState::Serving;
        }
        match (starting.restore, starting.answer) {
            (true, _) => self.advance(result.map_or_else(activation::Event::RestoreFailed, |()| activation::Event::Restored)),
            (false, Some(answer)) => self.answer_start(run, result, outcomes, &answer),
            (false, None) => {
                if let Err(why) = result {
                    // It runs and may become well; if it does not, it will say so itself or be replaced.
                    eprintln!("{}: {why}", self.app);
                    if let Some(version) = self.versions.get_mut(&run) {
                        version.state = RunState::Serving;
                    }
                }
            }
        }
        self.write_records();
    }

    /// Returns the release of a generation, from its record.
    pub(super) fn release_of(&self, generation: u64) -> Result<Arc<Release>, generation::RecordError> {
        generation::read(&self.node.layout, &self.app, generation).map(|record| Arc::new(record.release))
    }
}
