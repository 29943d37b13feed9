//! Questions to a name server and its answers, as bytes (RFC 1035): what is needed to find the addresses of a name.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kinds of addresses that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    V4 = 1,
    V6 = 28,
}

/// What a name server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// These addresses, perhaps none.
    Addresses(Vec<IpAddr>),
    /// More than fits here: to be asked again over TCP.
    Truncated,
    /// There is no such name.
    NoName,
    /// It does not want to, or cannot.
    Failed,
}

/// How many records are looked at, and how many steps a name may take through a message.
const RECORDS: usize = 200;
const STEPS: usize = 64;
const ALIAS: u16 = 5;

/// Returns the bytes of a question.
pub(super) fn question(id: u16, name: &str, kind: Kind) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion is wished; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind as u8, 0, 1]);
    bytes
}

/// Reads an answer; `None` when it is none, or none to this question.
pub(super) fn answer(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Option<Said> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let flags = word(2)?;
    if word(0)? != id || flags & 0x8000 == 0 || word(4)? != 1 {
        return None;
    }
    let (asked, mut at) = read_name(bytes, 12)?;
    if asked != name || word(at)? != kind as u16 || word(at + 2)? != 1 {
        return None;
    }
    at += 4;
    match flags & 0xf {
        0 if flags & 0x0200 != 0 => return Some(Said::Truncated),
        0 => {}
        3 => return Some(Said::NoName),
        _ => return Some(Said::Failed),
    }
    // Aliases come before what they lead to.
    let (mut names, mut addresses) = (HashSet::from([name.to_owned()]), vec![]);
    for _ in 0..usize::from(word(6)?).min(RECORDS) {
        let (owner, next) = read_name(bytes, at)?;
        let (found, len) = (word(next)?, usize::from(word(next + 8)?));
        let value = bytes.get(next + 10..next + 10 + len)?;
        if names.contains(&owner) && word(next + 2)? == 1 {
            match (found, kind) {
                (ALIAS, _) => {
                    names.insert(read_name(bytes, next + 10)?.0);
                }
                (1, Kind::V4) => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
                (28, Kind::V6) => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
                _ => {}
            }
        }
        at = next + 10 + len;
    }
    Some(Said::Addresses(addresses))
}

/// Reads a name in lower case, and where it ends; references lead only backwards, so that they come to an end.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut name, mut at, mut end) = (String::new(), start, None);
    for _ in 0..STEPS {
        let len = usize::from(*bytes.get(at)?);
        match len {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = std::str::from_utf8(bytes.get(at + 1..at + 1 + len)?).ok()?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&label.to_ascii_lowercase());
                at += 1 + len;
            }
            0xc0.. => {
                let to = (len & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                end = end.or(Some(at + 2));
                at = Some(to).filter(|&to| to < at)?;
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns an answer as a name server gives it: an alias, and the address of that.
    pub(in crate::http) fn answer_to(question: &[u8], ip: Option<Ipv4Addr>, flags: u16) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
        let is_v4 = question[question.len() - 3] == 1;
        if let Some(ip) = ip.filter(|_| is_v4) {
            bytes[6..8].copy_from_slice(&2_u16.to_be_bytes());
            let alias_at = (bytes.len() + 12) as u16;
            bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 6, 1, b'X', 2, b'y', b'z', 0]);
            bytes.extend((0xc000 | alias_at).to_be_bytes());
            bytes.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            bytes.extend(ip.octets());
        }
        bytes
    }

    #[test]
    fn an_alias_leads_to_the_address() {
        let asked = question(7, "bucket.example.org", Kind::V4);
        let ip = Ipv4Addr::new(192, 0, 2, 7);
        let told = answer_to(&asked, Some(ip), 0);
        assert_eq!(answer(&told, 7, "bucket.example.org", Kind::V4), Some(Said::Addresses(vec![ip.into()])));
        assert_eq!(answer(&told, 8, "bucket.example.org", Kind::V4), None, "to another question");
        assert_eq!(answer(&told, 7, "other.example.org", Kind::V4), None, "of another name");
        assert_eq!(answer(&told, 7, "bucket.example.org", Kind::V6), None, "of another kind");
        for (flags, said) in [(0x0200, Said::Truncated), (3, Said::NoName), (2, Said::Failed)] {
            assert_eq!(answer(&answer_to(&asked, None, flags), 7, "bucket.example.org", Kind::V4), Some(said));
        }
    }

    #[test]
    fn an_address_of_somebody_else_is_not_taken() {
        let asked = question(7, "bucket.example.org", Kind::V4);
        let mut told = answer_to(&asked, Some(Ipv4Addr::new(192, 0, 2, 7)), 0);
        // The alias is now one of example.org, which nobody asked for.
        told[asked.len() + 1] = 12 + 7;
        assert_eq!(answer(&told, 7, "bucket.example.org", Kind::V4), Some(Said::Addresses(vec![])));
    }

    #[test]
    fn cut_and_changed_answers_never_panic() {
        let asked = question(7, "bucket.example.org", Kind::V4);
        let told = answer_to(&asked, Some(Ipv4Addr::new(192, 0, 2, 7)), 0);
        for at in 0..told.len() {
            let _ = answer(&told[..at], 7, "bucket.example.org", Kind::V4);
            for byte in [0, 1, 0x3f, 0x40, 0xc0, 0xff] {
                let mut changed = told.clone();
                changed[at] = byte;
                let _ = answer(&changed, 7, "bucket.example.org", Kind::V4);
            }
        }
    }
}
