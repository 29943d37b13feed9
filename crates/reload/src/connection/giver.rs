//! The giver's end of an exchange: one connection after the other.

use super::Why;
use super::exchange::{self, GiverAction, GiverEvent, Giving};
use super::message::{MAX_PACKET, Message, Offer, VERSIONS, common_version};
use super::socket;
use crate::descriptor::poll_readable;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// One end of a pair, and what was said on it.
#[derive(Debug)]
pub(super) struct Giver {
    socket: OwnedFd,
    n_offered: u32,
    greeting: Greeting,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    Kept(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    ToCome,
    Done,
    /// Nothing more can be given here.
    Broken,
}

/// What was heard.
enum Heard {
    Message(Message),
    Nonsense,
    Deadline,
    End,
}

impl Giver {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, n_offered: 0, greeting: Greeting::ToCome }
    }

    /// Whether another offer makes sense.
    pub(super) fn is_usable(&self) -> bool {
        self.greeting != Greeting::Broken
    }

    /// Gives one connection. When this returns, nothing is open between the two ends, so that the end may be closed.
    pub(super) fn give(&mut self, mut offer: Offer, connection: BorrowedFd<'_>, deadline: Option<Instant>) -> (Offer, Outcome) {
        if let Err(why) = self.greet(deadline) {
            self.greeting = Greeting::Broken;
            return (offer, Outcome::Kept(why));
        }
        self.n_offered += 1;
        offer.number = self.n_offered;
        let number = offer.number;
        // The offer is moved in and out of the message rather than copied: it may be long.
        let message = Message::Offer(offer);
        let sent = socket::send(self.socket.as_fd(), &message.encode(), Some(connection));
        let Message::Offer(offer) = message else { unreachable!("made three lines above") };
        let outcome = match sent {
            Ok(()) => self.conclude(number, deadline),
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => Outcome::Kept(Why::TooLarge),
            Err(_) => {
                self.greeting = Greeting::Broken;
                Outcome::Kept(Why::Gone)
            }
        };
        (offer, outcome)
    }

    /// Says hello once, and waits until the other end has.
    fn greet(&mut self, deadline: Option<Instant>) -> Result<(), Why> {
        if self.greeting == Greeting::Done {
            return Ok(());
        }
        let hello = Message::Hello { lowest: *VERSIONS.start(), highest: *VERSIONS.end() };
        socket::send(self.socket.as_fd(), &hello.encode(), None).map_err(|_| Why::Gone)?;
        match self.hear(deadline) {
            Heard::Message(Message::Hello { lowest, highest }) => {
                common_version(&VERSIONS, lowest, highest).ok_or(Why::Gone)?;
                self.greeting = Greeting::Done;
                Ok(())
            }
            Heard::Deadline => Err(Why::Unanswered),
            Heard::Message(_) | Heard::Nonsense | Heard::End => Err(Why::Gone),
        }
    }

    /// Drives the machine of one connection to its end.
    fn conclude(&mut self, number: u32, deadline: Option<Instant>) -> Outcome {
        let (mut state, mut why) = (Giving::Offered, Why::Refused);
        loop {
            // Once it is committed nobody but the taker can say whose it is, so there is no end of patience.
            let patience = if state == Giving::Offered { deadline } else { None };
            let event = match self.hear(patience) {
                Heard::Message(Message::Accept(n)) if n == number => GiverEvent::Accepted,
                Heard::Message(Message::Refuse(n)) if n == number => GiverEvent::Refused,
                Heard::Message(Message::Taken(n)) if n == number => GiverEvent::Taken,
                Heard::End => {
                    (self.greeting, why) = (Greeting::Broken, Why::Gone);
                    GiverEvent::Ended
                }
                Heard::Deadline | Heard::Nonsense | Heard::Message(_) => {
                    // One that hangs, or says what it should not, gets nothing more.
                    (self.greeting, why) = (Greeting::Broken, Why::Unanswered);
                    GiverEvent::Unanswered
                }
            };
            let (next, actions) = exchange::give(state, event);
            state = next;
            for action in actions {
                match action {
                    // A taker that is gone hears neither; its end tells the rest.
                    GiverAction::SendCommit => drop(self.send(&Message::Commit(number))),
                    GiverAction::SendWithdraw => drop(self.send(&Message::Withdraw(number))),
                    GiverAction::Keep => return Outcome::Kept(why),
                    GiverAction::Release => return Outcome::Taken,
                }
            }
        }
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        socket::send(self.socket.as_fd(), &message.encode(), None)
    }

    /// Waits for one packet.
    fn hear(&self, deadline: Option<Instant>) -> Heard {
        let mut buffer = [0; 256];
        const { assert!(MAX_PACKET > 256, "takers send short packets only") };
        loop {
            match socket::receive(self.socket.as_fd(), &mut buffer) {
                Ok(packet) if packet.len == 0 => return Heard::End,
                Ok(packet) if packet.is_cut || packet.descriptor.is_some() => return Heard::Nonsense,
                Ok(packet) => return Message::parse(&buffer[..packet.len]).map_or(Heard::Nonsense, Heard::Message),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match poll_readable(&[self.socket.as_fd()], deadline) {
                    Ok(true) => {}
                    Ok(false) => return Heard::Deadline,
                    Err(_) => return Heard::End,
                },
                // Said once when the other end died with packets unread; what it sent before is still to be had.
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted) => {}
                Err(_) => return Heard::End,
            }
        }
    }
}
