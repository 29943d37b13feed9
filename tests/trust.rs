//! Nodes and readers of caches believe those whom they were told to believe, and nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::{Output, Run};
use df_testkit::survivors;
use serde_json::{Value, json};

use crate::support::{PORT, World, copy_shared_cache, versions};

/// Nodes, a df.yaml that names keys, and keys.
struct Trusting {
    world: World,
}

impl Trusting {
    /// Makes so many nodes, a cache of its own, and the keys `a` to `d`.
    fn new(n_nodes: usize) -> Self {
        versions();
        let it = Self { world: World::new(n_nodes) };
        copy_shared_cache(&it.world.path("cache"));
        for name in ["a", "b", "c", "d"] {
            let key = it.key(name).display().to_string();
            Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &key]).ok();
        }
        it
    }

    fn key(&self, name: &str) -> PathBuf {
        self.world.path(&format!("key-{name}"))
    }

    fn public(&self, name: &str) -> String {
        fs::read_to_string(self.key(name).with_extension("pub")).expect("a public key").trim().to_owned()
    }

    /// Lets df.yaml name so many of these keys.
    fn believe(&self, threshold: u32, names: &[&str]) {
        let keys: Vec<String> = names.iter().map(|name| self.public(name)).collect();
        let trust = json!({ "threshold": threshold, "keys": keys });
        let text = format!(
            "app: greeter\nbuild: {{ cargo: {{ package: distributive-flow, examples: [greeter] }} }}\n\
             run: {{ exec: bin/greeter, ports: {{ http: {PORT} }} }}\nrollout: {{ soak: 0s }}\ntrust: {trust}\n"
        );
        fs::write(self.world.path("df.yaml"), text).expect("written");
    }

    fn df(&self, words: &[&str]) -> Run {
        let config = self.world.path("df.yaml").display().to_string();
        let run = self.world.df(["--config", &config]).args(words).env("XDG_CACHE_HOME", self.world.path("cache"));
        run.env_remove("SSH_AUTH_SOCK")
    }

    /// Attests a version with a key.
    fn sign(&self, commit: &str, name: &str) -> Output {
        let key = self.key(name).display().to_string();
        self.df(&["--json", "build", "--commit-hash", commit, "--sign", "--key", &key]).ok()
    }

    /// Expects a refusal for lack of trust, in these words, that leaves the nodes as they were.
    #[track_caller]
    fn refused(&self, words: &[&str], said: &[&str]) {
        let before = self.held();
        let refused = self.df(words).output().expect_code(10);
        for said in said {
            assert!(refused.stderr.contains(said), "expected \"{said}\" in: {}", refused.stderr);
        }
        assert_eq!(self.held(), before, "something came: {}", refused.stderr);
    }

    /// What nodes hold, finished or not.
    fn held(&self) -> Vec<PathBuf> {
        let nodes = 1..=self.world.addresses.len();
        let places = nodes.flat_map(|n| {
            ["store", "manifests", "incoming", "apps/greeter/generations", "apps/greeter/staged", "apps/greeter/attested"]
                .map(|name| self.world.node(n).join(name))
        });
        let entries = places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let mut held: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        held.sort();
        held
    }

    /// The file of attestations of a version, in a cache.
    fn bundle(&self, cache: &Path, release: &str) -> Option<PathBuf> {
        let dir = cache.join("docs/greeter").join(release);
        let mut files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("attestations-")))
    }

    fn store(&self) -> PathBuf {
        self.world.path("cache/df/v1")
    }
}

/// Returns the release of what `df build` said.
fn release_of(built: &Output) -> String {
    built.events("built")[0]["release"].as_str().expect("a release").to_owned()
}

