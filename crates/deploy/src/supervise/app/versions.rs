//! Starting versions, watching them, and letting them end.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use df_core::Release;
use df_wire::message::{ProbeOutcome, RunState};
use distributive_flow::parent::{NotifySocket, Received};
use distributive_flow::protocol::NotifyAddress;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::super::probing::{self, Round};
use super::super::records::{self, Records, VersionRecord};
use super::super::start::{self, Place};
use super::{App, BACK_OFF, CRASH_WINDOW, CRASHES, LONGEST_BACK_OFF, Message, Starting, Version};
use crate::listeners::{Group, GroupError};
use crate::process::{Exit, Process};
use crate::serve::now;
use crate::supervise::words;
use crate::{activation, claim, generation};

/// How long the launcher may take until the program runs.
const LAUNCH: Duration = Duration::from_secs(20);
/// A log that is longer is put aside when its program starts.
const LOG_LEN: u64 = 16 << 20;
/// A queue counts as drained when it was empty for so long: handshakes under way end in it a round trip later.
const QUIET: Duration = Duration::from_millis(200);
/// A process has this long to vanish after SIGKILL.
const KILLED: Duration = Duration::from_secs(10);
/// How many programs this supervisor started: each gets a notify socket of its own name.
static N_STARTED: AtomicU64 = AtomicU64::new(0);
/// Pause between two rounds of probes of a version that starts to serve.
const PAUSE: Duration = Duration::from_millis(50);

/// Whom a new listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The prober alone, until the version is verified.
    OnTrial,
    /// Clients, at once.
    ToServe,
}

