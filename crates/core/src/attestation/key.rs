//! The keys that may vouch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, HashAlg};

/// The longest text of a key: RSA of 4096 bits takes 720 bytes, the comment what people write.
const TEXT_LEN: usize = 2048;
/// The sizes of RSA keys: below they are broken, above verifying takes longer than a stranger may ask for.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// An ssh public key of a kind that is believed, without its comment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    /// `ssh-ed25519 AAAA...`: orders keys, and names them in files.
    text: String,
    key: ssh_key::PublicKey,
}

/// A text is not a key that may vouch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("is not an ssh public key, as one line of a .pub file has it")]
    Text,
    #[error(
        "is a certificate or a key of a kind that is not believed: use ssh-ed25519, sk-ssh-ed25519, ecdsa-sha2-nistp256 or ssh-rsa"
    )]
    Kind,
    #[error("is an RSA key of {0} bits; 2048 to 4096 are believed")]
    RsaBits(usize),
}

impl PublicKey {
    /// Returns what people know the key by: `SHA256:...`, as `ssh-keygen -l` and `ssh-add -l` write it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    pub(super) fn from_data(data: &KeyData) -> Result<Self, KeyError> {
        match data {
            KeyData::Ed25519(_) | KeyData::SkEd25519(_) => {}
            KeyData::Ecdsa(key) if key.curve() == EcdsaCurve::NistP256 => {}
            KeyData::Rsa(key) => {
                let bits = key
                    .n
                    .as_positive_bytes()
                    .map_or(0, |bytes| bytes.len() * 8 - bytes.first().map_or(0, |first| first.leading_zeros() as usize));
                if !RSA_BITS.contains(&bits) {
                    return Err(KeyError::RsaBits(bits));
                }
            }
            _ => return Err(KeyError::Kind),
        }
        let key = ssh_key::PublicKey::new(data.clone(), "");
        let text = key.to_openssh().map_err(|_| KeyError::Text)?.trim_end().to_owned();
        Ok(Self { text, key })
    }

    pub(super) fn key(&self) -> &ssh_key::PublicKey {
        &self.key
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads a line of a `.pub` file; its comment is left out.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() > TEXT_LEN || text.contains(['\n', '\r', '\0']) {
            return Err(KeyError::Text);
        }
        let key = ssh_key::PublicKey::from_openssh(text).map_err(|_| KeyError::Text)?;
        Self::from_data(key.key_data())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