#[test]
fn an_unattested_version_is_refused_before_any_byte_of_it_travels_and_the_old_one_serves() {
    let (versions, it) = (versions(), Trusting::new(1));
    it.believe(1, &["a"]);
    let next = ["needs attestations by 1 of 1 trusted keys and has none", "nothing was sent", "df build --sign"];
    it.refused(&["cp", "--version", &versions.v1], &next);
    it.refused(&["deploy", "--commit-hash", &versions.v1], &next);
    assert!(!it.world.node(1).join("trust.json").exists(), "nobody was vouched for, so nobody is pinned");
    let signed = it.sign(&versions.v1, "a");
    assert_eq!(signed.events("attested")[0]["threshold"], 1, "{}", signed.stdout);
    it.df(&["deploy", "--commit-hash", &versions.v1]).ok();
    it.world.expect_serving(&versions.v1);
    assert!(it.world.node(1).join("trust.json").is_file(), "pinned at first contact");

    it.refused(&["deploy", "--commit-hash", &versions.v2], &next);
    it.sign(&versions.v2, "b");
    it.refused(&["deploy", "--commit-hash", &versions.v2], &["is not trusted", "df build --sign"]);
    it.world.expect_serving(&versions.v1);
    // A df.yaml that names nobody changes nothing: the node remembers.
    it.believe(0, &[]);
    it.refused(&["deploy", "--commit-hash", &versions.v2], &["is not trusted"]);
    // After everything of the node was killed, too.
    survivors::kill_under(&it.world.node(1));
    it.refused(&["cp", "--version", &versions.v2], &["is not trusted"]);
    it.df(&["start"]).ok();
    it.world.expect_serving(&versions.v1);
}

#[test]
fn two_of_three_keys_have_to_attest_a_version_and_one_counts_once() {
    let (versions, it) = (versions(), Trusting::new(2));
    it.believe(2, &["a", "b", "c"]);
    it.sign(&versions.v1, "a");
    it.refused(&["cp", "--version", &versions.v1], &["by 2 of 3 trusted keys and has 1: SHA256:"]);
    it.sign(&versions.v1, "a");
    it.sign(&versions.v1, "d");
    it.refused(&["cp", "--version", &versions.v1], &["and has 1: SHA256:", "is not trusted"]);
    it.sign(&versions.v1, "c");
    it.df(&["deploy", "--commit-hash", &versions.v1]).ok();
    it.world.expect_serving(&versions.v1);
    it.df(&["trust"]).ok();
}

#[test]
fn going_back_needs_no_key() {
    let (versions, it) = (versions(), Trusting::new(1));
    it.believe(1, &["a"]);
    for commit in [&versions.v1, &versions.v2] {
        it.sign(commit, "a");
        it.df(&["deploy", "--commit-hash", commit]).ok();
    }
    it.believe(0, &[]);
    fs::remove_dir_all(it.world.path("cache")).expect("removed");
    it.df(&["rollback"]).ok();
    it.world.expect_serving(&versions.v1);
    it.df(&["rollback", "--to", "2"]).ok();
    it.world.expect_serving(&versions.v2);
}

#[test]
fn whom_a_node_believes_changes_only_by_the_word_of_those_it_believed() {
    let (versions, it) = (versions(), Trusting::new(2));
    it.believe(2, &["a", "b", "c"]);
    ["a", "b"].iter().for_each(|name| drop(it.sign(&versions.v1, name)));
    ["a", "c"].iter().for_each(|name| drop(it.sign(&versions.v2, name)));
    it.df(&["deploy", "--commit-hash", &versions.v1]).ok();

    // `c` goes, `d` comes.
    it.believe(2, &["a", "b", "d"]);
    let next = ["the node believes 2 of 3 keys, among them SHA256:", "df trust --sign"];
    it.refused(&["cp", "--full", "--version", &versions.v2], &next);
    let shown = it.df(&["trust"]).output().expect_code(8);
    assert!(shown.stdout.contains("since first contact, which is not what df.yaml names"), "{}", shown.stdout);
    let vouch = |name: &str| it.df(&["--address", "n1", "trust", "--sign", "--key", &it.key(name).display().to_string()]).ok();
    for name in ["a", "a", "d"] {
        let said = vouch(name).stderr;
        assert!(said.contains("one more key has to attest it before nodes take it"), "{name}: {said}");
    }
    it.refused(&["trust", "--send"], &["the change of trust is not trusted itself", "has 1: SHA256:", "is not trusted"]);
    vouch("b");
    it.df(&["--address", "n1", "trust"]).ok();

    // What a key that was revoked attested counts no more.
    let refused = it.df(&["--address", "n1", "cp", "--version", &versions.v2]).output().expect_code(10);
    assert!(refused.stderr.contains("by 2 of 3 trusted keys and has 1: SHA256:"), "{}", refused.stderr);
    it.sign(&versions.v2, "d");
    it.df(&["--address", "n1", "cp", "--version", &versions.v2]).ok();

    // A second change, and a node that missed the first gets both.
    let changes = |it: &Trusting| -> Value {
        serde_json::from_slice(&fs::read(it.world.path("df.trust.json")).expect("the changes")).expect("JSON")
    };
    let first = changes(&it)["changes"][0].clone();
    it.believe(1, &["d"]);
    vouch("a");
    vouch("d");
    it.df(&["trust"]).output().expect_code(8);
    it.df(&["trust", "--send"]).ok();
    it.df(&["trust"]).ok();

    // The first one was good, and is old.
    let pinned = json!({ "sequence": first["sequence"], "threshold": first["threshold"], "keys": first["keys"] });
    let replayed = json!({ "trust": { "pinned": pinned, "attestations": first["attestations"].to_string() } });
    let said = told(&it.world, &[replayed], &[]).stdout;
    assert!(said.contains("untrusted") && said.contains("somebody shows an old one"), "{said}");
    it.df(&["trust"]).ok();
    it.world.expect_serving(&versions.v1);
}

