//! What happens when, from a staged generation to a confirmed one: a pure machine without clock, process or socket.
//!
//! ```text
//! staged -> starting -> arming -> moving -> steering -> handing -> soaking -> asking -> waiting -> disarming -> confirmed
//!              |           |         |         |          |          |         |         |          |
//!              v           v         +---------+----------+----------+---------+---------+----------+-> returning -> failed: the old one serves on
//!            failed: nothing of the old version was touched
//! ```
//!
//! [`Style::Exclusive`] begins with `stopping` (the old version is told to end, the new one starts when it has), and its failures end with
//! `clearing` (the new one is gone) and `restoring` (the old one runs again).
//!
//! Order of the switch: `current` is moved, durably, *then* connections are steered. A supervisor that dies in between finds in `current` the version that
//! passed its probes, and steers to it. The old version is told to end only after the new one was confirmed.
//!
//! Where the operator has to confirm, what to go back to is on disk before `current` moves (`arming`), and the confirmation is its removal (`disarming`):
//! what a supervisor does that finds it there is [`crate::confirmation`]'s.

mod words;

use std::time::Duration;

use crate::confirmation::NOBODY;

pub use words::{Action, Event, Failure, FailureKind, Leave, Milestone, Plan, Readiness, Round, Starting, State, Style};

