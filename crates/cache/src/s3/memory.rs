//! A bucket in memory, for tests and models: compare-and-swap is exact, every request is counted, and what goes wrong is decided by a function.
//!
//! The function is asked before each request, outside all locks: it may use the same bucket itself, so that "somebody else writes just before the third request"
//! is one closure.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use df_core::{Digest, Timestamp};

use super::objects::{Body, Condition, Etag, Key, Listed, Object, ObjectError, Objects, Requests};

/// What is asked of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A whole object.
    Get,
    /// Part of an object.
    Range,
    /// A write.
    Put,
    /// Removal.
    Delete,
    /// A list.
    List,
}

/// One request, before it is done.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counted from 0, over all threads.
    pub number: u64,
    /// What.
    pub action: Action,
    /// Of which object; of a list the prefix, of a removal the first.
    pub key: String,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done and answered.
    Done,
    /// It never arrives.
    Lost,
    /// It is done, and the answer never arrives.
    Unanswered,
}

type Fates = Arc<dyn Fn(&Call) -> Fate + Send + Sync>;

/// A bucket in memory.
#[derive(Default)]
pub struct MemoryObjects {
    state: Mutex<State>,
    fates: Mutex<Option<Fates>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Arc<[u8]>, u64)>,
    /// When objects were written, as long as there was a clock.
    written: BTreeMap<String, Timestamp>,
    clock: Option<Timestamp>,
    /// The next state's number.
    next: u64,
    calls: u64,
    requests: Requests,
    log: Vec<Call>,
}

