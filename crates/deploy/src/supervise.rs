//! `df-node supervise`: owns the listeners and processes of a node.
//!
//! One per node, by a lock that ends with the process. Each application has a thread of its own that decides what happens to it ([`app`]); this file
//! takes requests from the control socket to those threads and their answers back. Programs are not bound to the supervisor: their output goes straight
//! to their logs and they hold their own copies of the listeners, so when it is killed they serve on, and the next supervisor adopts them. All that has to outlive it lies
//! at a second place too ([`crate::hold`]), which starts that next one.
//!
//! It ends by itself when no application runs and none is wanted. SIGTERM ends it and its holder; applications run on. It becomes another program without ending ([`replace`]).

mod app;
mod bounding;
mod probing;
mod proving;
mod records;
pub mod replace;
pub(crate) mod signals;
mod start;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use df_core::{AppName, Endpoint, Release};
use df_wire::message::{AppState, FaultKind, Program, Running, Survey};
use df_wire::{Reply, Request};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt;

use crate::control;
use crate::conversation::{Conversation, TalkError};
use crate::generation;
use crate::hold::{self, Held, Holding, Keeper, Name};
use crate::launch::Launcher;
use crate::layout::{Layout, make_dir};
use crate::members;
use crate::serve::{chain, fault, now};
use crate::unit;
use app::{Message, Told};
use records::Records;
use replace::{Legacy, LegacyError};

pub(crate) use start::Place;

/// How long nothing may run or be wanted before the supervisor ends.
const IDLE: Duration = Duration::from_secs(2);
/// How long applications may take to say what runs.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long the supervisor before may take to end that was just killed.
const DYING: Duration = Duration::from_secs(1);
/// How long what is under way may take before the supervisor stays the program that it is.
const REST: Duration = Duration::from_secs(2);
/// The exit status after SIGTERM.
const TERMINATED: i32 = 128 + 15;
/// How long whoever became another program keeps the holder of the former one, which would start that again.
const PROBATION: Duration = Duration::from_secs(2);

/// The supervisor cannot work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SuperviseError {
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the node's records")]
    Records(#[source] generation::RecordError),
    #[error(transparent)]
    Legacy(#[from] LegacyError),
}

/// How a supervisor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It adopts what runs, and has a holder.
    Holding,
    /// It adopts what runs, and nobody else holds anything.
    Alone,
    /// It was another program until now, and finds what that left at this descriptor.
    Adopting(RawFd),
}

/// What the applications of a node share.
pub(crate) struct Node {
    pub(crate) layout: Layout,
    pub(crate) launcher: Launcher,
    /// What must outlive us.
    pub(crate) holding: Holding,
    /// What the program that we were before knew of each application.
    pub(crate) records: Mutex<BTreeMap<AppName, Records>>,
    /// One address, one application.
    pub(crate) claims: Mutex<BTreeMap<Endpoint, AppName>>,
}

/// An application's thread, from outside.
struct Handle {
    inbox: Sender<Message>,
    shown: Arc<Mutex<Vec<Running>>>,
    idle: Arc<AtomicBool>,
}

struct Supervisor {
    node: Arc<Node>,
    apps: Mutex<BTreeMap<AppName, Handle>>,
    n_connections: AtomicUsize,
    /// Who started us, if it is systemd.
    systemd: Option<unit::Notify>,
    /// Wakes the first thread.
    wake: &'static OwnedFd,
    wish: Mutex<Option<Wish>>,
}

/// What only the first thread touches.
struct Own {
    lock: File,
    listener: UnixListener,
    keeper: Option<Keeper>,
    /// When the holder of the program that we were before is replaced.
    renew_at: Option<Instant>,
}

/// Somebody wants us to be another program.
struct Wish {
    program: OwnedFd,
    /// Told why not.
    answer: Sender<String>,
}

