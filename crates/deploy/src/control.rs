//! The way from `df-node serve` to the supervisor of the same node, and what both know of it on disk.
//!
//! The control socket speaks the frames of `df-wire`: requests that concern running programs are passed on unchanged.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use df_cache::durable;
use df_core::AppName;
use df_wire::message::{AppState, FaultKind, RunState, Running};
use df_wire::session::{FromNode, Heard};
use df_wire::{OperatorSession, Reply, Request};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

use crate::confirmation;
use crate::conversation::{Conversation, TalkError};
use crate::generation;
use crate::layout::Layout;
use crate::serve::{chain, fault};
use crate::supervise::replace;
use crate::unit;

/// How long a supervisor may take until it listens.
const START: Duration = Duration::from_secs(10);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// The supervisor cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ControlError {
    #[error("the supervisor cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the supervisor cannot be started")]
    Start(#[source] io::Error),
    #[error("the supervisor ended while it was asked")]
    Ended,
    #[error("the supervisor did not begin to listen within {} s; see {}", START.as_secs(), log.display())]
    Silent { log: PathBuf },
    #[error("the supervisor said something that is not the protocol")]
    Session(#[source] df_wire::SessionError),
    #[error("the supervisor stays the program that it is: {0}")]
    NotNow(String),
}

/// What became of the supervisor's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing: it is no older, or there is none.
    Not,
    /// It is another now.
    Once,
}

/// What is wanted of an application, also after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Whether it is meant to run.
    pub wanted: bool,
    /// The address for ports that name none.
    pub listen: std::net::IpAddr,
}

/// Returns what is wanted of an application, as it was last written down.
pub fn read_wanted(layout: &Layout, app: &AppName) -> Option<Wanted> {
    serde_json::from_slice(&fs::read(layout.app(app).join("wanted.json")).ok()?).ok()
}

/// Writes down what is wanted of an application, durably. `kept` is what the caller's last write is known to have brought to the disk: nothing is written where that is wanted again. What is
/// only found written may be there because a sync failed after the rename, and the next sync of that would succeed whatever is on the disk.
///
/// # Errors
/// It cannot be written.
pub fn write_wanted(layout: &Layout, app: &AppName, wanted: Wanted, kept: &mut Option<Wanted>) -> io::Result<()> {
    if kept.as_ref() == Some(&wanted) && read_wanted(layout, app).as_ref() == Some(&wanted) {
        return Ok(());
    }
    *kept = None;
    let json = serde_json::to_vec(&wanted).expect("plain data");
    durable::write(&layout.app(app).join("wanted.json"), &json, 0o644)?;
    *kept = Some(wanted);
    Ok(())
}

/// Returns whether an application is meant to run.
pub fn wanted(layout: &Layout, app: &AppName) -> bool {
    read_wanted(layout, app).is_some_and(|wanted| wanted.wanted)
}

/// Returns what runs, by application; nothing when there is no supervisor.
///
/// # Errors
/// There is one, and it does not answer.
pub fn running(layout: &Layout) -> Result<Vec<AppState>, ControlError> {
    let Some(stream) = connect(layout).map_err(ControlError::Connect)? else { return Ok(vec![]) };
    let mut session = Asking::open(stream)?;
    session.ask(&Request::Survey)?;
    match session.next()? {
        Some(FromNode::Reply(Reply::Survey(survey))) => Ok(survey.apps),
        _ => Err(ControlError::Ended),
    }
}

/// Returns an application whose activation is in progress, if there is one.
///
/// What starts because it crashed, or because the machine did, is none: who brings a version that does not crash must not have to wait for it.
///
/// # Errors
/// There is a supervisor, and it does not answer.
pub fn busy(layout: &Layout) -> Result<Option<AppName>, ControlError> {
    if let Some(app) = awaited(layout) {
        // Whoever waited for the confirmation may have died, and then nobody else would take it back.
        ensure_running(layout)?;
        return Ok(Some(app));
    }
    let is_busy = |app: &AppState| {
        let current = generation::current(layout, &app.app).unwrap_or(0);
        app.running.iter().any(|running| is_under_way(running, current))
    };
    Ok(running(layout)?.into_iter().find(is_busy).map(|app| app.app))
}

/// Returns an application of which what serves has yet to be confirmed. What served before may have ended already, and whoever deploys now would begin from what goes back in a
/// moment.
fn awaited(layout: &Layout) -> Option<AppName> {
    let is_awaited = |app: &AppName| {
        let armed = confirmation::read(layout, app).ok().flatten();
        armed.is_some_and(|armed| generation::current(layout, app).is_ok_and(|current| current == armed.new))
    };
    generation::apps(layout).ok()?.into_iter().find(is_awaited)
}

fn is_under_way(running: &Running, current: u64) -> bool {
    match running.state {
        RunState::Trial | RunState::Warm => true,
        RunState::Starting => running.generation != current,
        RunState::Serving | RunState::Draining => false,
    }
}

