//! Every order of events, with the death of either side between any two actions.

use super::*;
use std::collections::{HashSet, VecDeque};

/// What travels. The kernel keeps order, and keeps for the living what the dead have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Packet {
    /// With the state of the connection, which here is how often it was touched.
    Offer(u8),
    Accept,
    Refuse,
    Commit,
    Taken,
    Withdraw,
}

/// A side that lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Side<S, A> {
    /// `None`: not offered yet.
    state: Option<S>,
    to_do: VecDeque<A>,
    may_touch: bool,
    /// How often it thinks that the connection was touched.
    touched: u8,
    /// It has closed its end of the socket.
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    giver: Option<Side<Giving, GiverAction>>,
    taker: Option<Side<Taking, TakerAction>>,
    to_taker: VecDeque<Packet>,
    to_giver: VecDeque<Packet>,
    /// How often the connection really was touched.
    touched: u8,
    /// TAKEN was sent: from then on it lives and dies with the taker.
    taken: bool,
    /// The taker let it go because it does not want it, or was told to.
    let_go: bool,
}

/// The machines under test, or mutants of them.
#[derive(Clone, Copy)]
struct Rules {
    give: fn(Giving, GiverEvent) -> (Giving, Vec<GiverAction>),
    take: fn(Taking, TakerEvent) -> (Taking, Vec<TakerAction>),
}

const REAL: Rules = Rules { give, take };
const MAX_TOUCHES: u8 = 3;

fn start() -> World {
    fn side<S, A>(may_touch: bool) -> Side<S, A> {
        Side { state: None, to_do: VecDeque::new(), may_touch, touched: 0, closed: false }
    }
    World {
        giver: Some(side(true)),
        taker: Some(side(false)),
        to_taker: VecDeque::new(),
        to_giver: VecDeque::new(),
        touched: 0,
        taken: false,
        let_go: false,
    }
}

impl World {
    fn taker_hears(&self) -> bool {
        self.taker.as_ref().is_some_and(|taker| !taker.closed)
    }

    fn giver_hears(&self) -> bool {
        self.giver.as_ref().is_some_and(|giver| !giver.closed)
    }

    fn send_to_taker(&mut self, packet: Packet) {
        if self.taker_hears() {
            self.to_taker.push_back(packet);
        }
    }

    fn send_to_giver(&mut self, packet: Packet) {
        if self.giver_hears() {
            self.to_giver.push_back(packet);
        }
    }
}

/// Steps that happen by themselves, sooner or later.
fn progress(world: &World, rules: Rules) -> Vec<World> {
    let mut next = vec![];
    giver_progress(world, rules, &mut next);
    taker_progress(world, rules, &mut next);
    next.retain(|after| after != world);
    next
}

fn giver_progress(world: &World, rules: Rules, next: &mut Vec<World>) {
    let Some(giver) = &world.giver else { return };
    let mut after = world.clone();
    let own = after.giver.as_mut().expect("it lives");
    if let Some(action) = own.to_do.pop_front() {
        match action {
            GiverAction::Keep => own.may_touch = true,
            GiverAction::Release => {}
            GiverAction::SendCommit => after.send_to_taker(Packet::Commit),
            GiverAction::SendWithdraw => after.send_to_taker(Packet::Withdraw),
        }
        return next.push(after);
    }
    let Some(state) = giver.state else {
        let touched = own.touched;
        (own.state, own.may_touch) = (Some(Giving::Offered), false);
        after.send_to_taker(Packet::Offer(touched));
        return next.push(after);
    };
    let mut hear = |event: GiverEvent, mut after: World| {
        let (state, actions) = (rules.give)(state, event);
        let own = after.giver.as_mut().expect("it lives");
        own.state = Some(state);
        own.to_do.extend(actions);
        next.push(after);
    };
    hear(GiverEvent::Unanswered, world.clone());
    let mut after = world.clone();
    match after.to_giver.pop_front() {
        Some(Packet::Accept) => hear(GiverEvent::Accepted, after),
        Some(Packet::Refuse) => hear(GiverEvent::Refused, after),
        Some(Packet::Taken) => hear(GiverEvent::Taken, after),
        Some(other) => panic!("the taker sent {other:?}"),
        None if !world.taker_hears() => hear(GiverEvent::Ended, after),
        None => {}
    }
    if matches!(state, Giving::Kept | Giving::Gone) && !giver.closed {
        let mut after = world.clone();
        after.giver.as_mut().expect("it lives").closed = true;
        after.to_giver.clear();
        next.push(after);
    }
}

