//! The protocol of the bucket, every interleaving of it at small scope: writers, an operator that drops a root, collectors that condemn, delete, fence, sweep orphans
//! and repack, and a reader; each may die between any two of its requests, and a reply may be lost after its request was done.
//!
//! The invariant: what a root of the head names lies in a live pack that exists, in every state; and a reader who misses a pack finds a newer head. Each rule of the
//! protocol can be switched off: then the search finds the way to lose a blob. It models requests, not bytes; what the code does with one head is tested beside it.

use std::collections::{HashSet, VecDeque};

/// The rules, and what leaves one out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// All rules hold.
    None,
    /// A pack is named by its content, so that its name comes back.
    ReusedNames,
    /// Whoever lost the swap tries again without looking at what it refers to.
    BlindRetry,
    /// Orphans are swept without a fence.
    NoFence,
    /// A 412 after a lost reply is taken for a lost race, and the pack removed.
    CleansUpAfterItself,
    /// Packs are deleted when they are condemned, before the swap.
    DeletesBeforeTheSwap,
    /// A condemned pack is taken back when somebody wants it.
    Revives,
    /// The head moves to a repacked pack that is uploaded afterwards.
    SwapsBeforeTheUpload,
    /// A reader takes a missing pack for a lost one, with no second look at the head.
    ReadsTheHeadOnce,
}

/// How much is tried.
#[derive(Debug, Clone, Copy)]
struct Scope {
    writers: usize,
    collectors: usize,
    rounds: u8,
}

/// A set of packs, by session.
type Packs = u32;

