//! Which version is the newest in a cache elsewhere: attested, so that nobody shows an old one as new.
//!
//! Whoever attests a version says beside it that it is the newest, with a number that grows and for so long as df.yaml says. A reader remembers the largest number it has seen of
//! each place, in `newest.json` beside the list of nodes (format 1), and takes no smaller one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use df_cache::Document;
use df_cache::store::Store;
use df_core::attestation::{Channel, ChannelError, Policy, Seen, Statement, accepts};
use df_core::{Bundle, Release, Timestamp};
use df_fleet::sign::SigningKey;
use serde::{Deserialize, Serialize};

use super::{SIGN, unsigned};
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::session::{Session, now};

/// The most places and applications that are remembered.
const N_SEEN: usize = 10_000;
/// So many of the newest releases here are asked for numbers that were given.
const N_GIVEN: usize = 50;

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// By place and application, a blank between them.
    seen: BTreeMap<String, Seen>,
}

/// Who says that a version is the newest.
pub struct Publisher<'a> {
    /// With which key.
    pub key: &'a SigningKey,
    /// How long the word is good; who publishes less often attests the same version again.
    pub life: Duration,
    /// Whose numbers count as given.
    pub policy: &'a Policy,
}

/// Attests that a release is the newest; where somebody else said so lately, that is attested too.
///
/// # Errors
/// It is not signed, or the store cannot be used.
pub fn attest(store: &dyn Store, release: &Release, by: &Publisher<'_>, now: Timestamp) -> Result<(), Failure> {
    let channel = match held(store, release)? {
        Some((channel, _))
            if channel.release == release.id() && channel.expires > Timestamp(now.0.saturating_add(seconds(by.life) / 2)) =>
        {
            channel
        }
        held => Channel {
            app: release.app.clone(),
            // Several publish without asking each other, so that it is their clocks that count. A number that was given is never undercut: a clock that was ahead is put right one day.
            sequence: held
                .map(|(held, _)| held.sequence)
                .max(given(store, release, by.policy)?)
                .map_or(0, |last| last.saturating_add(1))
                .max(u64::try_from(now.0).unwrap_or(0)),
            release: release.id(),
            expires: Timestamp(now.0.saturating_add(seconds(by.life))),
        },
    };
    let statement = Statement::channel(&channel);
    let attestation = by.key.sign(&statement).map_err(|error| unsigned(&error, SIGN))?;
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
    let name = format!("{place} {}", release.app);
    let check = |seen: Option<&Seen>| channel.check(policy, &bundle, &release.app, now(), seen);
    let judged = remember(&session.state, &name, check);
    session.hide_state();
    judged?.or_else(|error| refuse(chain(&error)))
}

/// Judges what a place shows by what was seen there, and remembers it. Another df waits meanwhile: what it saw is not undone.
fn remember(
    state: &Path,
    name: &str,
    check: impl FnOnce(Option<&Seen>) -> Result<Seen, ChannelError>,
) -> Result<Result<(), ChannelError>, Failure> {
    let file = state.join("newest.json");
    let failed = |error: io::Error| Failure::new(Exit::Failed, "cache", format!("{}: {error}", file.display()));
    let _lock = lock(state).map_err(failed)?;
    let mut stored = load(&file)?;
    let seen = match check(stored.seen.get(name)) {
        Err(error) => return Ok(Err(error)),
        Ok(seen) if stored.seen.get(name) == Some(&seen) => return Ok(Ok(())),
        Ok(seen) => seen,
    };
    if stored.seen.len() >= N_SEEN {
        stored.seen.pop_first();
    }
    stored.seen.insert(name.to_owned(), seen);
    let bytes = serde_json::to_vec(&stored).expect("plain data");
    df_cache::durable::write(&file, &bytes, 0o644).map(Ok).map_err(failed)
}

/// Waits until nobody else reads and writes what was seen.
fn lock(state: &Path) -> io::Result<File> {
    std::fs::create_dir_all(state)?;
    let file = File::options().create(true).append(true).open(state.join("newest.lock"))?;
    file.lock()?;
    Ok(file)
}

