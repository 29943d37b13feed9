//! A front at work: what `course.rs` decides, done.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Resource, Signal, getrlimit};

use super::configuration::{self, Room};
use super::course::{self, Action, Event, State};
use super::order::{self, Order};
use super::said::Said;
use super::sys::Listeners;
use crate::claim;
use crate::members::{self, MARK};
use crate::process::{Exit, Process};
use crate::supervise::signals;

/// Pauses between two looks whether the program accepts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// A connection to a loopback address is made at once, or waits for room in a queue.
const CONNECTING: Duration = Duration::from_millis(100);
/// A process has this long to vanish after SIGKILL.
const KILLED: Duration = Duration::from_secs(2);

/// Carries out what the words behind `df-node front` say; the body of that command. It ends as the program does.
pub fn front_main(words: &[OsString]) -> ! {
    let order = Order::read(words, &env::var_os(order::WAYS).unwrap_or_default());
    let listeners = order.as_ref().and_then(|_| Listeners::take().ok().flatten());
    let (Some(order), Some(listeners)) = (order, listeners) else {
        eprintln!("df-node front is started by the supervisor only");
        std::process::exit(2);
    };
    // Who looks for the holder of a port finds this name.
    let _ = rustix::thread::set_name(c"df-front");
    let status = Front::start(order, listeners).and_then(|mut front| front.run());
    std::process::exit(status.unwrap_or_else(|error| {
        eprintln!("df-node front: {}", crate::serve::chain(&error));
        126
    }))
}

/// Why a front gives up. What it has started ends with it.
#[derive(Debug, thiserror::Error)]
enum FrontFailed {
    #[error("execute {program}")]
    Program {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("prepare for the program")]
    Prepare(#[source] io::Error),
    #[error("wait for the program")]
    Wait(#[source] io::Error),
}

struct Front {
    order: Order,
    listeners: Listeners,
    said: Option<Said>,
    /// Raised by the signals that tell us to end.
    told: &'static OwnedFd,
    began: Instant,
    state: State,
    program: Child,
    proxy: Option<Child>,
    opening: Opening,
}

/// A process that we started.
struct Child {
    process: Process,
    /// Its end was heard.
    has_ended: bool,
}

/// The look whether the program accepts.
struct Opening {
    /// Ports where it does not yet.
    closed: Vec<u16>,
    at: Instant,
    pause: Duration,
    /// It was said that somebody else is at one.
    said: bool,
}

impl Front {
    /// Starts the program.
    fn start(order: Order, listeners: Listeners) -> Result<Self, FrontFailed> {
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from);
        let told: &'static OwnedFd = Box::leak(Box::new(told.map_err(FrontFailed::Prepare)?));
        signals::install(told.as_fd()).map_err(FrontFailed::Prepare)?;
        let said = env::var_os("NOTIFY_SOCKET").map(|address| Said::open(&address)).transpose().map_err(FrontFailed::Prepare)?;
        let mut command = Command::new(&order.program);
        // A group of its own: what it tells its group concerns neither us nor the proxy.
        command.args(&order.args).process_group(0);
        let is_ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"LISTEN_") || name == order::WAYS;
        for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(said.iter().map(|said| ("NOTIFY_SOCKET", said.variable())));
        let failed = |source| FrontFailed::Program {
            program: df_core::text::escape(order.program.as_os_str().as_encoded_bytes()),
            source,
        };
        let program = command.spawn().and_then(Process::child).map_err(failed)?;
        let closed = order.ways.iter().map(|way| way.port).collect();
        let began = Instant::now();
        Ok(Self {
            opening: Opening { closed, at: began, pause: PAUSES.0, said: false },
            order,
            listeners,
            said,
            told,
            began,
            state: State::new(),
            program: Child { process: program, has_ended: false },
            proxy: None,
        })
    }

    /// Hears and does until all is over; returns the status to end with.
    fn run(&mut self) -> Result<i32, FrontFailed> {
        loop {
            self.wait().map_err(FrontFailed::Wait)?;
            for event in self.events().map_err(FrontFailed::Wait)? {
                let (state, actions) = course::step(self.state, event, self.order.drain, self.began.elapsed());
                self.state = state;
                for action in actions {
                    if let Some(status) = self.perform(action) {
                        return Ok(status);
                    }
                }
            }
        }
    }

