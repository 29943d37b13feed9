//! What a node has of an image when it is killed, or loses its power, in the middle of receiving it: nothing that has a name is half there, and the next df
//! brings the right bytes.
//!
//! What df says to a node is recorded once and said again to df-node as often as is wanted, each time to a node that is as it was.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use df_core::{ImageId, Manifest};
use df_testkit::calls::order::{Loss, losses};
use df_testkit::calls::{Call, Watched, What, watch};
use df_testkit::process::Run;
use df_testkit::repo::Repo;
use df_testkit::seed::Seed;

use crate::support::World;

/// Bytes of a file that changes.
const CHANGED_LEN: usize = 40_000;
/// Every so many kills the next one who comes is df itself; else what was recorded is said once more.
const DF_AFTER: usize = 8;
/// How the second version travels. Left to itself df takes what is done sooner, which for so little hangs on how busy the machine is.
const RECORDED: [&str; 2] = ["--codec", "copy"];

/// Two versions of a tree: a library and a text change, which makes two pieces, the rest stays.
pub struct Recorded {
    /// Where its first node got both.
    pub world: World,
    _source: tempfile::TempDir,
    /// The versions.
    pub commits: [String; 2],
    /// The images, in the order of the commits.
    pub images: [ImageId; 2],
    /// What df said: the first version whole, the second as a delta.
    pub streams: [PathBuf; 2],
    manifests: [Manifest; 2],
}

impl Recorded {
    fn new() -> Self {
        Self::sized(CHANGED_LEN)
    }

    /// With a library of another length.
    pub fn sized(library_len: usize) -> Self {
        let source = tempfile::Builder::new().prefix("df-receiving").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let config = "app: files\nbuild: { command: \"mkdir -p out/d/e && cp same lib.so out && cp text out/d && cp same out/d/e/again && ln -s ../text out/d/e/link\", output: out, sandbox: off }\n";
        let mut random = Seed(11).random();
        let mut letters = |len: usize| -> String { (0..len).map(|_| char::from(b' ' + random.index(94) as u8)).collect() };
        let (same, library, text) = (letters(5000), letters(library_len), letters(CHANGED_LEN));
        let (changed, more) = (letters(CHANGED_LEN / 8), letters(CHANGED_LEN / 8));
        let first = [("df.yaml", config), ("same", &same), ("lib.so", &library), ("text", &text)];
        let (library, text) = (format!("{changed}{library}"), format!("{text}{more}"));
        let second = [("df.yaml", config), ("same", &same), ("lib.so", &library), ("text", &text)];
        let commits = [repo.commit(&first, "one"), repo.commit(&second, "two")];
        let world = World::of(repo.dir(), 1);
        let streams = [1, 2].map(|n| world.path(&format!("said-{n}")));
        let mut recorded = Self {
            world,
            _source: source,
            commits,
            images: [ImageId(df_core::Digest::of(b"")); 2],
            streams,
            manifests: [Manifest::new(vec![]), Manifest::new(vec![])].map(|empty| empty.expect("a tree")),
        };
        for n in [0, 1] {
            recorded.df(&["build", "--commit-hash", &recorded.commits[n]]).ok();
            recorded.images[n] = recorded.record(n, "n1", &recorded.streams[n]);
            let path = recorded.world.node(1).join("manifests").join(recorded.images[n].to_string());
            recorded.manifests[n] = Manifest::decode(&fs::read(path).expect("it was received")).expect("it was checked");
            if n == 0 {
                copy(&recorded.world.node(1), &recorded.world.path("before"));
            }
        }
        recorded
    }

    /// Returns `df` with these words and a cache of its own.
    pub fn df(&self, words: &[&str]) -> Run {
        self.world.df([]).args(words).env("XDG_CACHE_HOME", self.world.path("cache"))
    }

    /// Copies a version to a node, and keeps all that df says to it.
    fn record(&self, version: usize, node: &str, to: &Path) -> ImageId {
        let programs = self.world.path("programs");
        fs::create_dir_all(&programs).expect("made");
        let program = programs.join(format!("df-node-{}", std::env::consts::ARCH));
        let script = format!("#!/bin/sh\ntee '{}' | '{}' \"$@\"\n", to.display(), env!("CARGO_BIN_EXE_df-node"));
        fs::write(&program, script).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        // The first version has no base.
        let codec = if version == 0 { &[][..] } else { &RECORDED };
        let copied = self.cp(version, node).args(codec).env("DF_NODE_PROGRAMS", &programs).ok();
        copied.events("copied")[0]["image"].as_str().and_then(|image| image.parse().ok()).expect("an image")
    }