/// The one object that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Head {
    sequence: u8,
    /// Bit 0 needs blobs B and C, the others B.
    roots: u8,
    live: Packs,
    condemned: Packs,
    fence: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Start { session: u8 },
    Upload { seen: u8, pack: u8, session: u8 },
    Swap { seen: u8, pack: u8, session: u8 },
    NoReply { pack: u8, session: u8 },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Collector {
    Start,
    Repack { seen: u8, dead: Packs, old: u8, new: u8 },
    Condemn { seen: u8, dead: Packs, new: Option<u8> },
    UploadLate { new: u8, dead: Packs },
    Delete { all: Packs, left: Packs },
    Fence,
    List { fence: u8 },
    Sweep { left: Packs },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reader {
    Start,
    Read { seen: u8, pack: u8 },
    Missed { seen: u8 },
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    head: Head,
    objects: Packs,
    writers: Vec<Writer>,
    collectors: Vec<(Collector, u8)>,
    reader: Reader,
    is_dropped: bool,
    next: u8,
}

/// The session whose pack is there at the beginning, with blobs B and C; all others hold B.
const FIRST: u8 = 0;
/// Sessions that are ever begun: what bounds the search.
const SESSIONS: u8 = 8;

const fn bit(pack: u8) -> Packs {
    1 << pack
}

const fn holds(packs: Packs, pack: u8) -> bool {
    packs & bit(pack) != 0
}

impl State {
    fn first(scope: Scope) -> Self {
        let head = Head { sequence: 0, roots: 1, live: bit(FIRST), condemned: 0, fence: 0 };
        Self {
            head,
            objects: bit(FIRST),
            writers: vec![Writer::Start { session: 0 }; scope.writers],
            collectors: vec![(Collector::Start, 0); scope.collectors],
            reader: Reader::Start,
            is_dropped: false,
            next: 1,
        }
    }

    /// Whether everything that a root names is there.
    fn is_whole(&self) -> bool {
        let there = self.head.live & self.objects;
        let needs_c = self.head.roots & 1 != 0;
        (self.head.roots == 0 || there != 0) && (!needs_c || holds(there, FIRST)) && self.reader != Reader::Lost
    }

    /// The packs that no root needs, and the one that is worth repacking: its other blob is needed no more.
    fn mark(&self) -> (Packs, Option<u8>) {
        let live = self.head.live;
        let others = live & !bit(FIRST);
        match (self.head.roots, holds(live, FIRST)) {
            (0, _) => (live, None),
            // C is needed: the first pack holds B as well.
            (roots, true) if roots & 1 != 0 => (others, None),
            (_, true) if others != 0 => (bit(FIRST), None),
            (_, true) => (bit(FIRST), Some(FIRST)),
            // B lies in several packs: one stays.
            (_, false) => (others & others.wrapping_sub(1), None),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }
}

/// All states that one step leads to.
fn steps(state: &State, scope: Scope, mutant: Mutant) -> Vec<State> {
    let mut out = vec![];
    for i in 0..state.writers.len() {
        writer(state, i, mutant, &mut out);
    }
    for i in 0..state.collectors.len() {
        collector(state, i, scope, mutant, &mut out);
    }
    reader(state, mutant, &mut out);
    if !state.is_dropped {
        out.push(state.with(|s| {
            s.is_dropped = true;
            s.head.roots &= !1;
            s.head.sequence += 1;
        }));
    }
    out
}

fn writer(state: &State, i: usize, mutant: Mutant, out: &mut Vec<State>) {
    let head = state.head;
    let mut go = |to: Writer| out.push(state.with(|s| s.writers[i] = to));
    let name = |session: u8| if mutant == Mutant::ReusedNames { 1 } else { session };
    match state.writers[i] {
        Writer::Done => return,
        Writer::Start { session } => {
            let usable = if mutant == Mutant::Revives { head.live | head.condemned } else { head.live };
            if usable != 0 {
                go(Writer::Swap { seen: head.sequence, pack: usable.trailing_zeros() as u8, session });
            } else if session != 0 {
                go(Writer::Upload { seen: head.sequence, pack: name(session), session });
            } else if state.next < SESSIONS {
                out.push(state.with(|s| {
                    s.writers[i] = Writer::Upload { seen: head.sequence, pack: name(s.next), session: s.next };
                    s.next += 1;
                }));
            }
        }
        Writer::Upload { seen, pack, session } => out.push(state.with(|s| {
            s.objects |= bit(pack);
            s.writers[i] = Writer::Swap { seen, pack, session };
        })),
        Writer::Swap { seen, pack, session } if seen == head.sequence => {
            let is_own = session != 0 && pack == name(session);
            let is_fenced = mutant != Mutant::NoFence && session != 0 && session <= head.fence;
            let is_valid = holds(head.live, pack) || is_own || matches!(mutant, Mutant::BlindRetry | Mutant::Revives);
            if !is_valid {
                go(Writer::Start { session });
            } else if is_fenced {
                go(Writer::Start { session: 0 });
            } else {
                for to in [Writer::Done, Writer::NoReply { pack, session }] {
                    out.push(state.with(|s| {
                        s.head.sequence += 1;
                        s.head.roots |= 2 << i;
                        s.head.live |= bit(pack);
                        s.head.condemned &= if matches!(mutant, Mutant::Revives | Mutant::BlindRetry) { !bit(pack) } else { !0 };
                        s.writers[i] = to;
                    }));
                }
            }
        }
        // 412: what it refers to is looked at again, in the new head.
        Writer::Swap { pack, session, .. } => {
            let is_own = session != 0 && pack == name(session);
            let is_fenced = mutant != Mutant::NoFence && session != 0 && session <= head.fence;
            match () {
                () if mutant == Mutant::BlindRetry => go(Writer::Swap { seen: head.sequence, pack, session }),
                () if is_fenced => go(Writer::Start { session: 0 }),
                () if holds(head.live, pack) || (is_own && !holds(head.condemned, pack)) => {
                    go(Writer::Swap { seen: head.sequence, pack, session });
                }
                () => go(Writer::Start { session: if is_own { 0 } else { session } }),
            }
        }
        Writer::NoReply { pack, session } => {
            if mutant == Mutant::CleansUpAfterItself {
                let is_own = session != 0 && pack == name(session);
                out.push(state.with(|s| {
                    s.objects &= if is_own { !bit(pack) } else { !0 };
                    s.writers[i] = Writer::Start { session: 0 };
                }));
            } else if head.roots & (2 << i) != 0 {
                go(Writer::Done);
            } else {
                go(Writer::Start { session });
            }
        }
    }
    // It dies here: whoever is dead does what one does that is done.
    out.push(state.with(|s| s.writers[i] = Writer::Done));
}

fn collector(state: &State, i: usize, scope: Scope, mutant: Mutant, out: &mut Vec<State>) {
    let head = state.head;
    let (at, round) = state.collectors[i];
    let mut go = |to: Collector| out.push(state.with(|s| s.collectors[i].0 = to));
    match at {
        Collector::Start if round == scope.rounds => return,
        Collector::Start => match state.mark() {
            (dead, Some(old)) if state.next < SESSIONS => out.push(state.with(|s| {
                s.collectors[i].0 = match mutant {
                    Mutant::SwapsBeforeTheUpload => Collector::Condemn { seen: head.sequence, dead, new: Some(s.next) },
                    _ => Collector::Repack { seen: head.sequence, dead, old, new: s.next },
                };
                s.next += 1;
            })),
            (_, Some(_)) => go(Collector::Condemn { seen: head.sequence, dead: 0, new: None }),
            (dead, None) => go(Collector::Condemn { seen: head.sequence, dead, new: None }),
        },
        // What it copies from may be gone by now: then there is nothing to repack.
        Collector::Repack { old, .. } if !holds(state.objects, old) => go(Collector::Start),
        Collector::Repack { seen, dead, new, .. } => out.push(state.with(|s| {
            s.objects |= bit(new);
            s.collectors[i].0 = Collector::Condemn { seen, dead, new: Some(new) };
        })),
        Collector::Condemn { dead, .. } if mutant == Mutant::DeletesBeforeTheSwap && state.objects & dead != 0 => {
            out.push(state.with(|s| s.objects &= !dead));
        }
        Collector::Condemn { seen, .. } if seen != head.sequence => go(Collector::Start),
        Collector::Condemn { new: Some(new), .. } if mutant != Mutant::NoFence && new <= head.fence => go(Collector::Start),
        Collector::Condemn { dead, new, .. } => out.push(state.with(|s| {
            s.head.sequence += 1;
            s.head.live = s.head.live & !dead | new.map_or(0, bit);
            s.head.condemned |= dead;
            let all = s.head.condemned;
            s.collectors[i].0 = match new {
                Some(new) if mutant == Mutant::SwapsBeforeTheUpload => Collector::UploadLate { new, dead: all },
                _ => Collector::Delete { all, left: all },
            };
        })),
        Collector::UploadLate { new, dead } => out.push(state.with(|s| {
            s.objects |= bit(new);
            s.collectors[i].0 = Collector::Delete { all: dead, left: dead };
        })),
        Collector::Delete { all, left: 0 } => out.push(state.with(|s| {
            s.head.sequence += 1;
            s.head.condemned &= !all;
            s.collectors[i].0 = Collector::Fence;
        })),
        Collector::Delete { all, left } => out.push(state.with(|s| {
            s.objects &= !(left & left.wrapping_neg());
            s.collectors[i].0 = Collector::Delete { all, left: left & left.wrapping_sub(1) };
        })),
        Collector::Fence => out.push(state.with(|s| {
            if mutant != Mutant::NoFence {
                s.head.sequence += 1;
                s.head.fence = s.next - 1;
            }
            s.collectors[i].0 = Collector::List { fence: s.next - 1 };
        })),
        Collector::List { fence } => out.push(state.with(|s| {
            let below = if mutant == Mutant::ReusedNames { !0 } else { (bit(fence) << 1).wrapping_sub(1) };
            s.collectors[i].0 = Collector::Sweep { left: s.objects & below & !head.live & !head.condemned };
        })),
        Collector::Sweep { left: 0 } => out.push(state.with(|s| s.collectors[i] = (Collector::Start, round + 1))),
        Collector::Sweep { left } => out.push(state.with(|s| {
            s.objects &= !(left & left.wrapping_neg());
            s.collectors[i].0 = Collector::Sweep { left: left & left.wrapping_sub(1) };
        })),
    }
    if at != Collector::Start {
        out.push(state.with(|s| s.collectors[i] = (Collector::Start, round + 1)));
    }
}

fn reader(state: &State, mutant: Mutant, out: &mut Vec<State>) {
    let head = state.head;
    let mut go = |to: Reader| out.push(state.with(|s| s.reader = to));
    match state.reader {
        Reader::Start if head.roots != 0 => go(Reader::Read { seen: head.sequence, pack: head.live.trailing_zeros() as u8 }),
        Reader::Read { pack, .. } if holds(state.objects, pack) => go(Reader::Start),
        Reader::Read { .. } if mutant == Mutant::ReadsTheHeadOnce => go(Reader::Lost),
        Reader::Read { seen, .. } => go(Reader::Missed { seen }),
        Reader::Missed { seen } if seen != head.sequence => go(Reader::Start),
        Reader::Missed { .. } => go(Reader::Lost),
        Reader::Start | Reader::Lost => {}
    }
}

/// Tries every order of every step; returns how many states there are, or the first in which something is lost.
fn search(scope: Scope, mutant: Mutant) -> Result<usize, State> {
    let first = State::first(scope);
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    while let Some(state) = queue.pop_front() {
        if !state.is_whole() {
            return Err(state);
        }
        for next in steps(&state, scope, mutant) {
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

const SMALL: Scope = Scope { writers: 2, collectors: 1, rounds: 2 };

#[test]
fn no_order_of_steps_loses_what_a_root_names() {
    for scope in [SMALL, Scope { writers: 1, collectors: 2, rounds: 1 }] {
        let states = search(scope, Mutant::None).unwrap_or_else(|state| panic!("{scope:?}: lost in {state:?}"));
        eprintln!("{scope:?}: {states} states");
        assert!(states > 50_000, "{scope:?}: {states} states are too few to mean anything");
    }
}

#[test]
fn without_any_one_of_the_rules_something_is_lost() {
    let mutants = [
        Mutant::ReusedNames,
        Mutant::BlindRetry,
        Mutant::NoFence,
        Mutant::CleansUpAfterItself,
        Mutant::DeletesBeforeTheSwap,
        Mutant::Revives,
        Mutant::SwapsBeforeTheUpload,
        Mutant::ReadsTheHeadOnce,
    ];
    for mutant in mutants {
        assert!(search(SMALL, mutant).is_err(), "{mutant:?} goes unnoticed");
    }
}
