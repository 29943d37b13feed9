//! Which loopback port a program gets.
//!
//! One that the kernel gives to no outgoing connection: else it could be taken between the choice and the moment at which the program binds it. Whoever takes it all the same
//! makes the program end with words of its own, and the version with it.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use super::FrontError;

/// Which ports the kernel gives to outgoing connections.
pub const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Below this are ports that people choose.
const LOWEST: u16 = 10_000;
/// Fewer are not worth a look.
const ENOUGH: u16 = 1000;
/// As many are tried.
const TRIES: u64 = 2000;

/// Returns as many free ports of 127.0.0.1, each different.
///
/// # Errors
/// There are not as many, or the kernel's own cannot be told.
pub fn choose(n_ports: usize) -> Result<Vec<u16>, FrontError> {
    if n_ports == 0 {
        return Ok(vec![]);
    }
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let text = fs::read_to_string(RANGE_FILE).map_err(FrontError::Range)?;
    let (low, high) = parse(&text).ok_or_else(unknown).map_err(FrontError::Range)?;
    // Drawn from the system's randomness by the standard library: several supervisors choose at the same time.
    let seed = RandomState::new().build_hasher().finish();
    first_free(n_ports, candidates(range(low, high), seed), is_free).ok_or(FrontError::NoPort)
}

fn parse(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Returns the first port and the number of those to choose from: below the kernel's own, else above them, else any.
fn range(low: u16, high: u16) -> (u16, u16) {
    let (below, above) = (low.saturating_sub(LOWEST), u16::MAX - high.max(LOWEST - 1));
    match (below >= ENOUGH, above >= ENOUGH) {
        (true, _) => (LOWEST, below),
        (false, true) => (high.max(LOWEST - 1) + 1, above),
        (false, false) => (LOWEST, u16::MAX - LOWEST),
    }
}

/// Returns ports of the range one after the other, from one that the seed decides.
fn candidates((first, n_ports): (u16, u16), seed: u64) -> impl Iterator<Item = u16> {
    let n_ports = u64::from(n_ports);
    let at = move |n: u64| first + u16::try_from((seed % n_ports + n) % n_ports).expect("less than a number of ports");
    (0..n_ports.min(TRIES)).map(at)
}

fn first_free(n_ports: usize, candidates: impl Iterator<Item = u16>, is_free: impl Fn(u16) -> bool) -> Option<Vec<u16>> {
    let free: Vec<u16> = candidates.filter(|port| is_free(*port)).take(n_ports).collect();
    (free.len() == n_ports).then_some(free)
}

/// Tells whether a program could bind it, on this address or on all.
fn is_free(port: u16) -> bool {
    let everywhere = TcpListener::bind((IpAddr::from(Ipv6Addr::UNSPECIFIED), port));
    // A kernel without IPv6 refuses it with other words.
    let no_one_at_ipv6 = everywhere.map_or_else(|error| error.kind() != io::ErrorKind::AddrInUse, |_| true);
    no_one_at_ipv6 && [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].iter().all(|ip| TcpListener::bind((*ip, port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_the_kernel_gives_to_nobody() {
        assert_eq!(parse("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!((parse("32768"), parse("a b"), parse("1 70000")), (None, None, None));
        assert_eq!(range(32_768, 60_999), (10_000, 22_768));
        assert_eq!(range(10_500, 60_999), (61_000, 4536));
        assert_eq!(range(1024, 65_535), (10_000, 55_535));
        assert_eq!(range(1024, 4096), (10_000, 55_536));
    }

    #[test]
    fn each_is_tried_once_from_anywhere() {
        let all: Vec<u16> = candidates((10_000, 3), 4).collect();
        assert_eq!(all, [10_001, 10_002, 10_000]);
        assert_eq!(candidates((10_000, 22_768), u64::MAX).count(), 2000);
        assert!(candidates((10_000, 55_536), 55_535).next() == Some(65_535));
    }

    #[test]
    fn taken_ones_are_left_out() {
        let even = |port: u16| port.is_multiple_of(2);
        assert_eq!(first_free(2, 1..10, even), Some(vec![2, 4]));
        assert_eq!(first_free(5, 1..10, even), None);
    }

    #[test]
    fn one_that_somebody_listens_at_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        assert!(!is_free(listener.local_addr().expect("an address").port()));
        // Nor at another address: a program that binds all of them would meet it.
        for other in ["127.0.0.2", "::1"] {
            let Ok(listener) = TcpListener::bind((other.parse::<IpAddr>().expect("an address"), 0)) else { continue };
            assert!(!is_free(listener.local_addr().expect("an address").port()), "{other}");
        }
        let chosen = choose(3).expect("there are some");
        assert!(chosen.len() == 3 && chosen[0] != chosen[1] && chosen[1] != chosen[2], "{chosen:?}");
    }
}
