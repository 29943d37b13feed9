//! A way for a command probe to reach the generation on trial.
//!
//! The filter lets only endpoints of the prober reach the trial, and a command makes its connections itself. So it connects to this relay,
//! a loopback listener on a port of its own that lives as long as the probe, and the relay connects to the trial for it. Another local process that
//! guesses the port within this time can do so too; clients of the application can't.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections relayed at once; one more is closed at once.
const MAX_CONNECTIONS: usize = 32;

/// How long reaching the trial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A relay that runs until it is dropped, which closes its connections too.
pub struct Relay {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    dial: Box<dyn Fn(Duration) -> io::Result<TcpStream> + Send + Sync>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    closing: bool,
    next: u64,
    /// Both sides of each; empty while the trial is being dialled.
    open: BTreeMap<u64, Vec<TcpStream>>,
}

impl Relay {
    /// Starts to relay to whomever `dial` reaches.
    pub fn open(dial: impl Fn(Duration) -> io::Result<TcpStream> + Send + Sync + 'static) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { dial: Box::new(dial), connections: Mutex::default() });
        let accepting = thread::Builder::new().name("relay".to_owned()).spawn({
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            move || accept(&listener, &shared)
        })?;
        Ok(Relay { address, listener, shared, accepting: Some(accepting) })
    }

    /// Returns where the command connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.closing = true;
        for stream in connections.open.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both); // fails when the peer has gone before
        }
        drop(connections);
        // Wakes `accept`, and whoever waits in the queue is reset.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Read);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("nobody panics with this lock")
    }

    /// Takes a place; none when all are taken or the relay closes.
    fn enter(&self) -> Option<u64> {
        let mut connections = self.lock();
        let free = !connections.closing && connections.open.len() < MAX_CONNECTIONS;
        free.then(|| {
            connections.next += 1;
            let id = connections.next;
            connections.open.insert(id, Vec::new());
            id
        })
    }

    /// Lets the relay close these streams; false when it is closing already.
    fn register(&self, id: u64, sides: [TcpStream; 2]) -> bool {
        let mut connections = self.lock();
        let open = !connections.closing;
        if open {
            connections.open.insert(id, sides.into());
        }
        open
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.lock().closing {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(_) if shared.lock().closing => return,
            Err(_) => {
                thread::sleep(Duration::from_millis(10)); // no descriptor is free, say: it passes
                continue;
            }
        };
        let Some(id) = shared.enter() else { continue };
        let worker = Arc::clone(shared);
        let started = thread::Builder::new().name("relay connection".to_owned()).spawn(move || {
            let _ = relay(client, &worker, id); // a connection that fails is closed, which is all its client can be told
            worker.lock().open.remove(&id);
        });
        if started.is_err() {
            shared.lock().open.remove(&id);
        }
    }
}

fn relay(client: TcpStream, shared: &Shared, id: u64) -> io::Result<()> {
    let trial = (shared.dial)(DIAL_TIMEOUT)?;
    if !shared.register(id, [client.try_clone()?, trial.try_clone()?]) {
        return Ok(());
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(&client, &trial));
        copy(&trial, &client);
    });
    Ok(())
}

/// Copies one direction to its end and passes the end on; an error ends both directions.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::tests::{launcher, script};
    use crate::listeners::Group;
    use crate::probe::command;
    use std::io::{BufRead, BufReader, Read, Write};

    const SOON: Duration = Duration::from_secs(20);

    /// A group with generation 1 serving and 2 on trial, whose programs answer with their number.
    fn group() -> Arc<Group> {
        let group = Arc::new(Group::new("127.0.0.1:0".parse::<SocketAddr>().unwrap()));
        for generation in [1, 2] {
            let listener = TcpListener::from(group.add(generation).unwrap());
            // Ends when its listener is closed by `remove`.
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let mut asked = String::new();
                    let _ = BufReader::new(&stream).read_line(&mut asked);
                    let _ = (&stream).write_all(format!("{generation}:{asked}").as_bytes());
                }
            });
        }
        group.steer(1, Some(2)).unwrap();
        group
    }

    fn close(group: &Group) {
        group.remove(2).unwrap();
        group.remove(1).unwrap();
    }

    fn ask(mut stream: TcpStream, question: &str) -> String {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn relay_to(group: &Arc<Group>) -> Relay {
        let group = Arc::clone(group);
        Relay::open(move |timeout| group.dial_trial(timeout)).unwrap()
    }

    #[test]
    fn the_command_reaches_the_trial_while_clients_reach_the_serving() {
        let group = group();
        let relay = relay_to(&group);
        for i in 0..20 {
            let question = format!("question {i}");
            assert_eq!(ask(TcpStream::connect(relay.address()).unwrap(), &question), format!("2:{question}"));
            assert_eq!(ask(group.dial_serving(SOON).unwrap(), &question), format!("1:{question}"));
        }
        drop(relay);
        close(&group);
    }

    #[test]
    fn a_command_probe_uses_it() {
        let group = group();
        let relay = relay_to(&group);
        let mut spec = script("exec 3<>/dev/tcp/${DF_PROBE_HTTP%:*}/${DF_PROBE_HTTP#*:}; echo hello >&3; cat <&3");
        spec.program = "/bin/bash".into();
        spec.env.insert("DF_PROBE_HTTP".into(), relay.address().to_string());
        let outcome = command("smoke", &spec, &launcher(), SOON);
        assert_eq!((outcome.ok, outcome.detail.as_str()), (true, "2:hello"));
        drop(relay);
        close(&group);
    }

    #[test]
    fn dropping_it_closes_everything() {
        let group = group();
        let relay = relay_to(&group);
        let address = relay.address();
        let mut idle = TcpStream::connect(address).unwrap();
        idle.set_read_timeout(Some(SOON)).unwrap();
        idle.write_all(b"x").unwrap();
        drop(relay);
        assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        close(&group);
    }

    #[test]
    fn connections_are_bounded() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = silent.local_addr().unwrap();
        let relay = Relay::open(move |timeout| TcpStream::connect_timeout(&target, timeout)).unwrap();
        let _held: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(relay.address()).unwrap()).collect();
        let mut excess = TcpStream::connect(relay.address()).unwrap();
        excess.set_read_timeout(Some(SOON)).unwrap();
        assert!(matches!(excess.read(&mut [0]), Ok(0)));
    }

    #[test]
    fn a_trial_that_can_not_be_reached_closes_the_connection() {
        let relay = Relay::open(|_| Err(io::ErrorKind::ConnectionRefused.into())).unwrap();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0)));
    }
}
