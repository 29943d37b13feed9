//! What a program says of itself, and what is made of it: that it is ready, that it needs more time, how it goes.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use distributive_flow::parent::Notification;
use distributive_flow::protocol::Counted;

use super::App;
use crate::activation::{self, LONGEST, NO_READY, QUIET, patience};
use crate::generation;
use crate::supervise::words;

/// Bytes of a status that are kept and shown.
const STATUS_LEN: usize = 256;

/// Ports of which is kept what a program says of their connections; its release has fewer.
const PORTS: usize = 64;

/// What one process has said; shared by the threads that listen to it and wait for it.
#[derive(Debug, Default)]
pub(super) struct Said {
    heard: Mutex<Heard>,
    /// It spoke, or ended.
    changed: Condvar,
}

/// What was heard of it until now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// READY=1.
    pub ready: bool,
    /// STOPPING=1.
    pub stopping: bool,
    /// The last STATUS=; foreign text.
    pub status: String,
    /// What became of the connections of its ports, in its own words; foreign text.
    pub connections: BTreeMap<String, Counted>,
    /// It says nothing more: it has ended.
    pub ended: bool,
    /// Until when it asked to be waited for, in the step that is under way.
    until: Option<Instant>,
    /// That it says READY=1 was written down.
    is_noted: bool,
}

impl Said {
    /// What an earlier supervisor heard.
    pub(super) fn before(ready: bool, stopping: bool, status: String) -> Self {
        Self { heard: Mutex::new(Heard { ready, stopping, status, ..Heard::default() }), changed: Condvar::new() }
    }

    /// Hears something.
    pub(super) fn hear(&self, said: &Notification, now: Instant) {
        let mut heard = self.lock();
        heard.ready |= said.ready;
        heard.stopping |= said.stopping;
        if let Some(status) = &said.status {
            heard.status = df_core::text::shorten(status, STATUS_LEN);
        }
        if let Some(more) = said.extend {
            heard.until = heard.until.max(Some(now + more));
        }
        for (port, counted) in &said.connections {
            if heard.connections.contains_key(port) || heard.connections.len() < PORTS {
                let known = heard.connections.entry(port.clone()).or_default();
                *known = Counted { given: known.given.max(counted.given), kept: known.kept.max(counted.kept) };
            }
        }
        drop(heard);
        self.changed.notify_all();
    }

    /// Hears that it has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until what was heard is enough, or it ended, or the time is over; returns what was heard.
    pub(super) fn await_heard(&self, deadline: Instant, is_enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.ended || is_enough(&heard) || left.is_zero() {
                return heard.clone();
            }
            heard = self.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns what was heard.
    pub(super) fn heard(&self) -> Heard {
        self.lock().clone()
    }

    /// Another step begins: what was asked for before is not for it.
    pub(super) fn begin_step(&self) {
        self.lock().until = None;
    }

    /// Returns whether it said READY=1 and this is the first who asks.
    fn is_news(&self) -> bool {
        let mut heard = self.lock();
        heard.ready && !std::mem::replace(&mut heard.is_noted, true)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// Returns how long it asked to be waited for, since a step began.
    pub(super) fn asked(&self, began: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(began))
    }
}

/// What a version is waited for that starts to serve without a trial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Its time.
    pub ready: Duration,
    /// Its generation is known to say READY=1.
    pub says_ready: bool,
    /// There is something to ask.
    pub is_asked: bool,
}

/// What comes of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is ready.
    Ready,
    /// Not yet, and the probes are to be asked again.
    Ask,
    /// Not yet, and its probes pass: only READY=1 is missing.
    Listen,
    /// Its time is over; none: a probe says why.
    Late(Option<String>),
}

/// Decides whether a version is ready that starts to serve: as on trial, but a probe that fails after READY=1 is asked again. `passed`: all probes do, if there are any;
/// `asked`: how long it wants to be waited for; this and `now` since it began.
pub(super) fn judge(terms: Terms, said_ready: bool, passed: bool, asked: Option<Duration>, now: Duration) -> Verdict {
    let late = now >= patience(terms.ready, asked);
    let awaited = !said_ready && (terms.says_ready || asked.is_some());
    match (terms.is_asked, passed) {
        (true, false) if late => Verdict::Late(None),
        (true, false) => Verdict::Ask,
        (true, true) if awaited && !late => Verdict::Listen,
        (true, true) => Verdict::Ready,
        (false, _) if said_ready || (!awaited && now >= QUIET.min(terms.ready)) => Verdict::Ready,
        (false, _) if awaited && late => Verdict::Late(Some(format!("{NO_READY} within {:?}", patience(terms.ready, asked)))),
        (false, _) => Verdict::Listen,
    }
}

/// Returns until when a program that was told to end is waited for.
pub(super) fn end_of(began: Instant, drain: Duration, heard: &Heard) -> Instant {
    // A time beyond what a clock can say is cut where a program that asks is.
    let step = patience(drain, heard.asked(began));
    began.checked_add(step).unwrap_or(began + LONGEST)
}

