//! The cache in a bucket as a person uses it, against a server that speaks S3: filled, killed, damaged, mended, emptied, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use df_cache::s3::aws::{AccessKey, AwsObjects, AwsOptions};
use df_cache::s3::{Item, Options, S3Store};
use df_cache::{DiskStore, Store as _};
use df_core::Timestamp;
use df_testkit::process::{Output, Run, wait_until};
use df_testkit::s3::{Act, Fault, Server, Verb};
use df_testkit::{faults, net, tree};

use crate::support::{PORT, World, copy_shared_cache, versions};

const BUCKET: &str = "s3://df-test";

/// A machine with a cache of its own, and a bucket.
struct Machine {
    world: World,
    server: Server,
}

impl Machine {
    /// Holds what all tests built.
    fn new() -> Self {
        let it = Self::empty();
        copy_shared_cache(&it.cache());
        it
    }

    fn empty() -> Self {
        versions();
        Self { world: World::new(0), server: Server::start() }
    }

    fn cache(&self) -> PathBuf {
        self.world.path("cache")
    }

    fn df(&self, words: &[&str]) -> Run {
        self.df_from(&self.cache(), words)
    }

    /// As from another machine: with another cache.
    fn df_from(&self, cache: &Path, words: &[&str]) -> Run {
        let run = self.world.df([]).args(words).env("XDG_CACHE_HOME", cache);
        let run = self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value));
        run.env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN")
    }

    /// The bucket as the place of a command.
    fn there(&self, words: &[&str]) -> Run {
        self.df(&[words, &["--address", BUCKET]].concat())
    }

    fn persist(&self) -> Output {
        self.df(&["--json", "cache", "persist", "--s3-bucket", "df-test"]).ok()
    }

    /// Puts all that is here, in one commit whose root table does not lie in the head: as that of a cache of many releases, too many for a test.
    fn persist_with_tables_apart(&self) {
        let here = DiskStore::open(&self.cache().join("df/v1")).expect("a cache");
        let releases: Vec<_> = here.releases().expect("read").into_iter().map(|stored| stored.release).collect();
        let manifests: Vec<_> = releases.iter().map(|release| here.manifest(release.image).expect("a manifest")).collect();
        let items = releases.iter().zip(&manifests);
        let items: Vec<_> = items.map(|(release, manifest)| Item { manifest, release: Some(release), documents: &[] }).collect();
        let (id, secret) = self.server.credentials();
        let options = AwsOptions {
            region: Some("us-east-1".to_owned()),
            endpoint: Some(self.server.endpoint().parse().expect("a loopback endpoint")),
            key: Some(AccessKey { id: id.to_owned(), secret: secret.to_owned() }),
            ..AwsOptions::new(BUCKET.parse().expect("an address"))
        };
        let objects = Arc::new(AwsObjects::open(&options).expect("a client"));
        let now = Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64);
        let options = Options { kept_len: 0, ..Options::new("a test", now).expect("random numbers") };
        S3Store::open(objects, &self.world.path("apart"), options).put_items(&items, &here, now).expect("put");
    }

    /// How many packs came since the server began to count.
    fn packs_sent(&self) -> usize {
        self.server.requests().iter().filter(|request| request.verb == Verb::Put && request.key.starts_with("p/")).count()
    }

    /// Flips a byte in the middle of each pack of the bucket.
    fn damage_bucket(&self) {
        for (key, len) in self.server.objects().iter().filter(|(key, _)| key.starts_with("p/")) {
            self.server.flip(key, len / 2);
        }
    }

    /// Flips a byte in the middle of each pack and each large file here.
    fn damage_here(&self) {
        let mut n = 0;
        for kind in ["packs", "big"] {
            let directories = fs::read_dir(self.cache().join("df/v1").join(kind)).into_iter().flatten().flatten();
            for entry in directories.flat_map(|directory| fs::read_dir(directory.path()).expect("a directory").flatten()) {
                let len = entry.metadata().expect("it is there").len();
                faults::flip_byte(&entry.path(), len / 2);
                n += 1;
            }
        }
        assert!(n > 0, "there is something to damage");
        let _ = fs::remove_dir_all(self.cache().join("df/v1/d"));
    }

    /// Takes a version out of the bucket on a machine that holds nothing, and expects the tree that this one has.
    #[track_caller]
    fn expect_the_same_tree(&self, commit: &str, name: &str) {
        let [direct, out] = ["direct", "out"].map(|which| self.world.path(&format!("{name}-{which}")));
        let (direct_word, out_word) = (direct.display().to_string(), out.display().to_string());
        self.df(&["cache", "get", commit, "--output", &direct_word]).ok();
        let elsewhere = self.world.path(&format!("{name}-elsewhere"));
        self.df_from(&elsewhere, &["cache", "get", commit, "--address", BUCKET, "--output", &out_word]).ok();
        assert_eq!(tree::compare(&direct, &out), []);
        assert!(out.join("bin/greeter").is_file());
    }

    /// Writes a df.yaml with these lines besides, and returns how to name it.
    fn config(&self, lines: &str) -> String {
        let path = self.world.path("df.yaml");
        let text = format!(
            "app: greeter\nbuild: {{ cargo: {{ package: distributive-flow, examples: [greeter] }} }}\n\
             run: {{ exec: bin/greeter, ports: {{ http: {PORT} }} }}\n{lines}\n"
        );
        fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// How many releases the bucket names.
    fn n_releases(&self) -> usize {
        let status = self.there(&["cache", "status"]).ok().stdout;
        let line = status.lines().find(|line| line.starts_with("releases")).expect("a line of releases");
        line.split_whitespace().last().and_then(|n| n.parse().ok()).expect("a number")
    }
}