/// Supervises until nothing is wanted any more or SIGTERM comes; returns at once when another supervisor is at work.
///
/// # Errors
/// The node's directories cannot be used, or what the former program left.
pub fn run(layout: &Layout, manner: Manner) -> Result<(), SuperviseError> {
    // Whoever started us may go away with its whole session; an error means that we lead one already.
    let _ = rustix::process::setsid();
    let at = |path: PathBuf| move |source| SuperviseError::Io { path, source };
    let legacy = match manner {
        Manner::Adopting(number) => Some(replace::adopt(number)?),
        Manner::Holding | Manner::Alone => None,
    };
    let (lock, control, link, mut held, records) = match legacy {
        Some(Legacy { lock, control, link, held, records }) => (Some(lock), Some(control), link, held, records),
        None => (take_lock(layout)?, None, None, Held::new(), BTreeMap::new()),
    };
    let Some(lock) = lock else { return Ok(()) };
    let wake = wake().map_err(at(layout.run()))?;
    let store = hold::store();
    held.extend(hold::passed());
    let mut keeper = match (manner, link) {
        _ if store.is_some() => None,
        (Manner::Alone, _) => None,
        (_, Some(link)) => Some(Keeper::resume(layout, link)),
        (Manner::Holding | Manner::Adopting(_), None) => {
            let (keeper, found) = Keeper::find(layout);
            held.extend(found);
            Some(keeper)
        }
    };
    let names: Vec<Name> = held.keys().cloned().collect();
    let supervisor = Arc::new(Supervisor {
        node: Arc::new(Node {
            layout: layout.clone(),
            launcher: Launcher::default(),
            holding: Holding::new(held),
            records: Mutex::new(records),
            claims: Mutex::default(),
        }),
        apps: Mutex::default(),
        n_connections: AtomicUsize::new(0),
        systemd: unit::Notify::of_this_process(),
        wake,
        wish: Mutex::default(),
    });
    let holding = &supervisor.node.holding;
    let entered = match (store, &mut keeper) {
        (Some(store), _) => holding.enter_place(Box::new(store), names),
        (None, Some(keeper)) => keeper.place(holding, names),
        (None, None) => Ok(()),
    };
    if let Err(error) = entered {
        eprintln!("hold: {error}");
    }
    let mut apps = generation::apps(layout).map_err(SuperviseError::Records)?;
    apps.extend(holding.apps());
    for app in apps {
        supervisor.tell(&app, |_| ());
    }
    let listener = match control {
        Some(control) => control,
        None => listen(layout).map_err(at(layout.run()))?,
    };
    supervisor.begin();
    bounding::begin(&supervisor);
    members::sweep();
    let renew_at = matches!(manner, Manner::Adopting(_)).then(|| Instant::now() + PROBATION);
    let mut own = Own { lock, listener, keeper, renew_at };
    let served = supervisor.serve(&mut own).map_err(at(layout.run()));
    if let (Ok(()), Some(keeper)) = (&served, &mut own.keeper) {
        keeper.end();
    }
    if signals::came() {
        // What a shell and systemd call ended by SIGTERM, and not: nothing is wanted.
        std::process::exit(TERMINATED);
    }
    served
}

/// Every application stands still for as long as this lives.
struct Rest {
    records: BTreeMap<AppName, Records>,
    _standing_still: Vec<Sender<()>>,
}

/// Takes the lock of the supervisor; `None` when another one is at work.
fn take_lock(layout: &Layout) -> Result<Option<File>, SuperviseError> {
    let path = layout.run().join("supervisor.lock");
    let lock = fs::OpenOptions::new().create(true).append(true).open(&path);
    let lock = lock.map_err(|source| SuperviseError::Io { path, source })?;
    let deadline = Instant::now() + DYING;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(Some(lock))
}

/// Makes what wakes the first thread, and lets SIGTERM do so too. It lives as long as the process.
fn wake() -> io::Result<&'static OwnedFd> {
    let event: &'static OwnedFd = Box::leak(Box::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
    signals::install(event.as_fd())?;
    Ok(event)
}

