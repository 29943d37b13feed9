//! Builds that do not end as they should: each ends with words, leaves nothing behind and hurts nobody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::run::{Outcome, Sandboxed};
use crate::stage::Stage;

fn stage() -> Stage {
    let stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    stage.repo.commit(&[("a", "a")], "one");
    stage
}

/// Builds, and checks that neither a process nor a file of the build is left.
#[track_caller]
fn build(stage: &mut Stage, sandboxed: &Sandboxed) -> Outcome {
    stage.settle();
    let outcome = sandboxed.build(stage);
    let gone = df_testkit::wait_until(Duration::from_secs(10), || stage.mentioned().is_empty().then_some(()));
    assert!(gone.is_some(), "processes are left: {:?}; {}", stage.mentioned(), outcome.said);
    assert_eq!(stage.rooms(), Vec::<String>::new(), "{}", outcome.said);
    assert_eq!(stage.changed(), Vec::<String>::new());
    assert!(!outcome.said.contains('\u{1b}'), "{}", outcome.said);
    outcome
}

#[track_caller]
fn refused(command: &str, expected: &str) {
    let mut stage = stage();
    let line = command.replace("TOKEN", &stage.token);
    let outcome = build(&mut stage, &Sandboxed::command(&line));
    assert!(!outcome.output.exists(), "it was built");
    assert!(outcome.said.contains(expected), "{:?} does not say {expected:?}", outcome.said);
}

#[test]
fn a_fork_bomb_ends_with_its_build() {
    let mut stage = stage();
    let line = format!(": {}; mkdir out; touch out/a; b() {{ b | b; }}; b; exit 3", stage.token);
    // What a room allows takes long to reach.
    let outcome = build(&mut stage, &Sandboxed { n_processes: Some(400), ..Sandboxed::command(&line) });
    assert!(!outcome.output.exists() && outcome.said.contains("error: the build command: "), "{}", outcome.said);
}

#[test]
fn a_build_that_kills_all_it_can_reach_kills_itself() {
    let mut stage = stage();
    let outcome = build(&mut stage, &Sandboxed::command("mkdir out; touch out/a; kill -9 -1; kill -9 1; exit 3"));
    assert!(outcome.said.contains("error: the build command: "), "{}", outcome.said);
    assert!(!stage.seen("kill-process"), "what is outside lives");
}

#[test]
fn an_endless_log_ends_the_build() {
    refused("yes TOKEN", "said more than");
}

#[test]
fn an_endless_line_ends_the_build() {
    refused(": TOKEN; tr '\\0' a < /dev/zero", "said more than");
}

#[test]
fn what_a_build_leaves_running_is_dead() {
    let mut stage = stage();
    let line = format!("setsid sh -c 'sleep 600; : {}' > /dev/null 2>&1 < /dev/null & mkdir out; touch out/a", stage.token);
    let outcome = build(&mut stage, &Sandboxed::command(&line));
    assert!(outcome.output.join("a").is_file(), "{}", outcome.said);
}

#[test]
fn what_a_build_says_is_fit_for_a_terminal() {
    refused(": TOKEN; printf 'a\\033]0;title\\007b\\n' >&2; exit 3", "title");
}

#[test]
fn a_df_that_is_killed_takes_its_room_along_and_the_next_one_clears_up() {
    let mut stage = stage();
    stage.settle();
    let line = format!("setsid sh -c 'sleep 600; : {}' & : {}; touch left; wait", stage.token, stage.token);
    Sandboxed::command(&line).kill_when(&stage, || stage.mentioned().len() == 2);
    let gone = df_testkit::wait_until(Duration::from_secs(10), || stage.mentioned().is_empty().then_some(()));
    assert!(gone.is_some(), "processes are left: {:?}", stage.mentioned());
    let outcome = build(&mut stage, &Sandboxed::command("mkdir out; touch out/a"));
    assert!(outcome.output.join("a").is_file(), "{}", outcome.said);
}

/// Makes a chain of directories that is longer than df may hold descriptors, and than any path can say.
const CHAIN: &str = "P=$(printf 'd/%.0s' $(seq 1500)); mkdir -p $P; mkdir -p x/$P; mv d x/$P; mv x d";

#[test]
fn a_chain_of_directories_without_end_is_cleared_away() {
    let user = rustix::process::geteuid().is_root().then_some(65534);
    let mut stage = Stage::new(&std::env::temp_dir(), user);
    stage.repo.commit(&[("a", "a")], "one");
    for line in [
        format!("set -e; mkdir out; touch out/a; mkdir shut; {CHAIN}; mv d shut; chmod 0 shut"),
        "mkdir -p out/$(printf 'd/%.0s' $(seq 300)); touch out/d/a".to_owned(),
    ] {
        let prepare = if user.is_some() { "prlimit --nofile=1024 --pid $$" } else { "" };
        let outcome = build(&mut stage, &Sandboxed { user, prepare, ..Sandboxed::command(&line) });
        assert!(outcome.output.join("a").is_file() || outcome.said.contains("deeper than"), "{}", outcome.said);
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root has a small disk to spare.
    }
    for (limit, line) in [
        ("size=32m", "mkdir out; head -c 100000000 /dev/zero > out/large"),
        ("nr_inodes=1500", "mkdir out; for i in $(seq 3000); do : > out/$i; done"),
    ] {
        let mut stage = stage();
        let prepare = match limit {
            "size=32m" => "mount -t tmpfs -o size=32m df \"$ESCAPES_STAGE/cache\"",
            _ => "mount -t tmpfs -o nr_inodes=1500 df \"$ESCAPES_STAGE/cache\"",
        };
        let outcome = build(&mut stage, &Sandboxed { prepare, ..Sandboxed::command(line) });
        assert!(!outcome.output.exists(), "{limit}: it was built");
        // Who looks at the disk may see it before the command runs into its end.
        let says = |words| outcome.said.contains(words);
        assert!(says("No space left on device") || says("is nearly full"), "{limit}: {}", outcome.said);
        assert!(!outcome.said.contains("left behind"), "{}", outcome.said);
    }
}

#[test]
fn a_build_that_eats_memory_goes_and_df_stays() {
    let group = Path::new("/sys/fs/cgroup/memory");
    if !rustix::process::geteuid().is_root() || !group.join("memory.limit_in_bytes").exists() {
        return; // The bound has to be on a group that may be made, and whose layout is known.
    }
    let mut stage = stage();
    let own = group.join(format!("df-{}", stage.token));
    fs::create_dir(&own).expect("a group");
    fs::write(own.join("memory.limit_in_bytes"), "200000000").expect("a bound");
    let prepare = "echo $$ > \"/sys/fs/cgroup/memory/df-canary$(basename \"$ESCAPES_STAGE\")/cgroup.procs\"";
    let line = "mkdir out; touch out/a; exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'";
    let outcome = build(&mut stage, &Sandboxed { prepare, ..Sandboxed::command(line) });
    fs::remove_dir(&own).expect("the group is empty");
    assert!(outcome.said.contains("error: the build command: "), "{}", outcome.said);
}