    fn cp(&self, version: usize, node: &str) -> Run {
        self.df(&["--json", "--address", node, "cp", "--version", &self.commits[version]])
    }

    /// Returns a node that has nothing.
    fn empty_node(&self, name: &str) -> Node<'_> {
        let root = self.world.path(name);
        df_cache::durable::remove_tree(&root).expect("removed");
        fs::create_dir(&root).expect("made");
        Node { recorded: self, root }
    }

    /// Returns a node that is as it was before the second version came.
    fn node(&self, name: &str) -> Node<'_> {
        let root = self.world.path(name);
        copy(&self.world.path("before"), &root);
        Node { recorded: self, root }
    }
}

/// A node that is killed over and over.
struct Node<'a> {
    recorded: &'a Recorded,
    root: PathBuf,
}

impl Node<'_> {
    fn hear(&self, stream: &Path, kill_before: Option<usize>) -> Watched {
        let place = |name: &str| self.root.join(name).into_os_string();
        let args: [OsString; 7] = [
            "serve".into(),
            "--root".into(),
            self.root.clone().into(),
            "--data".into(),
            place("data"),
            "--tmp".into(),
            place("tmp"),
        ];
        watch(Path::new(env!("CARGO_BIN_EXE_df-node")), &args, stream, kill_before)
    }

    /// Says whether the second version has its name, and checks that it is whole then.
    #[track_caller]
    fn has_second(&self) -> bool {
        let image = self.recorded.images[1].to_string();
        let (tree, manifest) = (self.root.join("store").join(&image), self.root.join("manifests").join(&image));
        if manifest.exists() {
            let bytes = fs::read(&manifest).expect("read");
            assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(&self.recorded.manifests[1]), "half a manifest has its name");
        }
        if tree.exists() {
            assert!(manifest.exists(), "an image without its manifest");
            let found = df_cache::check::tree(&tree, &self.recorded.manifests[1]).expect("read");
            assert_eq!(found, [], "half an image has its name");
        }
        tree.exists()
    }

    /// Says that the second version is there; unless it was there already, nothing else is.
    #[track_caller]
    fn is_done(&self, had_it: bool) {
        assert!(self.has_second());
        let first = self.root.join("store").join(self.recorded.images[0].to_string());
        assert_eq!(df_cache::check::tree(&first, &self.recorded.manifests[0]).expect("read"), [], "the old one is as it was");
        // What a receive leaves that had given the name already is the collector's.
        let n_left = fs::read_dir(self.root.join("incoming")).expect("listed").count();
        assert!(n_left == 0 || had_it, "something is left behind");
    }

    /// Returns what a power cut could take of what has a name.
    fn losses(&self, calls: &[Call]) -> Vec<Loss> {
        losses(calls, |path| ["store", "manifests"].iter().any(|place| path.parent() == Some(&self.root.join(place))))
    }
}

/// Makes a copy of a directory in the place of what is there.
pub fn copy(from: &Path, to: &Path) {
    df_cache::durable::remove_tree(to).expect("removed");
    Run::new("cp").arg("-a").arg(from).arg(to).ok();
}

/// Returns what a node said.
pub fn heard(watched: &Watched) -> String {
    String::from_utf8_lossy(&watched.stdout).into_owned()
}

#[test]
fn a_node_killed_before_any_change_that_it_makes_has_all_of_an_image_or_nothing() {
    let recorded = Recorded::new();
    recorded.df(&["add", &format!("local:{}", recorded.world.path("k").display()), "--name", "k"]).ok();
    let (mut n_kills, mut n_resumed, mut n_named) = (0, 0, 0);
    for n in 1.. {
        let node = recorded.node("k");
        let watched = node.hear(&recorded.streams[1], Some(n));
        if !watched.killed {
            assert!(heard(&watched).contains("received"), "{}", heard(&watched));
            break;
        }
        n_kills += 1;
        let had_it = node.has_second();
        n_named += usize::from(had_it);
        if n % DF_AFTER == 0 || std::env::var_os("DF_FULL").is_some() {
            let copied = recorded.cp(1, "k").args(RECORDED).ok().events("copied").remove(0);
            n_resumed += usize::from(copied["bytes_resumed"].as_u64() > Some(0));
        } else {
            let again = heard(&node.hear(&recorded.streams[1], None));
            assert!(again.contains("received"), "killed before change {n}, then: {again}");
        }
        node.is_done(had_it);
    }
    println!("{n_kills} kills; {n_named} after the name was given; {n_resumed} times df went on with what was there");
    assert!(n_kills > 60 && n_named > 3 && n_resumed > 1, "{n_kills} {n_named} {n_resumed}");
}

