//! What haproxy is told.
//!
//! Written for haproxy 2.6 and newer ([`super::OLDEST`]); an older one says in the version's log what it does not know, and ends. Nothing in it is taken from a person as it is: names are checked ones, the rest are numbers.

use std::fmt::Write as _;
use std::time::Duration;

use df_core::name::Label;

/// No more connections than this are taken at once, however many descriptors there may be: haproxy makes room for all of them when it starts. Others wait in the queue.
const MOST_CONNECTIONS: u64 = 10_000;
/// Descriptors that are not of connections.
const OTHER_DESCRIPTORS: u64 = 100;
/// More threads than this are not worth their memory beside a program that is behind a proxy.
const MOST_THREADS: usize = 4;

/// Where connections come in, and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The port's name.
    pub label: Label,
    /// What is spoken there.
    pub speaks: Speaks,
    /// The number of the listening descriptor.
    pub descriptor: usize,
    /// The program's port on 127.0.0.1.
    pub port: u16,
}

/// What is spoken at a port, as far as the proxy has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Requests and answers, each of which the proxy understands.
    Http,
    /// Anything.
    Tcp,
}

impl Speaks {
    /// Returns haproxy's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// What a proxy may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Connections at once.
    pub n_connections: u64,
    /// Threads.
    pub n_threads: usize,
}

impl Room {
    /// Decides it, from the limits of the version (descriptors, whether its address space is limited) and the machine's processors.
    pub fn of(nofile: Option<u64>, is_memory_limited: bool, n_processors: usize) -> Self {
        let for_connections = nofile.map_or(u64::MAX, |nofile| nofile.saturating_sub(OTHER_DESCRIPTORS)) / 2;
        // Each thread reserves much more address space than it uses.
        let n_threads = if is_memory_limited { 1 } else { n_processors.clamp(1, MOST_THREADS) };
        Self { n_connections: for_connections.clamp(10, MOST_CONNECTIONS), n_threads }
    }
}

/// Returns the whole configuration of a proxy that has this time for what is open when it is told to stop.
pub fn text(ways: &[Way], room: Room, stop: Duration) -> String {
    let mut text = format!(
        "global\n    maxconn {}\n    nbthread {}\n    hard-stop-after {}ms\n{DEFAULTS}",
        room.n_connections,
        room.n_threads,
        stop.as_millis().max(1),
    );
    for Way { label, speaks, descriptor, port } in ways {
        // A name of its own before the label: whatever a port is called, it is none of haproxy's words.
        let (more, mode) = (if *speaks == Speaks::Http { HTTP } else { "" }, speaks.word());
        let way = format!(
            "\nlisten port-{label}\n    mode {mode}\n{more}    bind fd@{descriptor}\n    server program 127.0.0.1:{port}\n"
        );
        text.write_str(&way).expect("a string takes all");
    }
    text
}

/// For every port. A program whose queue is short refuses nobody for a while, it lets them wait, so a connection to it has its time. Who is silent is not cut off: whether
/// that is long is the program's to say. Peers that vanished are found by the kernel.
const DEFAULTS: &str = "
defaults
    timeout connect 30s
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    option clitcpka
    option srvtcpka
";

/// For ports where HTTP is spoken. Connections to the program carry one request each, so none is sent into one that the program just closes. When the proxy is told to
/// stop, a connection that a client keeps is closed by the next answer on it, which says so, and not between two.
const HTTP: &str = "    timeout http-request 1m
    timeout http-keep-alive 10m
    option http-ignore-probes
    option http-server-close
    option idle-close-on-response
    option forwardfor
";

#[cfg(test)]
mod tests {
    use super::*;

    fn way(label: &str, speaks: Speaks, descriptor: usize, port: u16) -> Way {
        Way { label: label.parse().expect("a label"), speaks, descriptor, port }
    }

    #[test]
    fn golden_text() {
        let ways = [way("admin", Speaks::Tcp, 3, 20_123), way("http", Speaks::Http, 4, 20_124)];
        let room = Room { n_connections: 1000, n_threads: 2 };
        let expected = include_str!("testdata/haproxy.cfg");
        assert_eq!(text(&ways, room, Duration::from_millis(22_500)), expected);
        assert!(text(&ways, room, Duration::ZERO).contains("hard-stop-after 1ms\n"), "0 would be none");
    }

    #[test]
    fn haproxy_understands_it() {
        let haproxy = super::super::find().expect("the tests need haproxy, as ci/test says");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        // Standard input is the one descriptor that is easily given to a child: a listening socket there.
        let ways = [way("a-b_1", Speaks::Http, 0, 20_123)];
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let room = Room::of(Some(1024), false, 2);
        std::io::Write::write_all(&mut file, text(&ways, room, Duration::from_secs(30)).as_bytes()).expect("written");
        let mut command = std::process::Command::new(haproxy);
        command.args(["-c", "-f"]).arg(file.path()).stdin(std::os::fd::OwnedFd::from(socket));
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("WARNING"), "{said}");
    }

    #[test]
    fn a_proxy_takes_what_its_limits_allow() {
        assert_eq!(Room::of(Some(1024), false, 8), Room { n_connections: 462, n_threads: 4 });
        assert_eq!(Room::of(Some(1 << 20), true, 8), Room { n_connections: 10_000, n_threads: 1 });
        assert_eq!(Room::of(None, false, 1), Room { n_connections: 10_000, n_threads: 1 });
        assert_eq!(Room::of(Some(16), false, 0), Room { n_connections: 10, n_threads: 1 });
    }
}
