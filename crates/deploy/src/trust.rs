//! Whom this node believes, and for what they vouched.
//!
//! # Files, format 1
//!
//! `ROOT/trust.json` holds the policy: `{"format":1,"sequence":0,"threshold":2,"keys":["ssh-ed25519 AAAA..."]}`. It is written at first contact with an operator who
//! names keys, and after that changed only by a statement with a larger sequence that the old keys attested. One that is damaged admits nothing.
//!
//! `ROOT/apps/<app>/attested/<release>.json` is the bundle of attestations with which a release was admitted. It is judged again, by the policy of that
//! moment, when the release is remembered and when it is activated. Going back to a generation asks nobody: it was admitted once, and needs nothing but the node.

use std::fs;
use std::io;
use std::path::PathBuf;

use df_cache::durable;
use df_core::attestation::{Bundle, Distrust, Pinned, Policy, Statement, Subject, accepts};
use df_core::{AppName, ImageId, Release};
use serde::{Deserialize, Serialize};

use crate::generation::{self, RecordError};
use crate::layout::{Layout, make_dir};
use crate::staged;

/// Something is not believed, or the records of whom to believe cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TrustError {
    #[error("release {} of {} is not trusted here: {why}", release.short(), app)]
    Release { app: AppName, release: df_core::ReleaseId, why: Distrust },
    #[error("image {} belongs to no release that somebody vouched for", .0.short())]
    Image(ImageId),
    #[error("this node believes {pinned}, and was told {proposed}: a change has to be attested by those whom it believes")]
    Pinned { pinned: Policy, proposed: Policy },
    #[error("this node's trust is number {pinned}, and the change is number {proposed}: somebody shows an old one")]
    Old { pinned: u64, proposed: u64 },
    #[error("this node's trust is number {pinned}, and the change is number {proposed}: that far no honest one leads")]
    Far { pinned: u64, proposed: u64 },
    #[error("the change of trust is not trusted itself: {0}")]
    Change(Distrust),
    #[error("the attestations cannot be read")]
    Bundle(#[source] df_core::attestation::bundle::BundleError),
    #[error("{} is damaged, so nothing is believed: move it away, and the next operator who names keys is believed", .0.display())]
    Damaged(PathBuf),
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the records of generations cannot be read")]
    Records(#[source] RecordError),
}

/// How far a change may lead: whoever could use up the numbers could end all changes.
const STRIDE: u64 = 1_000_000;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(flatten)]
    pinned: Pinned,
}

/// Returns whom the node believes; `None`: nobody told it, and it takes what an operator sends.
///
/// # Errors
/// The file is damaged: then nothing is believed.
pub fn pinned(layout: &Layout) -> Result<Option<Pinned>, TrustError> {
    let path = layout.trust();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrustError::Io { path, source }),
    };
    let stored = serde_json::from_slice::<Stored>(&bytes).ok().filter(|stored| stored.format == 1);
    stored.map(|stored| Some(stored.pinned)).ok_or(TrustError::Damaged(path))
}

/// Pins a policy at first contact. The same again is no change; where nobody is believed, anybody may begin.
///
/// # Errors
/// Another policy is pinned.
pub fn pin(layout: &Layout, policy: &Policy) -> Result<(), TrustError> {
    let sequence = match pinned(layout)? {
        None => 0,
        Some(held) if held.policy == *policy => return Ok(()),
        Some(held) if !held.policy.is_asking() => held.sequence.saturating_add(1),
        Some(held) => return Err(TrustError::Pinned { pinned: held.policy, proposed: policy.clone() }),
    };
    write(layout, &Pinned { sequence, policy: policy.clone() })
}

/// Changes whom the node believes, by the word of those whom it believed. The same again is no change.
///
/// # Errors
/// The change is an old one, or too few of them attested it; the policy stays as it is.
pub fn change(layout: &Layout, new: &Pinned, attestations: &str) -> Result<(), TrustError> {
    let held = pinned(layout)?.unwrap_or(Pinned { sequence: 0, policy: Policy::default() });
    if held == *new {
        return Ok(());
    }
    if new.sequence <= held.sequence {
        return Err(TrustError::Old { pinned: held.sequence, proposed: new.sequence });
    }
    if new.sequence - held.sequence > STRIDE {
        return Err(TrustError::Far { pinned: held.sequence, proposed: new.sequence });
    }
    let bundle = Bundle::decode(attestations.as_bytes()).map_err(TrustError::Bundle)?;
    accepts(&held.policy, &Statement::trust(new), Some(&bundle)).map_err(TrustError::Change)?;
    write(layout, new)
}