#[test]
fn all_of_an_image_is_on_disk_before_it_has_its_name() {
    let recorded = Recorded::new();
    let delta = recorded.node("k");
    let calls = delta.hear(&recorded.streams[1], None).calls;
    assert_eq!(delta.losses(&calls), []);
    delta.is_done(false);
    // The same judge finds what is missing as soon as one sync is.
    let name = calls.iter().position(|call| call.what == What::Rename && call.to.starts_with(delta.root.join("store")));
    let name = name.expect("the image got its name");
    let tree = &calls[name].path;
    let of_tree = |call: &&Call| call.what == What::Sync && call.path.starts_with(tree);
    let synced: Vec<&Call> = calls.iter().filter(of_tree).collect();
    assert!(synced.len() >= 5, "two files and three directories: {synced:?}");
    for without in &synced {
        let fewer: Vec<Call> = calls.iter().filter(|call| call != without).cloned().collect();
        assert!(!delta.losses(&fewer).is_empty(), "nobody misses the sync of {}", without.path.display());
    }
    // Not the files that are links to those of the old image: they were synced when that got its name.
    assert!(synced.iter().all(|call| !call.path.ends_with("same")), "{synced:?}");

    let whole = recorded.empty_node("w");
    let watched = whole.hear(&recorded.streams[0], None);
    assert!(heard(&watched).contains("received"));
    assert_eq!(whole.losses(&watched.calls), []);
}

/// Kills a receive when one piece is there and another is not, and returns the node.
fn cut<'a>(recorded: &'a Recorded, version: usize, node: &dyn Fn() -> Node<'a>) -> Node<'a> {
    let is_mark = |call: &&Call| call.what == What::Write && call.path.ends_with("marks");
    // The first mark is where the pieces begin.
    let calls = node().hear(&recorded.streams[version], None).calls;
    let mark = calls.iter().filter(is_mark).nth(1).expect("the first piece comes to its end");
    for n in mark.number + 1..mark.number + 20 {
        let node = node();
        let watched = node.hear(&recorded.streams[version], Some(n));
        assert!(watched.killed, "there is no such moment");
        let marks = node.root.join("incoming").join(recorded.images[version].to_string()).join("marks");
        if fs::metadata(marks).is_ok_and(|marks| marks.len() == 2 * 48) {
            return node;
        }
    }
    panic!("no kill falls between two pieces");
}

#[test]
fn what_another_session_left_is_synced_by_the_one_that_names_it() {
    let recorded = Recorded::new();
    let node = cut(&recorded, 1, &|| recorded.node("k"));
    copy(&node.root, &recorded.world.path("kept"));
    recorded.df(&["add", &format!("local:{}", node.root.display()), "--name", "k"]).ok();
    let stream = recorded.world.path("said-again");
    recorded.record(1, "k", &stream);
    node.is_done(false);
    // The same session once more, with somebody who looks.
    copy(&recorded.world.path("kept"), &node.root);
    let watched = node.hear(&stream, None);
    assert!(heard(&watched).contains("received"), "{}", heard(&watched));
    node.is_done(false);
    let of_library = |what| watched.calls.iter().any(|call| call.what == what && call.path.ends_with("tree/lib.so"));
    assert!(of_library(What::Sync) && !of_library(What::Write), "it lay there, and nobody had synced it: {:?}", watched.calls);
    assert_eq!(node.losses(&watched.calls), []);
}

#[test]
fn what_was_cut_of_one_image_is_the_base_of_another() {
    // Less is not asked for.
    const LONG: usize = 3 << 19;
    let recorded = Recorded::sized(LONG);
    let node = cut(&recorded, 0, &|| recorded.empty_node("k"));
    recorded.df(&["add", &format!("local:{}", node.root.display()), "--name", "k"]).ok();
    let copied = recorded.cp(1, "k").ok().events("copied").remove(0);
    assert!(copied["base"].is_string(), "{copied}");
    // All but the library, of which it has the old one.
    let sent = copied["bytes_sent"].as_u64().expect("a number");
    assert!(sent < 3 * CHANGED_LEN as u64, "{copied}");
    assert!(node.has_second());
    let images = fs::read_dir(node.root.join("store")).expect("listed").count();
    assert_eq!(images, 1, "what was cut got no name by it");
}
