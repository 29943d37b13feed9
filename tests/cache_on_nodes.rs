//! What a node holds, used like a cache: taken out, healed from, mended, let go of. And nodes that lie about it.

use std::fs;
use std::path::{Path, PathBuf};

use df_core::{Digest, ImageId, Manifest};
use df_testkit::process::{Output, Run};
use df_testkit::tree;
use serde_json::{Value, json};

use crate::hostile_node::{BYTES, EVENT, Pair, Step, frame, harmless, message, reply, surveyed};

impl Pair {
    /// Puts the version on the good node, and returns its image.
    fn copied(&self) -> String {
        self.df(["cp", "--version", &self.commit, "--address", "good"]).ok();
        let store = fs::read_dir(self.good().join("store")).expect("a store");
        let images: Vec<String> = store.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        assert_eq!(images.len(), 1, "{images:?}");
        images.into_iter().next().expect("counted")
    }

    fn good(&self) -> PathBuf {
        self.world.path("good")
    }

    /// Returns `df` on a machine whose cache is empty.
    fn elsewhere(&self, words: &[&str]) -> Run {
        self.df([]).args(words).env("XDG_CACHE_HOME", self.world.path("elsewhere"))
    }

    /// Changes a file of an image on the good node, which nobody may write.
    fn damage(&self, image: &str, path: &str, bytes: &str) {
        let file = self.good().join("store").join(image).join(path);
        writable(&file);
        fs::write(&file, bytes).expect("written");
    }
}

fn writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for path in [path.parent().expect("a directory"), path] {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
}

/// Overwrites all that the cache of a machine keeps of files.
fn damage_cache(cache: &Path) {
    let mut n = 0;
    for kind in ["packs", "big"] {
        for directory in fs::read_dir(cache.join("df/v1").join(kind)).into_iter().flatten().flatten() {
            for file in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                writable(&file.path());
                fs::write(file.path(), vec![0; file.metadata().expect("it is there").len() as usize]).expect("written");
                n += 1;
            }
        }
    }
    assert!(n > 0, "there is something to damage");
}

#[test]
fn a_version_is_taken_out_of_a_node_by_a_machine_that_holds_nothing() {
    let pair = Pair::new();
    pair.copied();
    let [direct, out, newest, archive] =
        ["direct", "out", "newest", "one.tar"].map(|name| pair.world.path(name).display().to_string());
    pair.df(["cache", "get", &pair.commit, "--output", &direct]).ok();
    pair.elsewhere(&["cache", "get", &pair.commit, "--address", "good", "--output", &out]).ok();
    pair.elsewhere(&["cache", "get", "--address", "good", "--output", &newest]).ok();
    for other in [&out, &newest] {
        assert_eq!(tree::compare(Path::new(&direct), Path::new(other)), []);
    }
    pair.elsewhere(&["cache", "get", &pair.commit, "--address", "good", "--tar", "--output", &archive]).ok();
    assert!(fs::metadata(&archive).expect("written").len() > 1024);
    let planned = |run: Run| run.ok().events("planned")[0].clone();
    let spared = planned(pair.df(["--json", "--dry-run", "cache", "get", &pair.commit, "--address", "good"]));
    assert_eq!(spared["bytes"], 0, "what is here is not fetched: {spared}");
    let whole = planned(pair.elsewhere(&["--json", "--dry-run", "cache", "get", &pair.commit, "--address", "good"]));
    assert_eq!(whole["bytes"], 8, "{whole}");
    let unknown = pair.elsewhere(&["cache", "get", "abcdef", "--address", "good"]).output().expect_code(2);
    assert!(unknown.stderr.contains("no version"), "{unknown}");
}

