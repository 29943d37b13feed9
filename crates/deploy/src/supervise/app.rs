//! One application on its node: a thread that owns its versions and decides, one message at a time, what happens to them.
//!
//! What may take long (probes, waiting for a queue or an end) runs on threads that only report back; so the state has one writer and needs no lock.

mod activate;
mod adopt;
mod handed;
mod hearing;
mod introduce;
mod keeping;
mod landing;
mod moved;
mod ports;
mod requests;
mod restarts;
mod stopping;
mod versions;
mod watching;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::{AppName, Endpoint, Release, Timestamp};
use df_wire::message::{HistoryEntry, ProbeOutcome, RunState, Running, Seen, Serving};
use df_wire::{Event, Reply, Request};

use super::Node;
use super::proving::Watch;
use super::records::Records;
use super::start::Place;
use crate::activation;
use crate::launch::LaunchSpec;
use crate::layout::Layout;
use crate::listeners::Group;
use crate::process::{Exit, Process};
use crate::serve::now;
use crate::{control, generation, history};

/// Who is so much too late was not running, or waited for a disk.
const LATE: Duration = Duration::from_millis(100);
/// So long is listened then before the time that is over counts.
const CATCHING_UP: Duration = Duration::from_secs(2);

/// What an application's thread is told.
pub enum Message {
    /// An operator asks.
    Ask {
        /// What.
        request: Box<Request>,
        /// Where the answer goes.
        answer: Sender<Told>,
    },
    /// Somebody wants to see what runs; told when it is shown.
    Show { seen: Sender<()> },
    /// The supervisor is about to become another program. Told what to give to it, unless something is going on; then nothing happens here until `go_on` is closed.
    Rest { seen: Sender<Option<Records>>, go_on: Receiver<()> },
    /// The process of a run ended.
    Ended { run: u64, pid: u32, exit: Exit },
    /// A program spoke on its notify socket.
    Notified { run: u64, ready: bool, extend: Option<Duration> },
    /// A round of probes of the activation in progress ended.
    Probed { run: u64, outcomes: Vec<ProbeOutcome> },
    /// The queue of the version that served before a run is empty, or was waited for long enough, and the node's own requests have ended.
    Handed { run: u64, ports: Vec<HandedPort> },
    /// A version that was started to serve is ready, or is not.
    Ready { run: u64, pid: u32, result: Result<(), String>, outcomes: Vec<ProbeOutcome> },
    /// The queue of a version that leaves is empty, or was waited for long enough; how many connections of its ports it has open, where somebody may want to know.
    Drained { run: u64, open: BTreeMap<Label, Option<u32>> },
    /// A version that served before has ended, and its listeners are closed.
    Retired { run: u64 },
    /// One of those that a stop waits for has ended.
    Stopped,
}

/// A port that went over.
pub struct HandedPort {
    /// Its name.
    pub port: Label,
    /// How many clients waited in the old version's queue, when all of them were taken.
    pub taken: Option<u32>,
    /// What the node saw as a client of it.
    pub seen: Option<Seen>,
    /// How many connections the old version serves to their end, where that is what it does with all of them and they can be counted.
    pub open: Option<u32>,
}

/// What an operator is told.
pub enum Told {
    /// On the way.
    Event(Event),
    /// At the end.
    Reply(Reply),
}

/// A version that runs, or whose listeners are still open.
struct Version {
    generation: u64,
    release: Arc<Release>,
    places: Vec<Place>,
    /// Its ports as its program sees them: behind a proxy they are others.
    behind: Vec<Place>,
    /// How it is started, or why that cannot be told any more.
    spec: Result<LaunchSpec, String>,
    process: Option<Arc<Process>>,
    state: RunState,
    since: Timestamp,
    listen: IpAddr,
    /// Where it hears whom to give its connections to, if it listens there.
    handoff: String,
    /// Where it is heard.
    notify: String,
    /// What it said there.
    said: Arc<hearing::Said>,
    /// It was started in the place of another, which it must not meet.
    alone: bool,
    /// It is being retired by a thread, which reports its end.
    retiring: bool,
    /// Who waits to hear what becomes of its connections.
    leaving: Option<Sender<moved::Leaves>>,
}

