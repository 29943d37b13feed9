//! What two versions of a service say to each other about live connections: the one home of the format.
//!
//! Every message is one packet of a `SOCK_SEQPACKET` unix socket. Integers are little-endian. The first byte says which message it is.
//! The page `docs/handoff-protocol.md` tells the same to those who write it in another language; a test keeps the two equal.
//!
//! # From the supervisor: an introduction
//! A service binds the address in `DF_HANDOFF` and listens. The supervisor connects, sends one packet that carries one descriptor, and
//! closes: the descriptor is one end of a socket pair, whose other end the other version gets.
//!
//! | offset | length | |
//! |---|---|---|
//! | 0 | 4 | `dfho` |
//! | 4 | 1 | 1 |
//! | 5 | 1 | `G`: you are to give what is open to the other end. `T`: you are to take what the other end offers |
//!
//! # Between the two: on the pair
//! | first byte | who | then |
//! |---|---|---|
//! | `H` hello | both, first | `dfho`, lowest version (2), highest version (2); whatever follows is for later versions |
//! | `O` offer | giver | number (4), length of tag (1), of state (4), of unread (4), the tag, the state, the unread; carries one descriptor |
//! | `A` accept | taker | number (4) |
//! | `R` refuse | taker | number (4) |
//! | `C` commit | giver | number (4) |
//! | `T` taken | taker | number (4) |
//! | `W` withdraw | giver | number (4) |
//!
//! Worked example: connection 1, tag `counter/1`, state `07 00 00 00 00 00 00 00`, the bytes `ne` were read and not used yet:
//!
//! ```text
//! 4f 01 00 00 00 09 08 00 00 00 02 00 00 00 63 6f 75 6e 74 65 72 2f 31 07 00 00 00 00 00 00 00 6e 65
//! ```
//!
//! Version 1 is the only one. A later one may add messages; both sides speak the highest that both know, so an old giver meets a new taker and
//! the other way round as long as their ranges overlap; where they don't, nothing is offered, and the old version keeps what it has.

use crate::protocol::excerpt;
use std::fmt;

/// The first bytes of introduction and hello.
pub const MAGIC: [u8; 4] = *b"dfho";
/// The versions that this library speaks.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
/// The longest tag, in bytes.
pub const MAX_TAG: usize = 64;
/// The longest state, in bytes.
pub const MAX_STATE: usize = 64 * 1024;
/// The most bytes that were read and not used yet.
pub const MAX_UNREAD: usize = 64 * 1024;
/// The longest packet.
pub const MAX_PACKET: usize = OFFER_HEAD + MAX_TAG + MAX_STATE + MAX_UNREAD;

const OFFER_HEAD: usize = 14;

/// What a supervisor wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Give what is open to the other end.
    Give,
    /// Take what the other end offers.
    Take,
}

/// One packet between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The versions that the sender speaks.
    Hello {
        /// The lowest.
        lowest: u16,
        /// The highest.
        highest: u16,
    },
    /// A connection, described; its descriptor comes with the packet.
    Offer(Offer),
    /// I will serve it once you commit.
    Accept(u32),
    /// I will not; it is yours.
    Refuse(u32),
    /// It is yours once you say so. I shall not touch it again unless you end without that.
    Commit(u32),
    /// From now on I serve it.
    Taken(u32),
    /// I take the offer back: do not touch it.
    Withdraw(u32),
}

/// What is said of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its number: each offer of an exchange has a larger one.
    pub number: u32,
    /// What it speaks, so that the taker knows how to read the state: 1 to [`MAX_TAG`] bytes of printable ASCII.
    pub tag: String,
    /// What the giver knows about it, in whatever form the tag stands for; at most [`MAX_STATE`] bytes.
    pub state: Vec<u8>,
    /// What the giver has read from it and not used; at most [`MAX_UNREAD`] bytes.
    pub unread: Vec<u8>,
}

/// Why a packet was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketError {
    /// It is no message that this version knows; the beginning of it, escaped.
    Unknown(String),
    /// It is shorter or longer than what it says it is.
    Length,
    /// A part of an offer is longer than allowed, or the tag holds what tags may not hold.
    Offer,
}

impl Role {
    /// Returns the introduction for this role.
    pub fn encode(self) -> [u8; 6] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, 1, if self == Self::Give { b'G' } else { b'T' }]
    }

    /// Parses an introduction.
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        match packet.strip_prefix(&MAGIC) {
            Some([1, b'G']) => Ok(Self::Give),
            Some([1, b'T']) => Ok(Self::Take),
            _ => Err(PacketError::Unknown(excerpt(packet))),
        }
    }
}