#[test]
fn what_is_persisted_comes_out_elsewhere_and_is_sent_once() {
    let (versions, it) = (versions(), Machine::new());
    let planned = it.df(&["--json", "--dry-run", "cache", "persist", "--s3-bucket", "df-test"]).ok();
    let last = planned.events("planned").pop().expect("a plan");
    assert!(last["reason"].as_str().is_some_and(|why| why.contains("estimates by AWS's list prices")), "{last}");
    assert!(it.server.keys().is_empty(), "a plan changes nothing");
    it.server.forget();
    let first = it.persist();
    let (counts, most) = (it.server.counts(), last["requests"].as_u64().expect("a number"));
    assert!(counts.all() <= most, "at most {most}: {counts:?}");
    let stored = &first.events("stored")[0];
    assert!(stored["bytes"].as_u64() > Some(0) && stored["requests"].as_u64() > Some(4), "{stored}");
    assert!(it.packs_sent() > 0);
    assert_eq!(it.server.counts().list, 0, "an empty bucket is found out without a list");
    it.expect_the_same_tree(&versions.v1, "v1");
    it.expect_the_same_tree(&versions.v2, "v2");
    it.server.forget();
    assert!(it.persist().events("stored").is_empty());
    let counts = it.server.counts();
    assert_eq!((counts.put, counts.list, counts.head), (0, 0, 0), "{counts:?}");
    assert!(counts.get <= 2, "{counts:?}");
}