#[test]
fn a_node_takes_nothing_that_nobody_vouches_for_whatever_it_is_told() {
    let (versions, it) = (versions(), Trusting::new(1));
    it.believe(1, &["a"]);
    let (first, second) = (it.sign(&versions.v1, "a"), it.sign(&versions.v2, "b"));
    it.df(&["deploy", "--commit-hash", &versions.v1]).ok();
    let bundle = |release: &str| fs::read_to_string(it.bundle(&it.store(), release).expect("attested")).expect("read");
    let subject = |built: &Output| {
        let built = &built.events("built")[0];
        let field = |name: &str| built[name].clone();
        json!({
            "release": field("release"), "app": field("app"), "commit": field("commit"), "recipe_key": field("recipe_key"),
            "image": field("image"),
        })
    };
    let (good, wanted) = (bundle(&release_of(&first)), subject(&second));
    let admit = |subject: &Value, attestations: &str| json!({ "admit": { "subject": subject, "attestations": attestations } });
    let receive = json!({ "receive": { "image": wanted["image"], "base": null, "len": 3, "image_len": 3 } });
    let before = it.held();
    let refused = |requests: &[Value], said: &str| {
        let output = told(&it.world, requests, b"abc").stdout;
        assert!(output.contains("untrusted") && output.contains(said), "expected {said} in {output}");
        assert!(!output.contains("received"), "{output}");
        assert_eq!(it.held(), before);
    };
    refused(std::slice::from_ref(&receive), "belongs to no release that somebody vouched for");
    // What was said of another release, of this one by a stranger, for another purpose, or in no words at all.
    refused(&[admit(&wanted, &good), receive.clone()], "what is there is about something else");
    refused(&[admit(&wanted, &bundle(&release_of(&second))), receive.clone()], "is not trusted");
    refused(&[admit(&wanted, &elsewhere(&it, &bundle(&release_of(&second)))), receive.clone()], "was made for the purpose");
    refused(&[admit(&wanted, "nothing"), receive.clone()], "the attestations cannot be read");
    // One image was vouched for, and another comes.
    refused(&[admit(&subject(&first), &good), receive], "belongs to no release that somebody vouched for");
    let pin = json!({ "pin": { "policy": { "threshold": 1, "keys": [it.public("b")] } } });
    refused(&[pin], "a change has to be attested by those whom it believes");
    let none = json!({ "trust": { "pinned": { "sequence": 1, "threshold": 0, "keys": [] }, "attestations": good } });
    refused(&[none], "the change of trust is not trusted itself");
    // Another release of an image that is here.
    let record = fs::read_to_string(it.world.node(1).join("apps/greeter/generations/1/record.json")).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let release = record["release"].as_str().expect("a release").replace(&versions.v1, &versions.v2);
    refused(&[json!({ "stage": { "release": release } })], "is not trusted here");
    let activate = json!({ "release": release, "expect": 1, "soak": 0, "who": "x", "listen": it.world.addresses[0].to_string() });
    refused(&[json!({ "activate": activate })], "is not trusted here");
    it.world.expect_serving(&versions.v1);
}