fn taker_progress(world: &World, rules: Rules, next: &mut Vec<World>) {
    let Some(taker) = world.taker.as_ref().filter(|taker| !taker.closed || !taker.to_do.is_empty()) else { return };
    let mut after = world.clone();
    let own = after.taker.as_mut().expect("it lives");
    if let Some(action) = own.to_do.pop_front() {
        match action {
            TakerAction::Serve => own.may_touch = true,
            TakerAction::Drop => {}
            TakerAction::SendAccept => after.send_to_giver(Packet::Accept),
            TakerAction::SendRefuse => after.send_to_giver(Packet::Refuse),
            TakerAction::SendTaken => {
                after.taken = true;
                after.send_to_giver(Packet::Taken);
            }
        }
        return next.push(after);
    }
    let mut hear = |event: TakerEvent, mut after: World| {
        let own = after.taker.as_mut().expect("it lives");
        let Some(state) = own.state else { return };
        let (state, actions) = (rules.take)(state, event);
        own.state = Some(state);
        own.to_do.extend(actions);
        after.let_go |= matches!(event, TakerEvent::Judged { accept: false } | TakerEvent::Withdrawn);
        next.push(after);
    };
    if taker.state == Some(Taking::Weighed) {
        hear(TakerEvent::Judged { accept: true }, world.clone());
        hear(TakerEvent::Judged { accept: false }, world.clone());
        return;
    }
    let mut after = world.clone();
    match after.to_taker.pop_front() {
        Some(Packet::Offer(touched)) => {
            let own = after.taker.as_mut().expect("it lives");
            (own.state, own.touched) = (Some(Taking::Weighed), touched);
            next.push(after);
        }
        Some(Packet::Commit) => hear(TakerEvent::Committed, after),
        Some(Packet::Withdraw) => hear(TakerEvent::Withdrawn, after),
        Some(other) => panic!("the giver sent {other:?}"),
        None if !world.giver_hears() => hear(TakerEvent::Ended, after),
        None => {}
    }
}

/// What may happen and need not: clients are answered, processes die, a taker leaves what it has not taken.
fn accidents(world: &World) -> Result<Vec<World>, String> {
    let mut next = vec![];
    let may_touch = |side: Option<(bool, u8)>| side.filter(|(may, _)| *may).map(|(_, touched)| touched);
    let giver = may_touch(world.giver.as_ref().map(|giver| (giver.may_touch, giver.touched)));
    let taker = may_touch(world.taker.as_ref().map(|taker| (taker.may_touch, taker.touched)));
    if giver.is_some() && taker.is_some() {
        return Err("both may touch it".into());
    }
    if let Some(known) = giver.or(taker) {
        if known != world.touched {
            return Err(format!("it was touched {} times, and who serves it knows of {known}", world.touched));
        }
        if known < MAX_TOUCHES {
            let mut after = world.clone();
            after.touched += 1;
            after.giver.iter_mut().filter(|giver| giver.may_touch).for_each(|giver| giver.touched += 1);
            after.taker.iter_mut().filter(|taker| taker.may_touch).for_each(|taker| taker.touched += 1);
            next.push(after);
        }
    }
    if world.giver.is_some() {
        next.push(World { giver: None, to_giver: VecDeque::new(), ..world.clone() });
    }
    if let Some(taker) = &world.taker {
        next.push(World { taker: None, to_taker: VecDeque::new(), ..world.clone() });
        if !taker.closed && taker.to_do.is_empty() && taker.state != Some(Taking::Taken) {
            let mut after = World { to_taker: VecDeque::new(), let_go: true, ..world.clone() };
            let own = after.taker.as_mut().expect("it lives");
            (own.closed, own.state) = (true, own.state.map(|_| Taking::Dropped));
            next.push(after);
        }
    }
    Ok(next)
}