/// Passes a request on to the supervisor, starts one when there is none, and relays what it says.
///
/// # Errors
/// The connection to the operator broke. What the supervisor was asked goes on.
pub fn forward<R: Read, W: Write>(layout: &Layout, request: &Request, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    if changes(request) {
        // An older one does what is asked as well; the next who comes tries again.
        let _ = replace(layout, false);
    }
    match ensure_running(layout) {
        Ok(stream) => relay(stream, request, talk),
        Err(error) => talk.reply(&Reply::Fault(fault(FaultKind::Failed, chain(&error)))),
    }
}

/// Asks a supervisor, and relays what it says.
fn relay<R: Read, W: Write>(stream: UnixStream, request: &Request, talk: &mut Conversation<R, W>) -> Result<(), TalkError> {
    // One that is about to be gone may take a connection, and no question: then nobody knows what becomes of what was asked, and another can be asked.
    let mut session = match Asking::open(stream).and_then(|mut session| session.ask(request).map(|()| session)) {
        Ok(session) => session,
        Err(error) => return talk.reply(&Reply::Fault(fault(FaultKind::Unknown, chain(&error)))),
    };
    loop {
        match session.next() {
            Ok(Some(FromNode::Event(event))) => talk.event(&event)?,
            Ok(Some(FromNode::Reply(reply))) => return talk.reply(&reply),
            Ok(None) => return talk.reply(&Reply::Fault(fault(FaultKind::Unknown, ControlError::Ended.to_string()))),
            Err(error) => return talk.reply(&Reply::Fault(fault(FaultKind::Unknown, chain(&error)))),
        }
    }
}

/// Has the supervisor become the program of this process, if that is newer, or if it is told to go back; nothing of what serves is touched. Where there is none, or it is too old to know
/// how, nothing happens.
///
/// # Errors
/// It cannot now, and why; it goes on as it is.
pub fn replace(layout: &Layout, back: bool) -> Result<Replaced, ControlError> {
    let (mut back, mut replaced) = (back, Replaced::Not);
    // It ends the connection when it becomes another; who connects then waits for the new one, which says that it is no older.
    for _ in 0..3 {
        let Some(stream) = connect(layout).map_err(ControlError::Connect)? else { return Ok(replaced) };
        let asked = Asking::open(stream).and_then(|mut session| {
            session.ask(&Request::Replace { program: replace::ours(), back })?;
            session.next()
        });
        match asked {
            Ok(Some(FromNode::Reply(Reply::Done))) => return Ok(replaced),
            Ok(Some(FromNode::Reply(Reply::Fault(fault)))) => return Err(ControlError::NotNow(fault.message)),
            Ok(Some(_)) => return Err(ControlError::Ended),
            Ok(None) | Err(ControlError::Connect(_)) => (back, replaced) = (false, Replaced::Once),
            Err(error) => return Err(error),
        }
    }
    Ok(replaced)
}

