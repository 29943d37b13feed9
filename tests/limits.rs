//! Every limit that df.yaml can name is one of the process that runs.

use crate::support::World;
use crate::support::odd_versions::odd;

/// Each limit, as it is written and as the kernel shows it.
const LIMITS: [(&str, &str, &str, u64); 2] =
    [("memory", "300M", "Max address space", 300 << 20), ("nofile", "123", "Max open files", 123)];

#[test]
fn each_limit_holds_for_the_process() {
    let world = World::of(odd().repo(), 1);
    let written: Vec<String> = LIMITS.iter().map(|(name, value, ..)| format!("{name}: {value}")).collect();
    world.deploy(&odd().commit("good", &format!("limits: {{ {} }}", written.join(", ")), ""));
    let limited = limits_of(serving(&world));
    world.deploy(odd().good());
    let free = limits_of(serving(&world));
    for (name, _, shown, expect) in LIMITS {
        let expect = expect.to_string();
        assert_eq!(limit(&limited, shown), [expect.as_str(); 2], "{name}, soft and hard: {limited}");
        assert_ne!(limit(&free, shown)[0], expect, "the control has the limit too");
    }
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

fn limits_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs")
}

/// The soft limit and the hard one.
fn limit<'a>(limits: &'a str, shown: &str) -> [&'a str; 2] {
    let line = limits.lines().find_map(|line| line.strip_prefix(shown)).expect("the kernel has it");
    let mut fields = line.split_whitespace();
    [fields.next().expect("a soft limit"), fields.next().expect("a hard limit")]
}
