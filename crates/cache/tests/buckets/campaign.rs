//! Many writers and two collections on one bucket of a real server, some of them stopped or dead at any request: nothing that was committed is lost.
//!
//! `DF_COMMITS` says how many commits there are (200; 10,000 with `DF_FULL`), `DF_CAMPAIGN_REPORT` where the report goes.

mod mortal;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use df_cache::contract::{Source, assert_whole, image, release};
use df_cache::s3::aws::AwsObjects;
use df_cache::s3::objects::{Objects, Requests};
use df_cache::s3::{Options, S3Store};
use df_cache::{Policy, Store, gc};
use df_core::{Digest, ImageId, Manifest, Release, Timestamp};
use df_testkit::s3::Server;

use crate::support::of;
use mortal::{End, Mortal};

const WRITERS: u64 = 8;
const COLLECTORS: u64 = 2;
/// Releases of each application that a collection keeps.
const KEPT: usize = 2;
const NOW: Timestamp = Timestamp(1_000);
/// A collection begins after so many commits.
const BETWEEN: u64 = 7;

/// What all take part in.
struct Campaign {
    server: Server,
    directory: tempfile::TempDir,
    commits: u64,
    /// Commits that are given out.
    taken: AtomicU64,
    progress: Arc<Progress>,
    deaths: AtomicU64,
    stalls: AtomicU64,
    collections: AtomicU64,
    swept: AtomicU64,
}

/// How many commits are done, and whether all are.
#[derive(Default)]
pub struct Progress {
    done: Mutex<(u64, bool)>,
    more: Condvar,
}

impl Progress {
    fn step(&self) {
        self.done.lock().expect("not poisoned").0 += 1;
        self.more.notify_all();
    }

    fn end(&self) {
        self.done.lock().expect("not poisoned").1 = true;
        self.more.notify_all();
    }