impl Message {
    /// Returns the packet. An offer beyond its bounds would be refused at the other end: check it first.
    pub fn encode(&self) -> Vec<u8> {
        let numbered = |kind: u8, number: &u32| [&[kind], number.to_le_bytes().as_slice()].concat();
        match self {
            Self::Hello { lowest, highest } => [b"H", MAGIC.as_slice(), &lowest.to_le_bytes(), &highest.to_le_bytes()].concat(),
            Self::Offer(offer) => offer.encode(),
            Self::Accept(number) => numbered(b'A', number),
            Self::Refuse(number) => numbered(b'R', number),
            Self::Commit(number) => numbered(b'C', number),
            Self::Taken(number) => numbered(b'T', number),
            Self::Withdraw(number) => numbered(b'W', number),
        }
    }

    /// Parses a packet.
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        let (kind, rest) = packet.split_first().ok_or(PacketError::Length)?;
        let number = || rest.try_into().map(u32::from_le_bytes).map_err(|_| PacketError::Length);
        match kind {
            b'H' => parse_hello(rest),
            b'O' => Offer::parse(rest).map(Self::Offer),
            b'A' => number().map(Self::Accept),
            b'R' => number().map(Self::Refuse),
            b'C' => number().map(Self::Commit),
            b'T' => number().map(Self::Taken),
            b'W' => number().map(Self::Withdraw),
            _ => Err(PacketError::Unknown(excerpt(packet))),
        }
    }
}

impl Offer {
    /// Whether tag, state and unread bytes are within their bounds.
    pub fn is_within_bounds(&self) -> bool {
        let is_printable = self.tag.bytes().all(|b| b.is_ascii_graphic());
        let tag_fits = (1..=MAX_TAG).contains(&self.tag.len()) && is_printable;
        tag_fits && self.state.len() <= MAX_STATE && self.unread.len() <= MAX_UNREAD
    }

    fn encode(&self) -> Vec<u8> {
        let len = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes();
        let tag_len = u8::try_from(self.tag.len()).unwrap_or(u8::MAX);
        let head = [b"O", self.number.to_le_bytes().as_slice(), &[tag_len], &len(&self.state), &len(&self.unread)].concat();
        [head.as_slice(), self.tag.as_bytes(), &self.state, &self.unread].concat()
    }

    /// Parses what follows the first byte.
    fn parse(rest: &[u8]) -> Result<Self, PacketError> {
        let (number, rest) = rest.split_first_chunk().ok_or(PacketError::Length)?;
        let (&[tag_len], rest) = rest.split_first_chunk().ok_or(PacketError::Length)?;
        let (state_len, rest) = rest.split_first_chunk().ok_or(PacketError::Length)?;
        let (unread_len, rest) = rest.split_first_chunk().ok_or(PacketError::Length)?;
        let len = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) as usize;
        let (tag_len, state_len, unread_len) = (usize::from(tag_len), len(state_len), len(unread_len));
        if state_len > MAX_STATE || unread_len > MAX_UNREAD {
            return Err(PacketError::Offer);
        }
        if rest.len() != tag_len + state_len + unread_len {
            return Err(PacketError::Length);
        }
        let (tag, rest) = rest.split_at(tag_len);
        let (state, unread) = rest.split_at(state_len);
        let tag = String::from_utf8(tag.to_vec()).map_err(|_| PacketError::Offer)?;
        let offer = Self { number: u32::from_le_bytes(*number), tag, state: state.to_vec(), unread: unread.to_vec() };
        if offer.is_within_bounds() { Ok(offer) } else { Err(PacketError::Offer) }
    }
}

/// Returns the version that two sides speak: the highest that both know.
pub fn common_version(ours: &std::ops::RangeInclusive<u16>, lowest: u16, highest: u16) -> Option<u16> {
    let version = *ours.end().min(&highest);
    (lowest <= highest && version >= lowest && ours.contains(&version)).then_some(version)
}

fn parse_hello(rest: &[u8]) -> Result<Message, PacketError> {
    let unknown = || PacketError::Unknown(excerpt(rest));
    let rest = rest.strip_prefix(&MAGIC).ok_or_else(unknown)?;
    let (lowest, rest) = rest.split_first_chunk().ok_or(PacketError::Length)?;
    let (highest, _for_later_versions) = rest.split_first_chunk().ok_or(PacketError::Length)?;
    Ok(Message::Hello { lowest: u16::from_le_bytes(*lowest), highest: u16::from_le_bytes(*highest) })
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(found) => write!(f, "packet is no message: \"{found}\""),
            Self::Length => write!(f, "packet does not have the length of what it says it is"),
            Self::Offer => write!(f, "offer is beyond its bounds"),
        }
    }
}

impl std::error::Error for PacketError {}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
