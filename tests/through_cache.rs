//! `--through-cache`: the bytes go to a bucket once and every node fetches them there; what the bucket gives is believed no more than what anybody sends.
//!
//! The program for nodes is a script here, which is df-node and nothing else, so that many nodes cost little.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use df_testkit::process::{Output, Run};
use df_testkit::repo::Repo;
use df_testkit::s3::{Act, Fault, Request, Server, Verb};
use df_testkit::seed::Seed;
use serde_json::{Value, json};

use crate::support::{self, World};

/// Bytes of the one file that differs between the versions; nothing makes them much fewer, and they are fetched in more than one piece.
const CHANGED_LEN: usize = 6 << 20;
/// What df may send to a node, however long the image is.
const SENT_LEN: u64 = 64 << 10;
/// Bytes of the pieces that a node fetches.
const PIECE_LEN: u64 = 4 << 20;

struct Fleet {
    world: World,
    source: tempfile::TempDir,
    server: Server,
    /// The commits, old and new.
    versions: [String; 2],
}

impl Fleet {
    fn new() -> Self {
        let source = tempfile::Builder::new().prefix("df-through").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let world = World::of(repo.dir(), 0);
        let mut random = Seed(11).random();
        let versions = [1, 2].map(|n| {
            let bytes: String = (0..CHANGED_LEN).map(|_| char::from(b' ' + random.index(94) as u8)).collect();
            repo.commit(&[("df.yaml", &config("s3://df-test/app")), ("a", &bytes), ("b", "the same\n")], &format!("version {n}"))
        });
        let fleet = Self { world, source, server: Server::start(), versions };
        support::write_node_program(&fleet.world.path("programs"), "");
        for version in &fleet.versions {
            fleet.df(&["build", "--commit-hash", version]).ok();
        }
        fleet
    }

    /// A fleet whose first nodes hold the old version.
    fn holding(n_nodes: usize) -> Self {
        let fleet = Self::new();
        let copied = fleet.copying(0, 1..=n_nodes, &["--level", "fast"]).ok();
        assert_eq!(copied.events("copied").len(), n_nodes, "{copied}");
        fleet
    }

    fn df(&self, words: &[&str]) -> Run {
        let run = self.world.df([]).args(words).env("DF_NODE_PROGRAMS", self.world.path("programs"));
        let run = run.env("XDG_CACHE_HOME", self.world.path("cache"));
        self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    fn copying(&self, version: usize, nodes: impl IntoIterator<Item = usize>, flags: &[&str]) -> Run {
        let addresses: Vec<String> =
            nodes.into_iter().map(|n| format!("local:{}", self.world.path("nodes").join(n.to_string()).display())).collect();
        let run = self.df(&["--json", "cp", "--version", &self.versions[version]]).args(flags);
        addresses.into_iter().fold(run, |run, address| run.args(["--address".to_owned(), address]))
    }

    /// Has nodes fetch the new version.
    fn fetching(&self, nodes: impl IntoIterator<Item = usize>) -> Output {
        self.copying(1, nodes, &["--through-cache", "--level", "fast"]).ok()
    }

    /// Has one node fetch the new version while the bucket misbehaves; returns what was told of it.
    fn fetching_under(&self, n: usize, fault: Fault) -> (Value, String, Vec<Request>) {
        self.server.forget();
        self.server.fault(fault);
        let output = self.fetching([n]);
        self.server.clear_faults();
        let notes = output.events("note").iter().map(|note| note["message"].to_string()).collect();
        (output.events("copied").remove(0), notes, self.server.requests())
    }

    /// Expects a node to hold the new version, byte for byte, and nothing else but the old one.
    #[track_caller]
    fn expect_new(&self, n: usize) {
        let store = self.world.path("nodes").join(n.to_string()).join("store");
        let images: Vec<_> = fs::read_dir(store).expect("a store").map(|entry| entry.expect("read").path()).collect();
        assert!(images.len() <= 2, "{images:?}");
        let repo = self.source.path().join("repo");
        let wanted = Run::new("git").arg("-C").arg(repo).args(["show", &format!("{}:a", self.versions[1])]).ok().stdout;
        assert!(images.iter().any(|image| fs::read_to_string(image.join("a")).expect("a file") == wanted), "node {n}");
    }
}

fn config(remote: &str) -> String {
    format!("app: files\nbuild: {{ command: \"mkdir out && cp a b out\", output: out }}\ncache: {{ remote: \"{remote}\" }}\n")
}

fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("{field} in {event}"))
}

