//! A bucket with a cache of two attested versions, and one who reads it: what the behaviours towards an operator work with.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_core::attestation::{Attestation, Bundle, Channel, Statement, Subject};
use df_core::{Digest, Release, Timestamp};
use df_testkit::process::{Output, Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::s3::{Act, Fault, Server, Verb};
use df_testkit::seed::Seed;
use serde_json::json;

use super::expect_untold;
use super::forge::{Forged, Keeping, Slot};
use crate::support::{World, df};

/// Where the cache lies in the bucket, and where another one does.
pub const PREFIX: &str = "app";
pub const OTHER: &str = "other";
/// Of the documents of a release: who vouches for it, and that it was the newest.
pub const ATTESTATIONS: u8 = 2;
pub const CHANNEL: u8 = 3;

/// What the operator types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// `df cache get VERSION`
    Version,
    /// The same, where df.yaml names whom to believe.
    Attested,
    /// `df cache get`, where df.yaml names whom to believe.
    Newest,
    /// `df cache verify --quick`
    Verify,
    /// `df cache gc`
    Collect,
}

/// Caches with two versions, both attested, as they lie in a bucket.
pub struct Stage {
    pub world: World,
    /// The older and the newer one.
    pub releases: [Release; 2],
    /// The head before the newer one came.
    pub old_head: Vec<u8>,
    pub objects: Vec<(String, Vec<u8>)>,
    pub trap: TcpListener,
    /// `trust` of a df.yaml that believes `key`.
    trust: String,
    repo: PathBuf,
    _source: tempfile::TempDir,
}

/// One of those who try behaviours: a bucket of its own, and the directories of one behaviour.
pub struct Desk<'a> {
    pub stage: &'a Stage,
    pub server: Server,
    pub dir: PathBuf,
}

impl Stage {
    pub fn new() -> Self {
        let source = tempfile::Builder::new().prefix("df-malicious").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let world = World::of(repo.dir(), 0);
        let mut random = Seed(5).random();
        let mark = world.path("ran").display().to_string();
        let commits = [1, 2].map(|n| {
            let noise: String = (0..150_000).map(|_| char::from(b' ' + random.index(94) as u8)).collect();
            let run = format!("#!/bin/sh\ntouch '{mark}'\n");
            repo.commit(&[("df.yaml", &config("")), ("noise", &noise), ("run", &run)], &format!("version {n}"))
        });
        for name in ["key", "stranger"] {
            let file = world.path(name).display().to_string();
            Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &file]).ok();
        }
        let public = fs::read_to_string(world.path("key.pub")).expect("a public key");
        let trust = format!("trust: {}\n", json!({ "threshold": 1, "keys": [public.trim()] }));
        let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
        trap.set_nonblocking(true).expect("set");
        let server = Server::start();
        server.write("other/canary", b"somebody's");
        fs::write(world.path("df.yaml"), config(&(trust.clone() + &remote()))).expect("written");
        let (mut old_head, mut releases) = (vec![], vec![]);
        for (n, commit) in commits.iter().enumerate() {
            let key = world.path("key").display().to_string();
            let df = |words: &[&str]| {
                let config = world.path("df.yaml").display().to_string();
                let run = world.df(["--json", "--config", &config]).args(words).env("XDG_CACHE_HOME", world.path("cache"));
                server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value)).env_remove("SSH_AUTH_SOCK")
            };
            df(&["build", "--commit-hash", commit, "--sign", "--key", &key]).ok();
            df(&["cache", "persist", "--s3-bucket", &format!("df-test/{PREFIX}")]).ok();
            releases.push(release(&Forged::of(&server, PREFIX), commit));
            match n {
                0 => {
                    old_head = server.read(&format!("{PREFIX}/head")).expect("a head");
                    df(&["cache", "persist", "--s3-bucket", &format!("df-test/{OTHER}")]).ok();
                    // Who publishes counts by the clock.
                    let begun = std::time::Instant::now();
                    wait_until(Duration::from_secs(10), || (begun.elapsed() > Duration::from_secs(1)).then_some(()));
                }
                _ => assert_ne!(old_head, server.read(&format!("{PREFIX}/head")).expect("a head")),
            }
        }
        let objects = server.snapshot();
        Self {
            world,
            releases: releases.try_into().expect("two"),
            old_head,
            objects,
            trap,
            trust,
            repo: repo.dir().to_owned(),
            _source: source,
        }
    }

    pub fn trap(&self) -> String {
        format!("http://{}/", self.trap.local_addr().expect("an address"))
    }

    /// Vouches for a statement.
    pub fn vouch(&self, statement: &Statement, key: &str) -> Bundle {
        let file = self.world.path(key).display().to_string();
        let signed = Run::new("ssh-keygen").args(["-q", "-Y", "sign", "-n", "distributive-flow", "-f", &file]);
        let armor = signed.stdin(statement.pae()).env_remove("SSH_AUTH_SOCK").ok().stdout;
        Bundle::new(statement, vec![Attestation::from_armor(&armor).expect("an attestation")])
    }

    fn config(&self, reads: Reads) -> String {
        let is_trusting = matches!(reads, Reads::Attested | Reads::Newest);
        let trust = if is_trusting { self.trust.as_str() } else { "" };
        config(&(trust.to_owned() + &remote()))
    }
}

