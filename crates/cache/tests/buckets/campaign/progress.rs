//! How far all are, and whose turn it is: what members wait for, none of it a time.

use std::sync::{Condvar, Mutex, MutexGuard};

/// How far all are.
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    commits: u64,
    collections: u64,
    /// Those who may put besides those who do.
    turns: u64,
    /// No commit is left to be begun.
    is_draining: bool,
    is_over: bool,
}

/// Whoever has it may put.
pub struct Turn<'a>(&'a Progress);

impl Progress {
    pub fn new(turns: u64) -> Self {
        let state = State { commits: 0, collections: 0, turns, is_draining: false, is_over: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub fn committed(&self) {
        self.change(|state| state.commits += 1);
    }

    pub fn collected(&self) {
        self.change(|state| state.collections += 1);
    }

    pub fn drain(&self) {
        self.change(|state| state.is_draining = true);
    }

    pub fn end(&self) {
        self.change(|state| (state.is_draining, state.is_over) = (true, true));
    }

    /// Returns whether no commit is to be begun any more.
    pub fn is_draining(&self) -> bool {
        self.state().is_draining
    }

    pub fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Waits for a turn.
    pub fn turn(&self) -> Turn<'_> {
        self.wait(|state| state.turns > 0).turns -= 1;
        Turn(self)
    }

    /// Waits until there are so many more commits, or no more come; returns whether more may come.
    pub fn wait_for_commits(&self, more: u64) -> bool {
        let until = self.state().commits + more;
        !self.wait(|state| state.is_over || state.commits >= until).is_over
    }

    /// Waits until others have collected, or committed that often that it does not matter any more.
    pub fn wait_for_others(&self) {
        let go_on = self.when_others_went_on();
        drop(self.wait(|state| go_on.is_now(state)));
    }

    /// Says when somebody who is stopped now shall go on.
    pub fn when_others_went_on(&self) -> Moment {
        let state = self.state();
        Moment { collections: state.collections + 1, commits: state.commits + 40 }
    }

    /// Returns whether it is that moment.
    pub fn came(&self, moment: &Moment) -> bool {
        moment.is_now(&self.state())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), |state| !until(state)).expect("not poisoned")
    }
}

/// Lets nobody wait for somebody who panicked.
pub struct Leaving<'a>(pub &'a Progress);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.drain();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.turns += 1);
    }
}

/// When somebody shall go on.
pub struct Moment {
    collections: u64,
    commits: u64,
}

impl Moment {
    fn is_now(&self, state: &State) -> bool {
        state.is_draining || state.collections >= self.collections || state.commits >= self.commits
    }
}
