//! Who vouches for releases, as commands see it: attestations beside the releases of a cache, made, carried and asked for.

pub mod changes;
mod newest;

use std::path::Path;

use df_cache::Document;
use df_cache::store::Store;
use df_core::attestation::{Policy, PublicKey, Statement, Subject};
use df_core::{Bundle, Release, ReleaseId};
use df_fleet::sign::{Keys, SignError, SigningKey};
use df_fleet::{Credentials, Untrusted};

use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Session, now};

pub use newest::check_newest;

/// What to type when a release lacks somebody's word.
pub const SIGN: &str = "df build --sign";
/// What to type when a node believes others than df.yaml names.
pub const CHANGE: &str = "df trust --sign";

/// Vouches for a release with a key: the one that is named, else the first that df.yaml trusts and that is at hand.
///
/// # Errors
/// There is no such key, or it does not sign; or the cache cannot be written.
pub fn sign(session: &Session, store: &dyn Store, release: &Release, key: Option<&Path>) -> Result<(), Failure> {
    let policy = &session.config.trust;
    let statement = Statement::release(&Subject::of(release));
    let signer = signing_key(session, key, policy, SIGN)?;
    let attestation = signer.sign(&statement).map_err(|error| unsigned(&error, SIGN))?;
    let by = attestation.key().clone();
    let bundle = Bundle::new(&statement, vec![attestation]);
    let attached = store.attach(&release.app, release.id(), Document::Attestations, &bundle.encode());
    attached.map_err(|error| Failure::here("sign", &error).next("df cache status"))?;
    // Who takes it out of a shared cache asks for the newest: that is somebody's word too.
    if session.config.cache.remote.is_some() {
        let by = newest::Publisher { key: &signer, life: session.config.newest, policy };
        newest::attest(store, release, &by, now())?;
    }
    let bundle = bundle_of(store, release)?.unwrap_or(bundle);
    let what = format!("{} of {}", release.commit.short(), release.app);
    session.output().step(&attested(what, Some(release.id()), &by, &bundle, policy));
    if policy.is_asking() && !policy.keys().contains(&by) {
        session
            .output()
            .note(format!("  {} is none of trust.keys in df.yaml: nodes that believe those do not count it", by.fingerprint()));
    }
    Ok(())
}

/// Returns a release's credentials: who vouches for it in a store, and whom df.yaml names.
///
/// # Errors
/// The store cannot be read.
pub fn credentials(session: &Session, store: &dyn Store, release: &Release) -> Result<Credentials, Failure> {
    Ok(Credentials::of(release, bundle_of(store, release)?, session.config.trust.clone()))
}

/// Decides whether a release that lies in a cache elsewhere may be used here: those whom df.yaml names vouch for it.
///
/// # Errors
/// They do not: exit 10. Or the cache cannot be read.
pub fn check(session: &Session, store: &dyn Store, release: &Release) -> Result<(), Failure> {
    let policy = &session.config.trust;
    if !policy.is_asking() {
        return Ok(());
    }
    credentials(session, store, release)?.satisfy(policy).map_err(|error| refused("cache", &error))
}

/// Copies what is kept beside a release to where the release was copied.
///
/// # Errors
/// One of the stores cannot be used. A document that is damaged is left out: it can be made again, or is asked for later.
pub fn carry(from: &dyn Store, to: &dyn Store, release: &Release) -> Result<(), Failure> {
    for document in Document::ALL {
        if let Ok(Some(bytes)) = from.attached(&release.app, release.id(), document) {
            let attached = to.attach(&release.app, release.id(), document, &bytes);
            attached.map_err(|error| Failure::here("cache", &error))?;
        }
    }
    Ok(())
}

/// Returns the failure of something that is not trusted.
pub fn refused(phase: &'static str, error: &Untrusted) -> Failure {
    Failure::new(Exit::Refused, phase, error.to_string()).next(next(error))
}

/// Returns what to type when a release was refused.
pub fn next(error: &Untrusted) -> &'static str {
    match error {
        Untrusted::Release { .. } => SIGN,
        Untrusted::Policy { .. } => CHANGE,
        Untrusted::Old => "df doctor",
    }
}

/// Returns the key that signs: the one that is named, else the first of a policy that is at hand.
///
/// # Errors
/// There is none.
pub fn signing_key(session: &Session, key: Option<&Path>, policy: &Policy, command: &str) -> Result<SigningKey, Failure> {
    let keys = Keys::of_environment();
    match key {
        Some(file) => keys.file(&session.call.here.join(file)).map_err(|error| unsigned(&error, command)),
        None if policy.keys().is_empty() => {
            let message = "df.yaml names no keys that are trusted: list them under trust.keys, or name one";
            Err(Failure::new(Exit::Usage, "sign", message).next(format!("{command} --key ~/.ssh/id_ed25519")))
        }
        None => keys.trusted(policy).map_err(|error| unsigned(&error, command)),
    }
}

/// Returns the failure of signing.
pub fn unsigned(error: &SignError, command: &str) -> Failure {
    let named = format!("{command} --key FILE");
    match error {
        SignError::NoKey { .. } => Failure::usage("sign", error).next(format!("ssh-add KEY, or {named}")),
        SignError::File { .. } => Failure::usage("sign", error).next(named),
        SignError::Start { .. } => Failure::here("sign", error).next("df doctor"),
        SignError::Refused { .. } | SignError::Endless { .. } | SignError::Made(_) => Failure::here("sign", error).next(named),
    }
}

/// Returns the event for a word that was given.
pub fn attested(what: String, release: Option<ReleaseId>, by: &PublicKey, bundle: &Bundle, policy: &Policy) -> Event {
    let mut keys: Vec<String> = bundle.attestations().iter().map(|it| it.key().fingerprint()).collect();
    keys.dedup();
    Event::Attested { what, release, key: by.fingerprint(), keys, threshold: policy.threshold() }
}

fn bundle_of(store: &dyn Store, release: &Release) -> Result<Option<Bundle>, Failure> {
    let bytes = store.attached(&release.app, release.id(), Document::Attestations);
    let bytes = bytes.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
    // What cannot be read vouches for nothing.
    Ok(bytes.and_then(|bytes| Bundle::decode(&bytes).ok()))
}
