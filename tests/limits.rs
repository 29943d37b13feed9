//! Every limit that df.yaml can name holds: for all processes of a version together where the node can count, else for each or not at all, and the node says which.

use std::time::Duration;

use df_testkit::process::wait_until;

use crate::support::odd_versions::odd;
use crate::support::{World, counts};

/// The limits, as they are written.
const LIMITS: [(&str, &str); 3] = [("memory", "300M"), ("nofile", "123"), ("pids", "64")];

/// Writes them, as many as this machine can keep.
fn written() -> String {
    let kept = LIMITS.iter().filter(|(name, _)| counts() || *name != "pids");
    let each: Vec<String> = kept.map(|(name, value)| format!("{name}: {value}")).collect();
    format!("limits: {{ {} }}", each.join(", "))
}

#[test]
fn each_limit_holds_for_what_runs_and_the_log_says_for_whom() {
    let world = World::of(odd().repo(), 1);
    world.deploy(&odd().commit("good", &written(), ""));
    let limited = serving(&world);
    assert_eq!(of_process(limited, "Max open files"), ["123"; 2], "soft and hard");
    let log = world.df(["logs"]).ok().stdout;
    let addresses = if counts() {
        assert_eq!(counted(limited, "memory"), Some((300 << 20).to_string()));
        assert_eq!(counted(limited, "pids").as_deref(), Some("64"));
        assert!(log.contains("df-node: limits: memory 300M for all its processes together, 64 processes and threads"), "{log}");
        "unlimited".to_owned()
    } else {
        assert!(log.contains("df-node: limits: address space 300M for each of its processes"), "{log}");
        (300_u64 << 20).to_string()
    };
    assert_eq!(of_process(limited, "Max address space"), [addresses.as_str(); 2]);

    world.deploy(odd().good());
    let free = serving(&world);
    assert_ne!(of_process(free, "Max open files")[0], "123", "the control has the limit too");
    assert_eq!(of_process(free, "Max address space")[0], "unlimited");
    assert_ne!(counted(free, "memory"), Some((300 << 20).to_string()), "the control has the limit too");
    assert_ne!(counted(free, "pids").as_deref(), Some("64"), "the control has the limit too");
}

#[test]
fn a_version_over_its_memory_starts_again_and_the_logs_say_what_it_ran_into() {
    let world = World::of(odd().repo(), 1);
    world.deploy(&odd().commit("told", "limits: { memory: 256M }", ""));
    let before = serving(&world);
    std::fs::write(world.node(1).join("data/odd/eats"), "").expect("written");
    let crashed = wait_until(Duration::from_secs(60), || {
        let history = world.df(["history"]).ok().stdout;
        history.contains("crash").then_some(history)
    });
    let history = crashed.expect("it dies");
    let after = wait_until(Duration::from_secs(60), || Some(serving(&world)).filter(|pid| *pid != before));
    assert!(after.is_some(), "it starts again, on the socket where its clients wait");
    let said = "out of memory: run.limits.memory is 256M for all its processes together";
    let log = world.df(["logs"]).ok().stdout;
    for text in [&history, &log] {
        assert_eq!(text.contains(said), counts(), "{text}");
    }
    assert!(counts() || history.contains("signal 6"), "{history}");
}

#[test]
fn what_a_version_ran_into_is_told_also_when_it_lived_on_and_df_ended_it() {
    if !counts() {
        return eprintln!("this machine lets us count nothing");
    }
    let world = World::of(odd().repo(), 1);
    // What it would leave behind is a process too many; it goes on without, and is never ready.
    let more = "limits: { pids: 1 }\n  env: { LEAVES: \"marked\" }";
    let deploy = world.df(["deploy", "--commit-hash", &odd().commit("never-ready", more, "")]).output();
    assert!(deploy.code != Some(0) && deploy.stderr.contains("no READY=1"), "{deploy}");
    assert!(
        deploy.stderr.contains("df-node: out of processes: run.limits.pids is 1, or a group above it allows fewer"),
        "{deploy}"
    );
}

#[test]
fn a_limit_that_nobody_can_keep_here_is_refused_before_anything_moves() {
    let world = World::of(odd().repo(), 1);
    world.deploy(odd().good());
    let before = serving(&world);
    let deploy = world.df(["deploy", "--commit-hash", &odd().commit("good", "limits: { pids: 65 }", "")]).output();
    if counts() {
        assert_eq!(deploy.code, Some(0), "{deploy}");
        return;
    }
    assert!(deploy.expect_code(1).stderr.contains("nobody can count its processes here"));
    assert_eq!(serving(&world), before);
}

#[test]
fn no_limit_is_promised_that_the_test_does_not_know() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/df.yaml.example")).expect("it is there");
    let section = example.split("  limits:\n").nth(1).expect("it names limits");
    let names: Vec<&str> =
        section.lines().map_while(|line| line.strip_prefix("    ")).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert_eq!(names, LIMITS.map(|(name, ..)| name));
}

fn serving(world: &World) -> u32 {
    let (_, body) = world.get(1, "/");
    body.split("pid=").nth(1).and_then(|rest| rest.trim().parse().ok()).expect("the server tells its pid")
}

/// The soft limit of a process and the hard one.
fn of_process(pid: u32, shown: &str) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix(shown)).expect("the kernel has it");
    let mut fields = line.split_whitespace().map(str::to_owned);
    [fields.next().expect("a soft limit"), fields.next().expect("a hard limit")]
}

/// The limit of the group that a process is in, as the kernel shows it.
fn counted(pid: u32, controller: &str) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let own = |line: &str| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        let tree = if list.is_empty() { String::new() } else { format!("/{controller}") };
        (list.is_empty() || list == controller).then(|| format!("/sys/fs/cgroup{tree}{path}"))
    };
    let files = ["max", "limit_in_bytes"].map(|file| format!("{controller}.{file}"));
    let read = |dir: String| files.iter().find_map(|file| std::fs::read_to_string(format!("{dir}/{file}")).ok());
    groups.lines().filter_map(own).find_map(read).map(|limit| limit.trim().to_owned())
}
