//! Which release is the newest of an application in a shared cache: attested, numbered and perishable, so that an old pointer that was valid once is refused.

use serde::{Deserialize, Serialize};

use super::bundle::{Bundle, BundleError};
use super::policy::{Distrust, Policy, accepts};
use super::statement::Statement;
use crate::image::ReleaseId;
use crate::name::AppName;
use crate::time::Timestamp;

/// Bytes of a pointer with its proofs.
pub const LEN: usize = super::bundle::LEN + 4096;

/// "Release R is the newest of application A, until then."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// The application.
    pub app: AppName,
    /// Grows with each pointer.
    pub sequence: u64,
    /// The newest release.
    pub release: ReleaseId,
    /// From then on it says nothing any more.
    pub expires: Timestamp,
}

/// The newest pointer that a reader has seen of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its sequence.
    pub sequence: u64,
    /// Its release.
    pub release: ReleaseId,
}

/// A pointer is not believed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ChannelError {
    #[error("a pointer of more than {LEN} bytes")]
    TooLong,
    #[error("not a pointer to a release")]
    Json(#[source] serde_json::Error),
    #[error("its attestations cannot be read")]
    Bundle(#[source] BundleError),
    #[error("it is about {found}, not about {expected}")]
    App { expected: AppName, found: AppName },
    #[error("what is newest is not attested: {0}")]
    Distrust(#[source] Distrust),
    #[error("it is number {found}, and number {seen} was seen before: somebody shows an old one")]
    Old { found: u64, seen: u64 },
    #[error("number {sequence} named another release before: two claim the same place, or somebody rewrote it")]
    Fork { sequence: u64 },
    #[error("it was good until {until}, and this machine's clock says {now}: who publishes has to attest a new one")]
    Expired { until: Timestamp, now: Timestamp },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    channel: Channel,
    attestations: serde_json::Value,
}

impl Channel {
    /// Returns what is kept of a pointer: it and its proofs, one line of JSON.
    pub fn encode(&self, bundle: &Bundle) -> Vec<u8> {
        let attestations = serde_json::from_slice(&bundle.encode()).expect("it was just written");
        serde_json::to_vec(&Stored { format: 1, channel: self.clone(), attestations }).expect("plain data")
    }

    /// Reads what is kept of a pointer; nothing is verified.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Bundle), ChannelError> {
        if bytes.len() > LEN {
            return Err(ChannelError::TooLong);
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(ChannelError::Json)?;
        let bundle = serde_json::to_vec(&stored.attestations).expect("it was just read");
        Ok((stored.channel, Bundle::decode(&bundle).map_err(ChannelError::Bundle)?))
    }

    /// Decides whether a pointer is believed, by the reader's policy, its clock, and what it has seen before.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(
        &self,
        policy: &Policy,
        bundle: &Bundle,
        app: &AppName,
        now: Timestamp,
        seen: Option<&Seen>,
    ) -> Result<Seen, ChannelError> {
        if self.app != *app {
            return Err(ChannelError::App { expected: app.clone(), found: self.app.clone() });
        }
        accepts(policy, &Statement::channel(self), Some(bundle)).map_err(ChannelError::Distrust)?;
        match seen {
            Some(seen) if self.sequence < seen.sequence => {
                return Err(ChannelError::Old { found: self.sequence, seen: seen.sequence });
            }
            Some(seen) if self.sequence == seen.sequence && self.release != seen.release => {
                return Err(ChannelError::Fork { sequence: self.sequence });
            }
            _ => {}
        }
        if now >= self.expires {
            return Err(ChannelError::Expired { until: self.expires, now });
        }
        Ok(Seen { sequence: self.sequence, release: self.release })
    }
}