/// Returns a bundle with the word of `a` in it, given for another purpose.
fn elsewhere(it: &Trusting, bundle: &str) -> String {
    let mut envelope: Value = serde_json::from_str(bundle).expect("JSON");
    let key = it.key("a").display().to_string();
    let signed = Run::new("ssh-keygen").args(["-q", "-Y", "sign", "-n", "git", "-f", &key]).stdin(pae(it, &envelope)).ok();
    let lines: Vec<&str> = signed.stdout.trim().lines().collect();
    envelope["signatures"][0]["sig"] = lines[1..lines.len() - 1].concat().into();
    envelope.to_string()
}

/// Returns what a bundle's attestations are of: DSSE's encoding of its payload.
fn pae(it: &Trusting, envelope: &Value) -> Vec<u8> {
    let file = it.world.path("payload");
    fs::write(&file, envelope["payload"].as_str().expect("base64")).expect("written");
    let payload = Run::new("base64").args(["-d", &file.display().to_string()]).ok().stdout;
    let kind = envelope["payloadType"].as_str().expect("a type");
    format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len()).into_bytes()
}

/// As the page about trust shows it.
#[test]
fn openssh_verifies_what_df_attested() {
    let (versions, it) = (versions(), Trusting::new(0));
    it.believe(1, &["a"]);
    let built = it.sign(&versions.v1, "a");
    let bundle = fs::read(it.bundle(&it.store(), &release_of(&built)).expect("attested")).expect("read");
    let envelope: Value = serde_json::from_slice(&bundle).expect("JSON");
    let sig = envelope["signatures"][0]["sig"].as_str().expect("base64").as_bytes().chunks(70);
    let sig: Vec<&str> = sig.map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    let verify = |signer: &str, namespace: &str, sig: &str, bytes: &[u8]| {
        fs::write(it.world.path("allowed"), format!("release {}\n", it.public(signer))).expect("written");
        let armor = format!("-----BEGIN SSH SIGNATURE-----\n{sig}\n-----END SSH SIGNATURE-----\n");
        fs::write(it.world.path("sig"), armor).expect("written");
        let [allowed, sig] = ["allowed", "sig"].map(|name| it.world.path(name).display().to_string());
        let run = Run::new("ssh-keygen").args(["-Y", "verify", "-f", &allowed, "-I", "release", "-n", namespace, "-s", &sig]);
        run.stdin(bytes).output().code == Some(0)
    };
    let (bytes, sig) = (pae(&it, &envelope), sig.join("\n"));
    assert!(verify("a", "distributive-flow", &sig, &bytes));
    assert!(!verify("b", "distributive-flow", &sig, &bytes), "another key");
    assert!(!verify("a", "git", &sig, &bytes), "another purpose");
    assert!(!verify("a", "distributive-flow", &sig, &[&bytes[..], b" "].concat()), "other bytes");
    let flipped = sig.replacen('Q', "R", 1);
    assert!(flipped != sig && !verify("a", "distributive-flow", &flipped, &bytes), "another proof");
}

#[test]
fn what_comes_out_of_a_cache_elsewhere_is_attested_or_refused() {
    let (versions, it) = (versions(), Trusting::new(0));
    let place = format!("file:{}", it.world.path("place").display());
    it.believe(1, &["a"]);
    it.sign(&versions.v1, "a");
    let out = it.world.path("out").display().to_string();
    for commit in [&versions.v1, &versions.v2] {
        it.df(&["cache", "put", commit, "--address", &place]).ok();
    }
    let get = |commit: &str| it.df(&["cache", "get", commit, "--address", &place, "--output", &out]);
    let refused = get(&versions.v2).output().expect_code(10);
    assert!(refused.stderr.contains("has none") && !Path::new(&out).exists(), "{}", refused.stderr);
    get(&versions.v1).ok();
    assert!(Path::new(&out).join("bin/greeter").is_file());
    // What is attested later comes there with the next put.
    it.sign(&versions.v2, "a");
    it.df(&["cache", "put", &versions.v2, "--address", &place]).ok();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::rename(&out, it.world.path("old")).expect("moved");
    get(&versions.v2).ok();
}

