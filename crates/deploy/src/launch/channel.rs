//! What supervisor and launcher say to each other on the socket between them.
//!
//! Orders: four bytes of length (little-endian) that carry the listeners as SCM_RIGHTS, then the order as JSON.
//! Outcome: `X` just before exec, `F`, step and errno (four bytes, little-endian) when a step failed, then the end of the stream. So `X` and
//! the end is a program that runs; the end alone is a launcher that died.

use super::{MAX_LISTENERS, Order};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// What the launcher does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Orders,
    Descriptors,
    Session,
    Limits,
    User,
    Privileges,
    Directory,
    Exec,
}

const STEPS: [Step; 8] =
    [Step::Orders, Step::Descriptors, Step::Session, Step::Limits, Step::User, Step::Privileges, Step::Directory, Step::Exec];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Orders => "read the orders for",
            Step::Descriptors => "arrange the descriptors of",
            Step::Session => "make a session for",
            Step::Limits => "set the limits of",
            Step::User => "change to the user of",
            Step::Privileges => "give up new privileges for",
            Step::Directory => "enter directory",
            Step::Exec => "execute",
        })
    }
}

/// What came of the orders.
pub enum Outcome {
    Started,
    Failed { step: Step, source: io::Error },
    Died,
}

/// Longest order; the kernel takes about 2 MiB of arguments and environment.
const MAX_ORDER_LEN: usize = 8 << 20;

/// Sends the orders, listeners first.
pub fn send(mut channel: &UnixStream, order: &Order, listeners: &[BorrowedFd<'_>]) -> io::Result<()> {
    let order = serde_json::to_vec(order)?;
    let len = u32::try_from(order.len()).ok().filter(|&len| len as usize <= MAX_ORDER_LEN);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "arguments and environment are too long"))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !listeners.is_empty() && !control.push(SendAncillaryMessage::ScmRights(listeners)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many listeners"));
    }
    let sent = sendmsg(channel, &[IoSlice::new(&len.to_le_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    channel.write_all(&len.to_le_bytes()[sent..])?;
    channel.write_all(&order)
}

/// Reads the orders.
pub fn receive(mut channel: &UnixStream) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut len = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(channel, &mut [IoSliceMut::new(&mut len)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let listeners = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        })
        .collect();
    channel.read_exact(&mut len[got..])?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_ORDER_LEN {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut order = vec![0; len];
    channel.read_exact(&mut order)?;
    Ok((serde_json::from_slice(&order)?, listeners))
}

/// Tells that exec comes next.
pub fn tell_started(mut channel: &UnixStream) -> io::Result<()> {
    channel.write_all(b"X")
}

/// Tells which step failed.
pub fn tell_failed(mut channel: &UnixStream, step: Step, source: &io::Error) -> io::Result<()> {
    let errno = source.raw_os_error().unwrap_or(libc::EINVAL);
    let mut message = vec![b'F', step as u8];
    message.extend(errno.to_le_bytes());
    channel.write_all(&message)
}

/// Reads to the end what the launcher tells.
pub fn read_outcome(channel: &UnixStream) -> io::Result<Outcome> {
    let mut told = Vec::new();
    match channel.take(64).read_to_end(&mut told) {
        // A launcher that dies with orders unread resets the socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => drop(other?),
    }
    Ok(parse_outcome(&told))
}

fn parse_outcome(told: &[u8]) -> Outcome {
    match told {
        [b'X'] => Outcome::Started,
        [b'F', step, errno @ ..] | [b'X', b'F', step, errno @ ..] => match (STEPS.get(usize::from(*step)), errno.try_into()) {
            (Some(&step), Ok(errno)) => Outcome::Failed { step, source: io::Error::from_raw_os_error(i32::from_le_bytes(errno)) },
            _ => Outcome::Died,
        },
        _ => Outcome::Died,
    }
}
