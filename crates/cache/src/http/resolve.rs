//! From a name to addresses, by our own code: a program that is linked statically must not load the host's name services.
//!
//! `/etc/hosts` first, then the name servers of `/etc/resolv.conf`, over UDP, and over TCP where an answer does not fit. Names are whole; nothing is appended.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::FetchError;
use super::dns::{self, Kind, Said};
use super::url::{Host, Url, may_be};

/// How much of the files is read.
const FILE_LEN: u64 = 1 << 20;
/// How many name servers are asked, how often, and how long each may take.
const SERVERS: usize = 3;
const ROUNDS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(3);
/// How many addresses of a name are tried.
const ADDRESSES: usize = 8;

/// Finds the addresses of names.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: Vec<(IpAddr, Vec<String>)>,
    servers: Vec<SocketAddr>,
    patience: Duration,
}

impl Resolver {
    /// Reads how this machine finds names; files that are not there say nothing.
    pub fn of_system() -> Self {
        let (hosts, conf) = (bounded(Path::new("/etc/hosts")), bounded(Path::new("/etc/resolv.conf")));
        Self { hosts: read_hosts(&hosts), servers: read_servers(&conf), patience: PATIENCE }
    }

    /// Returns where a URL leads; nowhere that is no place for an object.
    ///
    /// # Errors
    /// The name is not found, or leads to this machine though another was named, or to where a cloud keeps secrets.
    pub(super) fn find(&self, url: &Url) -> Result<Vec<SocketAddr>, FetchError> {
        let host = url.host();
        let found = match &url.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) if name == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Host::Name(name) => self.addresses(name).map_err(|why| FetchError::Name { host: host.clone(), why })?,
        };
        match found.iter().find(|&&ip| !may_be(ip, url.is_own())) {
            Some(&ip) => Err(FetchError::Place { host, ip }),
            None if found.is_empty() => Err(FetchError::Name { host, why: "it has no address".into() }),
            None => Ok(found.into_iter().take(ADDRESSES).map(|ip| SocketAddr::new(ip, url.port)).collect()),
        }
    }

    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let here: Vec<IpAddr> =
            self.hosts.iter().filter(|(_, names)| names.iter().any(|it| it == name)).map(|(ip, _)| *ip).collect();
        if !here.is_empty() {
            return Ok(here);
        }
        let v4 = self.ask(name, Kind::V4);
        let v6 = self.ask(name, Kind::V6);
        match (v4, v6) {
            (Err(why), Err(_)) => Err(why),
            (v4, v6) => Ok(v4.unwrap_or_default().into_iter().chain(v6.unwrap_or_default()).collect()),
        }
    }

    fn ask(&self, name: &str, kind: Kind) -> Result<Vec<IpAddr>, String> {
        let mut why = "this machine names no name server".to_owned();
        for server in (0..ROUNDS).flat_map(|_| &self.servers) {
            match self.ask_one(*server, name, kind) {
                Ok(Said::Addresses(addresses)) => return Ok(addresses),
                Ok(Said::NoName) => return Err("there is no such name".into()),
                Ok(Said::Failed | Said::Truncated) => why = format!("name server {} does not say it", server.ip()),
                Err(error) => why = format!("name server {}: {error}", server.ip()),
            }
        }
        Err(why)
    }

    fn ask_one(&self, server: SocketAddr, name: &str, kind: Kind) -> io::Result<Said> {
        let deadline = Instant::now() + self.patience;
        let mut id = [0; 2];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        let id = u16::from_ne_bytes(id);
        let question = dns::question(id, name, kind);
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // The kernel draws the port, and hears this server alone.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.send(&question)?;
        let mut buffer = [0; 4096];
        loop {
            socket.set_read_timeout(Some(left(deadline)?))?;
            let len = socket.recv(&mut buffer).map_err(in_words)?;
            // What is no answer to this question may be somebody's guess.
            match dns::answer(&buffer[..len], id, name, kind) {
                Some(Said::Truncated) => return over_tcp(server, &question, id, name, kind, deadline),
                Some(said) => return Ok(said),
                None => {}
            }
        }
    }
}

fn over_tcp(server: SocketAddr, question: &[u8], id: u16, name: &str, kind: Kind, deadline: Instant) -> io::Result<Said> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], question].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len).map_err(in_words)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    let mut at = 0;
    while at < bytes.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut bytes[at..]).map_err(in_words)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => at += len,
        }
    }
    dns::answer(&bytes, id, name, kind).ok_or_else(|| io::Error::other("its answer is none"))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::other("no answer in time")) } else { Ok(left) }
}

fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::other("no answer in time"),
        _ => error,
    }
}

fn bounded(path: &Path) -> String {
    let mut bytes = vec![];
    let _ = std::fs::File::open(path).and_then(|file| file.take(FILE_LEN).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_hosts(text: &str) -> Vec<(IpAddr, Vec<String>)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        Some((ip, words.map(str::to_ascii_lowercase).collect()))
    };
    lines.filter_map(read).collect()
}

fn read_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    // A zone (%eth0) belongs to link-local servers, which std does not parse; they are left out.
    let mut servers: Vec<SocketAddr> =
        lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok()).take(SERVERS).map(|ip| SocketAddr::new(ip, 53)).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::answer_to;
    use super::*;

    /// A name server that gives one address for every name, first with a guess of somebody else.
    fn server(ip: Option<Ipv4Addr>, is_truncated: bool) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let addr = socket.local_addr().expect("an address");
        let listener = std::net::TcpListener::bind(addr).expect("bound");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let asked = &buffer[..len];
                let mut guess = answer_to(asked, Some(Ipv4Addr::new(127, 0, 0, 1)), 0);
                guess[0] ^= 1;
                let _ = socket.send_to(&guess, from);
                let flags = if is_truncated {
                    0x0200
                } else if ip.is_none() {
                    3
                } else {
                    0
                };
                let _ = socket.send_to(&answer_to(asked, ip.filter(|_| !is_truncated), flags), from);
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut len = [0; 2];
                stream.read_exact(&mut len).expect("a length");
                let mut asked = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut asked).expect("a question");
                let told = answer_to(&asked, ip, 0);
                let _ = stream.write_all(&[&(told.len() as u16).to_be_bytes()[..], &told].concat());
            }
        });
        addr
    }

    fn resolver(servers: Vec<SocketAddr>) -> Resolver {
        let hosts = read_hosts(
            "# comment\n127.0.0.1 localhost\n192.0.2.1 Pinned.example other # not this\nnonsense\n127.0.0.1 sneaky.example\n",
        );
        Resolver { hosts, servers, patience: Duration::from_millis(500) }
    }

    fn find(resolver: &Resolver, url: &str) -> Result<Vec<SocketAddr>, FetchError> {
        resolver.find(&Url::parse(url).expect("a URL"))
    }

    #[test]
    fn names_are_found_in_the_file_and_by_asking() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let named = resolver(vec![server(Some(Ipv4Addr::new(192, 0, 2, 9)), false)]);
        assert_eq!(find(&named, "https://pinned.example/"), Ok(vec![address("192.0.2.1:443")]));
        assert_eq!(find(&named, "https://bucket.example:8443/"), Ok(vec![address("192.0.2.9:8443")]));
        let long = resolver(vec![server(Some(Ipv4Addr::new(192, 0, 2, 9)), true)]);
        assert_eq!(find(&long, "https://bucket.example/"), Ok(vec![address("192.0.2.9:443")]), "over TCP");
        let none = resolver(vec![server(None, false)]);
        assert!(matches!(find(&none, "https://bucket.example/"), Err(FetchError::Name { .. })));
    }

    #[test]
    fn a_name_that_leads_here_or_to_secrets_is_refused() {
        for ip in [[127, 0, 0, 1], [169, 254, 169, 254], [0, 0, 0, 0]] {
            let lying = resolver(vec![server(Some(ip.into()), false)]);
            assert!(matches!(find(&lying, "https://bucket.example/"), Err(FetchError::Place { .. })), "{ip:?}");
        }
        assert!(matches!(find(&resolver(vec![]), "https://sneaky.example/"), Err(FetchError::Place { .. })));
        assert!(find(&resolver(vec![]), "http://localhost:1/").is_ok_and(|found| found.iter().all(|it| it.ip().is_loopback())));
    }

    #[test]
    fn a_silent_server_is_passed_over_for_the_next() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let servers = vec![silent.local_addr().expect("an address"), server(Some(Ipv4Addr::new(192, 0, 2, 9)), false)];
        assert!(find(&resolver(servers), "https://bucket.example/").is_ok());
        assert!(matches!(find(&resolver(vec![]), "https://bucket.example/"), Err(FetchError::Name { .. })));
    }

    #[test]
    fn the_file_of_servers_is_read() {
        let text = "# x\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let ips: Vec<String> = read_servers(text).iter().map(|it| it.ip().to_string()).collect();
        assert_eq!(ips, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
        assert_eq!(read_servers("").len(), 1);
    }
}