/// An activation in progress.
struct Flight {
    plan: activation::Plan,
    state: activation::State,
    began: Instant,
    new_run: u64,
    old_run: Option<u64>,
    release: Arc<Release>,
    listen: IpAddr,
    what: &'static str,
    who: String,
    outcomes: Vec<ProbeOutcome>,
    /// The node's own clients, from just before the switch until the old version's queue is empty.
    watch: Option<Watch>,
    answer: Sender<Told>,
    /// How long the answer may wait for what becomes of the connections that the version before hands over.
    follow: Option<Duration>,
    /// Those who confirmed it, and wait to hear that it is kept.
    confirmers: Vec<Sender<Told>>,
    /// Those who took it back, and wait to hear what serves again.
    withdrawers: Vec<Sender<Told>>,
    /// A former supervisor began it.
    adopted: bool,
    /// It failed because somebody else has a port.
    port_held: bool,
}

/// A version that was started to serve, and who waits for it.
struct Starting {
    run: u64,
    restore: bool,
    answer: Option<Sender<Told>>,
}

/// `current` could not be moved back, and it is tried again. Until then this is what it says to us.
#[derive(Clone, Copy)]
struct GoesBack {
    to: u64,
    at: Instant,
}

/// One application.
pub struct App {
    node: Arc<Node>,
    app: AppName,
    messages: Receiver<Message>,
    /// What was said while a stop was waited for.
    later: VecDeque<Message>,
    inbox: Sender<Message>,
    shown: Arc<Mutex<Vec<Running>>>,
    idle: Arc<AtomicBool>,
    groups: BTreeMap<Endpoint, Arc<Group>>,
    versions: BTreeMap<u64, Version>,
    next_run: u64,
    serving: Option<u64>,
    flight: Option<Flight>,
    starting: Option<Starting>,
    crashes: VecDeque<Instant>,
    restart_at: Option<Instant>,
    pace: restarts::Pace,
    goes_back: Option<GoesBack>,
    /// What we wrote down last, durably.
    wanted: Option<control::Wanted>,
}

impl App {
    /// Prepares an application's state; [`App::run`] adopts what runs.
    pub fn new(
        node: Arc<Node>,
        app: AppName,
        messages: Receiver<Message>,
        inbox: Sender<Message>,
        shown: Arc<Mutex<Vec<Running>>>,
        idle: Arc<AtomicBool>,
    ) -> Self {
        Self {
            node,
            app,
            messages,
            later: VecDeque::new(),
            inbox,
            shown,
            idle,
            groups: BTreeMap::new(),
            versions: BTreeMap::new(),
            next_run: 1,
            serving: None,
            flight: None,
            starting: None,
            crashes: VecDeque::new(),
            restart_at: None,
            pace: restarts::PACE,
            goes_back: None,
            wanted: None,
        }
    }

    /// Adopts what runs, starts what is wanted, then serves messages for as long as the supervisor lives.
    pub fn run(&mut self) {
        self.take_over();
        while self.step() {}
    }