#[test]
fn what_is_damaged_on_a_node_is_not_handed_out_and_is_mended() {
    let pair = Pair::new();
    let image = pair.copied();
    let out = pair.world.path("out").display().to_string();
    let get = || pair.elsewhere(&["cache", "get", &pair.commit, "--address", "good", "--output", &out]);
    pair.damage(&image, "a", "ono\n");
    let refused = get().output().expect_code(1);
    assert!(refused.stderr.contains("damaged") && refused.stderr.contains("df cache repair --address good"), "{refused}");
    assert!(!Path::new(&out).exists(), "half a tree is none");
    pair.elsewhere(&["cache", "verify", "--address", "good"]).output().expect_code(8);
    let planned = pair.df(["--json", "--dry-run", "cache", "repair", "--address", "good"]).ok();
    assert_eq!(planned.events("planned")[0]["bytes"], 8, "{planned}");
    pair.elsewhere(&["cache", "verify", "--address", "good"]).output().expect_code(8);
    let mended = pair.df(["--json", "cache", "repair", "--address", "good"]).ok();
    let events = mended.events("repaired");
    assert!(events.len() == 1 && events[0]["why"].as_str().is_some_and(|why| why.contains("from cache")), "{mended}");
    pair.elsewhere(&["cache", "verify", "--address", "good"]).ok();
    get().ok();
    // A manifest and a file that are gone.
    fs::remove_file({
        let file = pair.good().join("store").join(&image).join("b");
        writable(&file);
        file
    })
    .expect("removed");
    pair.df(["cache", "repair", "--address", "good"]).ok();
    let manifest = pair.good().join("manifests").join(&image);
    writable(&manifest);
    fs::write(&manifest, "no manifest").expect("written");
    pair.elsewhere(&["cache", "verify", "--address", "good"]).output().expect_code(8);
    pair.df(["cache", "repair", "--address", "good"]).ok();
    pair.elsewhere(&["cache", "verify", "--address", "good"]).ok();
    let nothing = pair.df(["cache", "repair", "--address", "good"]).ok();
    assert!(nothing.stderr.contains("nothing was damaged"), "{nothing}");
}

#[test]
fn an_image_that_a_generation_needs_and_that_is_gone_is_no_clean_bill() {
    let pair = Pair::new();
    pair.df(["deploy", "--address", "good"]).ok();
    let store = fs::read_dir(pair.good().join("store")).expect("a store");
    let image = store.flatten().find_map(|entry| entry.file_name().into_string().ok()).expect("an image");
    pair.elsewhere(&["cache", "verify", "--address", "good"]).ok();
    for gone in [pair.good().join("manifests").join(&image), pair.good().join("store").join(&image)] {
        fs::rename(&gone, pair.world.path("away")).expect("moved");
        let found = pair.elsewhere(&["--json", "cache", "verify", "--address", "good"]).output().expect_code(8);
        assert!(found.events("missing").iter().any(|it| it["image"] == image.as_str()), "{found}");
        fs::rename(pair.world.path("away"), &gone).expect("moved back");
    }
    pair.elsewhere(&["cache", "verify", "--address", "good"]).ok();
}

#[test]
fn a_node_that_was_asked_to_read_a_part_does_not_read_everything_instead() {
    let pair = Pair::new();
    let image = pair.copied();
    pair.damage(&image, "a", "ono\n");
    for (flag, words) in [("--quick", &["--quick"][..]), ("--sample", &["--sample", "1"]), ("--slice", &["--slice", "1"])] {
        let words = [&["cache", "verify", "--address", "good"], words].concat();
        let refused = pair.df([]).args(&words).output().expect_code(2);
        assert!(refused.stderr.contains(&format!("{flag} is for caches")), "{refused}");
        assert!(refused.stderr.contains("next: df cache verify --address good"), "{refused}");
    }
    // What it says to type does find what is wrong.
    pair.df(["cache", "verify", "--address", "good"]).output().expect_code(8);
}

#[test]
fn a_damaged_cache_is_healed_from_a_node_that_holds_the_files() {
    let pair = Pair::new();
    pair.copied();
    let df = |words: &[&str]| pair.elsewhere(words);
    df(&["build"]).ok();
    damage_cache(&pair.world.path("elsewhere"));
    df(&["cache", "verify"]).output().expect_code(8);
    let mended = df(&["--json", "cache", "repair"]).ok();
    let repaired = mended.events("repaired");
    assert!(repaired.iter().any(|event| event["why"].as_str().is_some_and(|why| why.contains("from good"))), "{mended}");
    let out = pair.world.path("out").display().to_string();
    df(&["cache", "get", &pair.commit, "--output", &out]).ok();
    assert_eq!(fs::read_to_string(Path::new(&out).join("a")).expect("taken out"), "one\n");
}

