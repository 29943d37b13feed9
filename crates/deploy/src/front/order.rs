//! What a front is told: the words behind `df-node front`, which a person sees in the list of processes, and a variable, because everybody sees that list: who knows the
//! program's port before the program listens there could be there first.
//!
//! ```text
//! DF_FRONT_WAYS="DESCRIPTOR:SPEAKS:NAME:PORT ..." df-node front HAPROXY DRAIN_MS -- PROGRAM ARGUMENT ...
//! ```

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::configuration::{Speaks, Way};

/// The variable in which the ways stand; nobody that a front starts gets it.
pub const WAYS: &str = "DF_FRONT_WAYS";

/// What a front does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The proxy's program.
    pub proxy: PathBuf,
    /// The time that all of the version has to end.
    pub drain: Duration,
    /// What the proxy takes, at least one.
    pub ways: Vec<Way>,
    /// The program behind it.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Order {
    /// Returns the words, `front` first.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["front".to_owned(), self.proxy.display().to_string(), self.drain.as_millis().to_string()];
        words.extend(["--".to_owned(), self.program.display().to_string()]);
        words.extend(self.args.clone());
        words
    }

    /// Returns the value of [`WAYS`].
    pub fn variable(&self) -> String {
        self.ways.iter().map(written).collect::<Vec<_>>().join(" ")
    }

    /// Reads the words behind `front`, and the value of [`WAYS`].
    pub fn read(words: &[OsString], ways: &OsStr) -> Option<Self> {
        let text = |word: &OsString| word.to_str().map(str::to_owned);
        let middle = words.iter().position(|word| word == "--")?;
        let ([proxy, drain], [_, program, args @ ..]) = words.split_at(middle) else { return None };
        let ways: Vec<Way> = ways.to_str()?.split_ascii_whitespace().map(read_way).collect::<Option<_>>()?;
        let (proxy, program) = (PathBuf::from(proxy), PathBuf::from(program));
        (!ways.is_empty() && proxy.is_absolute() && program.is_absolute()).then_some(())?;
        let drain = Duration::from_millis(drain.to_str()?.parse().ok()?);
        Some(Self { proxy, drain, ways, program, args: args.iter().map(text).collect::<Option<_>>()? })
    }
}

fn written(way: &Way) -> String {
    format!("{}:{}:{}:{}", way.descriptor, way.speaks.word(), way.label, way.port)
}

fn read_way(word: &str) -> Option<Way> {
    let parts: Vec<&str> = word.split(':').collect();
    let [descriptor, speaks, label, port] = parts[..] else { return None };
    let speaks = [Speaks::Http, Speaks::Tcp].into_iter().find(|known| known.word() == speaks)?;
    Some(Way { label: label.parse().ok()?, speaks, descriptor: descriptor.parse().ok()?, port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ways: &str, line: &str) -> Option<Order> {
        Order::read(&line.split(' ').map(OsString::from).collect::<Vec<_>>(), OsStr::new(ways))
    }

    #[test]
    fn what_is_written_is_read_and_no_port_is_among_the_words() {
        let way =
            |label: &str, speaks, descriptor, port| Way { label: label.parse().expect("a label"), speaks, descriptor, port };
        let order = Order {
            proxy: "/usr/sbin/haproxy".into(),
            drain: Duration::from_millis(30_000),
            ways: vec![way("admin", Speaks::Tcp, 3, 20_001), way("http", Speaks::Http, 4, 20_002)],
            program: "/image/bin/server".into(),
            args: ["--", "", "a b", "--port"].map(str::to_owned).into(),
        };
        let words = order.words();
        assert_eq!(words[..5].join(" "), "front /usr/sbin/haproxy 30000 -- /image/bin/server");
        assert_eq!(order.variable(), "3:tcp:admin:20001 4:http:http:20002");
        let behind: Vec<OsString> = words[1..].iter().map(OsString::from).collect();
        assert_eq!(Order::read(&behind, OsStr::new(&order.variable())), Some(order));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(read("3:tcp:a:1", "/h 1 -- /p").is_some());
        for line in ["", "/h 1", "/h 1 --", "/h 1 3:tcp:a:1 -- /p", "h 1 -- /p", "/h 1 -- p", "/h x -- /p"] {
            assert_eq!(read("3:tcp:a:1", line), None, "{line}");
        }
        for ways in ["", "3:udp:a:1", "3:tcp:A:1", "3:tcp:a:65536", "3:tcp:a", "3:tcp:a:1 4"] {
            assert_eq!(read(ways, "/h 1 -- /p"), None, "{ways}");
        }
    }
}