    /// Waits for a message or for what is due, and does it; returns whether there is more to come.
    fn step(&mut self) -> bool {
        self.show();
        match self.next_message(self.patience()) {
            Ok(message) => self.hear(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.catch_up();
        self.tick();
        true
    }

    fn next_message(&mut self, patience: Duration) -> Result<Message, RecvTimeoutError> {
        self.later.pop_front().map_or_else(|| self.messages.recv_timeout(patience), Ok)
    }

    /// Hears what was said before a time was over, where that passed unnoticed: while the disk or the machine stood still, nobody listened to a program that was ready in time. Whoever was
    /// asked meanwhile and heard nothing is asked once more.
    fn catch_up(&mut self) {
        let until = Instant::now() + CATCHING_UP;
        let is_late = |awaited: Instant| awaited.elapsed() >= LATE && Instant::now() < until;
        while self.awaited().is_some_and(is_late) {
            let Ok(message) = self.next_message(until.saturating_duration_since(Instant::now())) else { return };
            self.hear(message);
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Ask { request, answer } => self.answer(*request, answer),
            Message::Show { seen } => {
                self.show();
                // Who wanted to see may have lost its patience.
                let _ = seen.send(());
            }
            Message::Rest { seen, go_on } => self.rest(&seen, &go_on),
            Message::Ended { run, pid, exit } => self.ended(run, pid, exit),
            Message::Notified { run, ready, extend } => self.notified(run, ready, extend),
            Message::Probed { run, outcomes } => self.probed(run, outcomes),
            Message::Handed { run, ports } => self.handed(run, ports),
            Message::Ready { run, pid, result, outcomes } => {
                // A round that was begun for a process that crashed since says nothing of the one that runs now.
                let process = self.versions.get(&run).and_then(|version| version.process.as_ref());
                if process.is_some_and(|process| process.pid() == pid) {
                    self.started(run, result, outcomes);
                }
            }
            Message::Drained { run, open } => self.drained(run, open),
            Message::Retired { run } => self.retired(run),
            // Nobody waits for it any more.
            Message::Stopped => {}
        }
    }

    /// Returns how long nothing has to happen unless somebody speaks.
    fn patience(&self) -> Duration {
        self.next().map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(Instant::now()))
    }

    /// Returns when something has to happen although nobody speaks.
    fn next(&self) -> Option<Instant> {
        let flight = self.flight.as_ref().and_then(|flight| Some(flight.began + flight.state.deadline()?));
        [flight, self.restart_at, self.goes_back.map(|back| back.at)].into_iter().flatten().min()
    }

    /// Returns until when something has to be heard. A start that is planned is waited for by clients, and nothing that is heard makes it needless.
    fn awaited(&self) -> Option<Instant> {
        self.flight.as_ref().and_then(|flight| Some(flight.began + flight.state.awaits()?))
    }

    fn tick(&mut self) {
        let due = |flight: &Flight| flight.state.deadline().is_some_and(|deadline| flight.began.elapsed() >= deadline);
        if self.flight.as_ref().is_some_and(due) {
            self.advance(activation::Event::Tick);
        }
        if self.restart_at.is_some_and(|at| Instant::now() >= at) {
            self.restart_at = None;
            self.restart();
        }
        if let Some(back) = self.goes_back.filter(|back| Instant::now() >= back.at) {
            self.go_back(back.to);
        }
    }

    /// Shows what runs to those who ask, and writes it down for a successor.
    fn show(&self) {
        let mut running: Vec<Running> = self.versions.values().filter_map(Version::shown).collect();
        running.sort_by_key(|r| (r.state != RunState::Serving, std::cmp::Reverse(r.generation)));
        let wanted = control::wanted(&self.node.layout, &self.app);
        let rests = self.flight.is_none() && self.starting.is_none() && self.goes_back.is_none();
        let idle = running.is_empty() && self.versions.is_empty() && rests;
        *self.shown.lock().expect("nobody panics with this lock") = running;
        self.idle.store(idle && (!wanted || self.gave_up()), Ordering::SeqCst);
    }

    /// Returns whether nothing will start by itself although it is wanted.
    fn gave_up(&self) -> bool {
        self.serving.is_none() && self.restart_at.is_none()
    }

    /// Returns what serves, for answers.
    fn serves(&self) -> Option<Serving> {
        let process = self.serving.and_then(|run| self.versions.get(&run)).and_then(|version| version.process.as_ref());
        crate::serve::serving(&self.node.layout, &self.app, process.map(|process| process.pid() as i32))
    }

    /// Returns the generation that `current` names, or shall name again.
    fn current(&self) -> u64 {
        let named = || generation::current(&self.node.layout, &self.app).unwrap_or(0);
        self.goes_back.map_or_else(named, |back| back.to)
    }

    /// Adds to the history; what cannot be written is said in the supervisor's log.
    fn remember(&self, what: &str, who: &str, generation: u64, from: u64, release: &Release, failed: Option<&str>) {
        remember(&self.node.layout, &self.app, &entry(what, who, generation, from, release, failed));
    }
}

/// Returns what the history shall say of something that was tried.
fn entry(what: &str, who: &str, generation: u64, from: u64, release: &Release, failed: Option<&str>) -> HistoryEntry {
    HistoryEntry {
        at: now(),
        who: who.to_owned(),
        what: what.to_owned(),
        generation,
        from,
        commit: release.commit.clone(),
        ok: failed.is_none(),
        detail: df_core::text::shorten(failed.unwrap_or_default(), 1024),
    }
}

fn remember(layout: &Layout, app: &AppName, entry: &HistoryEntry) {
    if let Err(error) = history::append(&layout.history(app), entry) {
        eprintln!("history of {app}: {error}");
    }
}

impl Version {
    fn shown(&self) -> Option<Running> {
        let process = self.process.as_ref()?;
        let heard = self.said.heard();
        Some(Running {
            generation: self.generation,
            pid: process.pid() as i32,
            state: self.state,
            since: self.since,
            ports: self.places.iter().map(|place| (place.label.clone(), place.address.clone())).collect(),
            status: heard.status,
            stopping: heard.stopping,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::{Held, Holding};
    use crate::launch::Launcher;
    use crate::logs::{Log, PIECE};
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::mpsc;

    /// Returns an application of a node on which nothing runs.
    pub(super) fn app(layout: Layout, launcher: Launcher) -> App {
        of_node(node(layout, launcher), "greeter")
    }

    pub(super) fn node(layout: Layout, launcher: Launcher) -> Arc<Node> {
        let holding = Holding::new(Held::new());
        Arc::new(Node { layout, launcher, holding, records: Mutex::default(), claims: Mutex::default() })
    }

    /// Returns a release of a shell script that listens at a socket in the file system, and puts its image in place.
    pub(super) fn release(layout: &Layout, socket: &Path, script: &str) -> Release {
        let run = format!(
            r#"{{"exec":"bin/a","ready":60000,"drain":1000,"ports":{{"http":{{"port":0,"transport":{{"unix":{{"path":"{}","mode":438}}}},"handoff":"listener"}}}}}}"#,
            socket.display()
        );
        let run = serde_json::from_str(&run).expect("a section");
        let release = Release { run: Some(run), ..crate::fixture::release("greeter", 1) };
        let program = layout.image(release.image).join("bin/a");
        fs::create_dir_all(program.parent().expect("in bin")).expect("made");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        release
    }

    pub(super) fn of_node(node: Arc<Node>, name: &str) -> App {
        let (inbox, messages) = mpsc::channel();
        App::new(node, name.parse().expect("a name"), messages, inbox, Arc::default(), Arc::default())
    }

    #[test]
    fn a_start_that_is_planned_is_not_put_off_to_listen_to_what_came_late() {
        let (_dir, layout) = crate::fixture::layout();
        let mut app = app(layout, Launcher::default());
        app.restart_at = Instant::now().checked_sub(Duration::from_secs(1));
        let (seen, heard) = mpsc::channel();
        assert!(app.next().is_some_and(|next| next.elapsed() >= LATE));
        assert!(app.inbox.send(Message::Show { seen }).is_ok());
        app.catch_up();
        assert!(heard.try_recv().is_err(), "it listened before it started what is late");
    }

    #[test]
    fn a_note_is_the_last_line_of_the_log_that_the_program_writes_to_and_not_the_only_one() {
        let (_dir, layout) = crate::fixture::layout();
        let app = app(layout, Launcher::default());
        crate::supervise::prepare(&app.node.layout, &app.app).expect("made");
        let path = app.node.layout.log(&app.app, 1);
        let mut program = std::fs::OpenOptions::new().create(true).append(true).open(&path).expect("opened");
        program.write_all(&vec![b'\n'; PIECE as usize + 1]).expect("written");
        writeln!(program, "last words").expect("written");
        app.note(1, "the program ended");
        writeln!(program, "what it left behind speaks").expect("written");
        let tail = Log::open(&path).and_then(|mut log| log.tail(3)).expect("read");
        let expected = "last words\ndf-node: the program ended\nwhat it left behind speaks\n";
        assert_eq!(String::from_utf8_lossy(&tail), expected);
    }
}