    /// Waits until there are so many more commits, or no more come, or a while has passed; returns whether more may come.
    pub fn wait(&self, more: u64) -> bool {
        let done = self.done.lock().expect("not poisoned");
        let until = done.0 + more;
        let (done, _) = self
            .more
            .wait_timeout_while(done, Duration::from_secs(3), |(count, over)| !*over && *count < until)
            .expect("not poisoned");
        !done.1
    }
}

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn new(words: [u64; 2]) -> Self {
        Self(words[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ words[1].wrapping_mul(0xd1b5_4a32_d192_ed03) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Returns the n-th version of a writer's program: some files of all writers, some of this one, one of its own.
fn version(writer: u64, n: u64) -> (Manifest, Source, Release) {
    let text = |salt: [u64; 2]| {
        let mut dice = Dice::new(salt);
        let len = 100 + dice.below(3_000);
        (0..len).map(|_| dice.below(256) as u8).collect::<Vec<u8>>()
    };
    let shared = (0..6).map(|i| text([1_000 + i, n / (3 + i)]));
    let own = (0..6).map(|i| text([2_000 + 100 * writer + i, n / (1 + i)]));
    let files: Vec<Vec<u8>> = shared.chain(own).collect();
    let (manifest, blobs) = image(&files.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let release = release(&format!("app-{writer}"), n, manifest.image());
    (manifest, blobs, release)
}

impl Campaign {
    fn open(&self, objects: Arc<dyn Objects>, who: &str, life: u64) -> S3Store {
        let seed = *Digest::of(format!("{who} {life}").as_bytes()).as_bytes();
        let pause = Arc::new(|wait: Duration| std::thread::sleep(wait / 20));
        let options =
            Options { who: who.to_owned(), now: NOW, grace: Duration::ZERO, single_writer: false, uploads: 2, seed, pause };
        S3Store::open(objects, &self.directory.path().join(who), options)
    }

    /// Opens the cache for one piece of work, by somebody who may not live to see its end.
    fn mortal(&self, objects: &Arc<AwsObjects>, who: &str, life: u64, dice: &mut Dice) -> S3Store {
        let end = match dice.below(12) {
            0..=2 => End::Dies { at: dice.below(14), done: dice.below(2) == 0 },
            3 => End::Stalls { at: dice.below(10), more: 1 + dice.below(20) },
            _ => End::None,
        };
        if matches!(end, End::Stalls { .. }) {
            self.stalls.fetch_add(1, Ordering::Relaxed);
        }
        self.open(Arc::new(Mortal::new(objects.clone(), end, self.progress.clone())), who, life)
    }

    /// Puts version after version, each until it is acknowledged. Returns what was, and the requests.
    fn write(&self, writer: u64) -> (Vec<u64>, Requests) {
        let objects = Arc::new(of(&self.server));
        let (who, mut dice) = (format!("writer-{writer}"), Dice::new([writer, 77]));
        let (mut life, mut acknowledged) = (0, vec![]);
        while self.taken.fetch_add(1, Ordering::Relaxed) < self.commits {
            let n = acknowledged.len() as u64;
            let (manifest, blobs, release) = version(writer, n);
            loop {
                life += 1;
                let store = self.mortal(&objects, &who, life, &mut dice);
                if store.put(&release, &manifest, &blobs, NOW).is_ok() {
                    break;
                }
                self.deaths.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged.push(n);
            self.progress.step();
            if dice.below(4) == 0 {
                // Two are kept, and the next is not put yet: what was acknowledged is there, for a stranger too.
                assert_whole(&self.open(objects.clone(), &format!("reader-{writer}"), life), &manifest, &blobs);
            }
        }
        (acknowledged, objects.requests())
    }

    /// Collects again and again.
    fn collect(&self, collector: u64) -> Requests {
        let objects = Arc::new(of(&self.server));
        let (who, mut dice, mut life) = (format!("collector-{collector}"), Dice::new([collector, 99]), 0);
        while self.progress.wait(BETWEEN) {
            life += 1;
            let store = self.mortal(&objects, &who, life, &mut dice);
            match sweep(&store) {
                Some(n) => {
                    self.collections.fetch_add(1, Ordering::Relaxed);
                    self.swept.fetch_add(n, Ordering::Relaxed);
                }
                None => drop(self.deaths.fetch_add(1, Ordering::Relaxed)),
            }
        }
        objects.requests()
    }

    fn n_commits() -> u64 {
        let full = if std::env::var_os("DF_FULL").is_some() { 10_000 } else { 200 };
        std::env::var("DF_COMMITS").map_or(full, |text| text.parse().expect("a number of commits"))
    }
}

/// Collects what is older than the newest of each application; returns how many images went.
fn sweep(store: &S3Store) -> Option<u64> {
    let contents = store.contents().ok()?;
    let plan = gc::plan(&contents, &Policy { count: KEPT, older: Timestamp(i64::MAX) });
    store.collect(&plan).ok().map(|collected| collected.n_images)
}

#[test]
fn writers_and_collections_that_stop_or_die_at_any_request_lose_nothing() {
    let campaign = Campaign {
        server: Server::start(),
        directory: tempfile::tempdir().expect("a directory"),
        commits: Campaign::n_commits(),
        taken: AtomicU64::new(0),
        progress: Arc::default(),
        deaths: AtomicU64::new(0),
        stalls: AtomicU64::new(0),
        collections: AtomicU64::new(0),
        swept: AtomicU64::new(0),
    };
    let started = Instant::now();
    let campaign = &campaign;
    let (written, requests) = std::thread::scope(|scope| {
        let collectors: Vec<_> = (0..COLLECTORS).map(|n| scope.spawn(move || campaign.collect(n))).collect();
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || campaign.write(n))).collect();
        let written: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        campaign.progress.end();
        let swept: Vec<_> = collectors.into_iter().map(|thread| thread.join().expect("a collector")).collect();
        let (written, mut requests): (Vec<Vec<u64>>, Vec<Requests>) =
            written.into_iter().map(|result| result.expect("a writer")).unzip();
        requests.extend(swept);
        (written, requests)
    });
    let took = started.elapsed();
    let store = campaign.open(Arc::new(of(&campaign.server)), "at the end", 0);
    let blobs = assert_nothing_is_lost(&store, &written);
    assert_nothing_is_left(campaign, &store);
    report(campaign, &requests, took, blobs);
}

/// Checks every image that is there, byte by byte, and that the newest of each writer is; returns how many blobs were read.
#[track_caller]
fn assert_nothing_is_lost(store: &S3Store, written: &[Vec<u64>]) -> u64 {
    assert_eq!(store.verify().expect("read"), []);
    let contents = store.contents().expect("read");
    let mut versions: HashMap<ImageId, (u64, u64)> = HashMap::new();
    for (writer, acknowledged) in (0..).zip(written) {
        for &n in acknowledged {
            let (manifest, _, release) = version(writer, n);
            versions.insert(manifest.image(), (writer, n));
            if Some(&n) == acknowledged.last() {
                let last = contents.releases.iter().any(|stored| stored.release == release);
                assert!(last, "release {n} of writer {writer} was acknowledged");
            }
        }
    }
    let mut read = 0;
    for stored in &contents.releases {
        assert!(store.has(stored.release.image).expect("read"), "no root dangles");
    }
    for image in &contents.images {
        let &(writer, n) = versions.get(&image.image).expect("somebody put it");
        let (manifest, blobs, _) = version(writer, n);
        assert_whole(store, &manifest, &blobs);
        read += blobs.len() as u64;
    }
    read
}

/// Checks that a last collection leaves nothing that nothing names.
#[track_caller]
fn assert_nothing_is_left(campaign: &Campaign, store: &S3Store) {
    sweep(store).expect("collected");
    assert_eq!(store.verify().expect("read"), []);
    let packs = campaign.server.keys().into_iter().filter(|key| key.contains("/p/")).count();
    assert_eq!(packs as u64, store.stats().expect("read").n_packs);
}

fn report(campaign: &Campaign, requests: &[Requests], took: Duration, blobs: u64) {
    let sum = |of: fn(&Requests) -> u64| requests.iter().map(of).sum::<u64>();
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let text = format!(
        "{} commits by {WRITERS} writers in {:.1} s, {} collections took {} images away; {} died at some request, {} were stopped for a while.\n\
         {} GET, {} PUT, {} LIST, {} DELETE. At the end {blobs} blobs were read and compared: none lost, no root dangles, no pack is left over.\n",
        campaign.commits,
        took.as_secs_f64(),
        count(&campaign.collections),
        count(&campaign.swept),
        count(&campaign.deaths),
        count(&campaign.stalls),
        sum(|r| r.get),
        sum(|r| r.put),
        sum(|r| r.list),
        sum(|r| r.delete),
    );
    print!("{text}");
    if let Some(path) = std::env::var_os("DF_CAMPAIGN_REPORT") {
        std::fs::write(Path::new(&path), text).expect("the report is written");
    }
}