impl Desk<'_> {
    /// Misbehaves whenever an object is read.
    pub fn fault(&self, key: &str, act: Act) {
        self.server.fault(Fault::new(act).on(Verb::Get).key(key).always());
    }

    pub fn head(&self, act: Act) {
        self.fault(&format!("{PREFIX}/head"), act);
    }

    pub fn packs(&self, act: Act) {
        self.fault(&format!("{PREFIX}/p/*"), act);
    }

    pub fn lists(&self, act: Act) {
        self.server.fault(Fault::new(act).on(Verb::List).always());
    }

    pub fn keys(&self, below: &str) -> Vec<String> {
        let prefix = format!("{PREFIX}/{below}");
        self.server.keys().into_iter().filter(|key| key.starts_with(&prefix)).collect()
    }

    pub fn forge(&self, change: impl FnOnce(&mut Forged<'_>)) {
        let mut forged = Forged::of(&self.server, PREFIX);
        change(&mut forged);
        forged.show();
    }

    /// Has the head keep its tables, but otherwise than it should. As they are, it is read: this is the control.
    pub fn keep(&self, change: impl FnOnce(&mut Keeping)) {
        self.keep_forged(|_| {}, change);
    }

    /// The same, of tables that are changed before.
    pub fn keep_forged(&self, forge: impl FnOnce(&mut Forged<'_>), change: impl FnOnce(&mut Keeping)) {
        Forged::of(&self.server, PREFIX).show_keeping(|_| {});
        self.read(Reads::Version, "kept", "60s").expect_code(0);
        self.server.clear_faults();
        let mut forged = Forged::of(&self.server, PREFIX);
        forge(&mut forged);
        forged.show_keeping(change);
    }

    /// Changes where things lie.
    pub fn index(&self, change: impl FnMut(&mut Slot)) {
        self.forge(|forged| {
            let (packs, mut slots) = forged.index();
            slots.iter_mut().for_each(change);
            forged.put_index(&packs, &slots);
        });
    }

    /// Has the newer version be an image of empty files at these paths.
    pub fn image(&self, paths: &[&[u8]]) {
        let mut manifest = [&b"dfm\x01"[..], &[paths.len() as u8]].concat();
        for path in paths {
            manifest.extend_from_slice(&[1, path.len() as u8]);
            manifest.extend_from_slice(path);
            manifest.push(0);
            manifest.extend_from_slice(Digest::of(b"").as_bytes());
        }
        self.forge(|forged| forged.put_image(&manifest, &self.stage.releases[1]));
    }

    /// Changes what is kept beside the newer version.
    pub fn documents(&self, change: impl FnOnce(&mut Forged<'_>, &Release)) {
        self.forge(|forged| change(forged, &self.stage.releases[1]));
    }

    /// Changes the newer version itself, with the attestations that it had.
    pub fn release(&self, change: impl FnOnce(&mut Release)) {
        self.documents(|forged, new| {
            let mut changed = new.clone();
            change(&mut changed);
            let bundle = self.stage.vouch(&Statement::release(&Subject::of(new)), "key").encode();
            let reference = forged.put_documents(&changed, &bundle);
            let mut table = forged.table();
            let row = table.row(new);
            row.release = changed.encode();
            row.put_document(ATTESTATIONS, &bundle, &reference);
            forged.put_table(&table);
        });
    }

    /// Has a key say what is newest.
    pub fn pointer(&self, change: impl FnOnce(&mut Channel), key: &str) {
        self.documents(|forged, new| {
            let mut channel =
                Channel { app: new.app.clone(), sequence: 1 << 40, release: new.id(), expires: Timestamp(i64::MAX / 2) };
            change(&mut channel);
            let bundle = self.stage.vouch(&Statement::channel(&channel), key);
            put_document(forged, new, CHANNEL, &channel.encode(&bundle));
        });
    }

    /// Reads as an operator does, on a machine that remembers nothing but what it saw as the newest.
    pub fn read(&self, reads: Reads, run: &str, patience: &str) -> Output {
        let own = |name: &str| self.dir.join(format!("{name}{run}")).display().to_string();
        let (out, state, config) = (own("out-"), self.dir.join("state").display().to_string(), own("df.yaml-"));
        fs::write(&config, self.stage.config(reads)).expect("written");
        let commit = self.stage.releases[1].commit.to_string();
        let words: &[&str] = match reads {
            Reads::Version | Reads::Attested => &["get", &commit, "--output", &out],
            Reads::Newest => &["get", "--output", &out],
            Reads::Verify => &["verify", "--quick"],
            Reads::Collect => &["gc", "--count", "1", "--older", "0s"],
        };
        let run = df(&self.stage.repo, Path::new(&state)).args(["--config", &config, "--timeout", patience, "cache"]);
        let run = run.args(words).args(["--address", &format!("s3://df-test/{PREFIX}")]).env("XDG_CACHE_HOME", own("cache-"));
        let run = self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value));
        let output = run.env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN").output();
        expect_untold(&format!("{}{}", output.stdout, output.stderr), &[self.server.credentials().1]);
        output
    }
}

fn config(more: &str) -> String {
    format!(
        "app: files\nbuild: {{ command: \"mkdir out && cp noise run out && chmod +x out/run\", output: out }}\n\
         run: {{ exec: run }}\n{more}"
    )
}

fn remote() -> String {
    format!("cache: {{ remote: \"s3://df-test/{PREFIX}\" }}\n")
}

/// Returns the release of a commit.
fn release(forged: &Forged<'_>, commit: &str) -> Release {
    let rows = forged.table().releases;
    let mut releases = rows.iter().map(|row| Release::decode(&row.release).expect("a release"));
    releases.find(|release| release.commit.to_string() == commit).expect("its release")
}

/// Puts a document of a release there.
pub fn put_document(forged: &mut Forged<'_>, release: &Release, kind: u8, bytes: &[u8]) {
    let reference = forged.put_documents(release, bytes);
    let mut table = forged.table();
    table.row(release).put_document(kind, bytes, &reference);
    forged.put_table(&table);
}
