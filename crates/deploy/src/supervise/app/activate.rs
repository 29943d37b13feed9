//! An activation in progress: the actions of the pure machine, done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use df_core::Release;
use df_core::spec::{Handoff, Transport};
use df_wire::message::{FaultKind, GenerationResult, ProbeOutcome, RunState};
use df_wire::{Event, Reply};

use super::super::start::Place;
use super::super::{probing, proving, start};
use super::handed::HANDING;
use super::ports::Entrance;
use super::versions::LaunchFailed;
use super::{App, Flight, GoesBack, Message, Starting, Told, entry, remember};
use crate::activation::{self, Action, Milestone, Plan, Readiness, State, Style};
use crate::confirmation::{self, Armed};
use crate::generation;
use crate::listeners::Group;
use crate::serve::fault;
use crate::supervise::words;

/// Pause between two attempts to let `current` go back.
const GOING_BACK: Duration = Duration::from_secs(5);

/// What is asked for.
pub(super) struct Wish {
    /// The generation that shall serve; it has its record.
    pub generation: u64,
    /// What is in it.
    pub release: Arc<Release>,
    /// The address for ports that name none.
    pub listen: std::net::IpAddr,
    /// How long it must stay well.
    pub soak: Duration,
    /// `activate` or `rollback`.
    pub what: &'static str,
    /// Who asks.
    pub who: String,
    /// How long they have to confirm it.
    pub confirm: Option<Duration>,
    /// How long they wait for what becomes of the connections that the version before hands over.
    pub follow: Option<Duration>,
}

impl App {
    /// Begins to make a generation the serving one.
    pub(super) fn begin(&mut self, wish: Wish, answer: Sender<Told>) {
        let old = self.current();
        let old_run = self.serving.filter(|run| self.versions.get(run).is_some_and(|version| version.generation == old));
        let old_runs = old_run.is_some_and(|run| self.versions[&run].process.is_some());
        let run = self.next_run;
        self.next_run += 1;
        let section = wish.release.run.as_ref();
        let style = style(&wish.release, wish.listen, old_run.map(|run| &self.versions[&run].places[..]));
        let plan = Plan {
            new: wish.generation,
            old,
            old_runs,
            style,
            readiness: readiness(&wish.release),
            says_ready: self.says_ready(if wish.what == "activate" { old } else { wish.generation }),
            ready: section.map_or(Duration::ZERO, |section| section.ready),
            soak: wish.soak,
            drain: old_run
                .and_then(|run| self.versions[&run].release.run.as_ref())
                .map_or(Duration::ZERO, |section| section.drain),
            watch: section
                .filter(|section| section.prove && !section.ports.is_empty())
                .map(|section| proving::patience(section, style == Style::Exclusive)),
            // Who goes back wants to be rid of what serves, and would be given it again.
            zero_loss: wish.what == "activate" && section.is_some_and(|section| section.require_zero_loss),
            confirm: wish.confirm,
        };
        // What an activation left that is over must not take this one back.
        if let Err(error) = confirmation::disarm(&self.node.layout, &self.app) {
            let _ = answer.send(Told::Reply(Reply::Fault(fault(FaultKind::Failed, format!("remove armed.json: {error}")))));
            return;
        }
        // A start that waits to be ready is overtaken: its version is the old one now.
        if let Some(Starting { answer: Some(waiting), .. }) = self.starting.take() {
            let overtaken = fault(FaultKind::Refused, "another version is being activated");
            let _ = waiting.send(Told::Reply(Reply::Fault(overtaken)));
        }
        self.restart_at = None;
        self.flight = Some(Flight {
            plan,
            state: State::Staged,
            began: Instant::now(),
            new_run: run,
            old_run,
            release: wish.release,
            listen: wish.listen,
            what: wish.what,
            who: wish.who,
            outcomes: vec![],
            watch: None,
            answer,
            follow: wish.follow,
            confirmers: vec![],
            withdrawers: vec![],
            adopted: false,
            port_held: false,
        });
        self.advance(activation::Event::Begin);
    }

