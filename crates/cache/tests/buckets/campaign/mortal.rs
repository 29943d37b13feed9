//! A bucket seen by a process that ends or stops itself at one of its requests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use df_cache::s3::aws::AwsObjects;
use df_cache::s3::objects::{Body, Condition, Etag, Key, Listed, Object, ObjectError, Objects, Requests};
use df_core::Timestamp;
use df_testkit::survivors;
use rustix::process::Signal;

use super::role::say;
use super::versions::Dice;

/// A request of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The n-th.
    Request(u64),
    /// The first that changes the head.
    Swap,
    /// The first that deletes.
    Delete,
}

/// What a process does to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    None,
    /// It kills itself, before a request or after it was done.
    Dies(At, bool),
    /// It stops before a request.
    Stops(At),
}

impl End {
    /// Draws what happens at one of about so many requests.
    pub fn draw(dice: &mut Dice, requests: u64, may_stop: bool) -> Self {
        let (fate, at, which) = (dice.below(12), dice.below(requests), dice.below(3));
        match fate {
            0..=2 => Self::Dies(At::Request(at), which == 0),
            3 | 4 if may_stop => Self::Stops(if which == 0 { At::Request(at) } else { At::Swap }),
            _ => Self::None,
        }
    }

    /// Returns it in words, for the process.
    pub fn text(self) -> String {
        let at = |at| match at {
            At::Request(n) => n.to_string(),
            At::Swap => "swap".to_owned(),
            At::Delete => "delete".to_owned(),
        };
        match self {
            Self::None => String::new(),
            Self::Dies(when, false) => format!(" dies-before {}", at(when)),
            Self::Dies(when, true) => format!(" dies-after {}", at(when)),
            Self::Stops(when) => format!(" stops {}", at(when)),
        }
    }

    /// Reads it from words.
    pub fn read(words: &[&str]) -> Self {
        let &[what, at] = words else { return Self::None };
        let at = match at {
            "swap" => At::Swap,
            "delete" => At::Delete,
            n => At::Request(n.parse().expect("a number")),
        };
        match what {
            "dies-before" => Self::Dies(at, false),
            "dies-after" => Self::Dies(at, true),
            _ => Self::Stops(at),
        }
    }
}

/// The bucket.
pub struct Mortal {
    objects: Arc<AwsObjects>,
    end: End,
    calls: AtomicU64,
    is_past: AtomicBool,
    /// Sessions that packs were sent under.
    sessions: Mutex<BTreeSet<String>>,
}

impl Mortal {
    pub fn new(objects: Arc<AwsObjects>, end: End) -> Self {
        Self { objects, end, calls: AtomicU64::new(0), is_past: AtomicBool::new(false), sessions: Mutex::default() }
    }

    /// Returns under how many sessions packs were sent: more than one when a fence rose above the first.
    pub fn n_sessions(&self) -> u64 {
        self.sessions.lock().expect("not poisoned").len() as u64
    }

    fn ask<T>(&self, named: Option<At>, act: impl FnOnce(&AwsObjects) -> T) -> T {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        let is_now = |at| (at == At::Request(n) || Some(at) == named) && !self.is_past.swap(true, Ordering::Relaxed);
        match self.end {
            End::Dies(at, true) if is_now(at) => {
                let _ = act(&self.objects);
                signal(Signal::KILL);
                unreachable!("nobody outlives that")
            }
            End::Dies(at, false) if is_now(at) => signal(Signal::KILL),
            End::Stops(at) if is_now(at) => {
                say("stops");
                signal(Signal::STOP);
            }
            _ => {}
        }
        act(&self.objects)
    }
}

impl Objects for Mortal {
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        self.ask(None, |objects| objects.get(key, limit))
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        self.ask(None, |objects| objects.get_range(key, offset, len))
    }

    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        if let Some((session, _)) = key.as_str().strip_prefix("p/").and_then(|name| name.rsplit_once('-')) {
            self.sessions.lock().expect("not poisoned").insert(session[3..].to_owned());
        }
        let named = (key.as_str() == "head").then_some(At::Swap);
        self.ask(named, |objects| objects.put(key, body, condition))
    }

    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError> {
        self.ask(Some(At::Delete), |objects| objects.delete(keys))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        self.ask(None, |objects| objects.list(prefix))
    }

    fn abandon(&self, before: Timestamp) -> Result<u64, ObjectError> {
        self.ask(None, |objects| objects.abandon(before))
    }

    fn url(&self, key: &Key, lifetime: Duration) -> Result<String, ObjectError> {
        self.objects.url(key, lifetime)
    }

    fn requests(&self) -> Requests {
        self.objects.requests()
    }
}

/// Sends this process a signal, before or after a request and never in the middle of one.
fn signal(signal: Signal) {
    survivors::raise(signal.as_raw());
}
