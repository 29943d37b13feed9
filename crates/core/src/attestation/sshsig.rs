//! One key's proof: an SSHSIG.

use ssh_key::{Algorithm, LineEnding, SshSig};

use super::key::PublicKey;
use super::statement::Statement;

/// What the SSHSIG is for; ssh keys serve other purposes too.
pub const NAMESPACE: &str = "distributive-flow";
/// The longest in base64: RSA of 4096 bits takes 1,600 bytes.
const LEN: usize = 4096;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// The flag with which a security key says that somebody touched it.
const TOUCHED: u8 = 1;
/// What a security key appends: flags and a counter.
const TRAILER_LEN: usize = 5;

/// A key's proof of a statement, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The base64 of the armor, in one line.
    text: String,
    key: PublicKey,
    sig: SshSig,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Flaw {
    #[error("is not an SSHSIG, as ssh-keygen -Y sign writes it")]
    Text,
    #[error("is by a key that {0}")]
    Key(#[source] super::key::KeyError),
    #[error("was made for the purpose \"{0}\", not \"{NAMESPACE}\"")]
    Namespace(String),
    #[error("is by a security key that nobody touched")]
    Untouched,
    #[error("does not prove this: it was made for something else, or was changed")]
    Wrong,
}

impl Attestation {
    /// Reads what `ssh-keygen -Y sign` writes.
    ///
    /// # Errors
    /// It is something else, or by a key that is never believed.
    pub fn from_armor(armor: &str) -> Result<Self, Flaw> {
        let mut lines = armor.trim_end().lines();
        if armor.len() > 2 * LEN || lines.next() != Some(BEGIN) || lines.next_back() != Some(END) {
            return Err(Flaw::Text);
        }
        Self::from_base64(&lines.collect::<String>())
    }

    /// Reads the base64 of an SSHSIG, in one line.
    ///
    /// # Errors
    /// It is something else, or by a key that is never believed.
    pub fn from_base64(text: &str) -> Result<Self, Flaw> {
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if text.len() > LEN || !text.bytes().all(is_base64) {
            return Err(Flaw::Text);
        }
        let sig = SshSig::from_pem(armor(text)).map_err(|_| Flaw::Text)?;
        // One proof has one text: the reader lets lengths pass that OpenSSH refuses.
        let is_canonical = sig.to_pem(LineEnding::LF).is_ok_and(|written| written == armor(text));
        if !is_canonical || !sig.reserved().is_empty() || sig.version() != SshSig::VERSION {
            return Err(Flaw::Text);
        }
        let key = PublicKey::from_data(sig.public_key()).map_err(Flaw::Key)?;
        Ok(Self { text: text.to_owned(), key, sig })
    }

    /// Returns whose proof it claims to be.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Returns the base64, in one line.
    pub fn base64(&self) -> &str {
        &self.text
    }

    /// Returns it as `ssh-keygen -Y verify` reads it.
    pub fn armor(&self) -> String {
        armor(&self.text)
    }

    /// Verifies that its key vouches for a statement.
    ///
    /// # Errors
    /// Says why it does not.
    pub fn verify(&self, statement: &Statement) -> Result<(), Flaw> {
        if self.sig.namespace() != NAMESPACE {
            let namespace = crate::text::shorten(&crate::text::escape(self.sig.namespace().as_bytes()), 40);
            return Err(Flaw::Namespace(namespace));
        }
        if self.sig.algorithm() == Algorithm::SkEd25519 {
            let bytes = self.sig.signature_bytes();
            let flags = bytes.len().checked_sub(TRAILER_LEN).map_or(0, |at| bytes[at]);
            if flags & TOUCHED == 0 {
                return Err(Flaw::Untouched);
            }
        }
        self.key.key().verify(NAMESPACE, &statement.pae(), &self.sig).map_err(|_| Flaw::Wrong)
    }
}

/// Returns the armor with lines of 70 characters, which is the only width that the strict reader takes.
fn armor(text: &str) -> String {
    let lines: Vec<&str> = text.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}