#[test]
fn what_a_node_holds_is_persisted_and_what_was_the_newest_there_stays_it() {
    let (versions, it) = (versions(), Machine::new());
    let (node, elsewhere) = (format!("local:{}", it.world.path("node").display()), it.world.path("elsewhere"));
    it.df(&["cp", "--version", &versions.v1, "--address", &node]).ok();
    it.there(&["cache", "put", &versions.v2]).ok();
    // On a machine that holds nothing.
    let persist = |words: &[&str]| {
        let config = it.config("");
        let before = ["--json", "--config", &config, "--address", &node, "cache", "persist", "--s3-bucket", "df-test"];
        it.df_from(&elsewhere, &[&before, words].concat())
    };
    assert_eq!(persist(&["--dry-run"]).ok().events("planned").len(), 1);
    assert_eq!(it.n_releases(), 1, "a plan changes nothing");
    let trusting = it.config(
        "trust: { threshold: 1, keys: [ 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU' ] }",
    );
    let nobodys = ["--config", &trusting, "--address", &node, "cache", "persist", "--s3-bucket", "df-test"];
    it.df_from(&elsewhere, &nobodys).output().expect_code(10);
    assert_eq!(it.n_releases(), 1, "what nobody vouched for goes nowhere");
    assert_eq!(persist(&[]).ok().events("stored").len(), 1);
    assert_eq!(it.n_releases(), 2);
    it.expect_the_same_tree(&versions.v1, "v1");
    let [newest, second] = ["newest", "second"].map(|name| it.world.path(name).display().to_string());
    it.df_from(&elsewhere, &["cache", "get", "--address", BUCKET, "--output", &newest]).ok();
    it.df(&["cache", "get", &versions.v2, "--output", &second]).ok();
    assert_eq!(tree::compare(Path::new(&newest), Path::new(&second)), []);
    it.there(&["cache", "verify"]).ok();
    let again = persist(&[]).ok();
    assert!(again.events("stored").is_empty() && again.stdout.contains("has all that"), "{again}");
}

#[test]
fn a_persist_that_was_killed_goes_on_where_it_was() {
    let (versions, it) = (versions(), Machine::new());
    // A bucket that holds nothing gets a head before anything else.
    it.there(&["cache", "put", &versions.v2]).ok();
    it.server.forget();
    it.server.fault(Fault::new(Act::Hold).on(Verb::Put).key("*head").always());
    let mut killed = it.df(&["cache", "persist", "--s3-bucket", "df-test"]).spawn();
    let asked = |requests: &[df_testkit::s3::Request]| requests.iter().any(|r| r.verb == Verb::Put && r.key.ends_with("head"));
    assert!(it.server.wait_for(Duration::from_secs(120), asked), "it came to the head: {}", killed.stderr());
    killed.kill();
    assert!(it.packs_sent() > 0, "packs are sent before the head");
    it.server.clear_faults();
    assert_eq!(it.n_releases(), 1, "nothing names what was sent");
    it.server.forget();
    it.persist();
    assert_eq!(it.packs_sent(), 0, "what had arrived is not sent again");
    it.expect_the_same_tree(&versions.v1, "v1");
    it.there(&["cache", "verify"]).ok();
}

#[test]
fn a_connection_that_breaks_is_no_end() {
    let (versions, it) = (versions(), Machine::new());
    it.server.fault(Fault::new(Act::CutRequest { after: 1000 }).on(Verb::Put).key("p/*"));
    it.server.fault(Fault::new(Act::LostReply).on(Verb::Put).key("*head"));
    it.persist();
    assert_eq!(it.server.struck(), 2);
    it.expect_the_same_tree(&versions.v1, "v1");
}

#[test]
fn a_flipped_byte_in_the_bucket_is_found_and_healed_from_here() {
    let (versions, it) = (versions(), Machine::new());
    it.persist();
    it.there(&["cache", "verify"]).ok();
    it.damage_bucket();
    let found = it.there(&["--json", "cache", "verify"]).output().expect_code(8);
    assert!(!found.events("missing").is_empty(), "{}", found.stdout);
    let planned = it.there(&["--json", "--dry-run", "cache", "repair"]).ok();
    assert!(!planned.events("planned").is_empty(), "{}", planned.stdout);
    let most = told_in_all(&planned);
    it.server.forget();
    let repaired = it.there(&["--json", "cache", "repair"]).ok();
    assert!(!repaired.events("repaired").is_empty(), "{}", repaired.stdout);
    expect_at_most(&it, most);
    // What is whole is read all the same, and that costs too.
    let most = told_in_all(&it.there(&["--json", "--dry-run", "cache", "repair"]).ok());
    it.server.forget();
    it.there(&["cache", "repair"]).ok();
    expect_at_most(&it, most);
    it.there(&["cache", "verify"]).ok();
    it.there(&["cache", "verify", "--quick"]).ok();
    it.there(&["cache", "verify", "--sample", "1"]).ok();
    it.there(&["cache", "verify", "--slice", "100"]).ok();
    it.expect_the_same_tree(&versions.v1, "v1");
}

