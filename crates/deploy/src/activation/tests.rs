//! Every event in every reachable state, against a world that does what the actions say.

mod readiness;

use super::*;
use std::collections::{BTreeSet, HashSet, VecDeque};

const OLD: u64 = 1;
const NEW: u64 = 2;

/// What the actions made of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    current: u64,
    steered: u64,
    running: BTreeSet<u64>,
    told_to_end: BTreeSet<u64>,
    retired: bool,
    /// The new version drains, since it was taken back.
    taken_back: bool,
    /// What serves in its place may not: it did not start, or clients are not sent to it.
    back_failed: bool,
    confirmed: bool,
    moved_to_new: bool,
    move_back_failed: bool,
    recorded: Option<bool>,
    answer: Option<Result<(), FailureKind>>,
    watching: bool,
    /// What to go back to is on disk.
    armed: bool,
    /// Whoever asked confirmed it.
    confirmation: bool,
    /// A request was lost, or nobody knows.
    lost: bool,
    /// Somebody has killed all that ran, and nothing shall run.
    halted: bool,
}

fn plan(style: Style, readiness: Readiness, old: u64, old_runs: bool, soak: u64) -> Plan {
    let seconds = Duration::from_secs;
    Plan {
        new: NEW,
        old,
        old_runs,
        style,
        readiness,
        says_ready: false,
        ready: seconds(30),
        soak: seconds(soak),
        drain: seconds(30),
        watch: None,
        zero_loss: false,
        confirm: None,
    }
}

/// The same plan, to be confirmed by whoever asked and not.
fn confirmed(plan: &Plan) -> [Plan; 2] {
    [plan.clone(), Plan { confirm: Some(Duration::from_secs(20)), ..plan.clone() }]
}

/// The same plan without a client of the node's own, with one, and with one that must lose nothing.
fn watched(plan: &Plan) -> [Plan; 3] {
    let watch = Some(Duration::from_secs(5));
    [plan.clone(), Plan { watch, ..plan.clone() }, Plan { watch, zero_loss: true, ..plan.clone() }]
}

fn plans() -> Vec<Plan> {
    let mut all = vec![];
    for style in [Style::Beside, Style::Exclusive, Style::Files] {
        for readiness in [Readiness::Probes, Readiness::Lives] {
            for (old, old_runs) in [(0, false), (OLD, false), (OLD, true)] {
                let plain = [0, 10].map(|soak| plan(style, readiness, old, old_runs, soak));
                let says = |plan: Plan| [plan.clone(), Plan { says_ready: true, ..plan }];
                all.extend(plain.iter().flat_map(watched).flat_map(|plan| confirmed(&plan)).flat_map(says));
            }
        }
    }
    all
}

/// Everything that can happen; results of actions only where the action may be under way.
fn events() -> Vec<Event> {
    let why = || "why".to_owned();
    vec![
        Event::Begin,
        Event::Launched,
        Event::LaunchFailed(why()),
        Event::Ready,
        Event::Extend(Duration::from_secs(5)),
        Event::OldExtend(Duration::from_secs(5)),
        Event::Probed { n_passed: 2, failed: None },
        Event::Probed { n_passed: 1, failed: Some(why()) },
        Event::Probed { n_passed: 0, failed: Some(why()) },
        Event::NewExited(why()),
        Event::OldExited,
        Event::Armed,
        Event::ArmFailed(why()),
        Event::Confirm,
        Event::Withdraw("who".to_owned()),
        Event::Halt("who".to_owned()),
        Event::Disarmed,
        Event::DisarmFailed(why()),
        Event::Moved,
        Event::MoveFailed(why()),
        Event::Steered,
        Event::SteerFailed(why()),
        Event::Handed { lost: None },
        Event::Handed { lost: Some(why()) },
        Event::Restored,
        Event::RestoreFailed(why()),
        Event::Tick,
    ]
}

impl World {
    fn of(plan: &Plan) -> Self {
        Self {
            current: plan.old,
            steered: plan.old,
            running: plan.old_runs.then_some(plan.old).into_iter().collect(),
            told_to_end: BTreeSet::new(),
            retired: false,
            taken_back: false,
            back_failed: false,
            confirmed: false,
            moved_to_new: false,
            move_back_failed: false,
            recorded: None,
            answer: None,
            watching: false,
            armed: false,
            confirmation: false,
            lost: false,
            halted: false,
        }
    }