    /// Feeds the machine and does what it says, until it waits for something.
    pub(super) fn advance(&mut self, event: activation::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(flight) = self.flight.as_mut() else { return };
            let (state, actions) = activation::step(&flight.plan, flight.state.clone(), event, flight.began.elapsed());
            flight.state = state;
            for action in actions {
                events.extend(self.perform(action));
            }
        }
    }

    /// Does one thing; what came of it at once is returned, what takes time is reported later.
    fn perform(&mut self, action: Action) -> Option<activation::Event> {
        let flight = self.flight.as_ref()?;
        let (plan, new_run, old_run) = (flight.plan.clone(), flight.new_run, flight.old_run);
        let run_of = |generation: u64| if generation == plan.new { Some(new_run) } else { old_run };
        match action {
            Action::Launch => Some(self.launch_new()),
            Action::Probe { after } => {
                self.probe_new(after);
                None
            }
            Action::Arm => Some(self.arm()),
            Action::Disarm => Some(match confirmation::disarm(&self.node.layout, &self.app) {
                Ok(()) => activation::Event::Disarmed,
                Err(error) => activation::Event::DisarmFailed(error.to_string()),
            }),
            Action::MoveCurrent(to) => Some(self.move_current(to)),
            Action::Steer(to) => {
                let steered = self.steer(run_of(to));
                if let Some(watch) = self.flight.as_mut().and_then(|flight| flight.watch.as_mut()) {
                    watch.switched();
                }
                Some(steered)
            }
            Action::Watch => {
                self.watch();
                None
            }
            Action::AwaitHanded => {
                self.await_handed();
                None
            }
            Action::Terminate(which) => {
                let process = run_of(which).and_then(|run| self.versions.get(&run)?.process.clone());
                match process {
                    Some(process) => {
                        let _ = process.signal(rustix::process::Signal::TERM);
                        None
                    }
                    None => Some(activation::Event::OldExited),
                }
            }
            Action::Kill(which) => self.kill(run_of(which), which == plan.new),
            Action::CloseListeners(which) => {
                if let Some(run) = run_of(which) {
                    self.close_listeners(run);
                    self.versions.remove(&run);
                    self.write_records();
                }
                None
            }
            Action::Retire(which) => {
                let patience = if which == plan.new { HANDING } else { Duration::MAX };
                run_of(which).into_iter().for_each(|run| self.retire(run, patience));
                None
            }
            Action::StartOld => self.start_old(),
            Action::Record { good, why } => {
                self.record(good, &why);
                None
            }
            Action::Tell(milestone) => {
                self.tell(milestone);
                None
            }
            Action::Answer(result) => {
                self.land(result);
                None
            }
        }
    }

    fn launch_new(&mut self) -> activation::Event {
        let flight = self.flight.as_ref().expect("an activation is in progress");
        let (run, release, listen, generation) = (flight.new_run, flight.release.clone(), flight.listen, flight.plan.new);
        // Stop, then start: the clients that wait in the old version's queue are the new one's.
        let from = flight.old_run.filter(|_| flight.plan.style == Style::Exclusive);
        match self.try_launch(run, from, generation, &release, listen) {
            Ok(pid) => {
                self.say(Event::Started { generation, pid: pid as i32 });
                activation::Event::Launched
            }
            Err(error) => {
                if let Some(flight) = &mut self.flight {
                    flight.port_held = error.is_port();
                }
                activation::Event::LaunchFailed(words(&error))
            }
        }
    }

    fn try_launch(
        &mut self,
        run: u64,
        from: Option<u64>,
        generation: u64,
        release: &Arc<Release>,
        listen: std::net::IpAddr,
    ) -> Result<u32, LaunchFailed> {
        let section = release.run.as_ref().ok_or(LaunchFailed::Nothing)?;
        let places = start::places(section, listen);
        self.claim(&places)?;
        if let Some(old) = from {
            self.close_unshared(old, &places);
        }
        let listeners = self.open_listeners(run, from, section, &places, Entrance::OnTrial)?;
        self.write_records();
        self.launch(run, generation, release, listen, &listeners)
    }

    fn probe_new(&mut self, after: Duration) {
        let Some(run) = self.flight.as_ref().map(|flight| flight.new_run) else { return };
        if let Some(version) = self.versions.get_mut(&run).filter(|version| version.state == RunState::Starting) {
            version.state = RunState::Trial;
        }
        let (round, inbox) = (self.round(run), self.inbox.clone());
        thread::spawn(move || {
            thread::sleep(after);
            let outcomes = round.map_or_else(unasked, |round| round.ask());
            let _ = inbox.send(Message::Probed { run, outcomes });
        });
    }

    /// A round of probes ended.
    pub(super) fn probed(&mut self, run: u64, outcomes: Vec<ProbeOutcome>) {
        let Some(flight) = self.flight.as_mut().filter(|flight| flight.new_run == run) else { return };
        let n_passed = outcomes.iter().filter(|outcome| outcome.ok).count();
        let failed = outcomes.iter().find(|outcome| !outcome.ok).map(|outcome| format!("{}: {}", outcome.name, outcome.detail));
        flight.outcomes = outcomes;
        self.advance(activation::Event::Probed { n_passed, failed });
    }

    /// Writes down what to go back to, and until when: as long as all that may take which comes before somebody can confirm it.
    fn arm(&self) -> activation::Event {
        let Some(flight) = &self.flight else { return activation::Event::ArmFailed("it is over".into()) };
        let plan = &flight.plan;
        let well = confirmation::since_boot() + plan.soak;
        let until = well + plan.before_waiting() + plan.confirm.unwrap_or_default();
        let armed = crate::process::boot().and_then(|boot| {
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let (until_ms, within_ms) = (ms(until), ms(plan.confirm.unwrap_or_default()));
            let well_ms = (!plan.soak.is_zero() && plan.style != Style::Files).then(|| ms(well));
            let armed = Armed { new: plan.new, old: plan.old, boot, until_ms, within_ms, well_ms, who: flight.who.clone() };
            confirmation::arm(&self.node.layout, &self.app, &armed)
        });
        armed.map_or_else(|error| activation::Event::ArmFailed(error.to_string()), |()| activation::Event::Armed)
    }

    fn move_current(&mut self, to: u64) -> activation::Event {
        let layout = &self.node.layout;
        let moved =
            if to == 0 { generation::clear_current(layout, &self.app) } else { generation::set_current(layout, &self.app, to) };
        match moved {
            Ok(()) => {
                self.goes_back = None;
                activation::Event::Moved
            }
            Err(error) => activation::Event::MoveFailed(words(&error)),
        }
    }

    /// Lets `current` go back, then forgets who could have confirmed what it named. Tried again until it is done: nobody else can use the node meanwhile.
    pub(super) fn go_back(&mut self, to: u64) {
        let at = Instant::now() + GOING_BACK;
        if self.flight.is_some() {
            self.goes_back = Some(GoesBack { to, at });
            return;
        }
        match self.move_current(to) {
            activation::Event::MoveFailed(why) => {
                if self.goes_back.replace(GoesBack { to, at }).is_none() {
                    eprintln!("{}: current shall go back to generation {to}, and cannot yet: {why}", self.app);
                }
            }
            _ => {
                if let Err(error) = confirmation::disarm(&self.node.layout, &self.app) {
                    eprintln!("{}: remove armed.json: {error}", self.app);
                }
            }
        }
    }

    /// Sends new connections to a run: one setsockopt for each port.
    pub(super) fn steer(&mut self, run: Option<u64>) -> activation::Event {
        let Some(run) = run else { return activation::Event::Steered };
        let groups: Vec<Arc<Group>> =
            self.groups.values().filter(|group| group.record().slots.contains(&Some(run))).cloned().collect();
        for group in groups {
            if let Err(error) = group.steer(run, None) {
                return activation::Event::SteerFailed(words(&error));
            }
        }
        let others = self.serving.replace(run).filter(|other| *other != run);
        for (which, state) in [(Some(run), RunState::Serving), (others, RunState::Warm)] {
            if let Some(version) = which.and_then(|which| self.versions.get_mut(&which)) {
                version.state = state;
            }
        }
        self.write_records();
        activation::Event::Steered
    }

    fn kill(&mut self, run: Option<u64>, is_new: bool) -> Option<activation::Event> {
        let version = run.and_then(|run| self.versions.get(&run));
        match version.and_then(|version| Some((version.generation, version.process.clone()?))) {
            Some((generation, process)) => {
                // It is killed for what came of that, and what it ran into is not known any more when it is gone.
                if let Some(exceeded) = process.exceeded() {
                    self.note(generation, &exceeded.to_string());
                }
                let _ = process.kill_all();
                None
            }
            None if is_new => Some(activation::Event::NewExited("it had ended".into())),
            None => Some(activation::Event::OldExited),
        }
    }

    /// Sees to it that the version that served before runs.
    fn start_old(&mut self) -> Option<activation::Event> {
        let flight = self.flight.as_ref()?;
        let (run, new_run, exclusive, generation) =
            (flight.old_run?, flight.new_run, flight.plan.style == Style::Exclusive, flight.plan.old);
        let version = self.versions.get(&run)?;
        if version.process.is_some() {
            return Some(activation::Event::Restored);
        }
        let (release, listen, places) = (version.release.clone(), version.listen, version.places.clone());
        let given_back = match release.run.as_ref().filter(|_| exclusive) {
            Some(section) => self.open_listeners(run, Some(new_run), section, &places, Entrance::ToServe).map(drop),
            None => Ok(()),
        };
        let starting = Starting { run, restore: true, answer: None };
        let started = given_back.and_then(|()| self.start_serving(run, generation, &release, listen, starting));
        if exclusive {
            self.versions.remove(&new_run);
        }
        started.err().map(|error| activation::Event::RestoreFailed(words(&error)))
    }

    fn record(&mut self, good: bool, why: &str) {
        let Some(flight) = &self.flight else { return };
        let result = if good { GenerationResult::Good } else { GenerationResult::Bad };
        // A generation that was good stays good when a rollback to it fails: it is not the release that changed.
        let keep = !good
            && generation::read(&self.node.layout, &self.app, flight.plan.new)
                .is_ok_and(|record| record.result == GenerationResult::Good);
        // Both wait for the disk, and neither for the other.
        let (layout, app, plan) = (&self.node.layout, &self.app, &flight.plan);
        let entry = entry(flight.what, &flight.who, plan.new, plan.old, &flight.release, (!good).then_some(why));
        let said_ready = self.versions.get(&flight.new_run).is_some_and(|version| version.said.heard().ready);
        let set_result = || {
            if !keep && let Err(error) = generation::conclude(layout, app, plan.new, (result, why), said_ready) {
                eprintln!("record of {app} {}: {}", plan.new, words(&error));
            }
        };
        let both: [&(dyn Fn() + Sync); 2] = [&set_result, &|| remember(layout, app, &entry)];
        // Each says by itself what goes wrong.
        let _ = df_cache::durable::at_once(&both, |write| {
            write();
            Ok(())
        });
    }

    fn tell(&mut self, milestone: Milestone) {
        let Some(flight) = &self.flight else { return };
        let (generation, from) = (flight.plan.new, flight.plan.old);
        let event = match milestone {
            Milestone::Ready => Event::Ready { generation },
            Milestone::Verified => Event::Verified { generation, probes: flight.outcomes.clone() },
            Milestone::Activated => {
                // Without listeners nothing was steered: from here on this is what serves.
                let run = flight.new_run;
                let listen = flight.listen;
                if flight.plan.style != Style::Files {
                    self.steer(Some(run));
                }
                // Only now: what failed before it served must not run after the next boot.
                if let Err(error) = self.want(true, listen) {
                    eprintln!("{}: {}", self.app, error.message);
                }
                Event::Activated { generation, from }
            }
            Milestone::Awaiting => Event::Awaiting { generation },
            Milestone::Confirmed => Event::Confirmed { generation },
            Milestone::RolledBack { reason } => Event::RolledBack { generation: from, from: generation, reason },
        };
        self.say(event);
    }

    pub(super) fn say(&self, event: Event) {
        if let Some(flight) = &self.flight {
            // Who asked may be gone; the activation goes on.
            let _ = flight.answer.send(Told::Event(event));
        }
    }
}