/// Returns how many requests a plan says that something takes: its last line says it, with what that costs, and no line says that there are none.
#[track_caller]
fn told_in_all(planned: &Output) -> u64 {
    let lines = planned.events("planned");
    assert!(lines.iter().all(|line| line["requests"] != 0), "{planned}");
    let last = lines.last().expect("a plan");
    assert!(last["reason"].as_str().is_some_and(|why| why.contains("estimates by AWS's list prices")), "{last}");
    last["requests"].as_u64().expect("a number")
}

#[track_caller]
fn expect_at_most(it: &Machine, most: u64) {
    let counts = it.server.counts();
    assert!((1..=most).contains(&counts.all()), "at most {most}: {counts:?}");
}

#[test]
fn an_archive_that_would_go_to_a_bucket_is_said_with_what_that_costs() {
    let (versions, it) = (versions(), Machine::new());
    let tar = it.world.path("one.tar").display().to_string();
    it.df(&["cache", "get", &versions.v1, "--tar", "--output", &tar]).ok();
    let plan = || it.there(&["--json", "--dry-run", "cache", "put", &tar]).ok();
    let planned = plan();
    let most = told_in_all(&planned);
    assert!(planned.events("planned")[0]["bytes"].as_u64() > Some(0), "{planned}");
    it.server.forget();
    it.there(&["cache", "put", &tar]).ok();
    expect_at_most(&it, most);
    let again = plan().events("planned").remove(0);
    assert_eq!((&again["bytes"], &again["changes"]), (&0.into(), &false.into()), "nothing would travel twice: {again}");
}

#[test]
fn what_a_repair_cannot_bring_back_is_missing_and_nothing_of_it_is_swept() {
    let (versions, it) = (versions(), Machine::new());
    it.there(&["cache", "put", &versions.v1]).ok();
    it.there(&["cache", "put", &versions.v2]).ok();
    // The head, and the record that says what the last commit made it.
    let is_record = |key: &String| key.starts_with("log/") && key != "log/cache.json";
    let newest = it.server.keys().into_iter().filter(is_record).max().expect("a record");
    it.server.flip(&newest, 30);
    it.server.remove("head");
    let packs = || it.server.keys().into_iter().filter(|key| key.starts_with("p/")).collect::<Vec<_>>();
    let held = packs();
    // On a machine that holds nothing, so that nobody knows the release.
    let repair = ["--json", "cache", "repair", "--address", BUCKET];
    let repaired = it.df_from(&it.world.path("elsewhere"), &repair).output().expect_code(8);
    let whys: Vec<String> = repaired.events("missing").iter().map(|it| it["why"].to_string()).collect();
    assert!(whys.iter().any(|why| why.contains("what commit 3 did is lost")), "{repaired}");
    assert!(repaired.events("collected").is_empty() && packs() == held, "{repaired}");
    it.there(&["cache", "put", &versions.v2]).ok();
    it.there(&["cache", "verify"]).ok();
    it.expect_the_same_tree(&versions.v1, "v1");
    it.expect_the_same_tree(&versions.v2, "v2");
}

