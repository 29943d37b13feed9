//! A node makes another version the serving one: a deploy, whose supervisor does not live to make one of its steps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use df_testkit::calls::Meddling;
use df_testkit::calls::tree::{Watch, follow};
use df_testkit::process::{Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::survivors;

use super::campaign::{Operation, Ran};
use super::whole;
use crate::support::{DEADLINE, World, cgroups_of, shared};

/// A program that listens nowhere: what is looked at is what lies on the disk.
const APP: &str = "#!/bin/sh\nexec sleep 1000\n";

/// A service with two versions.
pub struct Activation {
    world: World,
    commits: [String; 2],
    images: [String; 2],
}

impl Activation {
    /// Builds both.
    pub fn new() -> Self {
        let dir = shared().join("power-cut");
        let _ = fs::remove_dir_all(&dir);
        let repo = Repo::new(&dir);
        let yaml = "app: lamp\nbuild: { include: { bin: bin }, sandbox: off }\nrun: { exec: bin/lamp, ready: 10s, drain: 0s }\n\
                    verify: [ { command: bin/lamp-is-there } ]\nrollout: { soak: 0s, confirm: 1s }\n";
        let commits = ["on", "off"].map(|state| {
            let files =
                [("bin/lamp", APP), ("bin/lamp-is-there", "#!/bin/sh\nexit 0\n"), ("bin/state", state), ("df.yaml", yaml)];
            let tree = dir.join("tree");
            fs::create_dir_all(tree.join("bin")).expect("made");
            for (path, text) in files {
                fs::write(tree.join(path), text).expect("written");
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(tree.join(path), mode).expect("ours");
            }
            repo.commit_tree(&tree, state)
        });
        let world = World::of(repo.dir(), 0);
        let build = |commit: &String| world.df(["--json", "build", "--commit-hash", commit]).ok().events("built").remove(0);
        let images = commits.each_ref().map(|commit| build(commit)["image"].as_str().expect("an image").to_owned());
        Self { world, commits, images }
    }

    fn deploy(&self, version: usize) -> Run {
        self.world.df(["deploy", "--commit-hash", &self.commits[version]])
    }

    /// Returns the image that `current` leads to.
    fn current(disk: &Path) -> Option<String> {
        let image = fs::canonicalize(disk.join("node/apps/lamp/current")).ok()?;
        Some(image.file_name()?.to_string_lossy().into_owned())
    }
}

/// Removes what no power cut leaves of a machine: the cgroups of what ran.
fn forget_what_ran(node: &Path) {
    cgroups_of(node).iter().for_each(|cgroup| drop(fs::remove_dir(cgroup)));
}

impl Operation for Activation {
    fn name(&self) -> &str {
        "a node activates a version"
    }

    fn lay_out(&self, disk: &Path) {
        let node = disk.join("node");
        let _ = self.world.df(["rm", "lamp", "--yes"]).output();
        let listen = df_testkit::net::own_loopback().to_string();
        self.world.df(["add", &format!("local:{}", node.display()), "--name", "lamp", "--listen", &listen]).ok();
        // Both are there: what is copied is another operation's.
        [1, 0].into_iter().for_each(|version| drop(self.deploy(version).ok()));
        df_testkit::power::kill_all_alone();
        forget_what_ran(&node);
    }

    fn run(&self, disk: &Path, meddling: &Meddling<'_>) -> Ran {
        let is_node = |words: &[String]| words[0].contains("df-node");
        let follows = |words: &[String]| is_node(words) || words[0] == env!("CARGO_BIN_EXE_df");
        let counts = |words: &[String]| is_node(words) && words[1] == "supervise";
        // What was followed by the new version has ended.
        let is_over = || services(&disk.join("node")).len() <= 1;
        let watch = Watch {
            counts: &counts,
            follows: &follows,
            kill_before: meddling.kill_before,
            at_the_kill: meddling.at_the_kill,
            is_over: &is_over,
        };
        let followed = follow(&self.deploy(1), &watch);
        let is_killed = followed.killed.is_some();
        Ran { n_calls: followed.steps.len(), is_killed, is_done: followed.code == Some(0) }
    }

    fn torn(&self, disk: &Path, ran: &Ran) -> Vec<String> {
        let node = disk.join("node");
        forget_what_ran(&node);
        let mut torn = whole::torn(&node);
        let current = Self::current(disk);
        let is_one = |of: &[String]| current.as_ref().is_some_and(|current| of.contains(current));
        if !is_one(if ran.is_done { &self.images[1..] } else { &self.images }) {
            torn.push(format!("current leads to {current:?}, of {:?}, done: {}", self.images, ran.is_done));
        }
        torn
    }

    fn again(&self, disk: &Path) {
        // An activation that nobody confirmed is taken back first; as long as that takes, the node says so.
        let over = wait_until(DEADLINE, || {
            let deployed = self.deploy(1).output();
            let busy = deployed.code == Some(4) && deployed.stderr.contains("is in progress");
            (!busy).then(|| deployed.expect_code(0))
        });
        assert!(over.is_some(), "an activation never ends");
        let one = || (services(&disk.join("node")).len() == 1).then_some(());
        assert!(wait_until(Duration::from_secs(60), one).is_some(), "not one version runs");
    }
}

/// Lists what runs of the service.
fn services(node: &Path) -> Vec<u32> {
    let is_service = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with("sleep\0") || line.contains("bin/lamp")
    };
    survivors::running_under(node).into_iter().filter(is_service).collect()
}