#[test]
fn a_node_lets_go_of_what_serves_nobody() {
    let pair = Pair::new();
    let image = pair.copied();
    let planned = pair.df(["--json", "--dry-run", "cache", "flush", "--address", "good"]).ok();
    let planned = planned.events("planned");
    assert!(planned.iter().any(|event| event["bytes"] == 8), "{planned:?}");
    assert!(pair.good().join("store").join(&image).is_dir(), "nothing was removed");
    pair.df(["deploy", "--version", &pair.commit, "--address", "good"]).ok();
    pair.df(["cache", "flush", "--address", "good", "--yes"]).ok();
    assert!(pair.good().join("store").join(&image).is_dir(), "what serves stays");
    pair.df(["cache", "verify", "--address", "good"]).ok();
}

/// What a node that tells the truth would say of the image that the good one holds.
struct Truth {
    image: String,
    manifest: Vec<u8>,
    release: String,
    id: String,
}

impl Truth {
    fn of(pair: &Pair) -> Self {
        let image = pair.copied();
        let manifest = fs::read(pair.good().join("manifests").join(&image)).expect("a manifest");
        let staged = fs::read_dir(pair.good().join("apps/files/staged")).expect("staged").flatten().next().expect("one");
        let id = staged.path().file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let stored: Value = serde_json::from_slice(&fs::read(staged.path()).expect("read")).expect("JSON");
        Self { image, manifest, release: stored["release"].as_str().expect("a text").to_owned(), id }
    }

    fn blobs(&self) -> Vec<(Digest, u64)> {
        Manifest::decode(&self.manifest).expect("a manifest").blobs()
    }

    /// Says what it holds, its release, and then does the rest.
    fn survey(&self, commit: &str, hands_out: bool) -> Value {
        let staged = json!({ "release": self.id, "commit": commit, "image": self.image, "since": 0 });
        let app = json!({ "app": "files", "current": 0, "wanted": false, "running": [], "generations": [], "staged": [staged] });
        json!({ "images": [self.image], "apps": [app], "hands_out": hands_out })
    }

    fn told(&self) -> Vec<Step> {
        vec![Step::Hear, reply(json!({ "release": { "release": self.release, "attestations": null } }))]
    }

    fn listed(&self) -> Vec<Step> {
        let announced = reply(json!({ "bytes": { "len": self.manifest.len() } }));
        let manifest = Step::Say(frame(BYTES, &self.manifest));
        self.told().into_iter().chain([Step::Hear, announced, manifest, Step::Hear]).collect()
    }
}

fn blob(digest: Digest, len: u64) -> Step {
    message(EVENT, &json!({ "blob": { "digest": digest.to_string(), "len": len } }))
}