/// Returns how a release changes places with the one before it.
///
/// Where both have an address and one of them binds it by itself, in its own way, two at once would be in each other's way.
fn style(release: &Release, listen: std::net::IpAddr, old: Option<&[Place]>) -> Style {
    let Some(run) = &release.run else { return Style::Files };
    let places = start::places(run, listen);
    // Each has a socket of ours, whoever accepts on it.
    let is_alike =
        |old: &Place, new: &Place| old.handoff == new.handoff || (probing::has_listener(old) && probing::has_listener(new));
    let clashes = |new: &Place| old.unwrap_or_default().iter().any(|old| old.address == new.address && !is_alike(old, new));
    if run.exclusive || places.iter().any(|place| place.handoff == Handoff::Restart || clashes(place)) {
        return Style::Exclusive;
    }
    Style::Beside
}

/// Returns what came of a round of probes that there is nobody to ask: what was not asked is not well.
fn unasked() -> Vec<ProbeOutcome> {
    vec![ProbeOutcome { name: "probes".into(), ok: false, detail: "the version is not known any more".into(), seconds: 0.0 }]
}

/// Returns what can be asked of a release.
pub(super) fn readiness(release: &Release) -> Readiness {
    let section = release.run.as_ref();
    let has_ports = section.is_some_and(|run| run.ports.values().any(|port| port.transport != Transport::Udp));
    if release.verify.is_empty() && !has_ports { Readiness::Lives } else { Readiness::Probes }
}