/// A program that nobody can ask, and that never said READY=1, has to live this long to be taken for ready.
pub const QUIET: Duration = Duration::from_secs(1);
/// Connections queued at the old version have this long to be taken before the soak begins.
const HANDING: Duration = Duration::from_secs(5);
/// What the node's own requests may take beyond their time: some begin after the queues are empty.
pub const MARGIN: Duration = Duration::from_secs(3);
/// The probes at the end of a soak have this long.
const ASKING: Duration = Duration::from_secs(30);
/// A process has this long to vanish after SIGKILL.
const CLEARING: Duration = Duration::from_secs(10);
/// The old version has this long to be ready when it starts again, besides its own time.
const RESTORING: Duration = Duration::from_secs(60);
/// What is not counted one by one: links that are moved, probes that begin.
const SLACK: Duration = Duration::from_secs(20);
/// Why a program is not ready that nobody can ask.
pub const NO_READY: &str = "no READY=1, which the version before said or this one asked more time for (one that does not say it any more needs a probe in verify),";
/// Pause between two rounds of probes.
const PAUSE: Duration = Duration::from_millis(50);
/// However often a program asks for more time, it has at most this long to start, and this long to end, or the time of its release if that is longer.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Returns the next state and what is to be done; `now` is the time since the activation began.
///
/// An event that means nothing in a state changes nothing.
pub fn step(plan: &Plan, state: State, event: Event, now: Duration) -> (State, Vec<Action>) {
    use Event as E;
    use State as S;
    match (state, event) {
        (state, E::Halt(who)) => halt(plan, state, &who),
        (S::Staged, E::Begin) => begin(plan, now),
        (S::Stopping { .. }, E::OldExited) => launch(plan, now),
        (S::Stopping { deadline, killed: false }, E::OldExtend(more)) => {
            let deadline = deadline.max(patience(plan.drain, Some(now + more)));
            (S::Stopping { deadline, killed: false }, vec![])
        }
        (S::Stopping { deadline, killed: false }, E::Tick) if now >= deadline => {
            (S::Stopping { deadline: now + CLEARING, killed: true }, vec![Action::Kill(plan.old)])
        }
        (S::Stopping { deadline, killed: true }, E::Tick) if now >= deadline => {
            failed(Failure::new(FailureKind::System, "the old version does not end, not even by SIGKILL"))
        }
        (S::Starting(starting), event) => start(plan, starting, event, now),
        (S::Arming, E::Armed) => (S::Moving, vec![Action::MoveCurrent(plan.new)]),
        (S::Arming, E::ArmFailed(why)) => {
            fail_armed(plan, Failure::new(FailureKind::System, format!("write down what to go back to: {why}")), now)
        }
        (S::Arming, E::NewExited(how)) => fail_armed(plan, Failure::new(FailureKind::Start, how), now),
        (S::Moving, E::Moved) if plan.style == Style::Files => activated(plan, now),
        (S::Moving, E::Moved) => (S::Steering, vec![Action::Steer(plan.new)]),
        (S::Moving, E::MoveFailed(why)) => {
            fail_armed(plan, Failure::new(FailureKind::System, format!("move current: {why}")), now)
        }
        (S::Steering, E::Steered) => activated(plan, now),
        (S::Steering, E::SteerFailed(why)) => {
            take_back(plan, Failure::new(FailureKind::System, format!("steer connections: {why}")), Leave::AtOnce)
        }
        (S::Handing { .. }, E::Handed { lost: Some(why) }) if plan.zero_loss => {
            revert(plan, format!("{why} (run.require_zero_loss)"))
        }
        (S::Handing { .. }, E::Handed { .. }) => soak(plan, now),
        (S::Handing { deadline }, E::Tick) if now >= deadline && plan.zero_loss => {
            revert(plan, "requests were not answered, and run.require_zero_loss forbids to lose any".into())
        }
        (S::Handing { deadline }, E::Tick) if now >= deadline => soak(plan, now),
        (S::Soaking { until }, E::Tick) if now >= until => soaked(plan, now),
        (S::Asking { .. }, E::Probed { failed: None, .. }) => well(plan, now),
        (S::Asking { .. }, E::Probed { failed: Some(why), .. }) => revert(plan, format!("a probe failed after the soak: {why}")),
        (S::Asking { deadline }, E::Tick) if now >= deadline => {
            take_back(plan, Failure::new(FailureKind::Reverted, "the probes after the soak were not answered"), Leave::AtOnce)
        }
        (S::Waiting { .. }, E::Confirm) => (S::Disarming, vec![Action::Disarm]),
        (S::Waiting { deadline }, E::Tick) if now >= deadline => revert(plan, NOBODY.into()),
        (S::Disarming, E::Disarmed) => confirm(plan),
        // From the switch until it is confirmed; before, the old version serves anyway.
        (S::Handing { .. } | S::Soaking { .. } | S::Asking { .. } | S::Waiting { .. }, E::Withdraw(who)) => {
            revert(plan, format!("{who} took it back"))
        }
        (S::Disarming, E::DisarmFailed(why)) => {
            take_back(plan, Failure::new(FailureKind::System, format!("the confirmation cannot be kept: {why}")), Leave::InOrder)
        }
        (
            S::Moving | S::Steering | S::Handing { .. } | S::Soaking { .. } | S::Asking { .. } | S::Waiting { .. } | S::Disarming,
            E::NewExited(how),
        ) => take_back(plan, Failure::new(FailureKind::Reverted, how), Leave::AtOnce),
        // Whoever drains would do it for ever while new clients are sent to it, and nobody could go on in its place.
        (S::Returning { failure, leave }, E::NewExited(_) | E::SteerFailed(_) | E::RestoreFailed(_)) => {
            let leave = if leave == Leave::Stopped { leave } else { Leave::AtOnce };
            (S::Returning { failure, leave }, vec![])
        }
        (S::Returning { failure, leave }, E::Moved) => {
            let (state, then) = returned(plan, failure, leave, now);
            (state, [disarm(plan), then].concat())
        }
        (S::Returning { failure, leave }, E::MoveFailed(why)) => {
            let message = format!("{}; and current could not be moved back: {why}", failure.message);
            returned(plan, Failure { message, ..failure }, leave, now)
        }
        (S::Clearing { failure, .. }, E::NewExited(_)) => restore(failure, now),
        (S::Clearing { failure, deadline }, E::Tick) if now >= deadline => restore(failure, now),
        (S::Restoring { failure, .. }, E::Restored) => failed(failure),
        (S::Restoring { failure, .. }, E::RestoreFailed(why)) => {
            let message = format!("{}; and the old version did not start again: {why}", failure.message);
            failed(Failure { message, ..failure })
        }
        (S::Restoring { failure, deadline }, E::Tick) if now >= deadline => {
            let message = format!("{}; and the old version is not ready yet", failure.message);
            failed(Failure { message, ..failure })
        }
        (state, _) => (state, vec![]),
    }
}

impl Plan {
    /// Returns how long all may take that comes between the switch and the wait for a confirmation, besides the soak.
    pub fn before_waiting(&self) -> Duration {
        self.handing() + ASKING + SLACK
    }

    /// Returns how long the ports may take to go over.
    fn handing(&self) -> Duration {
        HANDING + self.watch.map_or(Duration::ZERO, |patience| patience + MARGIN)
    }
}

