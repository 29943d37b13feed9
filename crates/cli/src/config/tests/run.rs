//! `run` and `verify`.

use std::time::Duration;

use df_core::name::Label;
use df_core::spec::{BuildTool, Connections, Handoff, Port, RunLimits, Transport};

use super::*;

#[test]
fn a_run_section_is_read() {
    let config = good(
        "app: a\nbuild: { cargo: }\nrun:\n  exec: bin/a\n  args: [--port, 8080, '{fd:http}', '{{}']\n  env: { A: 1, B: no, C: '' }\n  \
         env_file: secrets.env\n  user: www\n  limits: { memory: 512M, nofile: 4096, pids: 64 }\n  handoff: restart\n  connections: drop\n  exclusive: true\n  ready: 500ms\n  \
         drain: 2h\n  ports:\n    http: { listen: '0.0.0.0:8080', handoff: listener, connections: hand over }\n    v6: '[::1]:81'\n    own: 82\n",
    );
    let run = config.run.expect("a run section");
    assert_eq!(run.args, ["--port", "8080", "{fd:http}", "{{}"]);
    assert_eq!(run.env.into_iter().collect::<Vec<_>>(), [("A", "1"), ("B", "no"), ("C", "")].map(|(a, b)| (a.into(), b.into())));
    assert_eq!((run.env_file.as_deref(), run.user.as_deref(), run.exclusive), (Some("secrets.env"), Some("www"), true));
    assert_eq!(run.limits, RunLimits { memory: Some(512 << 20), nofile: Some(4096), pids: Some(64) });
    assert_eq!((run.ready, run.drain), (Duration::from_millis(500), Duration::from_secs(7200)));
    let port = |host: Option<&str>, port, handoff, connections| Port {
        host: host.map(|host| host.parse().expect("an address")),
        port,
        transport: Transport::Tcp,
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
fn a_program_behind_a_proxy_is_told_a_port_and_has_no_descriptor() {
    let proxied = |run: &str| format!("app: a\nbuild: {{ cargo: }}\nrun:\n  exec: bin/a\n  handoff: proxy\n  {run}\n");
    let run = good(&proxied("args: ['{port:http}']\n  ports: { http: 80, own: { listen: 81, handoff: restart } }"))
        .run
        .expect("it runs");
    let handoffs: Vec<Handoff> = run.ports.values().map(|port| port.handoff).collect();
    assert_eq!(handoffs, [Handoff::Proxy, Handoff::Restart]);
    let table = [
        (
            "ports: { dns: 'udp:53' }",
            "6:17: run.ports.dns: a proxy takes connections, not datagrams; a UDP port goes from version to version with \"handoff: listener\"",
        ),
        (
            "ports: { a: 'unix:/run/a.sock' }",
            "6:15: run.ports.a: a socket in the file system goes from version to version with \"handoff: listener\" only; say so for this port",
        ),
        (
            "connections: hand over\n  ports: { a: 1 }",
            "7:15: run.ports.a: \"connections: hand over\" needs a program that has its clients' connections, and behind a proxy it has not",
        ),
        (
            "ports: { a: 1, b: { listen: 2, handoff: listener } }",
            "6:10: run.ports: \"a\" is behind a proxy and \"b\" takes a descriptor, and a program does one or the other; say \"handoff: proxy\" for both",
        ),
        (
            "ports: { a: 1 }\n  env: { PORT: 8000 }",
            "7:8: run.env: PORT is set by df-node with \"handoff: proxy\": each version gets its own",
        ),
        (
            "ports: { a: 1 }\n  args: ['{fd:a}']",
            "7:10: run.args[0]: the proxy has the descriptor of port \"a\"; {port:a} is where the program listens",
        ),
    ];
    for (run, why) in table {
        refused(&proxied(run), why);
    }
    assert!(parse(&run_with("env: { PORT: 8000 }")).is_ok(), "whoever binds by itself says where");
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
fn ports_may_take_datagrams_or_lie_in_the_file_system() {
    let read = |ports: &str| parse(&format!("app: a\nbuild: {{ cargo: }}\nrun: {{ exec: a, ports: {{ {ports} }} }}\n"));
    let endpoints = |ports: &str| {
        let run = read(ports).expect(ports).run.expect("it runs");
        run.ports.values().map(|port| port.endpoint([10, 0, 0, 7].into()).to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        endpoints("a: 'udp:53', b: 53, c: 'udp:[::]:53', d: { listen: 'unix:/run/a.sock' }"),
        ["udp:10.0.0.7:53", "10.0.0.7:53", "udp:[::]:53", "unix:/run/a.sock"]
    );
    let mode = |port: &str| match read(port).expect(port).run.expect("it runs").ports.into_values().next().expect("one").transport
    {
        Transport::Unix(socket) => socket.mode,
        other => panic!("{other:?}"),
    };
    assert_eq!(mode("a: 'unix:/run/a'"), 0o666);
    assert_eq!(mode("a: { listen: 'unix:/run/a', mode: 0660 }"), 0o660);
    let path = "the path of a socket is absolute, at most 80 bytes of printable ASCII without blanks, and has no . or .. in it";
    for (ports, said) in [
        ("a: 'udp:0'", "udp: with a port from 1 to 65535 is needed"),
        ("a: 'udp:+53'", "udp: with a port from 1 to 65535 is needed"),
        ("a: 'udp:1.2.3.4'", "an IP address with a port from 1 to 65535"),
        ("a: 'unix:run/a'", path),
        ("a: 'unix:/run/../a'", path),
        ("a: 'udp:53', b: 'udp:53'", "listens where \"a\" does"),
        ("a: 'unix:/a', b: { listen: 'unix:/a', mode: 0600 }", "listens where \"a\" does"),
        ("a: { listen: 80, mode: 0600 }", "is for sockets in the file system (unix:PATH)"),
        ("a: { listen: 'unix:/a', mode: 0066 }", "permissions in octal that let the owner in (0600, 0660, 0666) is needed"),
        ("a: { listen: 'unix:/a', mode: '7777' }", "permissions in octal that let the owner in (0600, 0660, 0666) is needed"),
        ("a: { listen: 'unix:/a', handoff: restart }", "with \"handoff: listener\" only"),
        ("a: 'unix:/a' }, args: ['{port:a}'], env: { a: b", "which has no host and no port; {addr:a} is its path"),
        ("a: 'udp:1' }, require_zero_loss: true, env: { a: b", "cannot be had with a UDP port (\"a\")"),
    ] {
        let error = read(ports).expect_err(ports);
        assert!(error.contains(said), "{ports}: {error}");
    }
    for probe in ["tcp: { port: a }", "http: { port: a }"] {
        let text =
            format!("app: a\nbuild: {{ cargo: }}\nrun: {{ exec: a, ports: {{ a: 'udp:1' }} }}\nverify: [ {{ {probe} }} ]\n");
        let error = parse(&text).expect_err(probe);
        assert!(error.contains("asks \"a\", where datagrams are spoken; ask by a command instead"), "{error}");
    }
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