/// A place that shows what it showed before: each release in it is attested, and so was each pointer.
#[test]
fn an_old_version_is_not_believed_to_be_the_newest() {
    let (versions, it) = (versions(), Trusting::new(0));
    let (place, dir) = (format!("file:{}", it.world.path("place").display()), it.world.path("place"));
    it.believe(1, &["a"]);
    let config = it.world.path("df.yaml");
    let text = fs::read_to_string(&config).expect("written") + &format!("cache: {{ remote: \"{place}\" }}\n");
    fs::write(&config, text).expect("written");
    let put = |commit: &str| {
        it.sign(commit, "a");
        it.df(&["cache", "put", commit, "--address", &place]).ok();
    };
    let get = |n: usize| {
        let out = it.world.path(&format!("out{n}")).display().to_string();
        it.df(&["cache", "get", "--address", &place, "--output", &out])
    };
    put(&versions.v1);
    get(1).ok();
    let kept = it.world.path("kept").display().to_string();
    Run::new("/bin/cp").args(["-a", &dir.display().to_string(), &kept]).ok();
    // A second later: whoever publishes counts by the clock.
    let published = std::time::SystemTime::now();
    let is_later = || (published.elapsed().expect("forward") > Duration::from_secs(1)).then_some(());
    df_testkit::process::wait_until(Duration::from_secs(10), is_later).expect("time passes");
    put(&versions.v2);
    get(2).ok();
    fs::rename(&dir, it.world.path("moved")).expect("moved");
    fs::rename(&kept, &dir).expect("moved");
    let refused = get(3).output().expect_code(10);
    assert!(refused.stderr.contains("somebody shows an old one"), "{}", refused.stderr);
    // By its name it may be had: it is attested.
    let out = it.world.path("named").display().to_string();
    it.df(&["cache", "get", &versions.v1, "--address", &place, "--output", &out]).ok();
    // One that nobody calls the newest is not.
    fs::remove_file(it.world.path("state/newest.json")).expect("it was remembered");
    get(4).ok();
    let files = channels(&dir);
    assert!(!files.is_empty());
    files.iter().for_each(|file| fs::remove_file(file).expect("removed"));
    let refused = get(5).output().expect_code(10);
    assert!(refused.stderr.contains("nobody says so"), "{}", refused.stderr);
}

/// The files of pointers in a cache.
fn channels(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for release in fs::read_dir(dir.join("docs/greeter")).expect("documents").flatten() {
        let files = fs::read_dir(release.path()).expect("listed").flatten().map(|entry| entry.path());
        found.extend(files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("channel-"))));
    }
    found
}

/// Speaks to df-node as no df would.
fn told(world: &World, requests: &[Value], bytes: &[u8]) -> Output {
    let frame = |kind: u8, payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("a test's frame").to_le_bytes();
        [&[kind], &len[..], payload].concat()
    };
    let mut frames = frame(1, json!({ "program": "0", "oldest": 1, "newest": 1 }).to_string().as_bytes());
    frames.extend(frame(2, json!({ "lock": { "who": "x", "command": "x" } }).to_string().as_bytes()));
    for request in requests {
        frames.extend(frame(2, request.to_string().as_bytes()));
        if request.get("receive").is_some() {
            frames.extend(frame(5, bytes));
        }
    }
    let root = world.node(1).display().to_string();
    let [data, tmp] = ["data", "tmp"].map(|name| world.node(1).join(name).display().to_string());
    let run = Run::new(env!("CARGO_BIN_EXE_df-node")).args(["serve", "--root", &root, "--data", &data, "--tmp", &tmp]);
    run.stdin(frames).deadline(Duration::from_secs(30)).output()
}
