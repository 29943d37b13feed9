//! Every interleaving of a confirmation, its timer, and the deaths of all who take part, on a disk that keeps what was written.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::activation::{self, Action, Event, Failure, Plan, Readiness, State, Style};

const OLD: u64 = 1;
const NEW: u64 = 2;
/// What a second operator brings.
const OTHER: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
const SOAK: Duration = Duration::from_secs(1);
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

type Decide = fn(&Armed, &Found) -> Duty;
type Step = fn(&Plan, State, Event, Duration) -> (State, Vec<Action>);

/// A supervisor at work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Supervisor {
    plan: Plan,
    state: State,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    /// What others told it meanwhile: it hears that when it has done what it is at.
    heard: VecDeque<Event>,
    /// What a supervisor that begins still has to do: `current` goes back to this, then the file goes.
    back: Option<u64>,
    forget: bool,
    /// It began, and has not looked at what it finds.
    fresh: bool,
}

/// All there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    current: u64,
    armed: Option<Armed>,
    supervisor: Option<Supervisor>,
    lives: bool,
    boot: u8,
    /// Its soak is over.
    soaked: bool,
    late: bool,
    operator_lives: bool,
    /// The operator said that it reaches the node, and the node heard it.
    confirmed: bool,
    /// Its probes were asked at the end of its soak.
    asked: bool,
    /// The operator was answered that it stays.
    told: bool,
    /// What a second operator made of it.
    second: Option<u64>,
    n_deaths: u8,
    n_refused: u8,
    /// Whether a supervisor tries again what the disk refused.
    tries_again: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The supervisor goes on: one action, or one event.
    GoOn,
    /// The next action fails, with or without its effect.
    Fail {
        half_done: bool,
    },
    Confirm,
    Soaked,
    Late,
    OperatorDies,
    SupervisorDies,
    SupervisorBegins,
    ProgramDies,
    Reboot,
    Deploy,
    Rollback,
}

const ALL: [Next; 13] = [
    Next::GoOn,
    Next::Fail { half_done: false },
    Next::Fail { half_done: true },
    Next::Confirm,
    Next::Soaked,
    Next::Late,
    Next::OperatorDies,
    Next::SupervisorDies,
    Next::SupervisorBegins,
    Next::ProgramDies,
    Next::Reboot,
    Next::Deploy,
    Next::Rollback,
];

fn plan(new: u64, old: u64, confirm: Option<Duration>) -> Plan {
    let second = Duration::from_secs(1);
    Plan {
        new,
        old,
        old_runs: true,
        style: Style::Beside,
        readiness: Readiness::Probes,
        says_ready: false,
        ready: second,
        soak: SOAK,
        drain: second,
        watch: None,
        zero_loss: false,
        confirm,
    }
}

impl Supervisor {
    /// One that has verified the new version and begins to move.
    fn about_to_move(plan: Plan) -> Self {
        let (state, first) = match plan.confirm {
            Some(_) => (State::Arming, Action::Arm),
            None => (State::Moving, Action::MoveCurrent(plan.new)),
        };
        Self {
            plan,
            state,
            actions: [first].into(),
            events: VecDeque::new(),
            heard: VecDeque::new(),
            back: None,
            forget: false,
            fresh: false,
        }
    }

    fn goes_back(&mut self, to: u64) {
        (self.back, self.forget) = (Some(to), true);
    }

    fn idle(&self) -> bool {
        matches!(self.state, State::Ended { .. })
            && self.actions.is_empty()
            && self.events.is_empty()
            && self.heard.is_empty()
            && !self.at_beginning()
    }

    fn at_beginning(&self) -> bool {
        self.fresh || self.forget || self.back.is_some()
    }
}

impl World {
    fn new(tries_again: bool) -> Self {
        Self {
            current: OLD,
            armed: None,
            supervisor: Some(Supervisor::about_to_move(plan(NEW, OLD, Some(PATIENCE)))),
            lives: true,
            boot: 0,
            soaked: false,
            late: false,
            operator_lives: true,
            confirmed: false,
            asked: false,
            told: false,
            second: None,
            n_deaths: 0,
            n_refused: 0,
            tries_again,
        }
    }

