//! How the head changes: plan against a head, swap it, and find out what became of a swap whose reply was lost.
//!
//! Deciding is pure and here; [`super::swap`] acts.

use std::collections::BTreeSet;
use std::time::Duration;

use df_core::Timestamp;

use super::format::head::Head;
use super::format::log::Record;
use super::format::name::Txid;
use super::format::roots::Roots;

/// A commit that was tried: the head it would have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) sequence: u64,
    pub(crate) txid: Txid,
}

/// What a head says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It made a head that this one follows.
    Done,
    /// Another commit made the head of that sequence, or none did so far. A request may still be on its way: the next head must be asked again.
    NotDone,
    /// The head remembers no commit so old; the log record of this one does.
    Ask(Attempt),
}

/// Says what became of an attempt.
pub(crate) fn outcome(attempt: &Attempt, head: &Head) -> Outcome {
    if head.sequence < attempt.sequence {
        return Outcome::NotDone;
    }
    match (head.txid_of(attempt.sequence), head.txids.last()) {
        (Some(txid), _) if txid == attempt.txid => Outcome::Done,
        (Some(_), _) | (None, None) => Outcome::NotDone,
        (None, Some(&txid)) => Outcome::Ask(Attempt { sequence: head.sequence + 1 - head.txids.len() as u64, txid }),
    }
}

/// Returns how long to wait before the n-th try after the first, by a random number: twice as long each time, 50 ms to 3.2 s, and from half of that to all of it.
pub(crate) fn backoff(n: u32, random: u64) -> Duration {
    let most = 50_u64 << n.min(6);
    Duration::from_millis(most / 2 + random % (most / 2 + 1))
}

/// Returns the record of a commit that makes `head` with `new` roots of one with `old`.
pub(crate) fn record(who: &str, when: Timestamp, old: &Roots, new: &Roots, head: Head) -> Record {
    let added = new.images.keys().filter(|image| !old.images.contains_key(image)).copied().collect();
    let removed = old.images.keys().filter(|image| !new.images.contains_key(image)).copied().collect();
    let rows = |roots: &Roots| roots.releases.iter().map(|row| (row.stored.id, row.stored.sequence)).collect::<BTreeSet<_>>();
    let before = rows(old);
    // In the order in which they were put: whoever makes a lost table again has no other.
    let put = new.releases.iter().filter(|row| !before.contains(&(row.stored.id, row.stored.sequence))).map(|row| row.stored.id);
    let ids = |roots: &Roots| roots.releases.iter().map(|row| row.stored.id).collect::<BTreeSet<_>>();
    Record {
        when,
        who: who.to_owned(),
        images_added: added,
        images_removed: removed,
        releases_put: put.collect(),
        releases_removed: ids(old).difference(&ids(new)).copied().collect(),
        head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_done_when_the_head_of_its_sequence_is_its_own_however_many_followed() {
        let mine = [7; 16];
        let mut head = Head::first([0; 16]).next([1; 16]);
        let attempt = Attempt { sequence: 3, txid: mine };
        assert_eq!(outcome(&attempt, &head), Outcome::NotDone);
        assert_eq!(outcome(&attempt, &head.next([2; 16])), Outcome::NotDone);
        head = head.next(mine);
        for n in 0..63_u128 {
            assert_eq!(outcome(&attempt, &head), Outcome::Done, "{n}");
            head = head.next((1000 + n).to_be_bytes());
        }
        assert_eq!(outcome(&attempt, &head), Outcome::Done);
        head = head.next([9; 16]);
        let oldest = Attempt { sequence: 4, txid: 1000_u128.to_be_bytes() };
        assert_eq!(outcome(&attempt, &head), Outcome::Ask(oldest));
    }

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let waits: Vec<u64> = (0..9).map(|n| backoff(n, 0).as_millis() as u64).collect();
        assert_eq!(waits, [25, 50, 100, 200, 400, 800, 1600, 1600, 1600]);
        assert_eq!(backoff(100, u64::MAX), backoff(6, u64::MAX));
        assert_ne!(backoff(3, 1), backoff(3, 2));
    }
}
