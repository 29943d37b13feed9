//! SIGKILL at every request that a command sends to a bucket: before it is done, and when it is done and not answered. The next run completes, all of the bucket reads back, and the trees that
//! come out are those that went in.
//!
//! The requests are counted by the server, one command at a time; each is the last one of a process of its own. `DF_FULL` tries all of them; else it is every few.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use df_cache::s3::aws::{AccessKey, AwsObjects, AwsOptions};
use df_cache::s3::{Options, S3Store};
use df_cache::{Store as _, gc};
use df_core::Timestamp;
use df_testkit::process::{Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::s3::{Act, Fault, Server, Verb};
use df_testkit::seed::Seed;
use df_testkit::tree;

use crate::support;

const BUCKET: &str = "s3://df-test";
const DAY: i64 = 24 * 60 * 60;
const DEADLINE: Duration = Duration::from_secs(60);

/// What all of this begins with: versions, and a cache that holds two of them, and one that holds all four.
struct Stage {
    dir: tempfile::TempDir,
    versions: Vec<String>,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("df-killed").tempdir_in(support::shared()).expect("a directory");
        let repo = Repo::new(&dir.path().join("repo"));
        let config = "app: files\nbuild: { command: \"mkdir out && cp a b out\", output: out }\n";
        let mut random = Seed(7).random();
        let versions = (0..4).map(|n| {
            // Bytes of its own, so that what is left of a pack is less than half when versions go.
            let own: String = (0..20_000).map(|_| char::from(b' ' + random.index(94) as u8)).collect();
            repo.commit(&[("df.yaml", config), ("a", &own), ("b", "the same\n")], &format!("version {n}"))
        });
        let stage = Stage { versions: versions.collect(), dir };
        for (cache, versions) in [("two", &stage.versions[..2]), ("all", &stage.versions)] {
            versions.iter().for_each(|version| drop(stage.df(cache, &["build", "--commit-hash", version]).ok()));
        }
        stage
    })
}

impl Stage {
    /// Returns `df` with a cache below the stage's directory.
    fn df(&self, cache: &str, words: &[&str]) -> Run {
        let at = |name: &str| self.dir.path().join(name);
        support::df(&at("repo"), &at("state")).args(words).env("XDG_CACHE_HOME", at(cache))
    }
}

/// A machine, and a bucket.
struct Bench {
    dir: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("bench").tempdir_in(stage().dir.path()).expect("a directory");
        copy(&stage().dir.path().join("all"), &dir.path().join("cache"));
        fs::create_dir(dir.path().join("bucket")).expect("made");
        let server = Server::at(&dir.path().join("bucket"), 0);
        Self { dir, server }
    }

    /// One as this one is now.
    fn twin(&self) -> Self {
        let dir = tempfile::Builder::new().prefix("bench").tempdir_in(stage().dir.path()).expect("a directory");
        ["cache", "bucket"].iter().for_each(|name| copy(&self.dir.path().join(name), &dir.path().join(name)));
        let server = Server::at(&dir.path().join("bucket"), 0);
        Self { dir, server }
    }

    fn df(&self, words: &[&str]) -> Run {
        self.df_from(&self.dir.path().join("cache"), words)
    }

    fn df_from(&self, cache: &Path, words: &[&str]) -> Run {
        let run = stage().df("", words).env("XDG_CACHE_HOME", cache);
        self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value)).env_remove("AWS_PROFILE")
    }

    /// Expects all of the bucket to read back, and versions to come out as they went in, on a machine that holds nothing.
    #[track_caller]
    fn expect_whole(&self, versions: &[usize], when: &str) {
        let verified = self.df(&["cache", "verify", "--address", BUCKET]).output();
        assert!(verified.code == Some(0), "{when}: {verified}");
        for version in versions {
            let version = &stage().versions[*version];
            let [direct, out] = ["direct", "out"].map(|name| self.dir.path().join(format!("{name}-{version}")));
            self.df(&["cache", "get", version, "--output"]).arg(&direct).ok();
            let elsewhere = self.dir.path().join("elsewhere");
            let got = self.df_from(&elsewhere, &["cache", "get", version, "--address", BUCKET, "--output"]).arg(&out).output();
            assert!(got.code == Some(0), "{when}: {got}");
            assert_eq!(tree::compare(&direct, &out), [], "{when}");
            assert!(out.join("a").is_file(), "{when}");
        }
    }

    fn packs(&self) -> Vec<String> {
        self.server.keys().into_iter().filter(|key| key.starts_with("p/")).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    let from = format!("{}/", from.display());
    Run::new("rsync").args(["-a", "--exclude=/df/build/rooms", &from, &to.display().to_string()]).ok();
}

/// Has a command be killed at its n-th request, for every n there is, and done again; `check` must hold then. Of `stride` requests one is tried, unless all are.
fn kill_at_every_request(begin: &Bench, stride: usize, words: &[&str], check: impl Fn(&Bench, &str)) {
    let stride = if std::env::var_os("DF_FULL").is_some() { 1 } else { stride };
    let mut n_killed = 0;
    for (done, act) in [(false, Act::Hold), (true, Act::HoldDone)] {
        // The two do not meet the same ones, so that fewer are left out.
        let first = if done { 1 + stride / 2 } else { 1 };
        for n in (first..).step_by(stride) {
            let bench = begin.twin();
            bench.server.fault(Fault::new(act.clone()).nth(n as u64));
            // What is sent at the same time, and what would be after it, comes too late.
            bench.server.fault(Fault::new(Act::Hold).nth(n as u64).always());
            let mut child = bench.df(words).spawn();
            let held = || (bench.server.held() > 0 || !child.is_running()).then_some(());
            wait_until(DEADLINE, held).expect("it asks, or ends");
            if bench.server.held() == 0 {
                let ended = child.finish(DEADLINE);
                assert!(ended.code == Some(0), "nobody killed it: {ended}");
                break;
            }
            child.kill();
            bench.server.clear_faults();
            n_killed += 1;
            let when = format!("{words:?} killed at request {n}, {}", if done { "done and not answered" } else { "not done" });
            let again = bench.df(words).output();
            assert!(again.code == Some(0), "{when}: {again}");
            check(&bench, &when);
        }
    }
    eprintln!("{words:?}: killed {n_killed} times");
    assert!(n_killed > 3, "only {n_killed} requests");
}

