//! The kernel's tables of sockets that listen or take datagrams, and of connections.

use super::ClaimError;
use df_core::Endpoint;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A row of the kernel's table: a socket that listens, or one end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Whose it is.
    pub uid: u32,
    /// Its number.
    pub inode: u64,
}

/// Reads the sockets of an address's family that listen or take datagrams, and for IPv4 those of IPv6 too, which may hold a mapped address.
pub fn taken(at: &Endpoint, address: &SocketAddr) -> Result<Vec<Listening>, ClaimError> {
    let (table, v6) = match at {
        Endpoint::Udp(_) => (DATAGRAMS, Path::new("/proc/self/net/udp6")),
        _ => (LISTENING, Path::new("/proc/self/net/tcp6")),
    };
    let mut all = read_table(v6, table)?;
    if address.is_ipv4() {
        let v4 = Path::new(if table == DATAGRAMS { "/proc/self/net/udp" } else { "/proc/self/net/tcp" });
        all.extend(read_table(v4, table)?);
    }
    Ok(all)
}

/// Reads the connections to an address's port, of its family, and for IPv4 those of IPv6 too, which may be mapped: those that were accepted and that the client has not closed.
pub fn connections(address: &SocketAddr) -> Result<Vec<Listening>, ClaimError> {
    let tables = [(true, "/proc/self/net/tcp6"), (address.is_ipv4(), "/proc/self/net/tcp")];
    let mut found = Vec::new();
    for path in tables.into_iter().filter_map(|(is_wanted, path)| is_wanted.then_some(Path::new(path))) {
        let Some(file) = open(path)? else { continue };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|source| ClaimError::ReadTable { path, source })?;
            // What nobody has accepted yet has no number.
            let is_wanted =
                |(state, row): &(&str, Listening)| *state == OPEN && row.inode != 0 && row.address.port() == address.port();
            found.extend(parse_row(&line).filter(is_wanted).map(|(_, row)| row));
        }
    }
    Ok(found)
}

/// The state of a socket that listens, as the kernel's tables have it.
const LISTENING: &str = "0A";
/// The state of a connection whose ends are both open.
const OPEN: &str = "01";
/// The state of a socket that takes datagrams from everybody.
const DATAGRAMS: &str = "07";

fn read_table(path: &'static Path, state: &str) -> Result<Vec<Listening>, ClaimError> {
    let Some(file) = open(path)? else { return Ok(Vec::new()) };
    parse_table(BufReader::new(file), state).map_err(|source| ClaimError::ReadTable { path, source })
}

fn open(path: &'static Path) -> Result<Option<fs::File>, ClaimError> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None), // a kernel without IPv6
        Err(source) => Err(ClaimError::ReadTable { path, source }),
    }
}

/// Parses the table; for listeners up to the first socket that does not listen: the kernel writes the listening ones first (`tcp_get_idx` in
/// net/ipv4/tcp_ipv4.c), and on a busy machine the rest is long.
fn parse_table(table: impl BufRead, state: &str) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        match parse_row(&line?) {
            Some((found_state, row)) if found_state == state => found.push(row),
            _ if state == LISTENING => break,
            _ => {}
        }
    }
    Ok(found)
}

/// Parses a row, and the state that the socket is in.
fn parse_row(line: &str) -> Option<(&str, Listening)> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some((state, Listening { address, uid, inode }))
}

/// Parses words of 32 bits, each printed as this machine's integer of bytes in network order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => word(0).map(|octets| Ipv4Addr::from(octets).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().expect("four words of four bytes");
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_families_are_understood() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                  0: 01004D7F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n   \
                  1: 0100007F:1F90 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n   \
                  2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        let rows = parse_table(v4.as_bytes(), LISTENING).unwrap();
        assert_eq!(rows, [Listening { address: "127.77.0.1:8080".parse().unwrap(), uid: 1000, inode: 4711 }]);
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 7 0 9 1 0\n";
        let row = Listening { address: "[::1]:8080".parse().unwrap(), uid: 7, inode: 9 };
        assert_eq!(parse_row(v6), Some((LISTENING, row)));
        for bad in ["", "x", "0: 0100007F 0 0A", "0: zz00007F:1F90 0 0A 0 0 0 0 0 1", "0: 0100007é:1F90 0 0A 0 0 0 0 0 1"] {
            assert_eq!(parse_row(bad), None, "{bad}");
        }
    }
}
