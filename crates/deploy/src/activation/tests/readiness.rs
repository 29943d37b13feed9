//! When a version is ready: by READY=1, by its probes, or because it lives; and who is given more time.

use super::*;

/// Starts a version and lets this happen to it, each event at its second; returns where it is then.
fn started(plan: &Plan, events: &[(u64, Event)]) -> State {
    let (mut state, _) = step(plan, State::Staged, Event::Begin, Duration::ZERO);
    (state, _) = step(plan, state, Event::Launched, Duration::ZERO);
    for (second, event) in events {
        (state, _) = step(plan, state, event.clone(), Duration::from_secs(*second));
    }
    state
}

#[test]
fn a_version_whose_program_is_known_to_say_ready_gets_no_client_before_it_does() {
    let says = |readiness| Plan { says_ready: true, ..plan(Style::Beside, readiness, OLD, true, 0) };
    let passed = || Event::Probed { n_passed: 1, failed: None };
    let waits = |state: &State| matches!(state, State::Starting(_));
    // Nobody can ask it: after a second it is not ready, after its time it has failed.
    let lives = says(Readiness::Lives);
    assert!(waits(&started(&lives, &[(29, Event::Tick)])));
    assert_eq!(started(&lives, &[(29, Event::Ready)]), State::Moving);
    let (_, log) = run(&lives, &[]);
    assert!(
        matches!(log.last(), Some(Action::Answer(Err(f))) if f.kind == FailureKind::NotReady && f.message.contains("READY=1"))
    );
    // Its probes pass before: they are asked once more when it says so.
    let asked = says(Readiness::Probes);
    assert!(waits(&started(&asked, &[(1, passed()), (29, Event::Tick)])));
    assert!(waits(&started(&asked, &[(1, passed()), (5, Event::Ready)])));
    assert_eq!(started(&asked, &[(1, passed()), (5, Event::Ready), (6, passed())]), State::Moving);
    // It is not said any more: the probes stand for it, when the time is over.
    assert_eq!(started(&asked, &[(1, passed()), (30, Event::Tick)]), State::Moving);
    assert!(!log.contains(&Action::MoveCurrent(NEW)));
    // Where the old one was stopped for it, clients wait.
    let alone = Plan { style: Style::Exclusive, ..asked };
    let (_, log) = run(&alone, &[]);
    assert!(log.contains(&Action::MoveCurrent(NEW)) && !log.contains(&Action::Probe { after: PAUSE }), "{log:?}");
    let (begun, _) = step(&alone, State::Stopping { deadline: Duration::MAX, killed: false }, Event::OldExited, Duration::ZERO);
    let (begun, _) = step(&alone, begun, Event::Launched, Duration::ZERO);
    assert_eq!(step(&alone, begun, passed(), Duration::from_secs(1)).0, State::Moving);
}

#[test]
fn a_program_that_never_says_ready_is_deployable_and_one_that_asks_for_more_time_is_waited_for() {
    let plan = plan(Style::Beside, Readiness::Lives, OLD, true, 0);
    assert_eq!(started(&plan, &[(1, Event::Tick)]), State::Moving);
    let more = || Event::Extend(Duration::from_secs(60));
    assert!(matches!(started(&plan, &[(0, more()), (1, Event::Tick), (59, Event::Tick)]), State::Starting(_)));
    assert_eq!(started(&plan, &[(0, more()), (59, Event::Ready)]), State::Moving);
    assert_eq!(started(&plan, &[(0, more()), (60, Event::Tick)]), State::Ended { good: false });
    // It has its whole time at least.
    let little = Event::Extend(Duration::from_secs(2));
    assert!(matches!(started(&plan, &[(0, little.clone()), (29, Event::Tick)]), State::Starting(_)));
    assert_eq!(started(&plan, &[(0, little), (30, Event::Tick)]), State::Ended { good: false });
}

#[test]
fn an_old_version_that_asks_for_more_time_to_end_is_waited_for_and_not_for_ever() {
    let plan = plan(Style::Exclusive, Readiness::Probes, OLD, true, 0);
    let more = |seconds| Event::OldExtend(Duration::from_secs(seconds));
    let (begun, _) = step(&plan, State::Staged, Event::Begin, Duration::ZERO);
    let (state, _) = step(&plan, begun.clone(), more(20), Duration::from_secs(29));
    assert_eq!(state.deadline(), Some(Duration::from_secs(49)));
    let (state, actions) = step(&plan, state, Event::Tick, Duration::from_secs(48));
    assert_eq!(actions, []);
    let (_, actions) = step(&plan, state, Event::Tick, Duration::from_secs(49));
    assert_eq!(actions, [Action::Kill(OLD)]);
    let (state, _) = step(&plan, begun, more(3600), Duration::from_secs(29));
    assert_eq!(state.deadline(), Some(LONGEST));
}

#[test]
fn more_time_never_shortens_a_step_and_never_stretches_it_beyond_the_longest() {
    let seconds = Duration::from_secs;
    for (step, asked, expected) in [
        (30, None, 30),
        (30, Some(10), 30),
        (30, Some(50), 50),
        (30, Some(10_000), 3600),
        (7200, Some(10_000), 7200),
        (0, Some(5), 5),
    ] {
        assert_eq!(patience(seconds(step), asked.map(seconds)), seconds(expected), "{step} {asked:?}");
    }
}
