//! Several keys' proofs of one statement, in one file: a DSSE envelope.

use serde::{Deserialize, Serialize};

use super::sshsig::{Attestation, Flaw};
use super::statement::{PAYLOAD_TYPE, Statement};

/// Bytes of a bundle.
pub const LEN: usize = 256 << 10;
/// Attestations of a bundle.
pub const N_ATTESTATIONS: usize = 64;

/// A statement with the proofs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The statement in base64.
    payload: String,
    /// In order of their keys, each once. A key may have several: a wrong one keeps no right one out.
    attestations: Vec<Attestation>,
}

/// Bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BundleError {
    #[error("attestations of more than {LEN} bytes")]
    TooLong,
    #[error("not a DSSE envelope")]
    Json(#[source] serde_json::Error),
    #[error("an envelope of another type than {PAYLOAD_TYPE}")]
    Type,
    #[error("{0} attestations, the limit is {N_ATTESTATIONS}")]
    TooMany(usize),
    #[error("an attestation {0}")]
    Attestation(#[source] Flaw),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    keyid: String,
    sig: String,
}

impl Bundle {
    /// Puts proofs of a statement together; nothing is verified.
    pub fn new(statement: &Statement, attestations: Vec<Attestation>) -> Self {
        let mut bundle = Self { payload: base64(statement.as_bytes()), attestations };
        bundle.sort();
        bundle
    }

    /// Reads a bundle; nothing is verified.
    ///
    /// # Errors
    /// It is none, or more than anybody needs.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > LEN {
            return Err(BundleError::TooLong);
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(BundleError::Json)?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(BundleError::Type);
        }
        if envelope.signatures.len() > N_ATTESTATIONS {
            return Err(BundleError::TooMany(envelope.signatures.len()));
        }
        // What `keyid` says is for people; the key in the proof counts.
        let attestations = envelope.signatures.iter().map(|signed| Attestation::from_base64(&signed.sig));
        let attestations = attestations.collect::<Result<_, _>>().map_err(BundleError::Attestation)?;
        let mut bundle = Self { payload: envelope.payload, attestations };
        bundle.sort();
        Ok(bundle)
    }

    /// Returns the bytes: one line of JSON.
    pub fn encode(&self) -> Vec<u8> {
        let signed = |it: &Attestation| Signed { keyid: it.key().fingerprint(), sig: it.base64().to_owned() };
        let envelope = Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: self.payload.clone(),
            signatures: self.attestations.iter().map(signed).collect(),
        };
        let mut bytes = serde_json::to_vec(&envelope).expect("plain data");
        bytes.push(b'\n');
        bytes
    }

    /// Returns whether it is about a statement.
    pub fn is_of(&self, statement: &Statement) -> bool {
        self.payload == base64(statement.as_bytes())
    }

    /// Returns the proofs; whoever counts them counts keys.
    pub fn attestations(&self) -> &[Attestation] {
        &self.attestations
    }

    /// Returns a bundle with the proofs of both; `None` when the other adds none, or is about another statement.
    pub fn joined(&self, other: &Self) -> Option<Self> {
        let is_new = |it: &&Attestation| !self.attestations.contains(it);
        let new: Vec<_> = other.attestations.iter().filter(is_new).cloned().collect();
        if self.payload != other.payload || new.is_empty() || self.attestations.len() + new.len() > N_ATTESTATIONS {
            return None;
        }
        let mut joined = Self { payload: self.payload.clone(), attestations: [&self.attestations[..], &new].concat() };
        joined.sort();
        Some(joined)
    }

    fn sort(&mut self) {
        self.attestations.sort_by(|a, b| (a.key(), a.base64()).cmp(&(b.key(), b.base64())));
        self.attestations.dedup();
    }
}

/// Writes base64 as RFC 4648 has it, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (at, &byte)| word | u32::from(byte) << (16 - 8 * at));
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            text.push(if is_padding { '=' } else { char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{7ff}", "378=")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