impl MemoryObjects {
    /// Makes an empty bucket.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a function decide the fate of every request from now on.
    pub fn decide(&self, fate: impl Fn(&Call) -> Fate + Send + Sync + 'static) {
        *self.fates.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fate));
    }

    /// Answers every request from now on.
    pub fn behave(&self) {
        *self.fates.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Gives the bucket a clock, which says this from now on; without one it does not say when objects were written.
    pub fn set_clock(&self, now: Timestamp) {
        self.state().clock = Some(now);
    }

    /// Returns every request so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    /// Returns the keys that are there.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Returns how many bytes are there.
    pub fn len(&self) -> u64 {
        self.state().objects.values().map(|(bytes, _)| bytes.len() as u64).sum()
    }

    /// Returns whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.state().objects.is_empty()
    }

    /// Returns an object's bytes without a request.
    pub fn peek(&self, key: &str) -> Option<Arc<[u8]>> {
        self.state().objects.get(key).map(|(bytes, _)| bytes.clone())
    }

    /// Changes an object without a request: what a stranger or a failing disk does.
    pub fn set(&self, key: &str, bytes: Option<&[u8]>) {
        let mut state = self.state();
        match bytes {
            Some(bytes) => state.write(key, bytes.into()),
            None => drop(state.objects.remove(key)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and says what becomes of it.
    fn fate(&self, action: Action, key: &str) -> Fate {
        let call = {
            let mut state = self.state();
            let call = Call { number: state.calls, action, key: key.to_owned() };
            state.calls += 1;
            state.requests.count(action);
            state.log.push(call.clone());
            call
        };
        let fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fates.map_or(Fate::Done, |fates| fates(&call))
    }

    /// Does a request by its fate; `key` is what an error names.
    fn perform<T>(
        &self,
        action: Action,
        key: &Key,
        act: impl FnOnce(&mut State) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        match self.fate(action, key.as_str()) {
            Fate::Done => act(&mut self.state()),
            Fate::Lost => Err(ObjectError::Unreachable { key: key.clone(), why: "the request was lost".into() }),
            Fate::Unanswered => {
                drop(act(&mut self.state()));
                Err(ObjectError::Unknown { key: key.clone(), why: "the answer was lost".into() })
            }
        }
    }
}

impl Requests {
    fn count(&mut self, action: Action) {
        match action {
            Action::Get | Action::Range => self.get += 1,
            Action::Put => self.put += 1,
            Action::Delete => self.delete += 1,
            Action::List => self.list += 1,
        }
    }
}

impl State {
    fn write(&mut self, key: &str, bytes: Arc<[u8]>) {
        self.next += 1;
        self.objects.insert(key.to_owned(), (bytes, self.next));
        self.written.extend(self.clock.map(|now| (key.to_owned(), now)));
    }

    fn find(&self, key: &Key) -> Result<(Arc<[u8]>, Etag), ObjectError> {
        let (bytes, number) = self.objects.get(key.as_str()).ok_or_else(|| ObjectError::Absent { key: key.clone() })?;
        Ok((bytes.clone(), etag(*number, bytes)))
    }
}

/// The number makes each write another state, as the hash of a real server does for other bytes.
fn etag(number: u64, bytes: &[u8]) -> Etag {
    Etag(format!("\"{number}-{}\"", Digest::of(bytes).short()))
}

fn bytes_of(body: &Body, key: &Key) -> Result<Arc<[u8]>, ObjectError> {
    match body {
        Body::Bytes(bytes) => Ok(bytes.clone()),
        Body::File { file, offset, len } => {
            let failed = |why: String| ObjectError::Unreachable { key: key.clone(), why };
            let mut bytes = vec![0; usize::try_from(*len).map_err(|_| failed("too long".into()))?];
            file.read_exact_at(&mut bytes, *offset).map_err(|error| failed(error.to_string()))?;
            Ok(bytes.into())
        }
    }
}

impl Objects for MemoryObjects {
    fn get(&self, key: &Key, limit: u64) -> Result<Object, ObjectError> {
        self.perform(Action::Get, key, |state| {
            let (bytes, etag) = state.find(key)?;
            if bytes.len() as u64 > limit {
                return Err(ObjectError::TooLong { key: key.clone(), limit });
            }
            state.requests.bytes_down += bytes.len() as u64;
            Ok(Object { bytes: bytes.to_vec(), etag })
        })
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> Result<Vec<u8>, ObjectError> {
        self.perform(Action::Range, key, |state| {
            let (bytes, _) = state.find(key)?;
            let start = usize::try_from(offset).ok();
            let part = start.and_then(|start| bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?));
            let part = part.ok_or_else(|| ObjectError::Malformed { key: key.clone(), why: "it ends earlier".into() })?;
            state.requests.bytes_down += len;
            Ok(part.to_vec())
        })
    }

    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        let bytes = bytes_of(body, key)?;
        self.perform(Action::Put, key, |state| {
            state.requests.bytes_up += bytes.len() as u64;
            let now = state.find(key).ok().map(|(_, etag)| etag);
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => now.is_none(),
                Condition::Matches(etag) => now.as_ref() == Some(etag),
            };
            if !holds {
                return Err(ObjectError::Changed { key: key.clone() });
            }
            state.write(key.as_str(), bytes);
            state.find(key).map(|(_, etag)| etag)
        })
    }

    fn delete(&self, keys: &[Key]) -> Result<(), ObjectError> {
        for chunk in keys.chunks(1_000) {
            self.perform(Action::Delete, &chunk[0], |state| {
                chunk.iter().for_each(|key| drop(state.objects.remove(key.as_str())));
                Ok(())
            })?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, ObjectError> {
        let any = Key::new("list").expect("a word");
        // Judged by the prefix, which is no key.
        let fate = self.fate(Action::List, prefix);
        if fate != Fate::Done {
            return Err(ObjectError::Unreachable { key: any, why: format!("the list of {prefix} was lost") });
        }
        let state = self.state();
        let below = state.objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let listed = |(key, (bytes, _)): (&String, &(Arc<[u8]>, u64))| {
            let (len, written) = (bytes.len() as u64, state.written.get(key).copied());
            Some(Listed { key: Key::new(key).ok()?, len, written })
        };
        Ok(below.filter_map(listed).collect())
    }

    fn url(&self, key: &Key, _lifetime: Duration) -> Result<String, ObjectError> {
        Ok(format!("memory:{key}"))
    }

    fn requests(&self) -> Requests {
        self.state().requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn body(bytes: &[u8]) -> Body {
        Body::Bytes(bytes.into())
    }

    #[test]
    fn conditions_are_exact() {
        let bucket = MemoryObjects::new();
        let first = bucket.put(&key("head"), &body(b"1"), &Condition::Absent).expect("new");
        assert!(matches!(bucket.put(&key("head"), &body(b"2"), &Condition::Absent), Err(ObjectError::Changed { .. })));
        let second = bucket.put(&key("head"), &body(b"1"), &Condition::Matches(first.clone())).expect("unchanged");
        assert_ne!(first, second);
        assert!(matches!(bucket.put(&key("head"), &body(b"3"), &Condition::Matches(first)), Err(ObjectError::Changed { .. })));
        assert_eq!(bucket.get(&key("head"), 1).expect("there"), Object { bytes: b"1".to_vec(), etag: second });
        assert_eq!((bucket.requests().put, bucket.requests().get), (4, 1));
    }

    #[test]
    fn a_request_has_the_fate_that_is_decided_and_others_may_come_before_it() {
        let bucket = Arc::new(MemoryObjects::new());
        let other = bucket.clone();
        bucket.decide(move |call| match call.number {
            0 => {
                other.put(&key("a"), &body(b"theirs"), &Condition::Absent).expect("nobody was earlier");
                Fate::Done
            }
            2 => Fate::Unanswered,
            3 => Fate::Lost,
            _ => Fate::Done,
        });
        assert!(matches!(bucket.put(&key("a"), &body(b"ours"), &Condition::Absent), Err(ObjectError::Changed { .. })));
        assert!(matches!(bucket.put(&key("b"), &body(b"ours"), &Condition::Absent), Err(ObjectError::Unknown { .. })));
        assert!(matches!(bucket.put(&key("c"), &body(b"ours"), &Condition::Absent), Err(ObjectError::Unreachable { .. })));
        assert_eq!(bucket.keys(), ["a", "b"]);
    }
}
