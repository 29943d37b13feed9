//! What df.yaml may say and what it may not, by section; what holds for all of it is here.

mod build;
mod places;
mod published;
mod run;
mod text;

use std::time::Duration;

use df_core::spec::{BuildTool, CargoBuild, Relocatable, Sandbox};

use super::*;

const LEAST: &str = "app: a\nbuild: { cargo: }\n";
const EXAMPLE: &str = include_str!("../../../../df.yaml.example");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text.as_bytes(), "df.yaml").map_err(|error| error.to_string())
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The whole message, without the file's name.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = parse(text).err().unwrap_or_else(|| panic!("accepted, not refused with {expected:?}:\n{text}"));
    assert_eq!(error.strip_prefix("df.yaml:").unwrap_or(&error), expected, "\n{text}");
}

/// `run` with a port, and these lines more in it (two spaces are put before each).
fn run_with(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    format!("{LEAST}run:\n  exec: bin/a\n  ports: {{ http: 8080, own: {{ listen: 81, handoff: restart }} }}\n{lines}")
}

#[test]
fn the_least_gets_the_defaults_of_the_contract() {
    let config = good(LEAST);
    assert_eq!(config.app.as_str(), "a");
    let BuildTool::Cargo(cargo) = &config.build.tool else { panic!("no cargo build") };
    assert_eq!(cargo, &CargoBuild { profile: "release".into(), default_features: true, ..CargoBuild::default() });
    assert_eq!((config.build.sandbox, config.build.relocatable), (Sandbox::Strict, Relocatable::Warn));
    assert_eq!((config.run, config.verify.len(), config.nodes.len()), (None, 0, 0));
    assert_eq!(config.cache.local, "~/.cache/df");
    let rollout = Rollout {
        parallel: 10,
        canary: 1,
        max_failures: 0,
        soak: Duration::from_secs(10),
        confirm: Duration::from_secs(30),
        confirm_above: 20,
    };
    assert_eq!(config.rollout, rollout);
    assert_eq!(config.keep, Keep { count: 5, older: Duration::from_secs(30 * 86_400) });
    assert_eq!(config.paths.data, "/var/lib/df-data");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let table = [
        ("app: a\nbulid: {}\n", "2:1: unknown key \"bulid\" (nearest: \"build\")"),
        ("app: a\nbuild:\n  sand-box: off\n", "3:3: unknown key \"sand-box\" in build (nearest: \"sandbox\")"),
        ("app: a\nsandbox: off\n", "2:1: unknown key \"sandbox\" (nearest: \"build.sandbox\")"),
        ("app: a\nkeep: { cuont: 1 }\n", "2:9: unknown key \"cuont\" in keep (nearest: \"count\")"),
        ("app: a\nkeep: { frob: 1 }\n", "2:9: unknown key \"frob\" in keep (there are: count, older)"),
        ("app: a\nverify: [ { htpp: {} } ]\n", "2:13: unknown key \"htpp\" in verify[0] (nearest: \"http\")"),
        ("app: a\nkeep: { run: 1 }\n", "2:9: unknown key \"run\" in keep (nearest: \"run, at the top\")"),
    ];
    for (text, expected) in table {
        let build = if text.contains("\nbuild") { "" } else { "build: { cargo: }\n" };
        refused(&format!("{text}{build}"), expected);
    }
    refused(&run_with("reday: 3s"), "6:3: unknown key \"reday\" in run (nearest: \"ready\")");
    let other = format!("{LEAST}run: {{ exec: a, ports: {{ http: {{ lisen: 80 }} }} }}\n");
    refused(&other, "3:34: unknown key \"lisen\" in run.ports.http (nearest: \"listen\")");
}

#[test]
fn keys_that_begin_with_x_are_the_users_own_at_any_level() {
    let text = "x-a: &b { c: [1] }\napp: a\nbuild: { x-b: *b, cargo: { x-c: 1 }, include: { x-d: {} } }\nrun:\n  exec: bin/a\n  x-e:\n  \
                env: { x-f: [] }\n  ports: { x-g: {} }\nverify:\n- { x-h: 1, command: bin/a }\nkeep: { x-i: 1 }\n";
    let config = good(text);
    assert!(config.build.include.is_empty() && config.run.is_some_and(|run| run.env.is_empty() && run.ports.is_empty()));
}

#[test]
fn duplicate_keys_are_refused_at_any_level() {
    let table = [
        ("app: a\napp: b\n", "2:1: the key \"app\" stands here already, in line 1"),
        ("app: a\nbuild:\n  cargo:\n  'cargo':\n", "4:3: the key \"cargo\" stands here already, in line 3"),
        ("app: a\nrun: { env: { A: 1, A: 1 } }\n", "2:21: the key \"A\" stands here already, in line 2"),
        ("app: a\nx-own: [ { b: 1, b: 2 } ]\n", "2:18: the key \"b\" stands here already, in line 2"),
    ];
    for (text, expected) in table {
        refused(text, expected);
    }
}