    /// What the event itself says of the world.
    fn hear(&mut self, state: &State, event: &Event, plan: &Plan) {
        match (state, event) {
            (_, Event::NewExited(_)) => drop(self.running.remove(&plan.new)),
            (State::Staged | State::Ended { .. }, Event::Halt(_)) => {}
            (_, Event::Halt(_)) => {
                self.running.clear();
                self.halted = true;
            }
            (_, Event::OldExited) => drop(self.running.remove(&plan.old)),
            (State::Arming, Event::Armed) => self.armed = true,
            (State::Waiting { .. }, Event::Confirm) => self.confirmation = true,
            (State::Disarming, Event::Disarmed) => self.armed = false,
            (State::Moving, Event::Moved) => (self.current, self.moved_to_new) = (plan.new, true),
            (State::Returning { .. }, Event::Moved) => self.current = plan.old,
            (State::Returning { .. }, Event::MoveFailed(_)) => self.move_back_failed = true,
            (State::Returning { .. }, Event::SteerFailed(_) | Event::RestoreFailed(_)) => self.back_failed = true,
            (State::Steering, Event::Steered) => self.steered = plan.new,
            (State::Handing { .. }, Event::Handed { lost: Some(_) } | Event::Tick) => self.lost = true,
            _ => {}
        }
    }

    #[track_caller]
    fn act(&mut self, plan: &Plan, actions: &[Action]) {
        for action in actions {
            assert!(self.answer.is_none(), "{action:?} after the answer");
            let starts = matches!(action, Action::Launch | Action::StartOld | Action::Steer(_));
            assert!(!self.halted || !starts, "{action:?} of what somebody has stopped");
            match action {
                Action::Launch => {
                    let alone = plan.style != Style::Exclusive || self.running.is_empty();
                    assert!(alone, "two at once");
                    let is_watched = plan.watch.is_none() || plan.style == Style::Beside || !plan.old_runs || self.watching;
                    assert!(is_watched, "the old version was stopped, and nobody looked");
                    self.running.insert(plan.new);
                }
                Action::StartOld => {
                    assert!(plan.old_runs, "an old version is started that did not run");
                    self.running.insert(plan.old);
                }
                Action::Arm => assert!(self.current == plan.old && plan.confirm.is_some()),
                // While `current` names what nobody confirmed, it stays; but for the confirmation itself.
                Action::Disarm => {
                    assert!(plan.confirm.is_some() && (self.current == plan.old || self.confirmation), "given up before its end");
                    self.armed &= self.current != plan.old;
                }
                Action::MoveCurrent(to) => {
                    assert!(*to != plan.new || self.armed == plan.confirm.is_some(), "it moves, and nobody could take it back");
                    assert!([plan.old, plan.new].contains(to), "current names a stranger");
                    let is_watched = *to != plan.new || plan.watch.is_none() || !plan.old_runs || plan.style == Style::Files;
                    assert!(is_watched || self.watching, "the switch begins, and nobody looks");
                }
                Action::Steer(to) => {
                    assert!([plan.old, plan.new].contains(to));
                    assert!(*to != plan.new || self.current == plan.new, "steered before current moved");
                    if *to == plan.old {
                        self.steered = plan.old;
                    }
                }
                Action::Terminate(generation) | Action::Kill(generation) => {
                    assert!(
                        *generation != plan.old || plan.style == Style::Exclusive,
                        "the old version is told to end before the new one is confirmed"
                    );
                    assert!(
                        *generation != plan.new || self.steered != plan.new || plan.style != Style::Beside || !plan.old_runs,
                        "clients are steered to who is killed"
                    );
                    self.told_to_end.insert(*generation);
                }
                Action::CloseListeners(generation) => assert_eq!(*generation, plan.new),
                Action::Retire(generation) if *generation == plan.new => {
                    assert!(plan.style == Style::Beside && plan.old_runs, "nobody serves in place of who drains");
                    assert!(self.steered == plan.old && !self.back_failed, "clients are steered to who drains");
                    assert!(self.running.contains(&plan.new), "a dead version drains");
                    assert!(self.moved_to_new, "a version drains that never served");
                    self.taken_back = true;
                }
                Action::Retire(generation) => {
                    assert!(
                        plan.confirm.is_none() || self.confirmation,
                        "the old version ends, and nobody had confirmed the new one"
                    );
                    assert!(self.confirmed && *generation == plan.old);
                    self.retired = true;
                }
                Action::Record { good, .. } => {
                    assert_eq!(self.recorded.replace(*good), None, "recorded twice");
                    self.confirmed |= good;
                }
                Action::Answer(answer) => self.answer = Some(answer.as_ref().copied().map_err(|f| f.kind)),
                Action::Watch => {
                    assert!(plan.watch.is_some() && plan.old_runs && !self.watching, "nobody to be watched, or twice");
                    assert_eq!((self.steered, self.current), (plan.old, plan.old), "it began after the switch");
                    self.watching = true;
                }
                Action::AwaitHanded => {
                    assert_eq!(self.watching, plan.watch.is_some(), "nothing to wait for, or nobody looked");
                    self.watching = false;
                }
                Action::Probe { .. } | Action::Tell(_) => {}
            }
        }
    }

