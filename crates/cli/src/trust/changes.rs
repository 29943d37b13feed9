//! Changes of trust, attested and on their way to nodes.
//!
//! # File, format 1
//!
//! `df.trust.json` beside df.yaml, to be committed: `{"format":1,"changes":[{"sequence":1,"threshold":2,"keys":[...],"attestations":{DSSE envelope}}]}`, in ascending
//! order of their sequences. Several people add their attestations to the last one, and a node that was away gets all that it missed, in order. It holds nothing
//! secret, and nothing that a node takes for true.

use std::path::Path;

use df_core::Bundle;
use df_core::attestation::{Pinned, Policy, Statement, accepts};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::Failure;

/// The name of the file.
pub const FILE: &str = "df.trust.json";
/// Its longest length; a change takes some kilobytes.
const LEN: u64 = 8 << 20;

/// A change of trust with those who vouch for it.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whom nodes shall believe.
    pub pinned: Pinned,
    /// Who vouches.
    pub bundle: Bundle,
}

/// All changes, the newest last.
#[derive(Debug, Clone, Default)]
pub struct Changes(Vec<Change>);

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    changes: Vec<StoredChange>,
}

#[derive(Serialize, Deserialize)]
struct StoredChange {
    #[serde(flatten)]
    pinned: Pinned,
    attestations: Value,
}

impl Changes {
    /// Reads the file beside df.yaml; none when there is no such file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(top: &Path) -> Result<Self, Failure> {
        let path = top.join(FILE);
        let bad = |why: String| {
            let message = format!("{}: {why}", path.display());
            Failure::new(Exit::Usage, "trust", message).next(format!("git checkout {FILE}, or move it away"))
        };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(bad(error.to_string())),
        };
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut std::io::Read::take(file, LEN), &mut bytes).map_err(|error| bad(error.to_string()))?;
        Self::decode(&bytes).map_err(bad)
    }

    /// Writes the file beside df.yaml, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, top: &Path) -> Result<(), Failure> {
        let written = df_cache::durable::write(&top.join(FILE), &self.encode(), 0o644);
        written.map_err(|error| Failure::new(Exit::Failed, "trust", format!("write {FILE}: {error}")))
    }

    /// Returns what a node has to be told that believes `from`: all changes after it, oldest first.
    pub fn after(&self, from: u64) -> impl Iterator<Item = &Change> {
        self.0.iter().filter(move |change| change.pinned.sequence > from)
    }

    /// Returns the change to a policy that is not everywhere yet: the last one, when it leads there and some node has not got it.
    pub fn pending(&self, to: &Policy, oldest: u64) -> Option<&Change> {
        self.0.last().filter(|change| change.pinned.policy == *to && change.pinned.sequence > oldest)
    }

    /// Returns the number of the next change; `newest` is the largest that a node has.
    pub fn next_sequence(&self, newest: u64) -> u64 {
        self.0.last().map_or(0, |change| change.pinned.sequence).max(newest).saturating_add(1)
    }

    /// Adds a change, or those who vouch for one that is there.
    pub fn add(&mut self, change: Change) {
        match self.0.iter_mut().find(|held| held.pinned == change.pinned) {
            Some(held) => held.bundle = held.bundle.joined(&change.bundle).unwrap_or_else(|| held.bundle.clone()),
            None => {
                // One with this number that nobody took is replaced: two proposals cannot have one place.
                self.0.retain(|held| held.pinned.sequence != change.pinned.sequence);
                self.0.push(change);
                self.0.sort_by_key(|change| change.pinned.sequence);
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let change = |change: &Change| StoredChange {
            pinned: change.pinned.clone(),
            attestations: serde_json::from_slice(&change.bundle.encode()).expect("it was just written"),
        };
        let stored = Stored { format: 1, changes: self.0.iter().map(change).collect() };
        let mut bytes = serde_json::to_vec_pretty(&stored).expect("plain data");
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if stored.format != 1 {
            return Err(format!("it has format {}, this program knows 1", stored.format));
        }
        let change = |stored: StoredChange| {
            let bundle = serde_json::to_vec(&stored.attestations).expect("it was just read");
            Ok(Change { pinned: stored.pinned, bundle: Bundle::decode(&bundle).map_err(|error| error.to_string())? })
        };
        let mut changes = stored.changes.into_iter().map(change).collect::<Result<Vec<_>, String>>()?;
        changes.sort_by_key(|change| change.pinned.sequence);
        Ok(Self(changes))
    }
}

impl Change {
    /// Returns how many more of those whom `old` names have to vouch.
    pub fn missing(&self, old: &Policy) -> u32 {
        match accepts(old, &self.statement(), Some(&self.bundle)) {
            Ok(()) => 0,
            Err(distrust) => distrust.threshold.saturating_sub(u32::try_from(distrust.by.len()).unwrap_or(u32::MAX)),
        }
    }

    /// Returns what is vouched for.
    pub fn statement(&self) -> Statement {
        Statement::trust(&self.pinned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sequence: u64, threshold: u32) -> Change {
        let bundle = Bundle::decode(include_bytes!("../../../core/testdata/attestations-v1.json")).expect("a bundle");
        let keys: Vec<_> = bundle.attestations().iter().map(|it| it.key().clone()).collect();
        let pinned = Pinned { sequence, policy: Policy::new(threshold, keys).expect("a policy") };
        Change { bundle: Bundle::new(&Statement::trust(&pinned), vec![bundle.attestations()[0].clone()]), pinned }
    }

    fn sequences(changes: &Changes, from: u64) -> Vec<u64> {
        changes.after(from).map(|change| change.pinned.sequence).collect()
    }

    #[test]
    fn changes_are_kept_in_order_and_gather_who_vouches() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut changes = Changes::load(dir.path()).expect("none yet");
        assert_eq!(changes.next_sequence(4), 5);
        [change(2, 1), change(1, 2)].into_iter().for_each(|change| changes.add(change));
        let second = Bundle::decode(include_bytes!("../../../core/testdata/attestations-v1.json")).expect("a bundle");
        let again = change(2, 1);
        let more = Bundle::new(&again.statement(), vec![second.attestations()[1].clone()]);
        changes.add(Change { bundle: more, ..again });
        changes.save(dir.path()).expect("written");
        let read = Changes::load(dir.path()).expect("read");
        assert_eq!((sequences(&read, 0), sequences(&read, 1), sequences(&read, 2)), (vec![1, 2], vec![2], vec![]));
        assert_eq!(read.after(1).next().expect("there").bundle.attestations().len(), 2);
        assert_eq!((read.next_sequence(0), read.next_sequence(9)), (3, 10));
        let to = &change(2, 1).pinned.policy;
        assert!(read.pending(to, 1).is_some() && read.pending(to, 2).is_none());
        assert!(read.pending(&change(1, 2).pinned.policy, 0).is_none(), "only the last one");
    }

    #[test]
    fn a_file_that_is_none_is_refused_in_words() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in [
            "",
            "{}",
            r#"{"format":2,"changes":[]}"#,
            r#"{"format":1,"changes":[{"sequence":1,"threshold":1,"keys":[],"attestations":{}}]}"#,
        ] {
            std::fs::write(dir.path().join(FILE), text).expect("written");
            assert_eq!(Changes::load(dir.path()).expect_err("refused").exit, Exit::Usage, "{text}");
        }
    }
}