impl App {
    /// A program spoke: an activation may have waited for it.
    pub(super) fn notified(&mut self, run: u64, ready: bool, extend: Option<Duration>) {
        let (new, old) = self.flight.as_ref().map_or((None, None), |flight| (Some(flight.new_run), flight.old_run));
        if new == Some(run) {
            extend.into_iter().for_each(|more| self.advance(activation::Event::Extend(more)));
            if ready {
                self.advance(activation::Event::Ready);
            }
            return;
        }
        if old == Some(run) {
            extend.into_iter().for_each(|more| self.advance(activation::Event::OldExtend(more)));
        }
        if ready {
            self.remember_ready(run);
        }
    }

    /// Writes down that a generation says READY=1 where its activation is over and nobody knew. What an activation hears is written down at its end.
    fn remember_ready(&self, run: u64) {
        let Some(version) = self.versions.get(&run).filter(|version| version.said.is_news()) else { return };
        if let Err(error) = generation::set_says_ready(&self.node.layout, &self.app, version.generation) {
            eprintln!("record of {} {}: {}", self.app, version.generation, words(&error));
        }
    }

    /// Returns whether a generation is known to say READY=1.
    pub(super) fn says_ready(&self, generation: u64) -> bool {
        generation > 0 && generation::read(&self.node.layout, &self.app, generation).is_ok_and(|record| record.says_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Duration = Duration::from_secs(30);

    fn terms(says_ready: bool, is_asked: bool) -> Terms {
        Terms { ready: READY, says_ready, is_asked }
    }

    #[test]
    fn a_version_that_starts_to_serve_is_ready_when_it_says_so_or_when_nobody_expects_that_and_its_probes_pass() {
        let seconds = Duration::from_secs;
        let late = |asked: bool| Verdict::Late((!asked).then(|| format!("{NO_READY} within 30s")));
        for (says, is_asked, said, passed, more, now, expected) in [
            // Nothing is known of it, and there is nothing to ask: it has to live a second.
            (false, false, false, true, None, 0, Verdict::Listen),
            (false, false, false, true, None, 1, Verdict::Ready),
            (false, false, true, true, None, 0, Verdict::Ready),
            // It says READY=1, and nobody can ask it.
            (true, false, false, true, None, 29, Verdict::Listen),
            (true, false, false, true, None, 30, late(false)),
            (true, false, true, true, None, 29, Verdict::Ready),
            // It asked for more time, so it will say when it is ready.
            (false, false, false, true, Some(5), 2, Verdict::Listen),
            (false, false, false, true, Some(5), 30, late(false)),
            (true, false, false, true, Some(50), 49, Verdict::Listen),
            // Its probes stand for it where nobody knows that it says READY=1.
            (false, true, false, false, None, 29, Verdict::Ask),
            (false, true, false, true, None, 0, Verdict::Ready),
            (false, true, false, false, None, 30, late(true)),
            (false, true, false, false, Some(50), 30, Verdict::Ask),
            // And where that is known, when its time is over.
            (true, true, false, true, None, 29, Verdict::Listen),
            (true, true, false, true, None, 30, Verdict::Ready),
            (true, true, true, true, None, 3, Verdict::Ready),
            (true, true, true, false, None, 3, Verdict::Ask),
        ] {
            let found = judge(terms(says, is_asked), said, passed, more.map(seconds), seconds(now));
            assert_eq!(found, expected, "{says} {is_asked} {said} {passed} {more:?} {now}");
        }
    }

    #[test]
    fn more_time_is_for_the_step_in_which_it_was_asked_for_and_bounded() {
        let (said, began) = (Said::default(), Instant::now());
        let more = |seconds| Notification { extend: Some(Duration::from_secs(seconds)), ..Notification::default() };
        let end = |drain| end_of(began, Duration::from_secs(drain), &said.heard()) - began;
        said.hear(&more(50), began);
        assert_eq!((end(30), end(60)), (Duration::from_secs(50), Duration::from_secs(60)));
        said.hear(&more(10), began);
        assert_eq!(end(30), Duration::from_secs(50), "who asks for less has what it was given");
        said.begin_step();
        assert_eq!(end(30), Duration::from_secs(30));
        said.hear(&more(3600), began + Duration::from_secs(100));
        assert_eq!((end(30), end(7200)), (LONGEST, Duration::from_secs(7200)));
    }

    #[test]
    fn the_last_status_is_kept_and_no_more_than_a_line_of_it() {
        let (said, now) = (Said::default(), Instant::now());
        let status = |text: &str| Notification { status: Some(text.into()), ..Notification::default() };
        said.hear(&status("one"), now);
        said.hear(&Notification { stopping: true, ..Notification::default() }, now);
        assert_eq!((said.heard().status.as_str(), said.heard().stopping), ("one", true));
        said.hear(&status(&"é".repeat(4000)), now);
        assert!(said.heard().status.len() <= STATUS_LEN && said.heard().status.ends_with("é..."));
        said.hear(&status(""), now);
        assert_eq!(said.heard().status, "");
    }
}