#[test]
fn a_put_that_is_killed_at_any_request_completes_when_it_is_typed_again() {
    // Into a bucket where nothing is yet: that takes the most requests.
    let put = ["cache", "put", &stage().versions[1], "--address", BUCKET];
    kill_at_every_request(&Bench::empty(), 5, &put, |bench, when| bench.expect_whole(&[1], when));
}

#[test]
fn a_persist_that_is_killed_at_any_request_completes_when_it_is_typed_again() {
    let begin = Bench::empty();
    begin.df(&["cache", "put", &stage().versions[0], "--address", BUCKET]).ok();
    let persist = ["cache", "persist", "--s3-bucket", "df-test"];
    kill_at_every_request(&begin, 3, &persist, |bench, when| bench.expect_whole(&[0, 3], when));
}

/// Returns the second that is.
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()).expect("not so late")
}

/// A bucket in which a collection has everything to do: packs that were condemned long ago, one that nobody names any more, one of which little is needed, and a session that died.
fn neglected() -> Bench {
    let bench = Bench::empty();
    let persist = ["cache", "persist", "--s3-bucket", "df-test"];
    bench.df_from(&stage().dir.path().join("two"), &persist).ok();
    // Long ago somebody let go of both versions.
    let (id, secret) = bench.server.credentials();
    let options = AwsOptions {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(bench.server.endpoint().parse().expect("a loopback endpoint")),
        key: Some(AccessKey { id: id.to_owned(), secret: secret.to_owned() }),
        ..AwsOptions::new(BUCKET.parse().expect("an address"))
    };
    let objects = Arc::new(AwsObjects::open(&options).expect("a client"));
    let options = Options::new("a test", Timestamp(now() - 20 * DAY)).expect("random numbers");
    let store = S3Store::open(objects, &bench.dir.path().join("then"), options);
    store.collect(&gc::plan(&store.contents().expect("read"), &gc::NOTHING)).expect("collected");
    // Somebody dies before the head is there, and somebody else sends the same.
    bench.server.fault(Fault::new(Act::Hold).on(Verb::Put).key("head").always());
    let dies = bench.dir.path().join("dies");
    copy(&stage().dir.path().join("all"), &dies);
    let mut child = bench.df_from(&dies, &persist).spawn();
    wait_until(DEADLINE, || (bench.server.held() > 0).then_some(())).expect("it comes to the head");
    child.kill();
    bench.server.clear_faults();
    bench.df(&persist).ok();
    age(&bench.dir.path().join("bucket"));
    let put = now();
    wait_until(DEADLINE, || (now() > put).then_some(())).expect("the clock goes on");
    bench
}

/// Makes every file there a month old.
fn age(dir: &Path) {
    let old = SystemTime::now() - Duration::from_secs(30 * DAY as u64);
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path: PathBuf = entry.path();
        if path.is_dir() {
            age(&path);
        } else {
            fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(old)).expect("its own");
        }
    }
}

#[test]
fn a_collection_that_is_killed_at_any_request_completes_when_it_is_typed_again() {
    let begin = neglected();
    let collect = ["cache", "gc", "--count", "1", "--older", "0s", "--address", BUCKET];
    // The control: there is something to do in each way.
    let undisturbed = begin.twin();
    let (before, packs) = (undisturbed.server.keys(), undisturbed.packs());
    undisturbed.df(&collect).ok();
    let after = undisturbed.packs();
    let gone = packs.iter().filter(|pack| !after.contains(pack)).count();
    assert!(gone >= 2, "one that was condemned, one that nobody named: {before:?} {after:?}");
    assert!(after.iter().any(|pack| !packs.contains(pack)), "one is written again: {before:?} {after:?}");
    kill_at_every_request(&begin, 10, &collect, |bench, when| {
        bench.expect_whole(&[3], when);
        let listed = bench.df(&["cache", "status", "--address", BUCKET]).ok().stdout;
        assert!(listed.lines().any(|line| line.split_whitespace().eq(["releases", "1"])), "{when}: {listed}");
    });
}

#[test]
fn a_repair_that_is_killed_at_any_request_completes_when_it_is_typed_again() {
    let begin = Bench::empty();
    begin.df(&["cache", "put", &stage().versions[0], "--address", BUCKET]).ok();
    begin.df(&["cache", "persist", "--s3-bucket", "df-test"]).ok();
    for (key, len) in begin.server.objects().iter().filter(|(key, _)| key.starts_with("p/")) {
        begin.server.flip(key, len / 2);
    }
    begin.df(&["cache", "verify", "--address", BUCKET]).output().expect_code(8);
    let repair = ["cache", "repair", "--address", BUCKET];
    kill_at_every_request(&begin, 14, &repair, |bench, when| bench.expect_whole(&[0, 3], when));
}
