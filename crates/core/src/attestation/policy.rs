//! Whom a reader believes, and whether that is enough.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::key::PublicKey;
use super::sshsig::Flaw;
use super::statement::Statement;

/// The most keys of a policy.
const N_KEYS: usize = 64;

/// So many of these keys must vouch. A threshold of 0 has no keys, and asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Policy {
    threshold: u32,
    /// Sorted, each once.
    keys: Vec<PublicKey>,
}

/// A policy with its place in the order of changes: what a node keeps, and what a change of trust claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Grows with each change; 0: pinned at first contact.
    pub sequence: u64,
    /// Whom the node believes.
    #[serde(flatten)]
    pub policy: Policy,
}

#[derive(Deserialize)]
struct Unchecked {
    threshold: u32,
    keys: Vec<PublicKey>,
}

/// Numbers and keys that are no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PolicyError {
    #[error("key {0} is there twice")]
    Twice(String),
    #[error("{n_keys} keys, the limit is {N_KEYS}")]
    TooMany { n_keys: usize },
    #[error("{threshold} of {n_keys} keys can never vouch")]
    Threshold { threshold: u32, n_keys: usize },
    #[error("0 of {n_keys} keys asks for nothing: name a threshold from 1 to {n_keys}, or no keys")]
    Zero { n_keys: usize },
}

/// Too few keys vouch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// How many are needed.
    pub threshold: u32,
    /// Of how many.
    pub n_keys: usize,
    /// Fingerprints of trusted keys that vouch.
    pub by: Vec<String>,
    /// What was there besides, and why it does not count.
    pub doubts: Vec<Doubt>,
    /// Whether what was there says itself that it is about something else.
    pub is_other: bool,
}

/// A proof that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The fingerprint of its key.
    pub key: String,
    /// Why; `None`: the key is not trusted.
    pub flaw: Option<Flaw>,
}

impl Policy {
    /// Makes a policy; the order of the keys does not matter.
    ///
    /// # Errors
    /// It could never be met, or asks for nothing of somebody.
    pub fn new(threshold: u32, mut keys: Vec<PublicKey>) -> Result<Self, PolicyError> {
        keys.sort();
        let n_keys = keys.len();
        if n_keys > N_KEYS {
            return Err(PolicyError::TooMany { n_keys });
        }
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PolicyError::Twice(pair[0].fingerprint()));
        }
        match threshold as usize {
            0 if n_keys > 0 => Err(PolicyError::Zero { n_keys }),
            needed if needed > n_keys => Err(PolicyError::Threshold { threshold, n_keys }),
            _ => Ok(Self { threshold, keys }),
        }
    }

    /// Returns how many keys must vouch; 0: none.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Returns the keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Returns whether anything is asked for.
    pub fn is_asking(&self) -> bool {
        self.threshold > 0
    }
}

impl TryFrom<Unchecked> for Policy {
    type Error = PolicyError;

    fn try_from(unchecked: Unchecked) -> Result<Self, PolicyError> {
        Self::new(unchecked.threshold, unchecked.keys)
    }
}

impl fmt::Display for Policy {
    /// Writes `2 of 3 keys`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.threshold, self.keys.len()) {
            (0, _) => f.write_str("no keys"),
            (1, 1) => f.write_str("1 key"),
            (threshold, n_keys) => write!(f, "{threshold} of {n_keys} keys"),
        }
    }
}

/// Decides whether enough trusted keys vouch for a statement. A key counts once, however often it vouches.
///
/// # Errors
/// Says what is needed, what was there, and why the rest does not count.
pub fn accepts(policy: &Policy, statement: &Statement, bundle: Option<&Bundle>) -> Result<(), Distrust> {
    let mut by = BTreeSet::new();
    let mut doubts = vec![];
    for attestation in bundle.map(Bundle::attestations).unwrap_or_default() {
        let key = attestation.key();
        // Whoever is not trusted costs no arithmetic.
        let flaw = if policy.keys.binary_search(key).is_ok() { attestation.verify(statement).map_err(Some) } else { Err(None) };
        match flaw {
            Ok(()) => drop(by.insert(key.fingerprint())),
            Err(flaw) => doubts.push(Doubt { key: key.fingerprint(), flaw }),
        }
    }
    if by.len() >= policy.threshold as usize {
        return Ok(());
    }
    let is_other = bundle.is_some_and(|bundle| !bundle.is_of(statement));
    Err(Distrust { threshold: policy.threshold, n_keys: policy.keys.len(), by: by.into_iter().collect(), doubts, is_other })
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it needs attestations by {} of {} trusted keys and has ", self.threshold, self.n_keys)?;
        match &self.by[..] {
            [] => f.write_str("none")?,
            by => write!(f, "{}: {}", by.len(), by.join(", "))?,
        }
        if self.is_other {
            f.write_str("; what is there is about something else")?;
        }
        for doubt in self.doubts.iter().take(8) {
            match &doubt.flaw {
                None => write!(f, "; {} is not trusted", doubt.key)?,
                Some(flaw) => write!(f, "; that of {} {flaw}", doubt.key)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Distrust {}