/// Opens the control socket, for our own user alone.
fn listen(layout: &Layout) -> io::Result<UnixListener> {
    let (_dir, path) = control::socket_path(layout)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made under another name and then renamed: whoever can connect finds the mode right already.
    let fresh = path.with_file_name(".control.sock");
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, &path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Supervisor {
    /// Tells systemd that requests are taken, and has the unit name this program from now on.
    fn begin(&self) {
        let Some(systemd) = &self.systemd else { return };
        systemd.ready(self.apps.lock().expect("nobody panics with this lock").len());
        let layout = self.node.layout.clone();
        thread::spawn(move || {
            if let Err(error) = unit::refresh(&layout, &unit::look()) {
                eprintln!("the unit names an older program: {}", chain(&error));
            }
        });
    }

    fn serve(self: &Arc<Self>, own: &mut Own) -> io::Result<()> {
        let mut idle_since: Option<Instant> = None;
        let mut pause = self.look_after_holder(own);
        loop {
            self.wait(own, pause)?;
            if signals::came() {
                return Ok(());
            }
            if let Some(wish) = self.wish.lock().expect("nobody panics with this lock").take() {
                let why_not = self.become_another(own, wish.program.as_fd());
                let _ = wish.answer.send(why_not);
            }
            while let Some(stream) = accept(&own.listener)? {
                self.admit(stream);
            }
            self.systemd.iter().for_each(unit::Notify::alive);
            pause = self.look_after_holder(own);
            if !self.is_idle() {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE {
                // The name goes first; who connected just before is still served.
                let _ = control::socket_path(&self.node.layout).map(|(_dir, path)| fs::remove_file(path));
                match accept(&own.listener)? {
                    None => return Ok(()),
                    Some(stream) => self.admit(stream),
                }
                (own.listener, idle_since) = (listen(&self.node.layout)?, None);
            }
        }
    }

    /// Waits until somebody connects, the holder dies or something else is to be done.
    fn wait(&self, own: &Own, pause: Duration) -> io::Result<()> {
        let link = own.keeper.as_ref().and_then(Keeper::link);
        signals::wait([own.listener.as_fd()].into_iter().chain(link.map(AsFd::as_fd)), self.wake, pause)
    }

    /// Sees to it that a holder lives; returns when to look again.
    fn look_after_holder(&self, own: &mut Own) -> Duration {
        let Some(keeper) = &mut own.keeper else { return LOOK };
        if own.renew_at.is_some_and(|at| Instant::now() >= at) {
            own.renew_at = None;
            keeper.renew(&self.node.holding);
        }
        keeper.look_after(&self.node.holding).map_or(LOOK, |pause| pause.min(LOOK))
    }

    /// Becomes another program when nothing is under way; returns only why it did not.
    fn become_another(&self, own: &mut Own, program: BorrowedFd<'_>) -> String {
        let deadline = Instant::now() + REST;
        // Whoever connects meanwhile waits; one connection is that of whoever asked.
        let rest = loop {
            let is_alone = self.n_connections.load(Ordering::SeqCst) <= 1;
            if let Some(rest) = is_alone.then(|| self.rest()).flatten() {
                break rest;
            }
            if Instant::now() > deadline {
                return "something is under way".into();
            }
            thread::sleep(Duration::from_millis(10));
        };
        let left =
            (own.lock.try_clone(), own.listener.try_clone(), own.keeper.as_ref().and_then(Keeper::link).map(OwnedFd::try_clone));
        let (Ok(lock), Ok(control), Ok(link)) = (left.0, left.1, left.2.transpose()) else {
            return "too many descriptors".into();
        };
        let link = link.filter(|_| self.node.holding.has_place());
        let held = match self.node.holding.all() {
            Ok(held) => held,
            Err(error) => return error.to_string(),
        };
        let legacy = Legacy { lock, control, link, held, records: rest.records.clone() };
        let error = replace::become_program(program, &self.node.layout, &legacy);
        eprintln!("become another program: {error}");
        error.to_string()
    }

    /// Has every application stand still, if none has anything under way, for as long as what is returned lives.
    fn rest(&self) -> Option<Rest> {
        let apps = self.apps.lock().expect("nobody panics with this lock");
        let asked = apps.iter().filter_map(|(app, handle)| {
            let ((seen, answer), (hold, go_on)) = (mpsc::channel(), mpsc::channel());
            handle.inbox.send(Message::Rest { seen, go_on }).ok()?;
            Some((app.clone(), answer, hold))
        });
        let asked: Vec<_> = asked.collect();
        let deadline = Instant::now() + ANSWER;
        let (mut records, mut resting) = (BTreeMap::new(), vec![]);
        for (app, answer, hold) in asked {
            let left = deadline.saturating_duration_since(Instant::now());
            records.insert(app, answer.recv_timeout(left).ok().flatten()?);
            resting.push(hold);
        }
        Some(Rest { records, _standing_still: resting })
    }

    fn is_idle(&self) -> bool {
        let apps = self.apps.lock().expect("nobody panics with this lock");
        self.n_connections.load(Ordering::SeqCst) == 0 && apps.values().all(|handle| handle.idle.load(Ordering::SeqCst))
    }

    /// Serves a connection on a thread of its own.
    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let ours = rustix::process::geteuid();
        let peer = sockopt::socket_peercred(&stream).map(|peer| peer.uid);
        if !peer.is_ok_and(|uid| uid == ours || uid.is_root()) {
            return;
        }
        let connected = Connected::new(self.clone());
        thread::spawn(move || {
            // Who asked may be gone; what was asked for goes on.
            let _ = connected.0.converse(stream);
        });
    }

    fn converse(&self, stream: UnixStream) -> Result<(), TalkError> {
        stream.set_nonblocking(false).map_err(TalkError::Io)?;
        let output = stream.try_clone().map_err(TalkError::Io)?;
        let peer = sockopt::socket_peercred(&stream).map(|peer| peer.pid).map_err(|error| TalkError::Io(error.into()))?;
        let mut talk = Conversation::open(stream, output)?;
        while let Some(request) = talk.request()? {
            if let Request::Replace { program, back } = &request {
                talk.reply(&self.replace(peer, program, *back))?;
                continue;
            }
            let Some(app) = concerned(&request) else {
                talk.reply(&self.survey())?;
                continue;
            };
            let (answer, answers) = mpsc::channel();
            self.tell(&app, |inbox| {
                // A thread that ended closes the channel, which is seen below.
                let _ = inbox.send(Message::Ask { request: Box::new(request), answer });
            });
            loop {
                match answers.recv() {
                    Ok(Told::Event(event)) => talk.event(&event)?,
                    Ok(Told::Reply(reply)) => {
                        talk.reply(&reply)?;
                        break;
                    }
                    Err(_) => {
                        let gone = fault(FaultKind::Failed, format!("the supervisor lost {app}; see supervisor.log"));
                        talk.reply(&Reply::Fault(gone))?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Has the first thread become the program of whoever asks, if it is newer; returns only when that was not done.
    fn replace(&self, peer: rustix::process::Pid, theirs: &Program, back: bool) -> Reply {
        let ours = replace::ours();
        let is_meant = replace::is_newer(theirs, &ours) || (back && *theirs != ours);
        if !is_meant {
            return Reply::Done;
        }
        let refuse = |why: String| Reply::Fault(fault(FaultKind::Refused, why));
        if theirs.format < ours.format {
            return refuse(format!("it hands on what it supervises in format {}, which that program does not know", ours.format));
        }
        let program = match replace::program_of(peer) {
            Ok(program) => program,
            Err(error) => return refuse(format!("its program: {error}")),
        };
        let (answer, why_not) = mpsc::channel();
        *self.wish.lock().expect("nobody panics with this lock") = Some(Wish { program, answer });
        let _ = rustix::io::write(self.wake, &1_u64.to_ne_bytes());
        refuse(why_not.recv().unwrap_or_else(|_| "another one was faster".into()))
    }

    /// Hands something to an application's thread, which is started first when there is none.
    fn tell(&self, app: &AppName, what: impl FnOnce(&Sender<Message>)) {
        let mut apps = self.apps.lock().expect("nobody panics with this lock");
        let handle = apps.entry(app.clone()).or_insert_with(|| {
            let (inbox, messages) = mpsc::channel();
            let (shown, idle) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
            let mut state = app::App::new(self.node.clone(), app.clone(), messages, inbox.clone(), shown.clone(), idle.clone());
            thread::spawn(move || state.run());
            Handle { inbox, shown, idle }
        });
        what(&handle.inbox);
    }

    /// Says what runs; of everything else the records on disk tell more.
    ///
    /// Each application is asked behind everything that it was told before, so an activation that somebody began a moment ago is seen. One that takes its
    /// time answers with what it showed last.
    fn survey(&self) -> Reply {
        let (seen, answers) = mpsc::channel();
        let apps = self.apps.lock().expect("nobody panics with this lock");
        let n_asked = apps.values().filter(|handle| handle.inbox.send(Message::Show { seen: seen.clone() }).is_ok()).count();
        let deadline = Instant::now() + ANSWER;
        for _ in 0..n_asked {
            let _ = answers.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let states = apps.iter().map(|(app, handle)| AppState {
            app: app.clone(),
            current: 0,
            wanted: false,
            running: handle.shown.lock().expect("nobody panics with this lock").clone(),
            generations: vec![],
            staged: vec![],
            given_up: None,
        });
        Reply::Survey(Box::new(Survey {
            arch: std::env::consts::ARCH.into(),
            kernel: crate::machine::kernel(),
            libc: None,
            interpreters: None,
            free: 0,
            now: now(),
            images: vec![],
            incoming: vec![],
            lock: None,
            trust: None,
            hands_out: false,
            proxy: None,
            boot: None,
            identity: None,
            apps: states.collect(),
        }))
    }
}

/// A connection that counts for as long as it lives.
struct Connected(Arc<Supervisor>);

impl Connected {
    fn new(supervisor: Arc<Supervisor>) -> Self {
        supervisor.n_connections.fetch_add(1, Ordering::SeqCst);
        Self(supervisor)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.n_connections.fetch_sub(1, Ordering::SeqCst);
    }
}

fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // Whoever connected is gone already.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the application that a request is about.
fn concerned(request: &Request) -> Option<AppName> {
    match request {
        Request::Activate { release, .. } => Release::decode(release.as_bytes()).ok().map(|release| release.app),
        Request::Rollback { app, .. }
        | Request::TakeBack { app, .. }
        | Request::Start { app, .. }
        | Request::Stop { app, .. }
        | Request::Confirm { app, .. }
        | Request::Withdraw { app, .. }
        | Request::Halt { app, .. }
        | Request::Verify { app } => Some(app.clone()),
        _ => None,
    }
}

/// Makes what an application needs on the node.
pub(crate) fn prepare(layout: &Layout, app: &AppName) -> io::Result<()> {
    make_dir(&layout.app(app))?;
    make_dir(&layout.logs(app))?;
    make_dir(&layout.run())
}

/// Returns an error's words for a fault.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    chain(error)
}