#[test]
fn a_node_that_lies_about_what_it_holds_is_refused_in_words_and_nothing_is_kept() {
    let pair = Pair::new();
    let truth = Truth::of(&pair);
    let blobs = truth.blobs();
    let ((first, len), other) = (blobs[0], blobs[1].0);
    let bytes = |bytes: &[u8]| Step::Say(frame(BYTES, bytes));
    let stays = || Step::Sh("exec sleep 100");
    let right: &[u8] = if first == Digest::of(b"one\n") { b"one\n" } else { b"two\n" };
    let no_blob = |why: &str| message(EVENT, &json!({ "no_blob": { "digest": first.to_string(), "why": why } }));
    let release = |text: &str| reply(json!({ "release": { "release": text, "attestations": null } }));
    let listed = |rest: Vec<Step>| truth.listed().into_iter().chain(rest).collect::<Vec<_>>();
    let another = truth.release.replace("\"files\"", "\"filez\"");
    assert_ne!(another, truth.release);
    let cases: Vec<(&str, Vec<Step>, &str)> = vec![
        ("wrong bytes", listed(vec![blob(first, len), bytes(b"nope"), stays()]), "other bytes"),
        ("more bytes", listed(vec![blob(first, len), bytes(b"one\ntwo\n"), stays()]), "none was due"),
        ("another length", listed(vec![blob(first, u64::MAX), stays()]), "something else than it was asked"),
        ("another content", listed(vec![blob(other, len), stays()]), "something else than it was asked"),
        ("an end too early", listed(vec![reply(json!("done")), stays()]), "something else than it was asked"),
        (
            "one content for ever",
            listed(vec![blob(first, len), bytes(right), blob(first, len), bytes(right), stays()]),
            "something else than it was asked",
        ),
        (
            "events for ever",
            listed(vec![Step::Sh("while :; do printf '\\004\\023\\000\\000\\000{\"applied\":{\"bytes\":1}}'; done")]),
            "",
        ),
        ("bytes that never come", listed(vec![blob(first, len), stays()]), "no word"),
        ("half a content", listed(vec![blob(first, len), bytes(&right[..2]), reply(json!("done")), stays()]), "none was due"),
        ("a damaged content", listed(vec![no_blob("damaged"), stays()]), ""),
        ("another release", vec![Step::Hear, release(&another), stays()], "another release"),
        ("no release", vec![Step::Hear, release("{}"), stays()], "another release"),
        (
            "another manifest",
            [truth.told(), vec![Step::Hear, reply(json!({ "bytes": { "len": 4 } })), bytes(b"what"), stays()]].concat_steps(),
            "not that of image",
        ),
    ];
    for (name, rest, said) in cases {
        pair.evil(&surveyed(truth.survey(&pair.commit, true), rest));
        let out = pair.world.path("out");
        let words =
            ["--timeout", "5s", "cache", "get", &pair.commit, "--address", "evil", "--output", &out.display().to_string()];
        // One thread: the node tells the contents in the order of the image, whichever is asked for first.
        let output = pair.elsewhere(&words).env("RAYON_NUM_THREADS", "1").output();
        refused(name, &output, said);
        assert!(!out.exists(), "{name}: something was kept");
        let scratch = pair.world.path("elsewhere").join("df/v1/tmp");
        let left: Vec<_> = fs::read_dir(&scratch).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

#[track_caller]
fn refused(name: &str, output: &Output, said: &str) {
    assert!(!output.timed_out, "{name}: not in time: {output}");
    assert!(output.code.is_some_and(|code| [1, 9].contains(&code)), "{name}: {output}");
    assert!(output.stderr.contains("evil") && output.stderr.contains(said), "{name}: expected \"{said}\" in {output}");
    harmless(output);
}

trait Joined {
    fn concat_steps(self) -> Vec<Step>;
}

impl<const N: usize> Joined for [Vec<Step>; N] {
    fn concat_steps(self) -> Vec<Step> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn the_same_node_that_tells_the_truth_is_believed_and_an_older_one_is_refused_in_words() {
    let pair = Pair::new();
    let truth = Truth::of(&pair);
    let mut told = truth.listed();
    for (digest, len) in truth.blobs() {
        let bytes: &[u8] = if digest == Digest::of(b"one\n") { b"one\n" } else { b"two\n" };
        told.extend([blob(digest, len), Step::Say(frame(BYTES, bytes))]);
    }
    told.push(reply(json!("done")));
    pair.evil(&surveyed(truth.survey(&pair.commit, true), told));
    let out = pair.world.path("out");
    let out_word = out.display().to_string();
    let get = || {
        pair.elsewhere(&["--timeout", "10s", "cache", "get", &pair.commit, "--address", "evil", "--output", &out_word])
            .env("RAYON_NUM_THREADS", "1")
    };
    get().ok();
    assert_eq!(fs::read_to_string(out.join("b")).expect("taken out"), "two\n");
    fs::remove_dir_all({
        writable(&out.join("b"));
        &out
    })
    .expect("removed");
    pair.evil(&surveyed(truth.survey(&pair.commit, false), [Step::Sh("exec sleep 100")]));
    let older = get().output().expect_code(1);
    assert!(older.stderr.contains("older and hands out nothing"), "{older}");
    assert_eq!(truth.image.parse::<ImageId>().expect("an image").0, Digest::of(&truth.manifest));
}
