//! Which version is the newest in a cache elsewhere: attested, so that nobody shows an old one as new.
//!
//! Whoever attests a version says beside it that it is the newest, with a number that grows and for 30 days. A reader remembers the largest number it has seen of
//! each place, in `newest.json` beside the list of nodes (format 1), and takes no smaller one.

use std::collections::BTreeMap;
use std::time::Duration;

use df_cache::Document;
use df_cache::store::Store;
use df_core::attestation::{Channel, Seen, Statement};
use df_core::{Bundle, Release, Timestamp};
use df_fleet::sign::SigningKey;
use serde::{Deserialize, Serialize};

use super::{SIGN, unsigned};
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::session::{Session, now};

/// How long a pointer is good; who publishes less often attests the same version again.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The most places and applications that are remembered.
const N_SEEN: usize = 10_000;

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// By place and application, a blank between them.
    seen: BTreeMap<String, Seen>,
}

/// Attests that a release is the newest; where somebody else said so lately, that is attested too.
///
/// # Errors
/// It is not signed, or the store cannot be used.
pub fn attest(store: &dyn Store, release: &Release, key: &SigningKey, now: Timestamp) -> Result<(), Failure> {
    let channel = match held(store, release)? {
        Some((channel, _)) if channel.release == release.id() && channel.expires > Timestamp(now.0 + seconds(LIFE) / 2) => {
            channel
        }
        held => Channel {
            app: release.app.clone(),
            // Several publish without asking each other, so that it is their clocks that count; a number that was given is never undercut.
            sequence: held.map_or(0, |(held, _)| held.sequence.saturating_add(1)).max(u64::try_from(now.0).unwrap_or(0)),
            release: release.id(),
            expires: Timestamp(now.0.saturating_add(seconds(LIFE))),
        },
    };
    let statement = Statement::channel(&channel);
    let attestation = key.sign(&statement).map_err(|error| unsigned(&error, SIGN))?;
    let bytes = channel.encode(&Bundle::new(&statement, vec![attestation]));
    let attached = store.attach(&release.app, release.id(), Document::Channel, &bytes);
    attached.map(drop).map_err(|error| Failure::here("sign", &error).next("df cache status"))
}

/// Decides whether the release that a place shows as its newest is: those whom df.yaml names say so, and none newer was seen there.
///
/// # Errors
/// It is not believed: exit 10.
pub fn check_newest(session: &Session, place: &str, store: &dyn Store, release: &Release) -> Result<(), Failure> {
    let policy = &session.config.trust;
    if !policy.is_asking() {
        return Ok(());
    }
    let refuse = |why: String| {
        let message = format!("{} is not believed to be the newest version in {place}: {why}", release.commit.short());
        Err(Failure::new(Exit::Refused, "cache", message).next("name the version, or df build --sign where it is published"))
    };
    let Some((channel, bundle)) = held(store, release)? else { return refuse("nobody says so".into()) };
    if channel.release != release.id() {
        return refuse("what is said there is about another release".into());
    }
    let (file, name) = (session.state.join("newest.json"), format!("{place} {}", release.app));
    let mut stored = load(&file)?;
    match channel.check(policy, &bundle, &release.app, now(), stored.seen.get(&name)) {
        Err(error) => refuse(chain(&error)),
        Ok(seen) if stored.seen.get(&name) == Some(&seen) => Ok(()),
        Ok(seen) => {
            if stored.seen.len() >= N_SEEN {
                stored.seen.pop_first();
            }
            stored.seen.insert(name, seen);
            let bytes = serde_json::to_vec(&stored).expect("plain data");
            let written = std::fs::create_dir_all(&session.state).and_then(|()| df_cache::durable::write(&file, &bytes, 0o644));
            session.hide_state();
            written.map_err(|error| Failure::new(Exit::Failed, "cache", format!("{}: {error}", file.display())))
        }
    }
}

/// Returns the pointer beside a release; one that cannot be read is none.
fn held(store: &dyn Store, release: &Release) -> Result<Option<(Channel, Bundle)>, Failure> {
    let bytes = store.attached(&release.app, release.id(), Document::Channel);
    let bytes = bytes.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
    Ok(bytes.and_then(|bytes| Channel::decode(&bytes).ok()))
}

fn load(file: &std::path::Path) -> Result<Stored, Failure> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Stored { format: 1, ..Stored::default() }),
        Err(error) => return Err(Failure::new(Exit::Failed, "cache", format!("{}: {error}", file.display()))),
    };
    // What was seen is not forgotten because a file is damaged: then an old version could be shown again.
    let stored = serde_json::from_slice::<Stored>(&bytes).ok().filter(|stored| stored.format == 1);
    stored.ok_or_else(|| {
        let message = format!("{} is damaged; move it away, and what is newest is believed anew", file.display());
        Failure::new(Exit::Failed, "cache", message)
    })
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).expect("some days")
}