/// Takes note of who vouches for a release.
///
/// # Errors
/// Too few do; nothing is kept then.
pub fn admit(layout: &Layout, subject: &Subject, attestations: &str) -> Result<(), TrustError> {
    let Some(pinned) = pinned(layout)? else { return Ok(()) };
    let bundle = Bundle::decode(attestations.as_bytes()).map_err(TrustError::Bundle)?;
    judge(&pinned.policy, subject, Some(&bundle))?;
    let (dir, path) = (layout.attested(&subject.app), layout.attested_release(&subject.app, subject.release));
    make_dir(&dir).map_err(|source| TrustError::Io { path: dir, source })?;
    durable::write(&path, &bundle.encode(), 0o644).map_err(|source| TrustError::Io { path, source })
}

/// Decides whether a release may be remembered or activated: whether those whom the node believes now vouched for it when it was admitted.
///
/// # Errors
/// They did not.
pub fn check(layout: &Layout, release: &Release) -> Result<(), TrustError> {
    let Some(pinned) = pinned(layout)?.filter(|pinned| pinned.policy.is_asking()) else { return Ok(()) };
    let path = layout.attested_release(&release.app, release.id());
    let bundle = match fs::read(&path) {
        Ok(bytes) => Bundle::decode(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(TrustError::Io { path, source }),
    };
    judge(&pinned.policy, &Subject::of(release), bundle.as_ref())
}

/// Decides whether the bytes of an image may come: where somebody has to vouch, it is one that was just admitted, or that a record here names.
///
/// # Errors
/// It is none of these.
pub fn check_image(layout: &Layout, image: ImageId, admitted: &[Subject]) -> Result<(), TrustError> {
    let is_asking = pinned(layout)?.is_some_and(|pinned| pinned.policy.is_asking());
    if !is_asking || admitted.iter().any(|subject| subject.image == image) {
        return Ok(());
    }
    for app in generation::apps(layout).map_err(TrustError::Records)? {
        let records = generation::list(layout, &app).map_err(TrustError::Records)?;
        let staged = staged::list(layout, &app).map_err(|source| TrustError::Io { path: layout.staged(&app), source })?;
        if records.iter().any(|it| it.release.image == image) || staged.iter().any(|it| it.image == image) {
            return Ok(());
        }
    }
    Err(TrustError::Image(image))
}

/// Removes the attestations of releases that no generation and no record of a copy names any more.
///
/// # Errors
/// One cannot be removed.
pub fn sweep(layout: &Layout, app: &AppName) -> io::Result<()> {
    let dir = layout.attested(app);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let records = generation::list(layout, app).map_err(io::Error::other)?;
    let staged = staged::list(layout, app)?;
    for entry in entries {
        let path = entry?.path();
        let release = path.file_stem().and_then(|name| name.to_str()?.parse::<df_core::ReleaseId>().ok());
        let is_named = release.is_some_and(|release| {
            records.iter().any(|it| it.release.id() == release) || staged.iter().any(|it| it.release == release)
        });
        if !is_named {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn judge(policy: &Policy, subject: &Subject, bundle: Option<&Bundle>) -> Result<(), TrustError> {
    accepts(policy, &Statement::release(subject), bundle).map_err(|why| TrustError::Release {
        app: subject.app.clone(),
        release: subject.release,
        why,
    })
}

fn write(layout: &Layout, pinned: &Pinned) -> Result<(), TrustError> {
    let path = layout.trust();
    let json = serde_json::to_vec(&Stored { format: 1, pinned: pinned.clone() }).expect("plain data");
    durable::write(&path, &json, 0o644).map_err(|source| TrustError::Io { path, source })
}

#[cfg(test)]
mod tests;
