//! Who may touch a connection, while it goes from one version to the next: pure machines without socket or clock.
//!
//! ```text
//! giver:   held --offer--> offered --accepted--> committed --taken--> gone
//!                             |                      |
//!                             | refused, unanswered, | the taker went away
//!                             | the taker went away  | without TAKEN
//!                             v                      v
//!                            kept                   kept
//!
//! taker:   offer --accept--> accepted --commit, or the giver went away--> taken
//!            |                   |
//!            | refuse            | withdrawn
//!            v                   v
//!         dropped             dropped
//! ```
//!
//! Four rules make it exactly one who touches the connection, whoever dies when:
//! 1. The giver does not touch it from the offer on, until it is kept again.
//! 2. The taker does not touch it before it has sent TAKEN, and sends that only once it was committed, or the giver is gone.
//! 3. The giver keeps an unanswered connection only after WITHDRAW is on its way, and never after COMMIT is.
//! 4. The giver ends the exchange only when nothing is open in it. So an end without WITHDRAW is a giver that died: what was accepted is taken.
//!
//! The socket between them keeps order, and keeps what a dead process sent: so a giver that finds the end of the stream and no TAKEN before it
//! knows that the taker never touched the connection.
//!
//! Modelled exhaustively in the tests: every order of events, with the death of either side between any two actions.

/// A connection as its giver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Giving {
    /// Offered, not answered.
    Offered,
    /// Accepted, and given away.
    Committed,
    /// Still ours.
    Kept,
    /// The taker's.
    Gone,
}

/// What the giver of a connection learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum GiverEvent {
    Accepted,
    Refused,
    Taken,
    /// Patience has ended.
    Unanswered,
    /// The taker is gone, and everything it sent was heard.
    Ended,
}

/// What the giver of a connection does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum GiverAction {
    SendCommit,
    SendWithdraw,
    /// Serve it on.
    Keep,
    /// Close our copy.
    Release,
}

/// A connection as its taker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Taking {
    /// An offer that was read.
    Weighed,
    /// Accepted, not committed.
    Accepted,
    /// Ours.
    Taken,
    /// The giver's.
    Dropped,
}

/// What the taker of a connection learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TakerEvent {
    /// The service wants it, or does not.
    Judged {
        accept: bool,
    },
    Committed,
    Withdrawn,
    /// The giver is gone, and everything it sent was heard.
    Ended,
}

/// What the taker of a connection does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TakerAction {
    SendAccept,
    SendRefuse,
    SendTaken,
    /// Serve it.
    Serve,
    /// Close our copy.
    Drop,
}

/// Returns what becomes of a connection at its giver; what means nothing in a state changes nothing.
///
/// Patience means nothing after COMMIT: the taker may be serving already. Only TAKEN or its end tells.
pub(crate) fn give(state: Giving, event: GiverEvent) -> (Giving, Vec<GiverAction>) {
    use GiverAction as A;
    use GiverEvent as E;
    match (state, event) {
        (Giving::Offered, E::Accepted) => (Giving::Committed, vec![A::SendCommit]),
        (Giving::Offered, E::Refused | E::Ended) => (Giving::Kept, vec![A::Keep]),
        (Giving::Offered, E::Unanswered) => (Giving::Kept, vec![A::SendWithdraw, A::Keep]),
        (Giving::Committed, E::Taken) => (Giving::Gone, vec![A::Release]),
        (Giving::Committed, E::Ended) => (Giving::Kept, vec![A::Keep]),
        (state, _) => (state, vec![]),
    }
}

/// Returns what becomes of a connection at its taker; what means nothing in a state changes nothing.
pub(crate) fn take(state: Taking, event: TakerEvent) -> (Taking, Vec<TakerAction>) {
    use TakerAction as A;
    use TakerEvent as E;
    match (state, event) {
        (Taking::Weighed, E::Judged { accept: true }) => (Taking::Accepted, vec![A::SendAccept]),
        (Taking::Weighed, E::Judged { accept: false }) => (Taking::Dropped, vec![A::SendRefuse, A::Drop]),
        (Taking::Accepted, E::Committed) => (Taking::Taken, vec![A::SendTaken, A::Serve]),
        (Taking::Accepted, E::Ended) => (Taking::Taken, vec![A::Serve]),
        (Taking::Accepted, E::Withdrawn) => (Taking::Dropped, vec![A::Drop]),
        (state, _) => (state, vec![]),
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