    fn could_be_taken_back(&self) -> bool {
        self.armed.as_ref().is_some_and(|armed| armed.new == self.current)
    }

    fn now(&self) -> Duration {
        match (self.late, self.soaked) {
            (true, _) => 2 * PATIENCE,
            (false, true) => SOAK,
            (false, false) => Duration::ZERO,
        }
    }

    /// Returns the world after this, or nothing where it cannot happen.
    fn after(&self, next: Next, decide: Decide, step: Step) -> Option<Self> {
        let mut world = self.clone();
        match next {
            Next::GoOn => world.go_on(decide, step)?,
            Next::Fail { half_done } => world.fail(half_done)?,
            Next::Confirm => {
                let waits = matches!(&world.supervisor, Some(s) if matches!(s.state, State::Waiting { .. }) && s.events.is_empty() && s.actions.is_empty());
                (waits && world.operator_lives).then_some(())?;
                world.confirmed = true;
                world.supervisor.as_mut()?.events.push_back(Event::Confirm);
            }
            Next::Soaked => {
                (!world.soaked && !world.late).then_some(())?;
                world.soaked = true;
            }
            Next::Late => {
                (!world.late).then_some(())?;
                world.late = true;
            }
            Next::OperatorDies => {
                world.operator_lives.then_some(())?;
                world.operator_lives = false;
            }
            Next::SupervisorDies => {
                (world.n_deaths < 2).then_some(())?;
                world.supervisor.take()?;
                world.n_deaths += 1;
            }
            Next::SupervisorBegins => {
                world.supervisor.is_none().then_some(())?;
                world.supervisor = Some(Supervisor {
                    plan: plan(NEW, OLD, None),
                    state: State::Ended { good: false },
                    actions: VecDeque::new(),
                    events: VecDeque::new(),
                    heard: VecDeque::new(),
                    back: None,
                    forget: false,
                    fresh: true,
                });
            }
            Next::ProgramDies => {
                world.lives.then_some(())?;
                world.lives = false;
                if let Some(supervisor) = &mut world.supervisor
                    && !supervisor.at_beginning()
                {
                    supervisor.heard.push_back(Event::NewExited("killed".into()));
                }
            }
            Next::Reboot => {
                (world.boot == 0).then_some(())?;
                (world.boot, world.lives, world.supervisor) = (1, false, None);
            }
            Next::Deploy | Next::Rollback => {
                // One at a time, and who comes meanwhile is told who is at work.
                (world.second.is_none() && !world.could_be_taken_back() && world.supervisor.as_ref()?.idle()).then_some(())?;
                let (to, confirm) = if next == Next::Deploy { (OTHER, Some(PATIENCE)) } else { (OLD, None) };
                (world.current != to).then_some(())?;
                // Whoever begins removes what was left over.
                (world.armed, world.soaked, world.late, world.lives) = (None, false, false, true);
                world.second = Some(to);
                world.supervisor = Some(Supervisor::about_to_move(plan(to, world.current, confirm)));
            }
        }
        Some(world)
    }