    /// Waits until something may have happened.
    fn wait(&self) -> io::Result<()> {
        let opening = matches!(self.state, State::Opening { .. }).then_some(self.opening.at);
        let deadline = self.state.deadline().map(|deadline| self.began + deadline);
        let next = [opening, deadline].into_iter().flatten().min();
        let pause = next.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(Instant::now()));
        let children = [Some(&self.program), self.proxy.as_ref()].into_iter().flatten().filter(|child| !child.has_ended);
        let watched = children.map(|child| child.process.pidfd()).chain(self.said.as_ref().map(|said| said.as_fd()));
        signals::wait(watched, self.told, pause)
    }

    /// Returns what has happened since, the ends of processes last: what a program said before it ended was said first.
    fn events(&mut self) -> io::Result<Vec<Event>> {
        let mut events = vec![];
        if self.said.as_ref().is_some_and(|said| said.hear(group_of(&self.program.process))) {
            events.push(Event::Ready);
        }
        if matches!(self.state, State::Opening { .. }) && Instant::now() >= self.opening.at && self.accepts() {
            events.push(Event::Accepts);
        }
        if signals::came() {
            events.push(Event::Told);
        }
        events.extend(self.proxy.as_mut().map(Child::ended).transpose()?.flatten().map(Event::ProxyEnded));
        events.extend(self.program.ended()?.map(Event::ProgramEnded));
        events.push(Event::Tick);
        Ok(events)
    }

    /// Returns whether the program accepts at all of its ports, and decides when to look again.
    fn accepts(&mut self) -> bool {
        let pid = self.program.process.pid();
        let opening = &mut self.opening;
        opening.closed.retain(|port| match at(*port, pid) {
            Found::Program => false,
            Found::Nobody => true,
            Found::Stranger => {
                if !std::mem::replace(&mut opening.said, true) {
                    eprintln!("df-node front: another program listens at 127.0.0.1:{port}");
                }
                true
            }
        });
        opening.at = Instant::now() + opening.pause;
        opening.pause = (2 * opening.pause).min(PAUSES.1);
        opening.closed.is_empty()
    }

    /// Does one thing; returns the status when all is over.
    fn perform(&mut self, action: Action) -> Option<i32> {
        match action {
            Action::StartProxy => match self.start_proxy() {
                Ok(process) => self.proxy = Some(Child { process, has_ended: false }),
                Err(error) => {
                    eprintln!("df-node front: start {}: {error}", self.order.proxy.display());
                    return Some(126);
                }
            },
            Action::TellReady => self.said.iter().for_each(Said::tell_ready),
            Action::StopProxy => self.signal_proxy(Signal::USR1),
            Action::KillProxy => self.signal_proxy(Signal::KILL),
            // Who has ended hears nothing.
            Action::Terminate => drop(self.program.process.signal(Signal::TERM)),
            Action::Say(words) => eprintln!("df-node front: {words}"),
            Action::Leave(status) => {
                // What is left of either is the supervisor's to end; the sockets are free when it is told of us.
                self.signal_proxy(Signal::KILL);
                let _ = self.proxy.as_ref().map(|proxy| proxy.process.wait(KILLED));
                return Some(status);
            }
        }
        None
    }

    fn signal_proxy(&self, signal: Signal) {
        let _ = self.proxy.as_ref().map(|proxy| proxy.process.signal(signal));
    }

    /// Has haproxy accept.
    fn start_proxy(&self) -> io::Result<Process> {
        let limit = |resource| getrlimit(resource).maximum;
        let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
        let room = Room::of(limit(Resource::Nofile), limit(Resource::As).is_some(), n_processors);
        let text = configuration::text(&self.order.ways, room, course::proxy_time(self.order.drain));
        let mut file = File::from(memfd_create("haproxy.cfg", MemfdFlags::empty())?);
        file.write_all(text.as_bytes())?;
        let mut command = Command::new(&self.order.proxy);
        // In the foreground; the file is its own by inheritance, and nobody else's.
        command.arg("-db").arg("-f").arg(format!("/proc/self/fd/{}", file.as_raw_fd())).env_clear().process_group(0);
        let is_needed = |name: &str| name == "PATH" || (name.starts_with("DF_") && name != order::WAYS);
        command.envs(env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_needed)));
        self.listeners.with(|| command.spawn().and_then(Process::child))
    }
}

impl Child {
    /// Returns how it ended, once.
    fn ended(&mut self) -> io::Result<Option<Exit>> {
        if self.has_ended {
            return Ok(None);
        }
        let exit = self.process.wait(Duration::ZERO)?;
        self.has_ended = exit.is_some();
        Ok(exit)
    }
}

/// Who listens at a port.
enum Found {
    Nobody,
    Program,
    Stranger,
}

/// Looks who accepts at a port of 127.0.0.1: whoever was there first would be given our clients.
fn at(port: u16, program: u32) -> Found {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    if TcpStream::connect_timeout(&address, CONNECTING).is_err() {
        return Found::Nobody;
    }
    let mark = env::var(MARK).unwrap_or_default();
    // Where the tables cannot be read nobody can tell.
    if claim::is_held_by(&address, &members::of(&mark, program)).unwrap_or(true) { Found::Program } else { Found::Stranger }
}

/// The program leads its own group.
fn group_of(program: &Process) -> Pid {
    Pid::from_raw(program.pid().cast_signed()).expect("a process has a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process::Stdio;

    fn start(input: Stdio) -> Process {
        let mut command = Command::new("sleep");
        Process::child(command.arg("100").stdin(input).process_group(0).spawn().expect("it starts")).expect("held")
    }

    #[test]
    fn a_stranger_at_the_address_that_is_connected_to_is_not_the_program_at_another() {
        for elsewhere in ["::1", "127.0.0.2"] {
            let Ok(own) = TcpListener::bind((elsewhere.parse::<std::net::IpAddr>().expect("an address"), 0)) else { continue };
            let port = own.local_addr().expect("an address").port();
            let Ok(_stranger) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
            let program = start(OwnedFd::from(own).into());
            assert!(matches!(at(port, program.pid()), Found::Stranger), "{elsewhere}");
            program.kill_all().expect("killed");
            program.wait(Duration::from_secs(10)).expect("it ends");
        }
    }

    #[test]
    fn clients_are_given_to_nobody_but_the_program() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (other, program) = (start(Stdio::null()), start(OwnedFd::from(listener.try_clone().expect("a copy")).into()));
        assert!(matches!(at(port, other.pid()), Found::Stranger));
        assert!(matches!(at(port, program.pid()), Found::Program));
        for process in [&other, &program] {
            process.kill_all().expect("killed");
            process.wait(Duration::from_secs(10)).expect("it ends");
        }
        drop(listener);
        assert!(matches!(at(port, program.pid()), Found::Nobody));
    }
}