    #[track_caller]
    fn check(&self, plan: &Plan, state: &State) {
        assert!([plan.old, plan.new].contains(&self.current) && [plan.old, plan.new].contains(&self.steered));
        let State::Ended { good } = state else { return assert!(self.answer.is_none(), "answered before its end") };
        assert_eq!(self.recorded, Some(*good));
        assert!(!(*good && plan.confirm.is_some() && !self.confirmation), "it stays, and nobody confirmed it");
        assert!(!self.armed || self.move_back_failed, "what is over can still be taken back");
        assert!(!(*good && plan.zero_loss && self.lost), "a request was lost, and it stays");
        assert_eq!(self.answer.map(|answer| answer.is_ok()), Some(*good));
        let serves = if *good { plan.new } else { plan.old };
        assert!(self.current == serves || self.move_back_failed, "current names {} at the end", self.current);
        if self.halted {
            return assert!(!good, "it stays, and somebody has stopped it");
        }
        if plan.style == Style::Beside && plan.old_runs {
            assert_eq!(self.steered, serves, "steered to the wrong one at the end");
            assert_eq!(self.retired, *good, "the old one is retired exactly when the new one is good");
            assert!(!self.told_to_end.contains(&plan.old));
            assert!(!self.taken_back || !*good);
            assert!(
                *good || self.taken_back != self.told_to_end.contains(&plan.new),
                "a failed version runs on, or is killed while it drains"
            );
        }
        if !*good && !self.moved_to_new && plan.style == Style::Beside {
            assert_eq!(self.steered, plan.old, "a failure before the switch touched the old version");
        }
    }
}

/// Visits all that can be reached from a plan, each state and world once, with the time at the state's deadline or just before it.
fn explore(plan: &Plan) -> usize {
    let start = (State::Staged, World::of(plan), Duration::ZERO);
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some((state, world, now)) = queue.pop_front() {
        for event in events() {
            let at = if event == Event::Tick { state.deadline().unwrap_or(now).max(now) } else { now };
            let mut next_world = world.clone();
            next_world.hear(&state, &event, plan);
            let (next, actions) = step(plan, state.clone(), event.clone(), at);
            next_world.act(plan, &actions);
            next_world.check(plan, &next);
            // A program that asks for more time again and again is cut off by the bound; the model need not follow it there.
            let visited = (next, next_world, at);
            if at < Duration::from_secs(400) && seen.insert(visited.clone()) {
                queue.push_back(visited);
            }
        }
    }
    seen.len()
}

#[test]
fn whatever_happens_in_whatever_order_the_promises_hold() {
    for plan in plans() {
        let n_states = explore(&plan);
        assert!(n_states > 3, "{plan:?} was not explored");
        assert!(n_states < 100_000, "{plan:?} does not end: {n_states}");
    }
}

