//! What a program says of itself is heard: that it is ready, that it needs more time, how it goes, that it stops.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::wait_until;
use df_testkit::repo::Repo;
use df_testkit::survivors;

use crate::support::{World, shared};

const SOON: Duration = Duration::from_secs(60);

/// Speaks as its arguments say. What takes longer than others would wait takes two and a half seconds of its own; then it leaves a mark, and goes on when it finds a file `go`.
const PROGRAM: &str = r#"#!/usr/bin/python3
import os, signal, socket, sys, time

def say(words):
    name = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(words.encode(), name)

def path(name):
    return os.path.join(os.environ["DF_DATA"], name)

def mark(name):
    open(path(name + "-" + os.environ["DF_GENERATION"]), "w").close()

def wait_for(name):
    while not os.path.exists(path(name)):
        time.sleep(0.01)

def end(*_):
    if "clings" in sys.argv:
        say("EXTEND_TIMEOUT_USEC=3600000000")
        mark("clings")
        wait_for("nobody says so")
    if "drains" in sys.argv:
        say("EXTEND_TIMEOUT_USEC=60000000")
        time.sleep(2.5)
    mark("drained")
    os._exit(0)

signal.signal(signal.SIGTERM, end)
if "extends" in sys.argv:
    say("EXTEND_TIMEOUT_USEC=60000000")
if "late" in sys.argv:
    time.sleep(2.5)
    mark("waits")
    wait_for("go")
if "never" not in sys.argv:
    say("READY=1")
if "tells" in sys.argv:
    say("STATUS=one \x1b[2J\u202e" + 3000 * "x")
    wait_for("go")
    say("STATUS=two\nSTOPPING=1")
mark("up")
while True:
    signal.pause()
"#;

/// A repository of the program, one commit a version; and a node.
struct Stage {
    repo: Repo,
    world: World,
}

