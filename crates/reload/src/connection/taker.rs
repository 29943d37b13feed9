//! The taker's end of an exchange.

use super::Connection;
use super::exchange::{self, TakerAction, TakerEvent, Taking};
use super::message::{MAX_PACKET, Message, Offer, VERSIONS, common_version};
use super::socket::{self, Packet};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One end of a pair, and what was accepted on it.
#[derive(Debug)]
pub(super) struct Taker {
    socket: OwnedFd,
    is_greeted: bool,
    last_number: u32,
    accepted: BTreeMap<u32, Connection>,
}

/// Connections that may be accepted and not committed at a time; what is offered beyond is refused.
const MAX_ACCEPTED: usize = 64;
/// Packets that are read before others have their turn.
const TURN: usize = 64;

/// Why an exchange is over.
enum Over {
    /// The giver is gone: what was accepted is ours.
    Ended,
    /// It said what no giver says; it lives and keeps what it has.
    Nonsense,
}

impl Taker {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, is_greeted: false, last_number: 0, accepted: BTreeMap::new() }
    }

    /// Hears what the giver has said; returns whether more may come.
    pub(super) fn advance(&mut self, accepts: &mut impl FnMut(&Connection) -> bool, serve: &mut impl FnMut(Connection)) -> bool {
        if !self.is_greeted {
            let hello = Message::Hello { lowest: *VERSIONS.start(), highest: *VERSIONS.end() };
            // A giver that is gone is found out below.
            let _ = self.send(&hello);
            self.is_greeted = true;
        }
        let mut buffer = vec![0; MAX_PACKET];
        for _ in 0..TURN {
            let over = match self.receive(&mut buffer) {
                Ok(Some(packet)) if packet.len == 0 => Over::Ended,
                Ok(Some(packet)) if packet.is_cut => Over::Nonsense,
                Ok(Some(packet)) => {
                    match Message::parse(&buffer[..packet.len])
                        .map(|message| self.hear(message, packet.descriptor, accepts, serve))
                    {
                        Ok(Ok(())) => continue,
                        Ok(Err(over)) => over,
                        Err(_) => Over::Nonsense,
                    }
                }
                Ok(None) => return true,
                Err(_) => Over::Nonsense,
            };
            if matches!(over, Over::Ended) {
                let numbers: Vec<u32> = self.accepted.keys().copied().collect();
                numbers.into_iter().for_each(|number| self.step(number, TakerEvent::Ended, serve));
            }
            return false;
        }
        true
    }

    fn hear(
        &mut self,
        message: Message,
        descriptor: Option<OwnedFd>,
        accepts: &mut impl FnMut(&Connection) -> bool,
        serve: &mut impl FnMut(Connection),
    ) -> Result<(), Over> {
        match (message, descriptor) {
            (Message::Hello { lowest, highest }, None) => {
                common_version(&VERSIONS, lowest, highest).map(drop).ok_or(Over::Nonsense)
            }
            (Message::Offer(offer), Some(socket)) if offer.number > self.last_number => {
                self.last_number = offer.number;
                let Offer { number, tag, state, unread } = offer;
                self.weigh(number, Connection { socket, tag, state, unread }, accepts);
                Ok(())
            }
            (Message::Commit(number), None) => {
                self.step(number, TakerEvent::Committed, serve);
                Ok(())
            }
            (Message::Withdraw(number), None) => {
                self.step(number, TakerEvent::Withdrawn, serve);
                Ok(())
            }
            _ => Err(Over::Nonsense),
        }
    }

    /// Answers an offer.
    fn weigh(&mut self, number: u32, connection: Connection, accepts: &mut impl FnMut(&Connection) -> bool) {
        let accept = self.accepted.len() < MAX_ACCEPTED && accepts(&connection);
        let (_, actions) = exchange::take(Taking::Weighed, TakerEvent::Judged { accept });
        let mut connection = Some(connection);
        for action in actions {
            // A giver that is gone hears no answer; its end is heard in a moment.
            match action {
                TakerAction::SendAccept => {
                    let _ = self.send(&Message::Accept(number));
                    connection.take().into_iter().for_each(|accepted| drop(self.accepted.insert(number, accepted)));
                }
                TakerAction::SendRefuse => drop(self.send(&Message::Refuse(number))),
                TakerAction::Drop => drop(connection.take()),
                TakerAction::SendTaken | TakerAction::Serve => {}
            }
        }
    }

    /// Does what the machine says of a connection that was accepted; of others nothing is said any more.
    fn step(&mut self, number: u32, event: TakerEvent, serve: &mut impl FnMut(Connection)) {
        let Some(connection) = self.accepted.remove(&number) else { return };
        let mut connection = Some(connection);
        let (_, actions) = exchange::take(Taking::Accepted, event);
        for action in actions {
            match action {
                // First said, then done: who dies in between has not touched it.
                TakerAction::SendTaken => drop(self.send(&Message::Taken(number))),
                TakerAction::Serve => connection.take().into_iter().for_each(&mut *serve),
                TakerAction::Drop => drop(connection.take()),
                TakerAction::SendAccept | TakerAction::SendRefuse => {}
            }
        }
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        socket::send(self.socket.as_fd(), &message.encode(), None)
    }

    /// Takes one packet; nothing when none is there.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        loop {
            match socket::receive(self.socket.as_fd(), buffer) {
                Ok(packet) => return Ok(Some(packet)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Said once when the giver died with packets unread; what it sent before is still to be had.
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Taker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