/// Gives each action that has one its result, and lets time pass when nothing is under way.
fn run(plan: &Plan, script: &[(&str, Event)]) -> (State, Vec<Action>) {
    let (mut state, mut log, mut now) = (State::Staged, vec![], Duration::ZERO);
    let mut script: VecDeque<_> = script.iter().cloned().collect();
    let mut queue = VecDeque::from([Event::Begin]);
    for _ in 0..200 {
        let event = queue.pop_front().unwrap_or(Event::Tick);
        if event == Event::Tick {
            now = state.deadline().unwrap_or(now).max(now);
        }
        let (next, actions) = step(plan, state, event, now);
        state = next;
        for action in &actions {
            let name = format!("{action:?}");
            if script.front().is_some_and(|(when, _)| name.starts_with(when)) {
                queue.push_back(script.pop_front().expect("looked at above").1);
                continue;
            }
            match action {
                Action::Launch => queue.push_back(Event::Launched),
                Action::Arm => queue.push_back(Event::Armed),
                Action::Disarm => queue.push_back(Event::Disarmed),
                Action::Tell(Milestone::Awaiting) => queue.push_back(Event::Confirm),
                Action::Probe { .. } => queue.push_back(Event::Probed { n_passed: 1, failed: None }),
                Action::MoveCurrent(_) => queue.push_back(Event::Moved),
                Action::Steer(generation) if *generation == plan.new => queue.push_back(Event::Steered),
                Action::AwaitHanded => queue.push_back(Event::Handed { lost: None }),
                Action::Terminate(_) => queue.push_back(Event::OldExited),
                Action::Kill(generation) if *generation == plan.new => queue.push_back(Event::NewExited("killed".into())),
                Action::StartOld => queue.push_back(Event::Restored),
                _ => {}
            }
        }
        log.extend(actions);
        if matches!(state, State::Ended { .. }) {
            return (state, log);
        }
    }
    panic!("{plan:?} does not end, it is in {state:?}");
}

#[test]
fn an_activation_that_goes_well_moves_steers_confirms_and_only_then_retires() {
    for plan in plans() {
        let says = [("Launch", Event::Ready)];
        let (state, log) = run(&plan, if plan.says_ready && plan.style != Style::Files { &says } else { &[] });
        assert_eq!(state, State::Ended { good: true }, "{plan:?}");
        let place = |wanted: &Action| log.iter().position(|action| action == wanted);
        assert!(place(&Action::MoveCurrent(NEW)).is_some());
        if plan.style == Style::Beside && plan.old_runs {
            assert!(place(&Action::MoveCurrent(NEW)) < place(&Action::Steer(NEW)));
            assert!(place(&Action::Steer(NEW)) < place(&Action::Retire(OLD)));
            assert!(place(&Action::Tell(Milestone::Confirmed)) < place(&Action::Retire(OLD)));
        }
    }
}

#[track_caller]
fn check_failure(plan: &Plan, script: &[(&str, Event)], expect: FailureKind) {
    let (_, log) = run(plan, script);
    let Some(Action::Answer(Err(failure))) = log.last() else { panic!("no failure: {log:?}") };
    assert_eq!(failure.kind, expect, "{}", failure.message);
}

#[test]
fn what_somebody_stops_at_once_ends_without_being_started_again() {
    let halt = || Event::Halt("me@here".into());
    for style in [Style::Beside, Style::Exclusive] {
        let [_, waits] = confirmed(&plan(style, Readiness::Probes, OLD, true, 10));
        for (when, kind) in
            [("Launch", FailureKind::System), ("AwaitHanded", FailureKind::Reverted), ("Tell(Awaiting)", FailureKind::Reverted)]
        {
            let plan = Plan { watch: Some(Duration::from_secs(5)), ..waits.clone() };
            let (_, log) = run(&plan, &[(when, halt())]);
            let Some(Action::Answer(Err(failure))) = log.last() else { panic!("no failure: {log:?}") };
            assert_eq!((failure.kind, failure.message.as_str()), (kind, "me@here stopped the application"));
            assert_eq!(log.contains(&Action::MoveCurrent(OLD)), kind == FailureKind::Reverted, "{log:?}");
            let leaves =
                |action: &Action| matches!(action, Action::StartOld | Action::Steer(OLD) | Action::Retire(_) | Action::Kill(_));
            assert!(!log.iter().any(leaves), "{log:?}");
        }
    }
}

#[test]
fn bad_versions_are_told_apart() {
    let plan = plan(Style::Beside, Readiness::Probes, OLD, true, 10);
    let sick = || Event::Probed { n_passed: 0, failed: Some("status 500".into()) };
    let exited = || Event::NewExited("exit status 3".into());
    check_failure(&plan, &[("Launch", Event::LaunchFailed("no such file".into()))], FailureKind::Start);
    check_failure(&plan, &[("Launch", exited())], FailureKind::Start);
    check_failure(&plan, &[("Launch", Event::Ready), ("Probe", sick())], FailureKind::Probe);
    check_failure(&plan, &[("AwaitHanded", exited())], FailureKind::Reverted);
    check_failure(&plan, &[("MoveCurrent(2)", Event::MoveFailed("no space".into()))], FailureKind::System);
    let (state, _) = step(&plan, State::Soaking { until: Duration::from_secs(10) }, exited(), Duration::ZERO);
    assert!(matches!(state, State::Returning { leave: Leave::AtOnce, .. }));
}