#[test]
fn a_bucket_that_lost_what_named_its_releases_has_them_again_from_here() {
    let (versions, it) = (versions(), Machine::new());
    it.persist_with_tables_apart();
    let n = it.n_releases();
    assert!(n > 0 && it.server.keys().iter().any(|key| key.starts_with("t/")));
    for key in it.server.keys().iter().filter(|key| *key == "head" || key.starts_with("t/")) {
        it.server.remove(key);
    }
    // On a machine that has the versions, and remembers nothing of the bucket. Pins and leases nobody knows.
    let other = it.world.path("other");
    copy_shared_cache(&other);
    let repaired = it.df_from(&other, &["--json", "cache", "repair", "--address", BUCKET]).output().expect_code(8);
    let missing = repaired.events("missing");
    assert!(missing.len() == 1 && missing[0]["why"].to_string().contains("pins and leases"), "{repaired}");
    assert_eq!(it.n_releases(), n);
    it.there(&["cache", "verify"]).ok();
    it.expect_the_same_tree(&versions.v1, "v1");
    assert!(it.persist().events("stored").is_empty(), "nothing is lacking");
}

#[test]
fn damage_here_is_healed_from_the_bucket_and_built_again_when_that_is_damaged_too() {
    let (versions, it) = (versions(), Machine::empty());
    it.df(&["build", "--commit-hash", &versions.v1]).ok();
    it.persist();
    let config = it.config(&format!("cache: {{ remote: \"{BUCKET}\" }}"));
    let repair = || it.df(&["--json", "--config", &config, "cache", "repair"]).ok();
    it.damage_here();
    it.df(&["cache", "verify"]).output().expect_code(8);
    let whys = |output: &Output| -> Vec<String> {
        output.events("repaired").iter().map(|event| event["why"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let healed = whys(&repair());
    assert!(!healed.is_empty() && healed.iter().all(|why| why.contains(BUCKET)), "{healed:?}");
    it.df(&["cache", "verify"]).ok();
    it.damage_here();
    it.damage_bucket();
    let built = whys(&repair());
    assert!(built.iter().any(|why| why.contains("built again")), "{built:?}");
    it.df(&["cache", "verify"]).ok();
    it.there(&["cache", "repair"]).ok();
    it.expect_the_same_tree(&versions.v1, "v1");
}

/// A node runs the older version, and the rules say that only the newest stays.
#[test]
fn gc_in_the_bucket_keeps_what_a_node_holds_until_the_node_is_off_the_list() {
    let mut it = Machine::empty();
    it.world = World::new(1);
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    // One is older than the other, and both than this second: a cache knows no shorter times.
    for version in [&versions().v1, &versions().v2] {
        it.df(&["build", "--commit-hash", version]).ok();
        let built = second();
        wait_until(Duration::from_secs(10), || (second() > built).then_some(())).expect("the clock goes on");
    }
    it.persist();
    it.df(&["cp", "--version", &versions().v1]).ok();
    let collect = || it.there(&["cache", "gc", "--count", "1", "--older", "0s", "--why"]);
    let before = it.n_releases();
    // One that does not answer may run anything.
    let port = net::free_port(std::net::Ipv4Addr::LOCALHOST);
    it.df(&["add", &format!("ssh://127.0.0.1:{port}/tmp/df-nobody"), "--name", "gone"]).ok();
    let refused = collect().output().expect_code(9);
    assert!(refused.stderr.contains("gone") && refused.stderr.contains("nothing was removed"), "{refused}");
    assert_eq!(it.n_releases(), before);
    it.df(&["rm", "gone"]).ok();
    let kept = collect().ok();
    assert!(kept.stdout.contains("a node holds it"), "{kept}");
    assert_eq!(it.n_releases(), 2, "the newest, and what the node holds: {kept}");
    it.df(&["cache", "get", &versions().v1, "--address", BUCKET, "--output"]).args([it.world.path("out")]).ok();
    it.df(&["rm", "n1"]).ok();
    collect().ok();
    assert_eq!(it.n_releases(), 1);
}

#[test]
fn gc_in_the_bucket_keeps_the_newest_and_diff_and_update_bring_the_rest_back() {
    let it = Machine::new();
    it.persist();
    // Older than this second: a cache knows no shorter times.
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let persisted = second();
    wait_until(Duration::from_secs(10), || (second() > persisted).then_some(())).expect("the clock goes on");
    let before = it.n_releases();
    assert!(before > 2, "{before} releases");
    it.there(&["cache", "diff"]).output();
    let planned = it.there(&["--dry-run", "cache", "gc", "--count", "2", "--older", "0s"]).ok();
    assert!(planned.stdout.contains("collect"), "{}", planned.stdout);
    assert_eq!(it.n_releases(), before, "a plan changes nothing");
    let planned = it.there(&["--json", "--dry-run", "cache", "gc", "--count", "2", "--older", "0s"]).ok();
    let bytes: Vec<_> = planned.events("planned").iter().map(|line| line["bytes"].as_u64()).collect();
    assert!(bytes.iter().all(Option::is_some) && bytes.iter().max() > Some(&Some(0)), "{bytes:?} in {planned}");
    let planned = |words: &[&str]| told_in_all(&it.there(words).ok());
    let most = planned(&["--json", "--dry-run", "cache", "gc", "--count", "2", "--older", "0s"]);
    let collected = it.there(&["--json", "cache", "gc", "--count", "2", "--older", "0s"]).ok();
    let requests = collected.events("collected")[0]["requests"].as_u64();
    assert!(requests > Some(0) && requests <= Some(most), "at most {most}: {}", collected.stdout);
    assert_eq!(it.n_releases(), 2);
    it.there(&["cache", "verify"]).ok();
    let lacks = it.there(&["--json", "cache", "diff"]).output().expect_code(8);
    assert!(lacks.events("difference").len() >= before - 2, "{}", lacks.stdout);
    let most = planned(&["--json", "--dry-run", "cache", "update"]);
    it.server.forget();
    it.there(&["cache", "update"]).ok();
    let counts = it.server.counts();
    assert!(counts.all() <= most, "at most {most}: {counts:?}");
    assert_eq!(it.n_releases(), before);
    let most = planned(&["--json", "--dry-run", "cache", "flush"]);
    it.server.forget();
    it.there(&["cache", "flush", "--yes"]).ok();
    let counts = it.server.counts();
    assert!(counts.all() <= most, "at most {most}: {counts:?}");
    assert_eq!(it.n_releases(), 0);
}

#[test]
fn what_nobody_attested_does_not_come_out_of_a_bucket() {
    let (versions, it) = (versions(), Machine::new());
    it.persist();
    let key = it.world.path("key").display().to_string();
    Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "a", "-f", &key]).ok();
    let public = fs::read_to_string(format!("{key}.pub")).expect("a public key");
    let out = it.world.path("out").display().to_string();
    let get = |trust: &str| {
        let config = it.config(trust);
        it.there(&["--config", &config, "cache", "get", &versions.v1, "--output", &out])
    };
    let refused = get(&format!("trust: {{ threshold: 1, keys: [\"{}\"] }}", public.trim())).output().expect_code(10);
    assert!(refused.stderr.contains("df build --sign") && !Path::new(&out).exists(), "{}", refused.stderr);
    get("").ok();
}

#[test]
fn a_bucket_that_cannot_be_used_is_said_with_what_to_do() {
    let it = Machine::new();
    let persist = || it.df(&["--timeout", "1s", "cache", "persist", "--s3-bucket", "df-test"]);
    let cases: [(Run, i32, &str); 4] = [
        (persist().env("AWS_SECRET_ACCESS_KEY", "wrong"), 1, "AWS_SECRET_ACCESS_KEY"),
        (persist().env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY"), 2, "AWS_ACCESS_KEY_ID"),
        (persist().env("AWS_ENDPOINT_URL_S3", "http://192.0.2.1:9000"), 2, "use https"),
        (persist().env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"), 9, "df doctor"),
    ];
    for (run, code, said) in cases {
        let output = run.output().expect_code(code);
        assert!(output.stderr.contains(said), "expected \"{said}\" in: {}", output.stderr);
    }
    assert!(it.server.keys().is_empty(), "nothing came");
    let nowhere = it.df(&["cache", "persist"]).output().expect_code(2);
    assert!(nowhere.stderr.contains("--s3-bucket"), "{}", nowhere.stderr);
    persist().ok();
}