impl State {
    /// Returns when [`Event::Tick`] means something.
    pub fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Stopping { deadline, .. }
            | Self::Starting(Starting { deadline, .. })
            | Self::Handing { deadline }
            | Self::Asking { deadline }
            | Self::Waiting { deadline }
            | Self::Clearing { deadline, .. }
            | Self::Restoring { deadline, .. } => Some(*deadline),
            Self::Soaking { until } => Some(*until),
            Self::Staged
            | Self::Arming
            | Self::Moving
            | Self::Steering
            | Self::Disarming
            | Self::Returning { .. }
            | Self::Ended { .. } => None,
        }
    }

    /// Returns whether [`Event::Withdraw`] means something.
    pub fn can_be_withdrawn(&self) -> bool {
        matches!(self, Self::Handing { .. } | Self::Soaking { .. } | Self::Asking { .. } | Self::Waiting { .. })
    }

    /// Returns until when something has to be heard that decides how it goes on. Where the time is over otherwise, the same comes next whatever is heard, and somebody may wait for it.
    pub fn awaits(&self) -> Option<Duration> {
        match self {
            Self::Stopping { killed: false, .. } | Self::Clearing { .. } => None,
            _ => self.deadline(),
        }
    }
}

impl Failure {
    /// Returns a failure of a kind, in words.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

fn begin(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    match plan.style {
        Style::Files => arm(plan),
        Style::Exclusive if plan.old_runs => {
            let actions = [watch(plan), vec![Action::Terminate(plan.old)]].concat();
            (State::Stopping { deadline: now + plan.drain, killed: false }, actions)
        }
        Style::Beside | Style::Exclusive => launch(plan, now),
    }
}

fn launch(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    let lives = plan.readiness == Readiness::Lives && !plan.says_ready;
    let deadline = now + if lives { QUIET.min(plan.ready) } else { plan.ready };
    let starting = Starting { deadline, awaited: plan.says_ready, said: false, passed: false, well: false, round: None };
    (State::Starting(starting), vec![Action::Launch])
}

/// Returns how long a step may take that has so long by itself, and in which a program asked to be waited for until then; both since it began.
pub fn patience(step: Duration, asked: Option<Duration>) -> Duration {
    asked.map_or(step, |asked| step.max(asked.min(LONGEST.max(step))))
}

fn start(plan: &Plan, mut starting: Starting, event: Event, now: Duration) -> (State, Vec<Action>) {
    match event {
        Event::Launched if plan.readiness == Readiness::Probes => probe(starting, Duration::ZERO),
        Event::LaunchFailed(why) => fail(plan, Failure::new(FailureKind::Start, why), now),
        Event::NewExited(how) => fail(plan, Failure::new(FailureKind::Start, how), now),
        Event::Extend(more) => {
            if plan.readiness == Readiness::Lives && !starting.awaited && !starting.said {
                // Who asks for more time is not ready, and will say when it is.
                starting.deadline += plan.ready.saturating_sub(QUIET);
            }
            starting.awaited = true;
            starting.deadline = starting.deadline.max(patience(plan.ready, Some(now + more)));
            (State::Starting(starting), vec![])
        }
        Event::Ready if starting.said => (State::Starting(starting), vec![]),
        Event::Ready => {
            starting.said = true;
            let told = if starting.passed { vec![] } else { vec![Action::Tell(Milestone::Ready)] };
            let (state, then) = match plan.readiness {
                Readiness::Lives => verified(plan),
                Readiness::Probes if starting.round.is_some() => (State::Starting(starting), vec![]),
                Readiness::Probes => probe(starting, Duration::ZERO),
            };
            (state, [told, then].concat())
        }
        Event::Probed { n_passed, failed } => judge(plan, starting, n_passed, failed, now),
        Event::Tick if now >= starting.deadline => match plan.readiness {
            // It said READY=1 in another life, and does not any more; then what the probes say counts.
            Readiness::Probes if starting.well => {
                let (state, then) = verified(plan);
                (state, [vec![Action::Tell(Milestone::Ready)], then].concat())
            }
            Readiness::Lives if !starting.awaited => {
                let (state, then) = verified(plan);
                (state, [vec![Action::Tell(Milestone::Ready)], then].concat())
            }
            _ => fail(plan, too_late(plan, &starting), now),
        },
        _ => (State::Starting(starting), vec![]),
    }
}

fn probe(mut starting: Starting, after: Duration) -> (State, Vec<Action>) {
    starting.round = Some(if starting.said { Round::Strict } else { Round::Lenient });
    (State::Starting(starting), vec![Action::Probe { after }])
}

/// Judges a round of probes: before READY=1 it is repeated until all pass, after it each has to pass. Where READY=1 is known to come, probes that pass do not stand for it
/// before the time is over.
fn judge(plan: &Plan, mut starting: Starting, n_passed: usize, failed: Option<String>, now: Duration) -> (State, Vec<Action>) {
    let Some(round) = starting.round.take() else { return (State::Starting(starting), vec![]) };
    let first = n_passed > 0 && !starting.passed && !starting.said && !is_missing(plan, &starting);
    starting.passed |= n_passed > 0;
    let told = if first { vec![Action::Tell(Milestone::Ready)] } else { vec![] };
    let (state, then) = match (failed, round) {
        (None, Round::Lenient) if is_missing(plan, &starting) => {
            starting.well = true;
            (State::Starting(starting), vec![])
        }
        (None, _) => verified(plan),
        (Some(why), Round::Strict) => fail(plan, Failure::new(FailureKind::Probe, why), now),
        (Some(_), Round::Lenient) if starting.said => probe(starting, Duration::ZERO),
        (Some(_), Round::Lenient) => probe(starting, PAUSE),
    };
    (state, [told, then].concat())
}

/// Returns whether READY=1 is waited for although probes may pass. Where the old version was stopped, its clients wait too, and are the new one's at once.
fn is_missing(plan: &Plan, starting: &Starting) -> bool {
    starting.awaited && !starting.said && plan.style == Style::Beside
}

fn verified(plan: &Plan) -> (State, Vec<Action>) {
    // One that is stopped for the other is watched since then.
    let watch = if plan.style == Style::Beside { watch(plan) } else { vec![] };
    let (state, then) = arm(plan);
    (state, [vec![Action::Tell(Milestone::Verified)], watch, then].concat())
}

/// Moves `current`; first, where somebody has to confirm that, what to go back to is written down.
fn arm(plan: &Plan) -> (State, Vec<Action>) {
    match plan.confirm {
        Some(_) => (State::Arming, vec![Action::Arm]),
        None => (State::Moving, vec![Action::MoveCurrent(plan.new)]),
    }
}

fn disarm(plan: &Plan) -> Vec<Action> {
    if plan.confirm.is_some() { vec![Action::Disarm] } else { vec![] }
}

/// Where nothing ran there are no clients that could lose something.
fn watch(plan: &Plan) -> Vec<Action> {
    if is_watched(plan) { vec![Action::Watch] } else { vec![] }
}

fn is_watched(plan: &Plan) -> bool {
    plan.watch.is_some() && plan.old_runs
}

fn too_late(plan: &Plan, starting: &Starting) -> Failure {
    let within = format!("within {:?}", plan.ready);
    if plan.readiness == Readiness::Lives {
        return Failure::new(FailureKind::NotReady, format!("{} {within}", NO_READY));
    }
    if starting.said || starting.passed {
        Failure::new(FailureKind::Probe, format!("not all probes passed {within}"))
    } else {
        Failure::new(FailureKind::NotReady, format!("no READY=1 and no passing probe {within}"))
    }
}

fn activated(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    let told = Action::Tell(Milestone::Activated);
    if plan.old_runs && (plan.style == Style::Beside || (plan.style == Style::Exclusive && is_watched(plan))) {
        return (State::Handing { deadline: now + plan.handing() }, vec![told, Action::AwaitHanded]);
    }
    let (state, then) = soak(plan, now);
    (state, [vec![told], then].concat())
}

fn soak(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    if plan.soak.is_zero() || plan.style == Style::Files {
        return well(plan, now);
    }
    (State::Soaking { until: now + plan.soak }, vec![])
}

fn soaked(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    if plan.readiness != Readiness::Probes {
        return well(plan, now);
    }
    (State::Asking { deadline: now + ASKING }, vec![Action::Probe { after: Duration::ZERO }])
}

/// It stayed well: only whoever asked may have something against it.
fn well(plan: &Plan, now: Duration) -> (State, Vec<Action>) {
    match plan.confirm {
        Some(within) => (State::Waiting { deadline: now + within }, vec![Action::Tell(Milestone::Awaiting)]),
        None => confirm(plan),
    }
}

fn confirm(plan: &Plan) -> (State, Vec<Action>) {
    let mut actions = vec![Action::Record { good: true, why: String::new() }, Action::Tell(Milestone::Confirmed)];
    if plan.old_runs && plan.style != Style::Exclusive {
        actions.push(Action::Retire(plan.old));
    }
    actions.push(Action::Answer(Ok(())));
    (State::Ended { good: true }, actions)
}

/// It failed and `current` does not name it.
fn fail(plan: &Plan, failure: Failure, now: Duration) -> (State, Vec<Action>) {
    let mut actions = match plan.style {
        Style::Files => vec![],
        _ => vec![Action::Kill(plan.new)],
    };
    if plan.style == Style::Exclusive && plan.old_runs {
        return (State::Clearing { failure, deadline: now + CLEARING }, actions);
    }
    if plan.style != Style::Files {
        actions.push(Action::CloseListeners(plan.new));
    }
    let (state, then) = failed(failure);
    (state, [actions, then].concat())
}

/// As [`fail`], where what to go back to may be written down.
fn fail_armed(plan: &Plan, failure: Failure, now: Duration) -> (State, Vec<Action>) {
    let (state, then) = fail(plan, failure, now);
    (state, [disarm(plan), then].concat())
}

/// It failed after it served, and lives.
fn revert(plan: &Plan, reason: String) -> (State, Vec<Action>) {
    take_back(plan, Failure::new(FailureKind::Reverted, reason), Leave::InOrder)
}

/// It failed after it served: new connections go to the old version at once, then `current` follows.
fn take_back(plan: &Plan, failure: Failure, leave: Leave) -> (State, Vec<Action>) {
    let mut actions = vec![];
    let goes_on = plan.style == Style::Beside && plan.old_runs;
    if goes_on {
        actions.push(Action::StartOld);
        actions.push(Action::Steer(plan.old));
    }
    actions.push(Action::MoveCurrent(plan.old));
    (State::Returning { failure, leave: if goes_on { leave } else { Leave::AtOnce } }, actions)
}

/// All that ran was killed: `current` names again what it named before, and nothing is started for that.
fn halt(plan: &Plan, state: State, who: &str) -> (State, Vec<Action>) {
    let failure = |kind| Failure::new(kind, format!("{who} stopped the application"));
    match state {
        State::Ended { .. } | State::Staged => (state, vec![]),
        State::Stopping { .. } | State::Starting(_) | State::Arming => {
            let (state, then) = failed(failure(FailureKind::System));
            (state, [disarm(plan), then].concat())
        }
        // What it failed by is what counts.
        State::Clearing { failure, .. } | State::Restoring { failure, .. } => failed(failure),
        State::Returning { failure, .. } => (State::Returning { failure, leave: Leave::Stopped }, vec![]),
        State::Moving
        | State::Steering
        | State::Handing { .. }
        | State::Soaking { .. }
        | State::Asking { .. }
        | State::Waiting { .. }
        | State::Disarming => {
            let failure = failure(FailureKind::Reverted);
            (State::Returning { failure, leave: Leave::Stopped }, vec![Action::MoveCurrent(plan.old)])
        }
    }
}

fn returned(plan: &Plan, failure: Failure, leave: Leave, now: Duration) -> (State, Vec<Action>) {
    let told = Action::Tell(Milestone::RolledBack { reason: failure.message.clone() });
    let (state, then) = match leave {
        // Nothing serves again.
        Leave::Stopped => return failed(failure),
        Leave::AtOnce => fail(plan, failure, now),
        Leave::InOrder => {
            let (state, then) = failed(failure);
            (state, [vec![Action::Retire(plan.new)], then].concat())
        }
    };
    (state, [vec![told], then].concat())
}

fn restore(failure: Failure, now: Duration) -> (State, Vec<Action>) {
    (State::Restoring { failure, deadline: now + RESTORING }, vec![Action::StartOld])
}

fn failed(failure: Failure) -> (State, Vec<Action>) {
    (State::Ended { good: false }, vec![record_bad(&failure), Action::Answer(Err(failure))])
}

fn record_bad(failure: &Failure) -> Action {
    Action::Record { good: false, why: failure.message.clone() }
}

#[cfg(test)]
mod tests;