    fn go_on(&mut self, decide: Decide, step: Step) -> Option<()> {
        let (now, current, lives, boot) = (self.now(), self.current, self.lives, format!("boot {}", self.boot));
        let supervisor = self.supervisor.as_mut()?;
        if supervisor.fresh {
            supervisor.fresh = false;
            let Some(armed) = &self.armed else { return Some(()) };
            match decide(armed, &Found { current, boot, now, lives }) {
                Duty::Forget => supervisor.forget = true,
                Duty::GoBack(_) => supervisor.goes_back(armed.old),
                Duty::Wait(Wait { soak, confirm }) => {
                    supervisor.plan = plan(armed.new, armed.old, Some(PATIENCE));
                    supervisor.state = match soak {
                        Some(left) => State::Soaking { until: now.saturating_add(left) },
                        None => State::Waiting { deadline: now.saturating_add(confirm) },
                    };
                }
            }
        } else if let Some(to) = supervisor.back.take() {
            self.current = to;
        } else if supervisor.forget {
            supervisor.forget = false;
            self.armed = None;
        } else if let Some(action) = supervisor.actions.pop_front() {
            self.perform(&action, &boot);
        } else if let Some(armed) =
            self.armed.as_ref().filter(|armed| self.tries_again && supervisor.idle() && armed.new == current)
        {
            supervisor.goes_back(armed.old);
        } else {
            // When it is late, it is late for whatever is waited for, but for what is waited for for ever.
            let due = supervisor.state.deadline().filter(|deadline| *deadline <= now || (self.late && *deadline < FOR_EVER));
            let said = supervisor.events.pop_front().or_else(|| supervisor.heard.pop_front());
            let event = said.or_else(|| due.map(|_| Event::Tick))?;
            let now = due.unwrap_or(now).max(now);
            let (state, actions) = step(&supervisor.plan, supervisor.state.clone(), event, now);
            supervisor.state = state;
            supervisor.actions = actions.into();
        }
        Some(())
    }

    fn perform(&mut self, action: &Action, boot: &str) {
        let Some(supervisor) = &mut self.supervisor else { return };
        let plan = supervisor.plan.clone();
        let done = match action {
            Action::Arm => {
                let until_ms = PATIENCE.as_millis() as u64;
                self.armed = Some(Armed {
                    new: plan.new,
                    old: plan.old,
                    boot: boot.into(),
                    until_ms,
                    within_ms: until_ms,
                    well_ms: Some(SOAK.as_millis() as u64),
                    who: String::new(),
                });
                Some(Event::Armed)
            }
            Action::Disarm => {
                self.armed = None;
                Some(Event::Disarmed)
            }
            Action::MoveCurrent(to) => {
                self.current = *to;
                Some(Event::Moved)
            }
            Action::Steer(to) if *to == plan.new => Some(Event::Steered),
            Action::AwaitHanded => Some(Event::Handed { lost: None }),
            Action::Probe { .. } => {
                self.asked = true;
                Some(Event::Probed { n_passed: 1, failed: None })
            }
            Action::Answer(Ok(())) if self.operator_lives && self.second.is_none() => {
                self.told = true;
                None
            }
            _ => None,
        };
        supervisor.events.extend(done);
    }

    /// The disk refuses the next action, perhaps after it did it.
    fn fail(&mut self, half_done: bool) -> Option<()> {
        let boot = format!("boot {}", self.boot);
        let supervisor = self.supervisor.as_mut()?;
        if supervisor.back.is_some() || matches!(supervisor.actions.front(), Some(Action::MoveCurrent(_))) {
            // What does not move names what it named before.
            (!half_done && self.n_refused < 2).then_some(())?;
            self.n_refused += 1;
            match supervisor.back.take() {
                Some(_) => supervisor.forget = false,
                None => {
                    supervisor.actions.pop_front();
                    supervisor.events.push_back(Event::MoveFailed("full".into()));
                }
            }
            return Some(());
        }
        let action = supervisor.actions.pop_front()?;
        let event = match action {
            Action::Arm => Event::ArmFailed("full".into()),
            Action::Disarm => Event::DisarmFailed("full".into()),
            _ => return None,
        };
        if half_done {
            let events = self.supervisor.as_ref()?.events.clone();
            self.perform(&action, &boot);
            self.supervisor.as_mut()?.events = events;
        }
        self.supervisor.as_mut()?.events.push_back(event);
        Some(())
    }

    /// What must be so at every moment.
    fn check(&self) -> Result<(), String> {
        if self.told && self.second.is_none() && self.current != NEW {
            return Err("the operator was told that it stays, and it went back".into());
        }
        if self.told && !self.asked {
            return Err("the operator was told that it stays, and nobody knows whether it stayed well".into());
        }
        // Where it is tried again, whoever does is not idle.
        let tries = self.tries_again && self.could_be_taken_back();
        let idle = self.supervisor.as_ref().is_some_and(Supervisor::idle) && !tries;
        if idle && self.current == NEW && !self.confirmed {
            return Err("nobody confirmed it, and it stays".into());
        }
        Ok(())
    }

