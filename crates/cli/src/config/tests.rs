use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use df_core::name::{Label, PathText};
use df_core::spec::{
    BuildTool, CargoBuild, Connections, FetchedDigest, FetchedFile, Handoff, Port, Relocatable, RunLimits, Sandbox,
};

use super::*;

const LEAST: &str = "app: a\nbuild: { cargo: }\n";
const EXAMPLE: &str = include_str!("../../../../df.yaml.example");
const SCHEMA: &str = include_str!("../../../../df.schema.json");

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
fn a_run_section_is_read() {
    let config = good(
        "app: a\nbuild: { cargo: }\nrun:\n  exec: bin/a\n  args: [--port, 8080, '{fd:http}', '{{}']\n  env: { A: 1, B: no, C: '' }\n  \
         env_file: secrets.env\n  user: www\n  limits: { memory: 512M, nofile: 4096 }\n  handoff: restart\n  connections: drop\n  exclusive: true\n  ready: 500ms\n  \
         drain: 2h\n  ports:\n    http: { listen: '0.0.0.0:8080', handoff: listener, connections: hand over }\n    v6: '[::1]:81'\n    own: 82\n",
    );
    let run = config.run.expect("a run section");
    assert_eq!(run.args, ["--port", "8080", "{fd:http}", "{{}"]);
    assert_eq!(run.env.into_iter().collect::<Vec<_>>(), [("A", "1"), ("B", "no"), ("C", "")].map(|(a, b)| (a.into(), b.into())));
    assert_eq!((run.env_file.as_deref(), run.user.as_deref(), run.exclusive), (Some("secrets.env"), Some("www"), true));
    assert_eq!(run.limits, RunLimits { memory: Some(512 << 20), nofile: Some(4096) });
    assert_eq!((run.ready, run.drain), (Duration::from_millis(500), Duration::from_secs(7200)));
    let port = |host: Option<&str>, port, handoff, connections| Port {
        host: host.map(|host| host.parse().expect("an address")),
        port,
        handoff,
        connections,
    };
    let label = |name| Label::new(name).expect("a label");
    let expected = [
        (label("http"), port(Some("0.0.0.0"), 8080, Handoff::Listener, Connections::HandOver)),
        (label("own"), port(None, 82, Handoff::Restart, Connections::Drop)),
        (label("v6"), port(Some("::1"), 81, Handoff::Restart, Connections::Drop)),
    ];
    assert_eq!(run.ports.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn probes_are_read_and_targets_are_built() {
    let verify = "verify:\n- http: { port: http, path: /health, status: 204 }\n- http: { port: http }\n- tcp: { port: own }\n\
                  - command: bin/a --self-test 'a b'\n- target: smoke\n- target: b\n";
    let text = |cargo: &str| format!("{}{verify}", run_with("").replace("cargo: }", cargo));
    let config = good(&text("cargo: { bins: [b] } }"));
    let port = |name| Label::new(name).expect("a label");
    let argv = |words: &[&str]| Probe::Command { argv: words.iter().map(|word| (*word).to_owned()).collect() };
    let expected = [
        Probe::Http { port: port("http"), path: "/health".into(), status: 204 },
        Probe::Http { port: port("http"), path: "/".into(), status: 200 },
        Probe::Tcp { port: port("own") },
        argv(&["bin/a", "--self-test", "a b"]),
        argv(&["bin/smoke"]),
        argv(&["bin/b"]),
    ];
    assert_eq!(config.verify, expected);
    let bins = |config: Config| match config.build.tool {
        BuildTool::Cargo(cargo) => cargo.bins,
        _ => panic!("no cargo build"),
    };
    assert_eq!(bins(config), ["b", "smoke"]);
    assert_eq!(bins(good(&text("cargo: { examples: [b] } }"))), ["smoke"]);
    assert!(bins(good(&text("cargo: }"))).is_empty(), "all programs are built anyway");
}

#[test]
fn builds_are_cargo_or_a_command_or_files() {
    let build = |text: &str| good(&format!("app: a\nbuild:\n{text}")).build.tool;
    assert!(matches!(build("  command: make dist\n  output: dist\n"),
        BuildTool::Command { command, output } if command == "make dist" && output.as_str() == "dist"));
    assert!(matches!(build("  command: |\n    make\n    make install\n  output: out/x\n"),
        BuildTool::Command { command, .. } if command == "make\nmake install"));
    assert!(matches!(build("  include: { static: share/static }\n"), BuildTool::Files));
    let table = [
        ("  sandbox: off\n", "3:3: build: \"cargo\", or \"command\" with \"output\", or at least one \"include\" is needed"),
        ("  command: make\n", "3:3: build: \"command\" needs \"output\", the directory that it leaves"),
        ("  output: dist\n", "3:11: build.output: stands without \"command\""),
        ("  command: ''\n  output: dist\n", "3:12: build.command: is empty"),
        (
            "  cargo: {}\n  command: make\n  output: dist\n",
            "4:12: build.command: stands beside \"cargo\"; a build is either cargo, or command and output",
        ),
        (
            "  command: make\n  output: dist\n  static: true\n",
            "5:11: build.static: is for cargo builds; a command links its programs itself",
        ),
        ("  cargo:\n  static: yes\n", "4:11: build.static: true or false is needed, not \"yes\""),
        ("  cargo: { bins: [--all] }\n", "3:19: build.cargo.bins[0]: \"--all\" is no name that cargo knows"),
        ("  cargo: { bins: 'a,b' }\n", "3:18: build.cargo.bins: a list is needed, not a single value"),
    ];
    for (text, expected) in table {
        refused(&format!("app: a\nbuild:\n{text}"), expected);
    }
}

#[test]
fn fetched_files_are_read_or_refused() {
    let text = |file: &str| format!("app: a\nbuild:\n  command: make\n  output: dist\n  fetch: [ {{ {file} }} ]\n");
    let (hex, url) = ("0".repeat(64), "https://example.org/a");
    let file = |digest| FetchedFile { url: url.into(), digest, to: PathText::new("data/a").expect("a path") };
    let blake3 = good(&text(&format!("url: '{url}', blake3: {hex}, to: data/a"))).build.fetch;
    assert_eq!(blake3, [file(FetchedDigest::Blake3(hex.clone()))]);
    let sha256 = good(&text(&format!("url: '{url}', sha256: {hex}, to: data/a"))).build.fetch;
    assert_eq!(sha256, [file(FetchedDigest::Sha256(hex.clone()))]);
    let table = [
        (format!("url: '{url}', to: a"), "5:12: build.fetch[0]: exactly one of blake3 and sha256 is needed".to_owned()),
        (
            format!("url: '{url}', to: a, sha256: abc"),
            format!("5:12: build.fetch[0]: \"{url}\" needs a digest of 64 lower-case hexadecimal digits"),
        ),
        (
            format!("url: 'http://example.org/', to: a, sha256: {hex}"),
            "5:12: build.fetch[0]: \"http://example.org/\" is not encrypted; http is for loopback addresses only".to_owned(),
        ),
        (format!("url: '{url}', sha256: {hex}"), "5:12: build.fetch[0]: \"to\" is missing".to_owned()),
        (
            format!("url: '{url}', sha256: {hex}, to: a }}, {{ url: '{url}', sha256: {hex}, to: a"),
            "5:237: build.fetch[1].to: \"a\" stands here already".to_owned(),
        ),
    ];
    for (file, expected) in table {
        refused(&text(&file), &expected);
    }
    refused(
        &format!("app: a\nbuild:\n  cargo:\n  fetch: [ {{ url: '{url}', sha256: {hex}, to: a }} ]\n"),
        "4:10: build.fetch: is for command builds; cargo fetches what Cargo.lock names",
    );
}

#[test]
fn a_static_program_is_asked_for() {
    assert!(good("app: a\nbuild: { cargo: , static: true }\n").build.is_static);
    assert!(!good("app: a\nbuild: { cargo: , static: false }\n").build.is_static);
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
        ("exclusive: yes", "6:14: run.exclusive: true or false is needed, not \"yes\""),
        ("exclusive: 'true'", "6:14: run.exclusive: true or false is needed, not \"true\""),
        ("drain: 2d", "6:10: run.drain: a length of time from 0s to 1d (500ms, 30s, 5m, 2h, 30d) is needed, not \"2d\""),
        ("handoff: listen", "6:12: run.handoff: listener or reuseport or restart or proxy is needed, not \"listen\""),
    ];
    for (line, expected) in table {
        refused(&run_with(line), expected);
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["../x", "/abs", "a//b", "''", "a/", "~", "~/x", "a/../b", "."] {
        for text in [
            format!("{LEAST}run: {{ exec: {path} }}"),
            format!("app: a\nbuild: {{ include: {{ {path}: x }} }}"),
            format!("app: a\nbuild: {{ include: {{ x: {path} }} }}"),
            format!("app: a\nbuild: {{ command: x, output: {path} }}"),
            format!("{LEAST}verify: [ {{ command: {path} }} ]"),
        ] {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
    for path in ["../x", "a//b", "''", "a/", "'~'", "~/x", "~root/x", "/a/../b"] {
        for text in [format!("{LEAST}paths: {{ data: {path} }}"), run_with(&format!("env_file: {path}"))] {
            assert!(parse(&text).is_err(), "{text}");
        }
        if path != "~/x" {
            assert!(parse(&format!("{LEAST}cache: {{ local: {path} }}")).is_err(), "{path}");
        }
    }
    refused(
        &format!("{LEAST}paths: {{ data: /srv/a/data, tmp: /srv/a }}"),
        "3:8: paths: data (/srv/a/data) lies within tmp (/srv/a); they must be apart",
    );
    refused(
        &run_with("exec: x").replace("exec: bin/a", "x-y: 1").replace("exec: x", "exec: /bin/sh"),
        "6:9: run.exec: path \"/bin/sh\" has an empty component, or begins or ends with a slash",
    );
}

#[test]
fn variables_that_change_what_code_runs_are_refused() {
    let table = [
        ("LD_PRELOAD", "LD_PRELOAD makes the loader run code from outside of the image"),
        ("LD_AUDIT", "LD_AUDIT makes the loader run code from outside of the image"),
        ("PATH", "PATH comes from df-node, so that the image decides what runs; name programs by their path"),
        ("A=B", "\"A=B\" is no name of a variable"),
        ("''", "a variable needs a name"),
        ("LISTEN_FDS", "LISTEN_FDS is set by df-node"),
        ("DF_COMMIT", "DF_COMMIT is among the names that df-node sets (DF_)"),
    ];
    for (name, why) in table {
        let key = if name == "''" { "run.env." } else { &format!("run.env.{name}") };
        refused(&run_with(&format!("env: {{ {name}: x }}")), &format!("6:10: {key}: {why}"));
    }
    assert!(parse(&run_with("env: { LDFLAGS: x, MY_PATH: y, a.b: z }")).is_ok());
}

#[test]
fn placeholders_must_name_a_port_that_gives_what_they_ask() {
    assert!(parse(&run_with("args: ['{fd:http}', '{addr:own}', '{host:own}:{port:own}', '{{x']")).is_ok());
    let table = [
        ("{fd:htpp}", "names the port \"htpp\", which run.ports has not (there are: http, own)"),
        ("{port:A}", "names the port \"A\", which run.ports has not (there are: http, own)"),
        ("{fd:own}", "the program binds port \"own\" by itself, so there is no descriptor for it"),
        ("{x}", "a { begins {fd:PORT}, {port:PORT}, {host:PORT} or {addr:PORT}; write {{ for the brace itself"),
    ];
    for (argument, why) in table {
        refused(&run_with(&format!("args: ['{argument}']")), &format!("6:10: run.args[0]: {why}"));
    }
}

#[test]
fn probes_that_cannot_be_asked_are_refused() {
    let table = [
        (
            "http: { port: web }",
            "8:17: verify[0].http.port: names the port \"web\", which run.ports has not (there are: http, own)",
        ),
        ("http: { path: / }", "8:9: verify[0].http: \"port\" is missing"),
        (
            "http: { port: http, path: x }",
            "8:29: verify[0].http.path: a path of visible ASCII that begins with / is needed, not \"x\"",
        ),
        (
            "http: { port: http, path: '/a b' }",
            "8:29: verify[0].http.path: a path of visible ASCII that begins with / is needed, not \"/a b\"",
        ),
        (
            "http: { port: http, status: 600 }",
            "8:31: verify[0].http.status: a whole number from 100 to 599, in decimal digits without quotes, is needed, not \"600\"",
        ),
        ("tcp: 8080", "8:8: verify[0].tcp: a mapping of keys is needed, not a single value"),
        ("{ tcp: { port: http }, target: x }", "8:3: verify[0]: exactly one of http, tcp, command and target is needed"),
        ("{}", "8:3: verify[0]: exactly one of http, tcp, command and target is needed"),
        (
            "command: bin/a | grep x",
            "8:12: verify[0].command: no shell runs this, so | has no meaning; quote it, or put the line into a script of the image",
        ),
        ("command: ''", "8:12: verify[0].command: is empty"),
        ("target: ../x", "8:11: verify[0].target: \"../x\" is no name of a cargo binary"),
    ];
    for (probe, expected) in table {
        refused(&format!("{}x-a: 1\nverify:\n- {probe}\n", run_with("")), expected);
    }
    refused(
        &format!("{LEAST}verify: [ {{ tcp: {{ port: http }} }} ]"),
        "3:26: verify[0].tcp.port: names the port \"http\", but run.ports has none",
    );
}

#[test]
fn what_is_not_built_is_refused_in_words_and_its_default_is_not() {
    let table = [
        ("run: { exec: a, ports: { dns: 'udp:53' } }", "run.ports.dns: a UDP port is not built yet"),
        ("run: { exec: a, ports: { dns: { listen: 'udp:53' } } }", "run.ports.dns.listen: a UDP port is not built yet"),
        ("run: { exec: a, ports: { s: 'unix:/run/s' } }", "run.ports.s: a unix socket is not built yet"),
        ("run: { exec: a, handoff: proxy }", "run.handoff: a proxy in front of the program is not built yet"),
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
fn no_loss_can_be_required_only_where_one_would_be_seen() {
    let read = |keys: &str| parse(&format!("app: a\nbuild: {{ cargo: }}\nrun: {{ exec: a{keys} }}\n"));
    let flags = |keys: &str| read(keys).expect(keys).run.map(|run| (run.prove, run.require_zero_loss));
    assert_eq!(flags(""), Some((true, false)));
    assert_eq!(flags(", prove: false"), Some((false, false)));
    assert_eq!(flags(", require_zero_loss: true, ports: { http: 80 }"), Some((true, true)));
    assert_eq!(flags(", require_zero_loss: true, handoff: restart, ports: { http: 80 }"), Some((true, true)));
    for (keys, said) in [
        (", require_zero_loss: true, prove: false", "needs \"prove: true\""),
        (
            ", require_zero_loss: true, handoff: reuseport, ports: { http: 80 }",
            "cannot be had with \"handoff: reuseport\" (port \"http\")",
        ),
    ] {
        let error = read(keys).expect_err(keys);
        assert!(error.contains("run.require_zero_loss") && error.contains(said), "{error}");
    }
}

#[test]
fn the_epoch_of_the_data_is_a_whole_number_and_1_unless_told() {
    let epoch =
        |key: &str| good(&format!("app: a\nbuild: {{ cargo: }}\nrun: {{ exec: a{key} }}\n")).run.expect("it runs").data_epoch;
    assert_eq!((epoch(""), epoch(", data_epoch: 1"), epoch(", data_epoch: 4294967295")), (1, 1, u32::MAX));
    for bad in ["0", "-1", "1.5", "4294967296", "'2'", "two", "[2]"] {
        let error = parse(&format!("app: a\nbuild: {{ cargo: }}\nrun: {{ exec: a, data_epoch: {bad} }}\n")).expect_err(bad);
        assert!(error.starts_with("df.yaml:3:") && error.contains("run.data_epoch: a whole number"), "{error}");
    }
}

#[test]
fn a_cache_elsewhere_is_a_bucket_or_a_directory_and_nothing_that_only_looks_like_one() {
    let config = good(&format!(
        "{LEAST}cache: {{ remote: 's3://releases/web', region: eu-west-1, endpoint: 'https://s3.example.org' }}\n"
    ));
    let Some(Remote::Bucket(address)) = &config.cache.remote else { panic!("{:?}", config.cache.remote) };
    assert_eq!((address.to_string().as_str(), config.cache.region.as_deref()), ("s3://releases/web", Some("eu-west-1")));
    assert_eq!(
        good(&format!("{LEAST}cache: {{ remote: 'file:/srv/cache' }}\n")).cache.remote,
        Some(Remote::Directory("/srv/cache".into()))
    );
    let bad = [
        "remote: 's3://../x'",
        "remote: 's3://key:secret@bucket'",
        "remote: 's3://bucket/a/../b'",
        "remote: 's3://bucket/%2e%2e'",
        "remote: 'https://bucket'",
        "remote: 'file:'",
        "remote: /srv/cache",
        "region: 'eu west'",
        "endpoint: 'http://169.254.169.254'",
        "endpoint: 'http://s3.example.org'",
        "endpoint: 'file:///etc/passwd'",
        "endpoint: 'https://user:word@s3.example.org'",
    ];
    for line in bad {
        assert!(parse(&format!("{LEAST}cache: {{ {line} }}")).is_err(), "{line}");
    }
}

#[test]
fn whoever_must_vouch_is_named_by_keys_that_can() {
    let one = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    let two = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
    let trust = |line: &str| parse(&format!("{LEAST}trust: {{ {line} }}\n")).map(|config| config.trust);
    let policy = trust(&format!("threshold: 1, keys: [ '{one} release', '{two}' ]")).expect("good");
    assert_eq!((policy.to_string().as_str(), policy.is_asking()), ("1 of 2 keys", true));
    assert!(!trust("threshold: 0, keys: []").expect("the default").is_asking());
    let bad = [
        ("threshold: 1".to_owned(), "trust: 1 of 0 keys can never vouch"),
        (format!("threshold: 2, keys: [ '{one}' ]"), "trust: 2 of 1 keys can never vouch"),
        (format!("keys: [ '{one}', '{two}' ]"), "trust: 0 of 2 keys asks for nothing: name a threshold from 1 to 2, or no keys"),
        (format!("threshold: 1, keys: [ '{one}', '{one} again' ]"), "is there twice"),
        ("threshold: 1, keys: [ a ]".to_owned(), "trust.keys[0]: is not an ssh public key, as one line of a .pub file has it"),
        ("threshold: -1".to_owned(), "trust.threshold"),
        (format!("threshold: 1, keys: '{one}'"), "trust.keys: a list is needed"),
    ];
    for (line, words) in bad {
        let said = trust(&line).expect_err("refused").to_string();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn addresses_and_directories_of_the_file_on_disk_are_checked() {
    let config = good(&format!("{LEAST}nodes: [ 'local:n1', root@host, 'ssh://host:22/srv' ]\ncache: {{ local: cache }}\n"));
    assert_eq!(config.nodes, ["local:n1", "root@host", "ssh://host:22/srv"]);
    assert_eq!(config.cache.directory(Path::new("/home/u"), Path::new("/p")), Path::new("/p/cache"));
    assert_eq!(CacheConfig::default().directory(Path::new("/home/u"), Path::new("/p")), Path::new("/home/u/.cache/df"));
    for node in ["-oProxyCommand=x", "'a b'", "'a;b'", "''", "'local:'"] {
        assert!(parse(&format!("{LEAST}nodes: [ {node} ]")).is_err(), "{node}");
    }
    refused(&format!("{LEAST}nodes: [ a, a ]"), "3:13: nodes[1]: \"a\" stands here already");
    let same = "3:33: run.ports.b: listens where \"a\" does";
    refused(&format!("{LEAST}run: {{ exec: a, ports: {{ a: 80, b: 80 }} }}"), same);
}

#[test]
fn sections_of_a_commit_are_told_from_the_others() {
    let base = good(&run_with(""));
    assert!(!commit_sections_differ(&base, &good(&format!("{}keep: {{ count: 9 }}\nnodes: [a]\n", run_with("")))));
    for other in [run_with("drain: 1s"), format!("{}verify: [ {{ target: a }} ]", run_with("")), LEAST.to_owned()] {
        assert!(commit_sections_differ(&base, &good(&other)), "{other}");
    }
}

#[test]
fn texts_that_are_no_df_yaml_are_refused_with_a_place() {
    let table: &[(&[u8], &str)] = &[
        (b"", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"# nothing\n", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"--- \n", "1:1: the file is empty; at least \"app\" and \"build\" are needed"),
        (b"app: a\n---\napp: b\n", "2:1: a second document begins; only one is read"),
        (b"app: a\nbuild:\n\tcargo: {}\n", "3:1: a tab is used for indentation; YAML takes spaces only"),
        (b"app: a\nbuild:\n  \tcargo: {}\n", "3:3: a tab is used for indentation; YAML takes spaces only"),
        (b"- app\n", "1:1: a mapping of keys is needed, not a list"),
        (b"app\n", "1:1: a mapping of keys is needed, not a single value"),
        (b"app: a\n", "1:1: \"build\" is missing"),
        (b"app: [a]\nbuild: {cargo: }\n", "1:6: app: text is needed, not a list"),
        (b"app: \"a\\0b\"\n", "1:6: app: holds the character U+0000, which is a control or an invisible one"),
        (b"run: {env: {A: \"\\e[2J\"}}\n", "1:16: run.env.A: holds the character U+001B, which is a control or an invisible one"),
        (
            b"run: {args: [a, \"\\u202e\"]}\n",
            "1:17: run.args[1]: holds the character U+202E, which is a control or an invisible one",
        ),
        ("app: a\u{202e}b\n".as_bytes(), "1:6: app: holds the character U+202E, which is a control or an invisible one"),
        ("app: a # \u{2066}\n".as_bytes(), "1:10: the character U+2066 is a control or an invisible one"),
        (b"app: a\tb\n", "1:6: app: holds the character U+0009, which is a control or an invisible one"),
        (b"app: \"a\\nb\"\n", "1:6: app: must be one line"),
        (b"app: a\nrun: caf\xe9\n", "2:9: this is not UTF-8"),
        (b"app: !x a\n", "1:9: the tag !x is not read"),
        (b"a: &a {b: 1}\nc:\n  <<: *a\n", "3:3: merge keys (<<) are not read; write the keys out"),
        (b"app: &a [ *a ]\n", "1:11: this alias stands inside of what it stands for"),
    ];
    for (text, expected) in table {
        let error = Config::parse(text, "df.yaml").expect_err("a wrong text").to_string();
        assert_eq!(error.strip_prefix("df.yaml:").unwrap_or(&error), *expected, "{}", escape(text));
    }
    for text in [
        "app: [a\n",
        "app: 'a\n",
        "app: a\n b: c\n d\n",
        "a: b: c\n",
        "app: a\0\n",
        "%YAML 9\n---\n",
        "app: *a\n",
        "? [a]\n: b\n",
    ] {
        let error = parse(text).expect_err(text);
        let mut parts = error.split(':');
        assert_eq!(parts.next(), Some("df.yaml"));
        assert!(parts.next().is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0)), "{error}");
        assert!(parts.next().is_some_and(|column| column.parse::<usize>().is_ok_and(|column| column > 0)), "{error}");
    }
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_read() {
    let crlf = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(good(&crlf), good(EXAMPLE));
    refused("\u{feff}app: a\r\nbulid: x\r\n", "2:1: unknown key \"bulid\" (nearest: \"build\")");
}

#[test]
fn bombs_end_quickly() {
    let mut bomb = "x-a0: &a0 [l, l, l, l, l, l, l, l, l, l]\n".to_owned();
    for i in 1..10 {
        let alias = format!("*a{}", i - 1);
        bomb += &format!("x-a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    let deeper: String =
        (1..100).fold("x-0: &0 [[[[[[[[[[]]]]]]]]]]\n".to_owned(), |text, i| format!("{text}x-{i}: &{i} [*{}]\n", i - 1));
    let long = format!("x-a: &a {}\nx-b: [{}]\n", "a".repeat(500_000), ["*a"; 10_000].join(", "));
    let texts = [
        format!("{bomb}{LEAST}"),
        format!("{deeper}{LEAST}"),
        format!("{long}{LEAST}"),
        format!("{LEAST}x-a: {}\n", "[".repeat(100_000)),
        format!("{LEAST}x-a: {}\n", "{a: ".repeat(100_000)),
        format!("{LEAST}x-a: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{LEAST}x-a:\n{}a\n", "- ".repeat(100_000)),
        (0..1000).fold(String::new(), |text, i| format!("{text}{}a:\n", " ".repeat(i))),
        format!("{LEAST}x-a: [{}]\n", "1,".repeat(400_000)),
        format!("{LEAST}x-a: {}\n", "? ".repeat(100_000)),
        format!("{LEAST}x-a: {}\n", "'".repeat(900_001)),
    ];
    for text in texts {
        let start = Instant::now();
        let error = parse(&text).expect_err("a bomb");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?} for {error}", start.elapsed());
        assert!(error.len() < 300, "{error}");
    }
}

#[test]
fn only_a_regular_file_of_one_mebibyte_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("good"), LEAST).expect("write");
    assert_eq!(Config::read(&path("good")).expect("a good file"), good(LEAST));

    fs::write(path("long"), vec![b'#'; 10 << 20]).expect("write");
    std::os::unix::fs::symlink("good", path("link")).expect("link");
    fs::create_dir(path("dir")).expect("make a directory");
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("make a pipe");
    let table = [
        ("long", "is longer than 1048576 bytes"),
        ("link", "is a symbolic link, not a regular file"),
        ("dir", "is a directory, not a regular file"),
        ("fifo", "is a pipe, not a regular file"),
    ];
    for (name, expected) in table {
        let error = Config::read(&path(name)).expect_err(name).to_string();
        assert_eq!(error, format!("{}: {expected}", path(name).display()));
    }
    assert!(matches!(Config::read(&path("none")), Err(ConfigError::Read { .. })));
}

#[test]
fn the_example_is_true() {
    let config = good(EXAMPLE);
    assert_eq!(config.build.sandbox, Sandbox::Strict);
    assert_eq!((config.cache, config.rollout, config.keep, config.paths), <_>::default());
    let off = good(&EXAMPLE.replace("\n  sandbox: strict\n", "\n  sandbox: off\n"));
    assert_eq!(off.build.sandbox, Sandbox::Off);
    for (section, keys) in keys::SECTIONS {
        for key in *keys {
            // A key at the beginning of a line, of a comment, or of a mapping in one line.
            let shown = EXAMPLE.lines().any(|line| {
                let bare = line.trim_start_matches([' ', '#', '-']);
                bare.starts_with(&format!("{key}:"))
                    || line.contains(&format!("{{ {key}:"))
                    || line.contains(&format!(", {key}:"))
            });
            assert!(shown, "the example does not show {section}.{key}");
        }
    }
}

#[test]
fn the_schema_has_the_keys_of_the_parser() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut of_schema = BTreeSet::new();
    schema_keys(&schema, "", &mut of_schema);
    let of_parser: BTreeSet<String> =
        keys::SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}"))).collect();
    assert_eq!(of_schema, of_parser);
}

/// Collects `section.key` of every property below, sections named as in the table of keys.
fn schema_keys(schema: &serde_json::Value, section: &str, keys: &mut BTreeSet<String>) {
    let below = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], false, "{section} takes unknown keys");
        assert_eq!(schema["patternProperties"]["^x-"], true, "{section} refuses x- keys");
        for (key, value) in properties {
            keys.insert(format!("{section}.{key}"));
            schema_keys(value, &below(key), keys);
        }
    }
    schema_keys_of_parts(schema, section, &below("*"), keys);
}

fn schema_keys_of_parts(schema: &serde_json::Value, section: &str, any: &str, keys: &mut BTreeSet<String>) {
    if schema["additionalProperties"].is_object() {
        schema_keys(&schema["additionalProperties"], any, keys);
    }
    if schema["items"].is_object() {
        schema_keys(&schema["items"], &format!("{section}[]"), keys);
    }
    for part in schema["oneOf"].as_array().into_iter().flatten() {
        schema_keys(part, section, keys);
    }
}