/// Connects to the supervisor; `None` when there is none.
///
/// # Errors
/// The socket is there and cannot be used.
pub fn connect(layout: &Layout) -> io::Result<Option<UnixStream>> {
    let (_dir, path) = socket_path(layout)?;
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether a request changes what runs: whoever asks it has the node for itself.
fn changes(request: &Request) -> bool {
    matches!(request, Request::Activate { .. } | Request::Rollback { .. } | Request::Start { .. } | Request::Stop { .. })
}

/// Connects to the supervisor, and starts one first when there is none: detached, with the program of this process.
///
/// # Errors
/// It cannot be started or does not listen in time.
pub fn ensure_running(layout: &Layout) -> Result<UnixStream, ControlError> {
    let deadline = Instant::now() + START;
    let mut child: Option<Child> = None;
    loop {
        if let Some(stream) = connect(layout).map_err(ControlError::Connect)? {
            return Ok(stream);
        }
        // One that lost the race for the lock ends at once; then another listens, or will. Where systemd could not start it, it is started without.
        child = Some(match child {
            None => start_by_unit(layout).map_or_else(|| start(layout), Ok).map_err(ControlError::Start)?,
            Some(mut former) => match former.try_wait() {
                Ok(Some(_)) => start(layout).map_err(ControlError::Start)?,
                _ => former,
            },
        });
        if Instant::now() > deadline {
            return Err(ControlError::Silent { log: log_path(layout) });
        }
        std::thread::sleep(LOOK);
    }
}

/// Has systemd start it, where there is a unit of it or should be one.
fn start_by_unit(layout: &Layout) -> Option<Child> {
    let mut log = open_log(layout).ok()?;
    let started = unit::start(layout, &unit::look(), log.try_clone().ok()?);
    started.unwrap_or_else(|error| {
        // Who cannot write that here cannot start it either, and says so.
        let _ = writeln!(log, "without systemd: {}", chain(&error));
        None
    })
}

/// Starts a supervisor with the program of this process, detached.
///
/// # Errors
/// It cannot be started.
pub fn start(layout: &Layout) -> io::Result<Child> {
    let log = open_log(layout)?;
    // Not by its name: two operators at first contact both put the program there, and the second copy takes the name from the first, which runs.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("df-node").arg("supervise").args(layout.words());
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

fn open_log(layout: &Layout) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(log_path(layout))
}

/// Returns where the supervisor's own words go.
pub fn log_path(layout: &Layout) -> PathBuf {
    layout.root.join("log").join("supervisor.log")
}

/// Returns a short path to the control socket: the address of a socket has room for 108 bytes, a node's directory may be longer.
pub fn socket_path(layout: &Layout) -> io::Result<(fs::File, PathBuf)> {
    use std::os::fd::AsRawFd as _;
    let dir = fs::File::open(layout.run())?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join("control.sock");
    Ok((dir, path))
}

/// The asking end of a control connection.
struct Asking {
    stream: UnixStream,
    session: OperatorSession,
    heard: std::collections::VecDeque<Heard<FromNode>>,
}

impl Asking {
    fn open(stream: UnixStream) -> Result<Self, ControlError> {
        let session = OperatorSession::new();
        let mut asking = Self { stream, session, heard: std::collections::VecDeque::new() };
        let hello = asking.session.hello();
        asking.stream.write_all(&hello).map_err(ControlError::Connect)?;
        Ok(asking)
    }

    fn ask(&mut self, request: &Request) -> Result<(), ControlError> {
        let bytes = self.session.request(request);
        self.stream.write_all(&bytes).map_err(ControlError::Connect)
    }

    /// Returns the next message; `None` when the supervisor is gone.
    fn next(&mut self) -> Result<Option<FromNode>, ControlError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.heard.pop_front() {
                Some(Heard::Message(message)) => return Ok(Some(message)),
                Some(Heard::Hello(..) | Heard::Bytes(_)) => continue,
                None => {}
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(len) => self.heard.extend(self.session.receive(&buffer[..len]).map_err(ControlError::Session)?),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(ControlError::Connect(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::Timestamp;

    #[test]
    fn a_supervisor_that_goes_before_it_can_be_asked_says_nothing_of_what_serves() {
        let request = Request::Verify { app: "greeter".parse().expect("a name") };
        for takes_the_question in [false, true] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            if takes_the_question {
                // It goes on taking what is written until the other end of the connection is closed too.
                theirs.shutdown(std::net::Shutdown::Write).expect("closed");
            } else {
                theirs.shutdown(std::net::Shutdown::Both).expect("closed");
            }
            let mut said = vec![];
            let mut talk = Conversation::open(io::empty(), &mut said).expect("memory takes all");
            relay(ours, &request, &mut talk).expect("the operator is there");
            drop(talk);
            let mut session = OperatorSession::new();
            let _ = session.hello();
            let _ = session.request(&request);
            let heard: Vec<Heard<FromNode>> = session.receive(&said).expect("the protocol").into_iter().collect();
            let faults = heard.iter().filter(
                |heard| matches!(heard, Heard::Message(FromNode::Reply(Reply::Fault(fault))) if fault.kind == FaultKind::Unknown),
            );
            assert_eq!(faults.count(), 1, "{takes_the_question}: {heard:?}");
        }
    }

    #[test]
    fn what_is_written_and_was_not_synced_is_written_anew_and_only_then_taken_for_durable() {
        let ((_dir, layout), app) = (crate::fixture::layout(), "greeter".parse().expect("a name"));
        crate::layout::make_dir(&layout.app(&app)).expect("made");
        let path = layout.app(&app).join("wanted.json");
        let wanted = |wanted| Wanted { wanted, listen: std::net::Ipv4Addr::LOCALHOST.into() };
        let file = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).expect("there"));
        // So a write leaves it whose last sync failed.
        fs::write(&path, serde_json::to_vec(&wanted(true)).expect("plain data")).expect("written");
        let (left, mut kept) = (fs::File::open(&path).expect("there"), None);
        write_wanted(&layout, &app, wanted(true), &mut kept).expect("written");
        let anew = file();
        assert_ne!(std::os::unix::fs::MetadataExt::ino(&left.metadata().expect("open")), anew);
        write_wanted(&layout, &app, wanted(true), &mut kept).expect("nothing to do");
        assert_eq!((file(), kept.clone()), (anew, Some(wanted(true))));
        // A directory has the name: it cannot be written, and nothing is known any more.
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        write_wanted(&layout, &app, wanted(false), &mut kept).expect_err("a directory");
        assert_eq!(kept, None);
    }

    #[test]
    fn a_program_that_starts_again_after_a_crash_keeps_nobody_out() {
        let running = |generation, state| Running {
            generation,
            pid: 1,
            state,
            since: Timestamp(0),
            ports: vec![],
            status: String::new(),
            stopping: false,
        };
        assert!(!is_under_way(&running(3, RunState::Starting), 3), "a crash loop");
        assert!(is_under_way(&running(4, RunState::Starting), 3), "a new version");
        assert!(is_under_way(&running(4, RunState::Trial), 3));
        assert!(is_under_way(&running(3, RunState::Warm), 4));
        assert!(!is_under_way(&running(3, RunState::Serving), 3));
        assert!(!is_under_way(&running(3, RunState::Draining), 4));
    }
}