#[test]
fn what_nobody_confirms_goes_back_when_its_time_is_over() {
    for style in [Style::Beside, Style::Exclusive, Style::Files] {
        let [_, plan] = confirmed(&plan(style, Readiness::Probes, OLD, style != Style::Files, 0));
        let (state, log) = run(&plan, &[("Tell(Awaiting)", Event::Tick)]);
        assert_eq!(state, State::Ended { good: false });
        let Some(Action::Answer(Err(failure))) = log.last() else { panic!("no failure: {log:?}") };
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Reverted, NOBODY));
        let place = |wanted: &Action| log.iter().position(|action| action == wanted).expect("it is done");
        assert!(place(&Action::Arm) < place(&Action::MoveCurrent(NEW)));
        assert!(place(&Action::MoveCurrent(OLD)) < place(&Action::Disarm));
    }
}

/// How the new version leaves when this comes of an action.
#[track_caller]
fn check_leave(plan: &Plan, script: &[(&str, Event)], expect: Leave) {
    let (_, log) = run(plan, script);
    let (retired, killed) = (log.contains(&Action::Retire(NEW)), log.contains(&Action::Kill(NEW)));
    assert_eq!((retired, killed), (expect == Leave::InOrder, expect == Leave::AtOnce), "{log:?}");
}

#[test]
fn who_served_well_enough_drains_and_who_is_dead_or_deaf_is_killed() {
    let [soaks, waits] = confirmed(&plan(Style::Beside, Readiness::Probes, OLD, true, 10));
    let sick = || Event::Probed { n_passed: 0, failed: Some("status 500".into()) };
    let exited = || Event::NewExited("exit status 3".into());
    // The first round is the trial's.
    let passed = || Event::Probed { n_passed: 1, failed: None };
    check_leave(&soaks, &[("Probe", passed()), ("Probe", sick())], Leave::InOrder);
    check_leave(&waits, &[("Tell(Awaiting)", Event::Tick)], Leave::InOrder);
    check_leave(&waits, &[("Disarm", Event::DisarmFailed("no space".into()))], Leave::InOrder);
    check_leave(&soaks, &[("Probe", passed()), ("Probe", Event::Tick)], Leave::AtOnce);
    check_leave(&waits, &[("Tell(Awaiting)", exited())], Leave::AtOnce);
    check_leave(&waits, &[("Tell(Awaiting)", Event::Tick), ("StartOld", Event::RestoreFailed("gone".into()))], Leave::AtOnce);
    check_leave(&waits, &[("Tell(Awaiting)", Event::Tick), ("Steer(1)", Event::SteerFailed("no".into()))], Leave::AtOnce);
    check_leave(&soaks, &[("Steer(2)", Event::SteerFailed("no".into()))], Leave::AtOnce);
    check_leave(&soaks, &[("Launch", exited())], Leave::AtOnce);
    let [alone, exclusive] = [(Style::Beside, false), (Style::Exclusive, true)].map(|(style, old_runs)| {
        let [_, plan] = confirmed(&plan(style, Readiness::Probes, OLD, old_runs, 0));
        plan
    });
    check_leave(&alone, &[("Tell(Awaiting)", Event::Tick)], Leave::AtOnce);
    check_leave(&exclusive, &[("Tell(Awaiting)", Event::Tick)], Leave::AtOnce);
}

#[test]
fn a_lost_request_takes_it_back_only_where_none_may_be_lost() {
    let lost = || Event::Handed { lost: Some("1 of 20 requests was lost".into()) };
    for style in [Style::Beside, Style::Exclusive] {
        let [_, told, required] = watched(&plan(style, Readiness::Probes, OLD, true, 0));
        assert_eq!(run(&told, &[("AwaitHanded", lost())]).0, State::Ended { good: true });
        let (state, log) = run(&required, &[("AwaitHanded", lost())]);
        assert_eq!(state, State::Ended { good: false });
        let Some(Action::Answer(Err(failure))) = log.last() else { panic!("no failure: {log:?}") };
        assert_eq!(failure.kind, FailureKind::Reverted);
        assert!(failure.message.starts_with("1 of 20 requests was lost"), "{}", failure.message);
        // What nobody answered within its time is no proof either.
        assert_eq!(run(&required, &[("AwaitHanded", Event::Tick)]).0, State::Ended { good: false });
    }
}

