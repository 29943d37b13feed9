//! How many connections went to the next version and how many stayed: counted here, because only who gives them knows, and told to the supervisor.

use crate::child::send;
use crate::protocol::{Counted, Message, NotifyAddress};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a supervisor that does not read is waited for each time: a client may be waiting too.
const PATIENCE: Duration = Duration::from_millis(100);

/// The count of a process, and whom it tells.
#[derive(Debug, Default)]
pub(super) struct Tally {
    to: Option<NotifyAddress>,
    counted: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ports: BTreeMap<String, Counted>,
    /// Not all of it was told.
    is_news: bool,
    /// A thread tells it, and does so again if there is news meanwhile.
    is_telling: bool,
}

impl Tally {
    pub(super) fn telling(to: Option<NotifyAddress>) -> Self {
        Self { to, counted: Mutex::default() }
    }

    /// Counts a connection, and sees to it that the supervisor hears of it: before this returns, or before it returns to another thread that is at it.
    ///
    /// So one datagram stands for many connections when many threads give at once, and numbers are told in the order in which they grow.
    pub(super) fn count(&self, port: &str, is_given: bool) {
        let mut state = self.lock();
        let of_port = state.ports.entry(port.to_owned()).or_default();
        let number = if is_given { &mut of_port.given } else { &mut of_port.kept };
        *number = number.saturating_add(1);
        state.is_news = true;
        let Some(to) = self.to.as_ref().filter(|_| !state.is_telling) else { return };
        state.is_telling = true;
        while std::mem::take(&mut state.is_news) {
            let words = Message::Connections(&state.ports).encode();
            drop(state);
            let is_told = send(to, &words, PATIENCE).is_ok();
            state = self.lock();
            if !is_told {
                // A supervisor that does not hear it knows less, for now; the connections are served all the same.
                state.is_news = true;
                break;
            }
        }
        state.is_telling = false;
    }

    /// Returns what was counted, in words, unless it was told or there is nobody to tell.
    fn untold(&self) -> Option<(&NotifyAddress, String)> {
        let (to, state) = (self.to.as_ref()?, self.lock());
        state.is_news.then(|| (to, Message::Connections(&state.ports).encode()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // The last chance to say it.
        if let Some((to, words)) = self.untold() {
            let _ = send(to, &words, PATIENCE);
        }
    }
}
