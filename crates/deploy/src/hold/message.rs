//! What supervisor and holder say to each other on `run/hold.sock`: one packet a message (SOCK_SEQPACKET), in words, a held descriptor going along as SCM_RIGHTS.
//!
//! ```text
//! holder:      (hold NAME, with its descriptor)*, all         once, when the supervisor has connected
//! supervisor:  hold NAME, with its descriptor | release NAME | end
//! ```
//!
//! Nothing is answered. What the supervisor sent before it was killed lies in the socket, descriptors too, and the holder reads it before it sees the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::name::{NAME_LEN, Name};

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Hold what comes along, under this name.
    Hold(Name),
    /// Let go of it.
    Release(Name),
    /// That was all that is held.
    All,
    /// Nothing needs to be held any more.
    End,
}

/// A word and a name.
const PACKET_LEN: usize = NAME_LEN + 16;

/// Sends a message, with a descriptor for [`Message::Hold`].
///
/// # Errors
/// Nobody is there; with [`SendFlags::DONTWAIT`] also that the other side does not read.
pub fn send(socket: impl AsFd, message: &Message, descriptor: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
    let text = encode(message);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let along: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !along.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&along));
    }
    sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the next message; `None` when the other side is gone.
///
/// # Errors
/// What came is no message, or a descriptor is missing or too many (this process may have as many as it can); or nothing came where that is not waited for.
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
    let mut text = [0; PACKET_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let along: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => vec![],
        })
        .collect();
    if got.bytes == 0 && along.is_empty() {
        return Ok(None);
    }
    let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(wrong("a packet was cut, or its descriptor could not be taken"));
    }
    let message = decode(&text[..got.bytes]).ok_or_else(|| wrong("a packet is no message"))?;
    let mut along = along.into_iter();
    match (matches!(message, Message::Hold(_)), along.next(), along.next()) {
        (true, Some(descriptor), None) => Ok(Some((message, Some(descriptor)))),
        (false, None, None) => Ok(Some((message, None))),
        _ => Err(wrong("a packet has not the descriptors that belong to it")),
    }
}

fn encode(message: &Message) -> String {
    match message {
        Message::Hold(name) => format!("hold {name}"),
        Message::Release(name) => format!("release {name}"),
        Message::All => "all".into(),
        Message::End => "end".into(),
    }
}

fn decode(text: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(text).ok()?;
    match text.split_once(' ') {
        Some(("hold", name)) => name.parse().ok().map(Message::Hold),
        Some(("release", name)) => name.parse().ok().map(Message::Release),
        None if text == "all" => Some(Message::All),
        None if text == "end" => Some(Message::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    fn name() -> Name {
        "greeter/socket/7".parse().expect("a name")
    }

    #[test]
    fn messages_arrive_in_order_with_what_goes_along_also_after_the_sender_is_gone() {
        let (ours, theirs) = pair();
        let file = tempfile::tempfile().expect("a file");
        let inode = rustix::fs::fstat(&file).expect("stat").st_ino;
        send(&ours, &Message::Hold(name()), Some(file.as_fd()), SendFlags::empty()).expect("sent");
        for message in [Message::Release(name()), Message::All, Message::End] {
            send(&ours, &message, None, SendFlags::empty()).expect("sent");
        }
        drop((ours, file));
        let (message, along) = receive(&theirs, RecvFlags::DONTWAIT).expect("read").expect("a message");
        assert_eq!(message, Message::Hold(name()));
        assert_eq!(rustix::fs::fstat(along.expect("a descriptor")).expect("stat").st_ino, inode);
        for expected in [Message::Release(name()), Message::All, Message::End] {
            assert_eq!(receive(&theirs, RecvFlags::DONTWAIT).expect("read").map(|it| it.0), Some(expected));
        }
        assert!(receive(&theirs, RecvFlags::DONTWAIT).expect("read").is_none(), "nobody is there any more");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in ["", " ", "hold", "hold ", "hold a/socket/x", "holda/socket/1", "all ", "ALL", "end 1", "release"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(decode(&[0xff, 0xfe]), None);
        let (ours, theirs) = pair();
        let file = tempfile::tempfile().expect("a file");
        send(&ours, &Message::Hold(name()), None, SendFlags::empty()).expect("sent");
        send(&ours, &Message::All, Some(file.as_fd()), SendFlags::empty()).expect("sent");
        rustix::net::send(&ours, &[b'x'; 4096], SendFlags::empty()).expect("sent");
        for _ in 0..3 {
            assert_eq!(receive(&theirs, RecvFlags::DONTWAIT).expect_err("refused").kind(), io::ErrorKind::InvalidData);
        }
    }
}