#[test]
fn who_is_never_ready_fails_at_its_deadline_and_not_before() {
    let plan = plan(Style::Beside, Readiness::Probes, OLD, true, 0);
    let sick = || Event::Probed { n_passed: 0, failed: Some("refused".into()) };
    let (mut state, _) = step(&plan, State::Staged, Event::Begin, Duration::ZERO);
    (state, _) = step(&plan, state, Event::Launched, Duration::ZERO);
    for second in 0..30 {
        let (next, actions) = step(&plan, state, sick(), Duration::from_secs(second));
        assert_eq!(actions, [Action::Probe { after: PAUSE }]);
        state = next;
    }
    (state, _) = step(&plan, state, Event::Extend(Duration::from_secs(10)), Duration::from_secs(29));
    (state, _) = step(&plan, state, Event::Tick, Duration::from_secs(38));
    let (state, actions) = step(&plan, state, Event::Tick, Duration::from_secs(39));
    assert_eq!(state, State::Ended { good: false });
    assert!(actions.contains(&Action::Kill(NEW)));
    assert!(matches!(actions.last(), Some(Action::Answer(Err(f))) if f.kind == FailureKind::NotReady));
}

#[test]
fn what_is_written_down_lasts_until_somebody_can_confirm_it() {
    // Where the old one is stopped first, a request waits for both; that alone may be more than a minute.
    let watched = |style| Plan { watch: Some(Duration::from_secs(200)), ..plan(style, Readiness::Probes, OLD, true, 10) };
    for plan in [Style::Beside, Style::Exclusive].map(watched) {
        let State::Handing { deadline } = activated(&plan, Duration::ZERO).0 else { panic!("it is watched") };
        let State::Soaking { until } = step(&plan, State::Handing { deadline }, Event::Tick, deadline).0 else {
            panic!("it soaks")
        };
        let State::Asking { deadline } = step(&plan, State::Soaking { until }, Event::Tick, until).0 else {
            panic!("it is asked")
        };
        assert!(deadline < plan.soak + plan.before_waiting(), "{deadline:?} {:?}", plan.before_waiting());
    }
}

#[test]
fn more_time_is_bounded() {
    let plan = plan(Style::Beside, Readiness::Probes, OLD, true, 0);
    let (mut state, mut now) = (step(&plan, State::Staged, Event::Begin, Duration::ZERO).0, Duration::ZERO);
    while !matches!(state, State::Ended { .. }) {
        assert!(now <= LONGEST + Duration::from_secs(60), "it starts for ever");
        (state, _) = step(&plan, state, Event::Extend(Duration::from_secs(3600)), now);
        (state, _) = step(&plan, state, Event::Tick, now);
        now += Duration::from_secs(60);
    }
}

#[test]
fn an_exclusive_version_that_fails_brings_the_old_one_back() {
    let plan = plan(Style::Exclusive, Readiness::Probes, OLD, true, 10);
    let (_, log) = run(&plan, &[("Launch", Event::NewExited("exit status 3".into()))]);
    let place = |wanted: &Action| log.iter().position(|action| action == wanted).expect("it is done");
    assert!(place(&Action::Terminate(OLD)) < place(&Action::Launch));
    assert!(place(&Action::Kill(NEW)) < place(&Action::StartOld));
}

#[test]
fn what_came_late_is_listened_for_only_where_it_would_decide() {
    let deadline = Duration::from_secs(9);
    let failure = Failure::new(FailureKind::Probe, "");
    let starting = Starting { deadline, awaited: false, said: false, passed: false, well: false, round: None };
    for (state, is_awaited) in [
        // The old version is killed, or its end is known: the new one starts when it is gone. Its clients wait.
        (State::Stopping { deadline, killed: false }, false),
        (State::Stopping { deadline, killed: true }, true),
        (State::Starting(starting), true),
        (State::Handing { deadline }, true),
        (State::Soaking { until: deadline }, true),
        (State::Asking { deadline }, true),
        (State::Waiting { deadline }, true),
        // The old version starts again, either way.
        (State::Clearing { failure: failure.clone(), deadline }, false),
        (State::Restoring { failure: failure.clone(), deadline }, true),
        (State::Returning { failure, leave: Leave::InOrder }, false),
    ] {
        assert_eq!(state.awaits(), is_awaited.then_some(deadline), "{state:?}");
    }
}