/// Whether nobody serves a connection that somebody should.
fn is_lost(world: &World) -> bool {
    let giver = world.giver.as_ref();
    if giver.is_some_and(|giver| giver.may_touch) || world.taker.as_ref().is_some_and(|taker| taker.may_touch) {
        return false;
    }
    match (giver, &world.taker) {
        (None, None) => false,
        (Some(_), Some(_)) => true,
        // It died with the taker only if that had taken it.
        (Some(_), None) => !world.taken,
        // It died with the giver only if it was the giver's: never offered, refused, or taken back.
        (None, Some(taker)) => taker.state.is_some() && !world.let_go,
    }
}

/// Walks through every state that can be reached; returns how many there are, or what went wrong.
fn explore(rules: Rules) -> Result<usize, String> {
    let (mut seen, mut ahead) = (HashSet::from([start()]), VecDeque::from([start()]));
    while let Some(world) = ahead.pop_front() {
        let by_itself = progress(&world, rules);
        if by_itself.is_empty() && is_lost(&world) {
            return Err(format!("lost: {world:?}"));
        }
        let by_accident = accidents(&world).map_err(|why| format!("{why}: {world:?}"))?;
        for after in by_itself.into_iter().chain(by_accident) {
            if seen.insert(after.clone()) {
                ahead.push_back(after);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn exactly_one_serves_a_connection_whoever_dies_when() {
    let n_states = explore(REAL).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(n_states > 300, "only {n_states} states were reached");
}

#[track_caller]
fn check_mutant(rules: Rules, symptom: &str) {
    let found = explore(rules).expect_err("the mutant was not found out");
    assert!(found.starts_with(symptom), "expected {symptom:?}, found {found}");
}

#[test]
fn a_giver_that_breaks_a_rule_is_found_out() {
    use {GiverAction as A, GiverEvent as E};
    let keeps_without_a_word = |state, event| match (state, event) {
        (Giving::Offered, E::Unanswered) => (Giving::Kept, vec![A::Keep]),
        (state, event) => give(state, event),
    };
    check_mutant(Rules { give: keeps_without_a_word, ..REAL }, "both may touch it");
    let keeps_before_it_withdraws = |state, event| match (state, event) {
        (Giving::Offered, E::Unanswered) => (Giving::Kept, vec![A::Keep, A::SendWithdraw]),
        (state, event) => give(state, event),
    };
    check_mutant(Rules { give: keeps_before_it_withdraws, ..REAL }, "it was touched 1 times, and who serves it knows of 0");
    let loses_patience_after_commit = |state, event| match (state, event) {
        (Giving::Committed, E::Unanswered) => (Giving::Kept, vec![A::SendWithdraw, A::Keep]),
        (state, event) => give(state, event),
    };
    check_mutant(Rules { give: loses_patience_after_commit, ..REAL }, "both may touch it");
    let forgets_at_commit = |state, event| match (state, event) {
        (Giving::Committed, E::Ended) => (Giving::Gone, vec![A::Release]),
        (state, event) => give(state, event),
    };
    check_mutant(Rules { give: forgets_at_commit, ..REAL }, "lost");
}

#[test]
fn a_taker_that_breaks_a_rule_is_found_out() {
    use {TakerAction as A, TakerEvent as E};
    let serves_at_once = |state, event| match (state, event) {
        (Taking::Weighed, E::Judged { accept: true }) => (Taking::Taken, vec![A::SendAccept, A::Serve]),
        (state, event) => take(state, event),
    };
    check_mutant(Rules { take: serves_at_once, ..REAL }, "both may touch it");
    let serves_before_it_says_so = |state, event| match (state, event) {
        (Taking::Accepted, E::Committed) => (Taking::Taken, vec![A::Serve, A::SendTaken]),
        (state, event) => take(state, event),
    };
    check_mutant(Rules { take: serves_before_it_says_so, ..REAL }, "it was touched 1 times, and who serves it knows of 0");
    let ignores_withdraw = |state, event| match (state, event) {
        (Taking::Accepted, E::Withdrawn) => (state, vec![]),
        (state, event) => take(state, event),
    };
    check_mutant(Rules { take: ignores_withdraw, ..REAL }, "both may touch it");
    let drops_what_a_dead_giver_offered = |state, event| match (state, event) {
        (Taking::Accepted, E::Ended) => (Taking::Dropped, vec![A::Drop]),
        (state, event) => take(state, event),
    };
    check_mutant(Rules { take: drops_what_a_dead_giver_offered, ..REAL }, "lost");
}