impl Stage {
    fn new(name: &str) -> Self {
        let dir = shared().join(format!("says-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        let repo = Repo::new(&dir);
        commit(&repo, "first", "", "");
        let world = World::of(repo.dir(), 1);
        Self { repo, world }
    }

    fn commit(&self, words: &str, run: &str, verify: &str) -> String {
        commit(&self.repo, words, run, verify)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.world.node(1).join("data/says").join(name)
    }

    #[track_caller]
    fn wait_for(&self, name: &str) {
        let path = self.data(name);
        assert!(wait_until(SOON, || path.exists().then_some(())).is_some(), "{name} never came");
    }

    fn go(&self) {
        std::fs::write(self.data("go"), "").expect("written");
    }

    /// Returns what `df status` knows of the node.
    fn status(&self) -> serde_json::Value {
        let shown = self.world.df(["--json", "status"]).output();
        shown.events("node").first().cloned().unwrap_or_else(|| panic!("{shown}"))
    }

    #[track_caller]
    fn expect(&self, generation: u64, state: &str) {
        let found = wait_until(SOON, || {
            let shown = self.status();
            (shown["generation"] == generation && shown["state"] == state).then_some(())
        });
        assert!(found.is_some(), "generation {generation} {state}: {}", self.status());
    }

    /// Kills the program that serves.
    fn kill_program(&self) {
        let is_it = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "says");
        // The one before may not be gone yet.
        let only = wait_until(SOON, || {
            let pids: Vec<u32> = survivors::running_under(&self.world.node(1)).into_iter().filter(is_it).collect();
            (pids.len() == 1).then(|| pids[0])
        });
        survivors::send(only.expect("one serves"), libc::SIGKILL);
    }
}

/// Makes a version that speaks so, with more lines in `run`.
fn commit(repo: &Repo, words: &str, run: &str, verify: &str) -> String {
    let tree = tempfile::tempdir_in(shared()).expect("a directory");
    let yaml = format!(
        "app: says\nbuild: {{ include: {{ bin: bin }}, sandbox: off }}\nrun:\n  exec: bin/says\n  args: [{words}]\n  {run}\n{verify}rollout: {{ soak: 0s }}\n"
    );
    std::fs::write(tree.path().join("df.yaml"), yaml).expect("written");
    std::fs::create_dir(tree.path().join("bin")).expect("made");
    for (name, text) in [("says", PROGRAM), ("check", "#!/bin/sh\ntest -e \"$DF_DATA/go\"\n")] {
        let program = tree.path().join("bin").join(name);
        std::fs::write(&program, text).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    }
    repo.commit_tree(tree.path(), words)
}

fn remove(path: &Path) {
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn a_program_that_nobody_can_ask_and_that_says_ready_gets_nothing_before_it_does() {
    let stage = Stage::new("late");
    let commits = [("first", "ready: 60s"), ("late", "ready: 60s"), ("never", "ready: 2s")]
        .map(|(words, run)| stage.commit(words, run, ""));
    stage.world.deploy(&commits[0]);
    let deploy = stage.world.df(["deploy", "--commit-hash", &commits[1]]).spawn();
    stage.wait_for("waits-2");
    assert_eq!(stage.status()["generation"], 1, "it has not said READY=1");
    stage.go();
    deploy.finish(SOON).expect_code(0);
    stage.expect(2, "serving");
    // After a crash it is as late.
    remove(&stage.data("go"));
    remove(&stage.data("waits-2"));
    stage.kill_program();
    stage.wait_for("waits-2");
    assert_eq!(stage.status()["state"], "starting");
    stage.go();
    stage.expect(2, "serving");
    // One that does not say it any more is told apart from one that hangs by nobody.
    let refused = stage.world.df(["deploy", "--commit-hash", &commits[2]]).output().expect_code(1);
    assert!(refused.stderr.contains("no READY=1"), "{refused}");
    stage.expect(2, "serving");
}

#[test]
fn a_program_that_never_says_ready_is_deployed_and_started() {
    let stage = Stage::new("never");
    for words in ["never, one", "never, two"] {
        stage.world.deploy(&stage.commit(words, "ready: 60s", ""));
    }
    stage.world.df(["stop"]).ok();
    stage.world.df(["start"]).ok();
    stage.expect(2, "serving");
}

#[test]
fn a_start_waits_for_who_asks_for_more_time() {
    let stage = Stage::new("start");
    let commit = stage.commit("late, extends", "ready: 1s", "verify:\n  - command: bin/check\n");
    std::fs::create_dir_all(stage.data("")).expect("made");
    stage.go();
    stage.world.deploy(&commit);
    // Its probe passes before it has said anything.
    stage.wait_for("up-1");
    stage.world.df(["stop"]).ok();
    remove(&stage.data("go"));
    remove(&stage.data("waits-1"));
    let start = stage.world.df(["start"]).spawn();
    // Its time is over by now.
    stage.wait_for("waits-1");
    stage.go();
    start.finish(SOON).expect_code(0);
    stage.expect(1, "serving");
}

#[test]
fn a_version_that_leaves_is_given_the_time_that_it_asks_for() {
    let stage = Stage::new("drain");
    let commits = ["drains, one", "drains, two"].map(|words| stage.commit(words, "drain: 1s", ""));
    let alone = stage.commit("drains, alone", "drain: 1s\n  exclusive: true", "");
    // Beside the next one.
    stage.world.deploy(&commits[0]);
    stage.world.deploy(&commits[1]);
    stage.wait_for("drained-1");
    // Before the next one.
    stage.world.deploy(&alone);
    assert!(stage.data("drained-2").exists(), "it was killed when its own time was over");
    // And when nothing comes next.
    stage.world.df(["stop"]).ok();
    assert!(stage.data("drained-3").exists(), "it was killed when its own time was over");
}

#[test]
fn a_stop_now_does_not_wait_for_a_program_that_asks_for_an_hour() {
    let stage = Stage::new("cling");
    let clings = stage.commit("clings", "drain: 1s", "");
    let alone = stage.commit("clings, alone", "drain: 1s\n  exclusive: true", "");
    stage.world.deploy(&clings);
    // Another one waits for its end.
    let stopping = stage.world.df(["stop"]).spawn();
    stage.wait_for("clings-1");
    stage.world.df(["stop", "--now"]).ok();
    stopping.finish(SOON).expect_code(0);
    assert!(!stage.data("drained-1").exists(), "it was killed");
    stage.expect(1, "stopped");
    // A deploy does.
    stage.world.df(["start"]).ok();
    remove(&stage.data("clings-1"));
    let deploying = stage.world.df(["deploy", "--commit-hash", &alone]).spawn();
    stage.wait_for("clings-1");
    stage.world.df(["stop", "--now"]).ok();
    let deployed = deploying.finish(SOON).expect_code(1);
    assert!(deployed.stderr.contains("stopped the application"), "{deployed}");
    stage.expect(1, "stopped");
    // And when nobody else waits for it.
    stage.world.df(["start"]).ok();
    stage.world.df(["stop", "--now"]).ok();
    stage.expect(1, "stopped");
}

#[test]
fn what_a_program_says_of_itself_is_shown_and_heard_by_the_next_supervisor_too() {
    let stage = Stage::new("status");
    stage.world.deploy(&stage.commit("tells", "ready: 60s", ""));
    let told = |words: &str| {
        let is_told = || stage.status()["status"].as_str().is_some_and(|status| status.starts_with(words)).then_some(());
        assert!(wait_until(SOON, is_told).is_some(), "{}", stage.status());
    };
    told("one \u{1b}[2J\u{202e}xxx");
    assert!(stage.status()["status"].as_str().is_some_and(|status| status.len() <= 256));
    let shown = stage.world.df(["status"]).ok().stdout;
    assert!(shown.contains(r"says: one \u{1b}[2J\u{202e}xxx") && !shown.contains('\u{1b}'), "{shown}");
    stage.world.kill_both(1);
    stage.world.df(["start"]).ok();
    stage.go();
    told("two");
    stage.expect(1, "stopping");
}