/// A version did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub(super) enum LaunchFailed {
    #[error("port {} on {} is held by the application {holder}", address.port(), address.ip())]
    Claimed { address: SocketAddr, holder: df_core::AppName },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Prepare(#[from] start::StartError),
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

impl LaunchFailed {
    /// Returns whether somebody else has a port.
    pub(super) fn is_port(&self) -> bool {
        matches!(self, Self::Claimed { .. } | Self::Group(GroupError::Claim(_)))
    }
}

impl App {
    /// Claims the addresses of a version for this application.
    pub(super) fn claim(&self, places: &[Place]) -> Result<(), LaunchFailed> {
        let mut claims = self.node.claims.lock().expect("nobody panics with this lock");
        for place in places {
            match claims.get(&place.address).filter(|holder| **holder != self.app) {
                Some(holder) => return Err(LaunchFailed::Claimed { address: place.address, holder: holder.clone() }),
                None => drop(claims.insert(place.address, self.app.clone())),
            }
        }
        Ok(())
    }

    /// Refuses addresses that somebody else holds, ports that the program binds by itself among them. Those of our own versions are ours.
    pub(super) fn check_ports(&self, places: &[Place]) -> Result<(), LaunchFailed> {
        self.claim(places).inspect_err(|_| self.release_claims(None))?;
        let is_ours = |address: &SocketAddr| {
            self.versions.values().any(|version| version.places.iter().any(|place| place.address == *address))
        };
        for place in places.iter().filter(|place| !is_ours(&place.address)) {
            claim::check(&place.address, &[]).map_err(GroupError::Claim).inspect_err(|_| self.release_claims(None))?;
        }
        Ok(())
    }

    /// Closes the listeners of a version that ended where the next one gets none: it binds there by itself.
    pub(super) fn close_unshared(&mut self, run: u64, places: &[Place]) {
        let shared = |address: &SocketAddr| places.iter().any(|place| place.address == *address && probing::has_listener(place));
        for (_, group) in
            self.groups.iter().filter(|(address, group)| !shared(address) && group.record().slots.contains(&Some(run)))
        {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.groups.retain(|_, group| group.record().slots.iter().any(Option::is_some));
    }

    /// Returns the descriptors of a run's listeners, in the order in which the program gets them; `from` gives its own away.
    pub(super) fn open_listeners(
        &mut self,
        run: u64,
        from: Option<u64>,
        places: &[Place],
        entrance: Entrance,
    ) -> Result<Vec<OwnedFd>, LaunchFailed> {
        let mut listeners = vec![];
        for place in places.iter().filter(|place| probing::has_listener(place)) {
            let group = self.groups.entry(place.address).or_insert_with(|| Arc::new(Group::new(place.address)));
            let slots = group.record().slots;
            let listener = match from.filter(|from| slots.contains(&Some(*from))) {
                _ if slots.contains(&Some(run)) => group.listener(run)?,
                Some(from) => group.pass(from, run)?,
                None if entrance == Entrance::OnTrial => group.add_on_trial(run)?,
                None => group.add(run)?,
            };
            listeners.push(listener);
        }
        Ok(listeners)
    }

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
        let address = format!("{address}-{}-{}", std::process::id(), N_STARTED.fetch_add(1, Ordering::Relaxed));
        let spec = start::prepare(layout, release, section, generation, &places, &address)?;
        if !self.versions.values().any(|version| version.process.is_some()) {
            start::empty_tmp(layout, release).map_err(|source| LaunchFailed::Log { path: layout.app_tmp(&self.app), source })?;
        }
        let notify = NotifyAddress::parse(address.as_ref())
            .map_err(std::io::Error::other)
            .and_then(NotifySocket::bind)
            .map_err(LaunchFailed::Notify)?;
        let log = self.open_log(generation)?;
        let borrowed: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        let process = Arc::new(self.node.launcher.spawn(&spec, &borrowed, log.as_fd(), LAUNCH)?);
        let pid = process.pid();
        watch(run, process.clone(), Some(notify), self.inbox.clone());
        let version = Version {
            generation,
            release: release.clone(),
            places,
            spec: Some(spec),
            process: Some(process),
            state: RunState::Starting,
            since: now(),
            listen,
            retiring: false,
            said_ready: false,
        };
        self.versions.insert(run, version);
        self.write_records();
        Ok(pid)
    }

    fn open_log(&self, generation: u64) -> Result<fs::File, LaunchFailed> {
        let path = self.node.layout.log(&self.app, generation);
        let failed = |source| LaunchFailed::Log { path: path.clone(), source };
        super::super::prepare(&self.node.layout, &self.app).map_err(failed)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LEN) {
            fs::rename(&path, path.with_extension("log.1")).map_err(failed)?;
        }
        OpenOptions::new().create(true).append(true).open(&path).map_err(failed)
    }

    /// Writes down what runs, for a successor.
    pub(super) fn write_records(&self) {
        let versions = self.versions.iter().filter_map(|(run, version)| {
            let process = version.process.as_ref()?.record().clone();
            Some(VersionRecord {
                run: *run,
                generation: version.generation,
                state: version.state,
                process,
                since: version.since,
                listen: version.listen,
            })
        });
        let groups = self.groups.values().map(|group| group.record()).collect();
        let records = Records { next_run: self.next_run, versions: versions.collect(), groups };
        if let Err(error) = records::write(&self.node.layout, &self.app, &records) {
            eprintln!("records of {}: {error}", self.app);
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
            spec: version.spec.clone()?,
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
        let listeners = self.open_listeners(run, None, &places, Entrance::ToServe)?;
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
        let (round, inbox, ready) = (self.round(run), self.inbox.clone(), section.ready);
        let process = self.versions.get(&run).and_then(|version| version.process.clone());
        thread::spawn(move || await_ready(run, round, process, ready, &inbox));
        Ok(())
    }

    /// Lets a version end in order: its queue empties, it is told, it has its time, then it is killed and its listeners are closed.
    pub(super) fn retire(&mut self, run: u64) {
        let Some(version) = self.versions.get_mut(&run) else { return };
        version.state = RunState::Draining;
        version.retiring = true;
        let drain = version.release.run.as_ref().map_or(Duration::ZERO, |section| section.drain);
        let (process, inbox) = (version.process.clone(), self.inbox.clone());
        let groups: Vec<Arc<Group>> =
            version.places.iter().filter_map(|place| self.groups.get(&place.address).cloned()).collect();
        thread::spawn(move || {
            let deadline = Instant::now() + drain;
            for group in &groups {
                let _ = group.wait_drained(run, QUIET, deadline.saturating_duration_since(Instant::now()));
            }
            if let Some(process) = process {
                end(&process, drain);
            }
            let _ = inbox.send(Message::Retired { run });
        });
    }

    pub(super) fn retired(&mut self, run: u64) {
        self.close_listeners(run);
        self.versions.remove(&run);
        self.write_records();
    }

    /// Closes a run's listeners and gives up addresses that nobody listens on any more.
    pub(super) fn close_listeners(&mut self, run: u64) {
        for group in self.groups.values().filter(|group| group.record().slots.contains(&Some(run))) {
            if let Err(error) = group.remove(run) {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.groups.retain(|_, group| group.record().slots.iter().any(Option::is_some));
        self.release_claims(Some(run));
    }

    /// Closes every listener of the application.
    pub(super) fn close_all(&mut self) {
        for group in std::mem::take(&mut self.groups).into_values() {
            if let Err(error) = group.close() {
                eprintln!("{}: {}", self.app, words(&error));
            }
        }
        self.release_claims(None);
    }

    /// Gives up the addresses that no version has, `without` counted out.
    fn release_claims(&self, without: Option<u64>) {
        let others = self.versions.iter().filter(|(run, _)| Some(**run) != without);
        let used: Vec<SocketAddr> = others.flat_map(|(_, version)| version.places.iter().map(|place| place.address)).collect();
        let mut claims = self.node.claims.lock().expect("nobody panics with this lock");
        claims.retain(|address, app| *app != self.app || used.contains(address));
    }

    /// The process of a run ended: part of an activation, a crash, or what was wanted.
    pub(super) fn ended(&mut self, run: u64, pid: u32, exit: Exit) {
        let Some(version) = self.versions.get_mut(&run) else { return };
        if version.process.as_ref().is_none_or(|process| process.pid() != pid) {
            return;
        }
        // What the program left behind goes with it.
        let _ = version.process.take().map(|process| process.kill_group());
        let retiring = version.retiring;
        self.write_records();
        let (new, old) = self.flight.as_ref().map_or((None, None), |flight| (Some(flight.new_run), flight.old_run));
        if new == Some(run) {
            self.advance(activation::Event::NewExited(format!("the program ended: {exit}")));
        } else if old == Some(run) {
            let is_told = self.flight.as_ref().is_some_and(|flight| flight.plan.style == activation::Style::Exclusive);
            self.advance(activation::Event::OldExited);
            if !is_told && self.serving == Some(run) {
                self.crashed(exit);
            }
        } else if retiring {
            return;
        } else if self.serving == Some(run) {
            self.crashed(exit);
        } else {
            self.close_listeners(run);
            self.versions.remove(&run);
        }
        self.write_records();
    }

    /// Plans the next start of a program that ended by itself, or gives it up.
    pub(super) fn crashed(&mut self, exit: Exit) {
        let Some(run) = self.serving else { return };
        let Some(version) = self.versions.get(&run) else { return };
        let (generation, release) = (version.generation, version.release.clone());
        let reason = format!("the program ended: {exit}");
        self.remember("crash", "supervisor", generation, generation, &release, Some(&reason));
        if let Some(Starting { answer: Some(_), .. }) = &self.starting {
            return self.started(run, Err(reason), vec![]);
        }
        if self.back_off() >= CRASHES {
            eprintln!("{} generation {generation} crashed {CRASHES} times: given up", self.app);
            self.abandon(run);
        }
    }

    /// Plans the next attempt, later each time; returns how many failed lately.
    pub(super) fn back_off(&mut self) -> usize {
        let now = Instant::now();
        self.crashes.retain(|crash| now.duration_since(*crash) < CRASH_WINDOW);
        self.crashes.push_back(now);
        let factor = 1_u32 << (self.crashes.len() - 1).min(16);
        self.restart_at = Some(now + BACK_OFF.saturating_mul(factor).min(LONGEST_BACK_OFF));
        self.crashes.len()
    }

    /// Closes the listeners of what serves: clients are refused, not left hanging.
    fn abandon(&mut self, run: u64) {
        self.restart_at = None;
        self.starting = None;
        self.close_listeners(run);
        self.versions.remove(&run);
        self.serving = None;
        self.write_records();
    }

    /// Starts what serves again, on the listeners where its clients wait.
    pub(super) fn restart(&mut self) {
        let Some((run, version)) = self.serving.and_then(|run| Some((run, self.versions.get(&run)?))) else { return self.boot() };
        if version.process.is_some() {
            return;
        }
        let (generation, release, listen) = (version.generation, version.release.clone(), version.listen);
        let starting = Starting { run, restore: false, answer: None };
        if let Err(error) = self.start_serving(run, generation, &release, listen, starting) {
            eprintln!("{} generation {generation}: {}", self.app, words(&error));
            self.starting = None;
            self.crashed(Exit::Unknown);
        }
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

    pub(super) fn notified(&mut self, run: u64, ready: bool, extend: Option<Duration>) {
        let Some(version) = self.versions.get_mut(&run) else { return };
        version.said_ready |= ready;
        if self.flight.as_ref().is_some_and(|flight| flight.new_run == run) {
            if let Some(more) = extend {
                self.advance(activation::Event::Extend(more));
            }
            if ready {
                self.advance(activation::Event::Ready);
            }
        }
    }

    /// Returns the release of a generation, from its record.
    pub(super) fn release_of(&self, generation: u64) -> Result<Arc<Release>, generation::RecordError> {
        generation::read(&self.node.layout, &self.app, generation).map(|record| Arc::new(record.release))
    }
}

/// Tells a process to end, waits for its time, then kills it and all it started.
pub(super) fn end(process: &Process, drain: Duration) {
    let _ = process.signal(Signal::TERM);
    if !matches!(process.wait(drain), Ok(Some(_))) {
        let _ = process.kill_group();
        let _ = process.wait(KILLED);
    }
}

/// Kills a process and all it started, and waits until it is gone.
pub(super) fn kill(process: &Process) {
    let _ = process.kill_group();
    let _ = process.wait(KILLED);
}

/// Reports what a program says and, at last, that it ended.
pub(super) fn watch(run: u64, process: Arc<Process>, notify: Option<NotifySocket>, inbox: Sender<Message>) {
    thread::spawn(move || {
        loop {
            let waited = match &notify {
                Some(notify) => poll(
                    &mut [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN), PollFd::new(notify, PollFlags::IN)],
                    None,
                ),
                None => poll(&mut [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN)], None),
            };
            if let Some(notify) = &notify {
                hear_all(run, &process, notify, &inbox);
            }
            match (waited, process.wait(Duration::ZERO)) {
                (_, Ok(Some(exit))) => {
                    let _ = inbox.send(Message::Ended { run, pid: process.pid(), exit });
                    return;
                }
                (Ok(_) | Err(rustix::io::Errno::INTR), Ok(None)) => {}
                // Nothing more will be heard of it; its end counts as unknown.
                _ => {
                    let _ = inbox.send(Message::Ended { run, pid: process.pid(), exit: Exit::Unknown });
                    return;
                }
            }
        }
    });
}

fn hear_all(run: u64, process: &Process, notify: &NotifySocket, inbox: &Sender<Message>) {
    while let Ok(Some(received)) = notify.try_receive() {
        let Received::Notification(said) = received else { continue };
        // Anybody can send to the address; only the program and what it started are heard.
        let sender = said.pid.and_then(rustix::process::Pid::from_raw);
        let group = sender.and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
        if group.is_some_and(|group| group.as_raw_nonzero().get() as u32 == process.pid()) {
            let _ = inbox.send(Message::Notified { run, ready: said.ready, extend: said.extend });
        }
    }
}

/// Asks a version that starts to serve until all its probes pass, it ends, or its time is over.
fn await_ready(run: u64, round: Option<Round>, process: Option<Arc<Process>>, ready: Duration, inbox: &Sender<Message>) {
    let deadline = Instant::now() + ready;
    let mut outcomes = vec![];
    let result = loop {
        let alive = process.as_ref().is_some_and(|process| process.alive().unwrap_or(false));
        if !alive {
            break Err("the program ended".to_owned());
        }
        outcomes = round.as_ref().map(Round::ask).unwrap_or_default();
        match outcomes.iter().find(|outcome| !outcome.ok) {
            None => break Ok(()),
            Some(failed) if Instant::now() >= deadline => break Err(format!("{}: {}", failed.name, failed.detail)),
            Some(_) => thread::sleep(PAUSE),
        }
    };
    let pid = process.map_or(0, |process| process.pid());
    let _ = inbox.send(Message::Ready { run, pid, result, outcomes });
}
