//! Who vouches for a release, for a change of trust, and for what is newest: SSHSIG over in-toto statements, and the policy that counts them.
//!
//! # Formats, version 1
//!
//! **Statement**: an in-toto Statement v1 as one line of JSON, fields in the order of `testdata/attested-release-v1.json`, no spaces. Its `predicateType` says
//! what is claimed: [`Statement::release`], [`Statement::trust`], [`Statement::channel`]. A reader never takes one apart: it writes down the statement that it
//! wants proof of and compares bytes, so that there is nothing to parse and nothing to confuse.
//!
//! **Attestation**: an SSHSIG, as `ssh-keygen -Y sign -n distributive-flow` makes it, over the DSSE pre-authentication encoding of a statement:
//!
//! ```text
//! DSSEv1 28 application/vnd.in-toto+json <length of the statement> <the statement>
//! ```
//!
//! **Bundle**: a DSSE envelope in JSON: `payloadType`, `payload` (the statement in base64), and `signatures`, one `{keyid, sig}` a key: its fingerprint, and
//! the SSHSIG in base64, which is its armor without the two lines around it and the line ends. Limits: [`bundle::LEN`], [`bundle::N_ATTESTATIONS`].
//!
//! `ssh-keygen -Y verify` accepts what is accepted here. Keys: Ed25519, also on a security key that was touched, ECDSA on
//! P-256, and RSA of 2048 to 4096 bits with SHA-2.
//!
//! The directory is new in this version: programs that do not know these statements ask for no proof and keep none.

pub mod bundle;
pub mod channel;
mod key;
mod policy;
mod sshsig;
mod statement;

pub use bundle::Bundle;
pub use channel::{Channel, ChannelError, Seen};
pub use key::{KeyError, PublicKey};
pub use policy::{Distrust, Doubt, Pinned, Policy, PolicyError, accepts};
pub use sshsig::{Attestation, Flaw, NAMESPACE};
pub use statement::{Statement, Subject};

#[cfg(test)]
mod tests;
