//! What a member does: this binary once more, told line by line what to do, until its input ends.
//!
//! `put N`, `collect` and `check N`, each with what the process does to itself meanwhile. It answers with lines that begin with `@`: `done` with numbers, `failed` with the reason, or `stops`
//! before it stops.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use df_cache::contract::assert_whole;
use df_cache::s3::aws::{AwsObjects, AwsOptions, Patience};
use df_cache::s3::objects::Objects;
use df_cache::s3::{Options, S3Store};
use df_cache::{Policy, Store, gc};
use df_core::Timestamp;
use df_testkit::s3::Server;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::KEPT;
use super::mortal::{End, Mortal};
use super::versions::version;
use crate::support::{PATIENCE, options};

const NOW: Timestamp = Timestamp(1_000);
const WHO: &str = "DF_CAMPAIGN_MEMBER";
const ENDPOINT: &str = "DF_CAMPAIGN_ENDPOINT";
const DIRECTORY: &str = "DF_CAMPAIGN_DIRECTORY";
const KEY: &str = "DF_CAMPAIGN_KEY";

/// Returns the command that starts a member.
pub fn command(server: &Server, directory: &Path, who: &str) -> Command {
    let (id, secret) = server.credentials();
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", "campaign::role::member", "--nocapture", "--test-threads=1"])
        .env(WHO, who)
        .env(ENDPOINT, server.endpoint())
        .env(DIRECTORY, directory)
        .env(KEY, format!("{id} {secret}"));
    command
}

/// Opens the cache.
pub fn open(objects: Arc<dyn Objects>, directory: &Path) -> S3Store {
    // A quarter: on a server in the same room nobody has to make way for long.
    let pause = Arc::new(|wait: Duration| std::thread::sleep(wait / 4));
    let options = Options::new("a member", NOW).expect("random numbers");
    S3Store::open(objects, directory, Options { grace: Duration::ZERO, uploads: 2, pause, ..options })
}

/// Returns a client for those who may be stopped at any moment, for as long as somebody likes.
pub fn client(endpoint: &str, key: (&str, &str)) -> AwsObjects {
    let hour = Duration::from_secs(60 * 60);
    let patience = Patience { altogether: 24 * hour, silence: 12 * hour, least_rate: 0, ..PATIENCE };
    AwsObjects::open(&AwsOptions { patience, ..options(endpoint, "df-test", key) }).expect("a client")
}

/// Collects what is older than the newest of each application; returns how many images went, how many objects, and the bytes that packs written again made free.
pub fn sweep(store: &S3Store) -> Result<[u64; 3], String> {
    let contents = store.contents().map_err(|error| in_words(&error))?;
    let plan = gc::plan(&contents, &Policy { count: KEPT, older: Timestamp(i64::MAX) });
    let collected = store.collect(&plan).map_err(|error| in_words(&error))?;
    Ok([collected.n_images, collected.n_objects, collected.bytes_repacked])
}

/// Answers the parent.
pub fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    // The test's own name stands at the beginning of the first line.
    writeln!(out, "\n@ {words}").and_then(|()| out.flush()).expect("the parent listens");
}

/// A member, when this process was started as one; a test it is not.
#[test]
fn member() {
    let Ok(who) = std::env::var(WHO) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).expect("no orphan goes on");
    let of = |name| std::env::var(name).expect("told by the parent");
    let (endpoint, key, directory) = (of(ENDPOINT), of(KEY), PathBuf::from(of(DIRECTORY)));
    let objects = Arc::new(client(&endpoint, key.split_once(' ').expect("an id and a secret")));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("words");
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match *words.as_slice() {
            ["put", n, ref end @ ..] => put(&objects, &directory, &who, n, End::read(end)),
            ["collect", ref end @ ..] => collect(&objects, &directory, &who, End::read(end)),
            ["check", n] => {
                let (manifest, blobs, _) = version(number(&who), n.parse().expect("a number"));
                assert_whole(&open(objects.clone(), &directory.join(format!("reader-of-{who}"))), &manifest, &blobs);
                Ok(String::new())
            }
            _ => panic!("{line}"),
        };
        match result {
            Ok(words) => say(&format!("done {words}")),
            Err(why) => say(&format!("failed {}", why.replace('\n', " "))),
        }
    }
}

fn put(objects: &Arc<AwsObjects>, directory: &Path, who: &str, n: &str, end: End) -> Result<String, String> {
    let n: u64 = n.parse().expect("a number");
    let (manifest, mut blobs, release) = version(number(who), n);
    // What it may be stored as a change of.
    blobs.extend(n.checked_sub(1).map(|n| version(number(who), n).1).unwrap_or_default());
    let mortal = Arc::new(Mortal::new(objects.clone(), end));
    let store = open(mortal.clone(), &directory.join(who));
    store.put(&release, &manifest, &blobs, NOW).map_err(|error| in_words(&error))?;
    Ok(mortal.n_sessions().to_string())
}

fn collect(objects: &Arc<AwsObjects>, directory: &Path, who: &str, end: End) -> Result<String, String> {
    let mortal = Arc::new(Mortal::new(objects.clone(), end));
    Ok(sweep(&open(mortal, &directory.join(who)))?.map(|n| n.to_string()).join(" "))
}

/// Returns which writer it is.
fn number(who: &str) -> u64 {
    who.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number")
}

fn in_words(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |all, error| format!("{all}: {error}"))
}