    /// Lets the node alone: a supervisor begins if there is none, time passes, and nobody says a word.
    fn left_alone(&self, decide: Decide, step: Step) -> Result<(), String> {
        let mut world = self.clone();
        (world.late, world.operator_lives) = (true, false);
        for _ in 0..200 {
            if world.supervisor.is_none() {
                world = world.after(Next::SupervisorBegins, decide, step).expect("there is none");
            }
            world.check()?;
            match world.after(Next::GoOn, decide, step) {
                Some(next) => world = next,
                None if world.supervisor.as_ref().is_some_and(Supervisor::idle) => {
                    return if world.could_be_taken_back() {
                        Err("it is over, and could still be taken back".into())
                    } else {
                        Ok(())
                    };
                }
                None => return Err(format!("left alone the node waits for ever: {world:?}")),
            }
        }
        Err("left alone the node never comes to rest".into())
    }
}

/// Visits everything that can happen; returns how many worlds there are, or what went wrong in one.
fn explore(decide: Decide, step: Step) -> Result<usize, String> {
    explore_from(World::new(true), decide, step)
}

fn explore_from(start: World, decide: Decide, step: Step) -> Result<usize, String> {
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        world.check()?;
        world.left_alone(decide, step)?;
        for next in ALL.into_iter().filter_map(|next| world.after(next, decide, step)) {
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn in_every_interleaving_what_nobody_confirmed_goes_back_and_what_was_confirmed_stays() {
    let n_worlds = explore(decide, activation::step).unwrap_or_else(|why| panic!("{why}"));
    println!("{n_worlds} worlds");
    assert!(n_worlds > 1_000, "{n_worlds} worlds are too few to be all");
}

#[test]
fn a_node_whose_current_could_not_be_moved_back_does_not_stay_locked() {
    let why =
        explore_from(World::new(false), decide, activation::step).expect_err("nobody tries again, and it is taken for right");
    assert!(why.contains("nobody confirmed it, and it stays"), "{why}");
}

/// Each of these is one thought away from the real ones, and the exploration has to see what is wrong with it.
#[test]
fn the_exploration_sees_what_is_wrong_with_others() {
    let decisions: [(&str, Decide); 5] = [
        ("forgets it", |_, _| Duty::Forget),
        ("waits for ever", |armed, found| match decide(armed, found) {
            Duty::Forget => Duty::Forget,
            _ => Duty::Wait(Wait { soak: None, confirm: Duration::MAX }),
        }),
        ("skips the rest of a soak", |armed, found| match decide(armed, found) {
            Duty::Wait(wait) => Duty::Wait(Wait { soak: None, ..wait }),
            other => other,
        }),
        ("believes a boot", |armed, found| if found.boot == armed.boot { decide(armed, found) } else { Duty::Forget }),
        ("believes a program that ended", |armed, found| if found.lives { decide(armed, found) } else { Duty::Forget }),
    ];
    for (what, wrong) in decisions {
        assert!(explore(wrong, activation::step).is_err(), "a supervisor that {what} is taken for right");
    }
    let steps: [(&str, Step); 4] = [
        ("moves before it is armed", |plan, state, event, now| match (&state, &event) {
            (State::Arming, Event::Armed) => activation::step(plan, State::Moving, Event::Moved, now),
            _ => with_actions(activation::step(plan, state, event, now), |action| match action {
                Action::Arm => vec![Action::MoveCurrent(NEW), Action::Arm],
                other => vec![other],
            }),
        }),
        ("disarms before it goes back", |plan, state, event, now| {
            with_actions(activation::step(plan, state, event, now), |action| match action {
                Action::MoveCurrent(OLD) => vec![Action::Disarm, Action::MoveCurrent(OLD)],
                other => vec![other],
            })
        }),
        ("answers before it has disarmed", |plan, state, event, now| match (&state, &event) {
            (State::Waiting { .. }, Event::Confirm) => (State::Disarming, vec![Action::Answer(Ok(())), Action::Disarm]),
            _ => activation::step(plan, state, event, now),
        }),
        ("has no timer", |plan, state, event, now| match (&state, &event) {
            (State::Waiting { .. }, Event::Tick) => (State::Ended { good: true }, vec![Action::Disarm]),
            _ => activation::step(plan, state, event, now),
        }),
    ];
    for (what, wrong) in steps {
        assert!(explore(decide, wrong).is_err(), "an activation that {what} is taken for right");
    }
}

fn with_actions(stepped: (State, Vec<Action>), change: fn(Action) -> Vec<Action>) -> (State, Vec<Action>) {
    (stepped.0, stepped.1.into_iter().flat_map(change).collect())
}

#[test]
fn what_is_found_decides() {
    let (who, boot) = ("me".to_owned(), "a".to_owned());
    let armed = Armed { new: NEW, old: OLD, boot, until_ms: 5000, within_ms: 3000, well_ms: None, who };
    let found = |current, boot: &str, now, lives| Found { current, boot: boot.into(), now: Duration::from_millis(now), lives };
    let second = Duration::from_secs(1);
    let wait = |soak, confirm| Duty::Wait(Wait { soak, confirm });
    assert_eq!(decide(&armed, &found(NEW, "a", 2000, true)), wait(None, 3 * second));
    let soon = Armed { within_ms: 1000, ..armed.clone() };
    assert_eq!(decide(&soon, &found(NEW, "a", 2000, true)), wait(None, second), "what came before is over");
    let soaks = Armed { well_ms: Some(3000), ..soon };
    assert_eq!(decide(&soaks, &found(NEW, "a", 2000, true)), wait(Some(second), second));
    assert_eq!(
        decide(&soaks, &found(NEW, "a", 4000, true)),
        wait(Some(Duration::ZERO), second),
        "its probes are asked all the same"
    );
    assert_eq!(decide(&armed, &found(NEW, "a", 5000, true)), Duty::GoBack(NOBODY));
    assert_eq!(decide(&armed, &found(OLD, "a", 2000, true)), Duty::Forget);
    assert!(matches!(decide(&armed, &found(NEW, "b", 2000, true)), Duty::GoBack(why) if why.contains("machine")));
    assert!(matches!(decide(&armed, &found(NEW, "a", 2000, false)), Duty::GoBack(why) if why.contains("program")));
}

#[test]
fn what_is_written_down_is_read_again_until_it_is_removed() {
    let (_dir, layout) = crate::fixture::layout();
    let app: AppName = "greeter".parse().expect("a name");
    crate::layout::make_dir(&layout.app(&app)).expect("made");
    disarm(&layout, &app).expect("nothing is there");
    assert_eq!(read(&layout, &app).expect("nothing is there"), None);
    let (who, boot) = ("me@here".to_owned(), "b".to_owned());
    let armed = Armed { new: 7, old: 0, boot, until_ms: 1, within_ms: 2, well_ms: None, who };
    arm(&layout, &app, &armed).expect("written");
    let text = fs::read_to_string(path(&layout, &app)).expect("read");
    assert_eq!(text, r#"{"new":7,"old":0,"boot":"b","until_ms":1,"within_ms":2,"who":"me@here"}"#);
    assert_eq!(read(&layout, &app).expect("read"), Some(armed.clone()));
    let soaks = Armed { well_ms: Some(9), ..armed };
    arm(&layout, &app, &soaks).expect("written");
    assert_eq!(read(&layout, &app).expect("read"), Some(soaks));
    disarm(&layout, &app).expect("removed");
    assert_eq!(read(&layout, &app).expect("gone"), None);
    fs::write(path(&layout, &app), "{").expect("written");
    assert!(read(&layout, &app).is_err());
}

/// The failure's words are the same wherever nobody confirmed.
#[test]
fn the_timer_and_the_next_supervisor_say_the_same() {
    let waiting = State::Waiting { deadline: Duration::ZERO };
    let (state, _) = activation::step(&plan(NEW, OLD, Some(PATIENCE)), waiting, Event::Tick, PATIENCE);
    assert!(matches!(state, State::Returning { failure: Failure { message, .. }, .. } if message == NOBODY));
}
