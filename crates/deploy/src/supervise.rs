//! `df-node supervise`: owns the listeners and processes of a node.
//!
//! One per node, by a lock that ends with the process. Each application has a thread of its own that decides what happens to it ([`app`]); this file
//! takes requests from the control socket to those threads and their answers back. Programs are not bound to the supervisor: their output goes straight
//! to their logs and they hold their own copies of the listeners, so when it is killed they serve on, and the next supervisor adopts them.
//!
//! It ends by itself when no application runs and none is wanted. SIGTERM ends it alone; applications run on.

mod app;
mod probing;
mod proving;
mod records;
mod start;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use df_core::{AppName, Endpoint, Release};
use df_wire::message::{AppState, FaultKind, Running, Survey};
use df_wire::{Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt;

use crate::control;
use crate::conversation::{Conversation, TalkError};
use crate::generation;
use crate::launch::Launcher;
use crate::layout::{Layout, make_dir};
use crate::serve::{chain, fault, now};
use app::{Message, Told};

/// How long nothing may run or be wanted before the supervisor ends.
const IDLE: Duration = Duration::from_secs(2);
/// How long applications may take to say what runs.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);

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
}

/// What the applications of a node share.
pub(crate) struct Node {
    pub(crate) layout: Layout,
    pub(crate) launcher: Launcher,
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
}

/// Supervises until nothing is wanted any more; returns at once when another supervisor is at work.
///
/// # Errors
/// The node's directories cannot be used.
pub fn run(layout: &Layout) -> Result<(), SuperviseError> {
    run_with(layout, Launcher::default())
}

pub(crate) fn run_with(layout: &Layout, launcher: Launcher) -> Result<(), SuperviseError> {
    // Whoever started us may go away with its whole session; an error means that we lead one already.
    let _ = rustix::process::setsid();
    let at = |path: PathBuf| move |source| SuperviseError::Io { path, source };
    let lock_path = layout.run().join("supervisor.lock");
    let lock = fs::OpenOptions::new().create(true).append(true).open(&lock_path).map_err(at(lock_path.clone()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let supervisor = Arc::new(Supervisor {
        node: Arc::new(Node { layout: layout.clone(), launcher, claims: Mutex::default() }),
        apps: Mutex::default(),
        n_connections: AtomicUsize::new(0),
    });
    for app in generation::apps(layout).map_err(SuperviseError::Records)? {
        supervisor.tell(&app, |_| ());
    }
    let listener = listen(layout).map_err(at(layout.run()))?;
    supervisor.serve(&listener).map_err(at(layout.run()))
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
    fn serve(self: &Arc<Self>, listener: &UnixListener) -> io::Result<()> {
        let mut idle_since: Option<Instant> = None;
        loop {
            let look = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as _ };
            match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Some(stream) = accept(listener)? {
                self.admit(stream);
            }
            if !self.is_idle() {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE {
                // The name goes first; who connected just before is still served.
                let _ = control::socket_path(&self.node.layout).map(|(_dir, path)| fs::remove_file(path));
                match accept(listener)? {
                    None => return Ok(()),
                    Some(stream) => self.admit(stream),
                }
                return self.serve(&listen(&self.node.layout)?);
            }
        }
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
        let mut talk = Conversation::open(stream, output)?;
        while let Some(request) = talk.request()? {
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