/// Returns the requests for objects that nodes fetch.
fn of_objects(requests: &[Request], verb: Verb) -> Vec<&Request> {
    requests.iter().filter(|it| it.verb == verb && (it.key.contains("/d/") || it.key.contains("/w/"))).collect()
}

/// Returns the part of each presigned URL that nobody may see.
fn signatures(requests: &[Request]) -> BTreeSet<String> {
    let of = |request: &Request| Some(request.query.split("X-Amz-Signature=").nth(1)?.split('&').next()?.to_owned());
    requests.iter().filter_map(of).collect()
}

/// Expects that no file below a directory holds any of some words.
fn expect_nowhere(dir: &Path, words: &BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            expect_nowhere(&entry.path(), words);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let found = words.iter().find(|word| bytes.windows(word.len()).any(|window| window == word.as_bytes()));
            assert!(found.is_none(), "a secret in {}", entry.path().display());
        }
    }
}

#[test]
fn the_bytes_go_to_the_bucket_once_and_every_node_fetches_them() {
    let fleet = Fleet::holding(4);
    let planned = fleet.copying(1, 1..=5, &["--through-cache", "--dry-run"]).ok();
    assert!(planned.events("planned").iter().all(|it| it["reason"].to_string().contains("s3://df-test/app once")), "{planned}");
    assert!(fleet.server.requests().is_empty(), "a plan asks nobody");
    let told: Vec<u64> = planned.events("planned").iter().map(|it| number(it, "requests")).collect();
    assert!(planned.events("planned").iter().all(|it| it["reason"].to_string().contains("AWS's list prices")), "{planned}");

    let output = fleet.fetching(1..=5);
    let copied = output.events("copied");
    assert_eq!(copied.len(), 5, "{output}");
    for event in &copied {
        assert!(event["through_cache"] == true && number(event, "bytes_sent") < SENT_LEN, "{event}");
        assert!(number(event, "bytes_fetched") > CHANGED_LEN as u64 / 2, "{event}");
    }
    let requests = fleet.server.requests();
    let most = told.iter().sum::<u64>();
    assert!(told.iter().all(|n| *n > 0) && requests.len() as u64 <= most, "{} requests, told were {told:?}", requests.len());
    let put: BTreeSet<&str> = of_objects(&requests, Verb::Put).iter().map(|it| &it.key[.."app/d/".len()]).collect();
    assert_eq!(put, BTreeSet::from(["app/d/", "app/w/"]));
    assert_eq!(of_objects(&requests, Verb::Put).len(), 2, "each once: {requests:?}");
    let presigned: Vec<&Request> = requests.iter().filter(|it| it.query.contains("X-Amz-Signature")).collect();
    assert!(presigned.len() >= 10 && presigned.iter().all(|it| it.key.starts_with("app/d/") || it.key.starts_with("app/w/")));
    assert!(presigned.iter().all(|it| it.query.contains("X-Amz-Expires=900")), "a quarter of an hour");
    assert_eq!(fleet.server.counts().list, 0);

    fleet.server.forget();
    let later = fleet.fetching([6]);
    assert!(later.events("copied")[0]["through_cache"] == true, "{later}");
    let again = fleet.server.requests();
    assert!(of_objects(&again, Verb::Put).is_empty(), "it was there: {again:?}");
    (1..=6).for_each(|n| fleet.expect_new(n));

    let secrets: BTreeSet<String> = signatures(&requests).union(&signatures(&again)).cloned().collect();
    assert!(secrets.len() >= 2, "the control: there were secrets");
    for text in [&output.stdout, &output.stderr, &later.stdout, &later.stderr] {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
    expect_nowhere(&fleet.world.path(""), &secrets);
}

#[test]
fn what_was_cut_goes_on_and_a_url_that_ran_out_is_renewed() {
    let fleet = Fleet::holding(3);
    // The first request asks whether it is there.
    let fault = |act: Act| Fault::new(act).on(Verb::Get).key("*/d/*").nth(2);
    let (copied, notes, requests) = fleet.fetching_under(1, fault(Act::CutAnswer { after: 1_000_000 }));
    assert!(copied["through_cache"] == true, "{copied} {notes}");
    let starts: Vec<u64> = of_objects(&requests, Verb::Get).iter().filter_map(|it| start_of(it)).collect();
    assert!(starts.iter().any(|start| (1..PIECE_LEN).contains(&(start % PIECE_LEN))), "in the middle of a piece: {starts:?}");

    let (copied, notes, requests) = fleet.fetching_under(2, fault(Act::Refuse { status: 403, code: "AccessDenied" }).times(2));
    assert!(copied["through_cache"] == true, "{copied} {notes}");
    assert_eq!(of_objects(&requests, Verb::Put).len(), 0);
    assert!(requests.iter().filter(|it| it.status == Some(403)).count() >= 1, "the control");

    // Somebody wrote something else there, of the same length: it is put there again, once, and that is what nodes get.
    let (copied, notes, requests) = fleet.fetching_under(3, fault(Act::Flip { at: 70_000 }).times(2));
    assert!(copied["through_cache"] == true, "{copied} {notes}");
    assert_eq!(of_objects(&requests, Verb::Put).len(), 1, "{requests:?}");
    (1..=3).for_each(|n| fleet.expect_new(n));
}

fn start_of(request: &Request) -> Option<u64> {
    request.range.as_ref()?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

#[test]
fn whatever_a_bucket_does_a_node_gets_the_image_or_nothing() {
    let acts = [
        Act::Refuse { status: 403, code: "AccessDenied" },
        Act::Refuse { status: 500, code: "InternalError" },
        Act::SlowDown,
        Act::Drop,
        Act::Flip { at: 70_000 },
        Act::Body(vec![b'x'; 5000]),
        Act::Truncate { to: 100 },
        Act::LongLength { by: 10 },
        Act::IgnoreRange,
        Act::WrongRange { by: 7 },
        Act::WrongBytes { by: 7 },
        Act::Redirect { to: "http://169.254.169.254/latest/meta-data".into() },
        Act::ErrorWith200,
        Act::Endless,
        Act::Drip { every: Duration::from_millis(5) },
    ];
    let fleet = Fleet::holding(acts.len() + 1);
    // The object is there, and the control: without a fault it is fetched.
    let control = fleet.fetching([acts.len() + 1]);
    assert!(control.events("copied")[0]["through_cache"] == true, "{control}");
    for (n, act) in acts.into_iter().enumerate() {
        let (copied, notes, requests) =
            fleet.fetching_under(n + 1, Fault::new(act.clone()).on(Verb::Get).key("*/d/*").nth(2).always());
        assert!(copied["through_cache"] == false, "{act:?}: {copied}");
        assert!(notes.contains("sent directly"), "{act:?}: {notes}");
        assert!(signatures(&requests).iter().all(|secret| !notes.contains(secret)), "{act:?}");
        assert!(requests.len() < 60, "{act:?}: {} requests", requests.len());
        fleet.expect_new(n + 1);
    }
}

#[test]
fn a_directory_of_this_machine_is_a_cache_for_the_nodes_on_it() {
    let fleet = Fleet::holding(2);
    let cache = fleet.world.path("shared-cache");
    fs::write(fleet.source.path().join("repo/df.yaml"), config(&format!("file:{}", cache.display()))).expect("written");
    let output = fleet.fetching(1..=3);
    for event in output.events("copied") {
        assert!(event["through_cache"] == true && number(&event, "bytes_sent") < SENT_LEN, "{output}");
    }
    (1..=3).for_each(|n| fleet.expect_new(n));
    assert!(fleet.server.requests().is_empty());
    let left: Vec<_> = fs::read_dir(&cache).expect("a directory").map(|entry| entry.expect("read").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("through-")), "{left:?}");
}

#[test]
fn without_a_cache_elsewhere_there_is_nothing_to_fetch_from() {
    let fleet = Fleet::new();
    let text = config("x").lines().filter(|line| !line.starts_with("cache")).fold(String::new(), |all, line| all + line + "\n");
    fs::write(fleet.source.path().join("repo/df.yaml"), text).expect("written");
    let refused = fleet.copying(1, [1], &["--through-cache"]).output().expect_code(2);
    assert!(refused.stdout.contains("cache.remote"), "{refused}");
}

/// What an operator says to a node, as bytes of the protocol.
fn say(requests: &[Value]) -> Vec<u8> {
    let frame = |kind: u8, payload: &Value| {
        let payload = payload.to_string().into_bytes();
        [&[kind], &(payload.len() as u32).to_le_bytes()[..], &payload].concat()
    };
    let hello = json!({ "program": "0", "oldest": 1, "newest": 1 });
    let mut said = frame(1, &hello);
    said.extend(requests.iter().flat_map(|request| frame(2, request)));
    said
}

#[test]
fn a_node_is_sent_nowhere_else_and_fetches_nothing_that_nobody_vouched_for() {
    let dir = tempfile::Builder::new().prefix("df-through").tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.set_nonblocking(true).expect("set");
    let here = listener.local_addr().expect("an address");
    let fetch = |url: &str| {
        let image = "a".repeat(64);
        json!({ "fetch": { "image": image, "base": null, "delta": image, "from": 0, "len": 1000, "image_len": 1000, "source": { "url": url } } })
    };
    let told = |name: &str, requests: &[Value]| {
        let root = dir.path().join(name).display().to_string();
        let run = Run::new(env!("CARGO_BIN_EXE_df-node")).args(["serve", "--root", &root]);
        let run = run
            .args(["--data", &format!("{root}/data"), "--tmp", &format!("{root}/tmp")])
            .env("http_proxy", format!("http://{here}"));
        let lock = json!({ "lock": { "who": "x", "command": "x" } });
        run.stdin(say(&[&[lock], requests].concat())).deadline(Duration::from_secs(60)).output()
    };
    for url in [
        "file:///etc/passwd",
        "http://169.254.169.254/canary",
        "https://169.254.169.254/canary",
        "https://[fe80::1]/canary",
        "http://192.0.2.1/canary",
        "https://user:canary@127.0.0.1/",
        "https://localhost.example.invalid.:1/canary",
        "canary",
    ] {
        let output = told("open", &[fetch(url)]);
        assert!(output.stdout.contains("unfetched") && !output.stdout.contains("canary"), "{url}: {output}");
    }
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    let pin = json!({ "pin": { "policy": { "threshold": 1, "keys": [key] } } });
    let own = format!("http://{here}/canary");
    let refused = told("pinned", &[pin, fetch(&own)]);
    assert!(refused.stdout.contains("untrusted"), "{refused}");
    let beside = json!({ "fetch": { "image": "a".repeat(64), "base": null, "delta": "a".repeat(64), "from": 0, "len": 1, "image_len": 1, "source": "beside" } });
    assert!(told("open", &[beside]).stdout.contains("unfetched"), "no directory was named at its start");
    assert!(listener.accept().is_err(), "nobody came");
    // The control: where nobody has to vouch it comes, and what it hears is no object.
    let closing = std::thread::spawn(move || {
        listener.set_nonblocking(false).expect("set");
        (0..3).map(|_| drop(listener.accept().expect("somebody"))).count()
    });
    let output = told("open", &[fetch(&own)]);
    assert!(
        output.stdout.contains("unfetched") && output.stdout.contains("cut") && !output.stdout.contains("canary"),
        "{output}"
    );
    assert_eq!(closing.join().expect("three came"), 3);
    let store = dir.path().join("open/store");
    assert!(fs::read_dir(store).map_or(0, Iterator::count) == 0, "nothing has a name");
}