/// Returns the largest number that was given to a version of an application here, by somebody who is believed: others' numbers could use all of them up.
fn given(store: &dyn Store, release: &Release, policy: &Policy) -> Result<Option<u64>, Failure> {
    let mut releases = store.releases().map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
    releases.retain(|stored| stored.release.app == release.app);
    let mut largest = None;
    for stored in releases.iter().rev().take(N_GIVEN) {
        if let Some((channel, bundle)) = held(store, &stored.release)?
            && accepts(policy, &Statement::channel(&channel), Some(&bundle)).is_ok()
        {
            largest = largest.max(Some(channel.sequence));
        }
    }
    Ok(largest)
}

/// Returns the pointer beside a release; one that cannot be read is none.
fn held(store: &dyn Store, release: &Release) -> Result<Option<(Channel, Bundle)>, Failure> {
    let bytes = store.attached(&release.app, release.id(), Document::Channel);
    let bytes = bytes.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
    Ok(bytes.and_then(|bytes| Channel::decode(&bytes).ok()))
}

fn load(file: &Path) -> Result<Stored, Failure> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored { format: 1, ..Stored::default() }),
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
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use df_cache::DiskStore;
    use df_core::attestation::PublicKey;
    use df_core::{Digest, Manifest, ReleaseId};
    use df_fleet::sign::Keys;

    use super::*;

    fn release(n: u64) -> Release {
        let release = serde_json::json!({
            "format": 1, "app": "files", "commit": format!("{n:040x}"), "committed": 0, "recipe_key": Digest::of(b"recipe"),
            "sandbox": "off", "image": empty().image(), "image_len": 0,
        });
        serde_json::from_value(release).expect("a release")
    }

    fn empty() -> Manifest {
        Manifest::new(vec![]).expect("a tree")
    }

    fn seen(sequence: u64) -> Seen {
        Seen { sequence, release: ReleaseId(Digest::of(&sequence.to_le_bytes())) }
    }

    #[test]
    fn what_another_df_saw_at_the_same_time_is_not_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        std::thread::scope(|scope| {
            for n in 1..=16_u64 {
                let state = dir.path();
                scope.spawn(move || {
                    remember(state, &format!("place{n} files"), |_| Ok(seen(n))).expect("written").expect("believed");
                    let newer = |held: Option<&Seen>| match held {
                        Some(held) if held.sequence > n => Err(ChannelError::Old { found: n, seen: held.sequence }),
                        _ => Ok(seen(n)),
                    };
                    let _ = remember(state, "one place", newer).expect("written");
                });
            }
        });
        let stored = load(&dir.path().join("newest.json")).expect("read");
        assert_eq!((stored.seen.len(), stored.seen.get("one place")), (17, Some(&seen(16))));
    }

    /// Somebody's clock was a day ahead when the version before was attested.
    #[test]
    fn a_clock_that_was_put_right_does_not_make_the_next_version_an_old_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file).status();
        assert!(made.expect("ssh-keygen").success());
        let key: PublicKey =
            std::fs::read_to_string(file.with_extension("pub")).expect("a public key").trim().parse().expect("a key");
        let policy = Policy::new(1, vec![key]).expect("a policy");
        let signer = Keys { agent: None, home: None }.file(&file).expect("a key");
        let store = DiskStore::open(&dir.path().join("cache")).expect("a store");
        let sequences: Vec<u64> = [(1, 1_000_000 + 86_400), (2, 1_000_000)]
            .into_iter()
            .map(|(n, now)| {
                let (release, now) = (release(n), Timestamp(now));
                store.put(&release, &empty(), &store, now).expect("put");
                let by = Publisher { key: &signer, life: Duration::from_secs(86_400), policy: &policy };
                attest(&store, &release, &by, now).expect("attested");
                held(&store, &release).expect("read").expect("there").0.sequence
            })
            .collect();
        assert_eq!(sequences, [1_086_400, 1_086_401]);
    }
}