#[test]
fn a_text_is_never_taken_for_something_else() {
    for name in ["no", "012", "1e3", "0x10", "true", "1.5", "y", "off", "2026-01-31"] {
        let config =
            good(&format!("app: {name}\nbuild: {{ cargo: {{ bins: [{name}] }} }}\nrun: {{ exec: {name}, args: [{name}] }}\n"));
        assert_eq!(config.app.as_str(), name);
        let run = config.run.expect("a run section");
        assert_eq!((run.exec.as_str(), run.args[0].as_str()), (name, name));
    }
    assert_eq!(good("app: !!str 012\nbuild: { cargo: }").app.as_str(), "012");
    assert_eq!(good("app: 'null'\nbuild: { cargo: }").app.as_str(), "null");
    refused("app: null\nbuild: { cargo: }", "1:1: \"app\" is missing");
    let null = "3:25: run.env.A: text is needed, not nothing (for the word null, write it in quotes)";
    refused(&format!("{LEAST}run: {{exec: a, env: {{A: null}}}}"), null);
}

#[test]
fn numbers_outside_their_range_are_refused_with_it() {
    let wanted = "a whole number from 1 to 65535, in decimal digits without quotes, is needed, not";
    for number in ["-1", "18446744073709551616", "1e400", "0", "65536", "012", "0x10", "+1", "1e3", "80a", "''", "'80'"] {
        let shown = number.trim_matches('\'');
        let text = format!("{LEAST}run: {{ exec: a, ports: {{ http: {number} }} }}");
        refused(&text, &format!("3:32: run.ports.http: {wanted} \"{shown}\""));
        let text = format!("{LEAST}keep: {{ count: {number} }}");
        if number != "65536" {
            let wanted = wanted.replace("65535", "10000");
            refused(&text, &format!("3:16: keep.count: {wanted} \"{shown}\""));
        }
        let text = run_with(&format!("ready: {number}"));
        let wanted = "a length of time from 1ms to 1d (500ms, 30s, 5m, 2h, 30d) is needed, not";
        refused(&text, &format!("6:10: run.ready: {wanted} \"{shown}\""));
    }
    let table = [
        (
            "limits: { memory: 512MB }",
            "6:21: run.limits.memory: a size from 1M to 1024T (64K, 512M, 1G) is needed, not \"512MB\"",
        ),
        (
            "limits: { memory: 99999999999T }",
            "6:21: run.limits.memory: a size from 1M to 1024T (64K, 512M, 1G) is needed, not \"99999999999T\"",
        ),
        (
            "limits: { nofile: 1 }",
            "6:21: run.limits.nofile: a whole number from 16 to 1048576, in decimal digits without quotes, is needed, not \"1\"",
        ),
        (
            "limits: { pids: 0 }",
            "6:19: run.limits.pids: a whole number from 1 to 65536, in decimal digits without quotes, is needed, not \"0\"",
        ),
        ("exclusive: yes", "6:14: run.exclusive: true or false is needed, not \"yes\""),
        ("exclusive: 'true'", "6:14: run.exclusive: true or false is needed, not \"true\""),
        ("drain: 2d", "6:10: run.drain: a length of time from 0s to 1d (500ms, 30s, 5m, 2h, 30d) is needed, not \"2d\""),
        ("handoff: listen", "6:12: run.handoff: listener or reuseport or proxy or restart is needed, not \"listen\""),
    ];
    for (line, expected) in table {
        refused(&run_with(line), expected);
    }
}

#[test]
fn what_is_not_built_is_refused_in_words_and_its_default_is_not() {
    let table = [
        ("run: { web: { exec: a }, worker: { exec: b } }", "run: several executables of one application are not built yet"),
        ("backend: container", "backend: any backend but local and ssh is not built yet"),
        ("image: debian-12", "image: making nodes from machine images is not built yet"),
        ("public_keys: [ a ]", "public_keys: making nodes, which these keys would go to, is not built yet"),
        ("placement: one", "placement: any placement but \"any\" is not built yet"),
        ("placement: { any: 3 }", "placement: any placement but \"any\" is not built yet"),
    ];
    for (line, expected) in table {
        let build = if line.starts_with("build") { "" } else { "\nbuild: { cargo: }" };
        let error = parse(&format!("{line}\napp: a{build}")).expect_err(line);
        let (place, wrong) = error.split_once(": ").expect("a place");
        assert!(place.starts_with("df.yaml:1:") && wrong == expected, "{error}");
    }
    good(
        "app: a\nbuild: { cargo: , fetch: [], static: false }\nrun: { exec: a, connections: drain, require_zero_loss: false, data_epoch: 1 }\n\
         backend: ssh\nimage: null\npublic_keys: []\ntrust: { threshold: 0, keys: [] }\ncache: { remote: null, region: ~, endpoint: }\n\
         placement: any\n",
    );
}

#[test]
fn sections_of_a_commit_are_told_from_the_others() {
    let base = good(&run_with(""));
    assert!(!commit_sections_differ(&base, &good(&format!("{}keep: {{ count: 9 }}\nnodes: [a]\n", run_with("")))));
    for other in [run_with("drain: 1s"), format!("{}verify: [ {{ target: a }} ]", run_with("")), LEAST.to_owned()] {
        assert!(commit_sections_differ(&base, &good(&other)), "{other}");
    }
}
