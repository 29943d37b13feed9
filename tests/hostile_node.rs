//! A node that lies, floods, stalls or breaks the protocol: df ends in time with a code that means something, names the node, prints nothing that steers a
//! terminal, and goes on with the others.
//!
//! The program for nodes is a script here. On the node called `evil` it does what a test wrote into that node's directory; on `good` it is df-node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use df_testkit::process::{Output, Run};
use df_testkit::repo::Repo;
use serde_json::{Value, json};

use crate::support::{World, df};

/// No answer of df takes longer, whatever a node does: the patience below, twice for the last words, and a machine at work.
const BOUND: Duration = Duration::from_secs(40);
const PREAMBLE: &[u8] = b"\x00df-node\x00\n";
const HELLO: u8 = 1;
const REPLY: u8 = 3;
pub const EVENT: u8 = 4;
pub const BYTES: u8 = 5;

/// What a hostile node would like to see printed.
const STEERING: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}1m\u{202e}txt\u{7f}\r\n\u{200b}";

/// A good node and one that does what it is told to.
pub struct Pair {
    /// Their world.
    pub world: World,
    _source: tempfile::TempDir,
    /// The commit of the version that the good node gets.
    pub commit: String,
}

impl Pair {
    /// Adds both, and builds the version here.
    pub fn new() -> Self {
        let source = tempfile::Builder::new().prefix("df-hostile").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let config = "app: files\nbuild: { command: \"mkdir out && cp a b out\", output: out }\n";
        let commit = repo.commit(&[("df.yaml", config), ("a", "one\n"), ("b", "two\n")], "files");
        let pair = Self { world: World::of(repo.dir(), 0), _source: source, commit };
        for name in ["evil", "good"] {
            let address = format!("local:{}", pair.world.path(name).display());
            pair.df(["add", &address, "--name", name]).ok();
        }
        df(repo.dir(), &pair.world.path("state")).arg("build").ok();
        let programs = pair.world.path("programs");
        fs::create_dir(&programs).expect("made");
        fs::create_dir(pair.world.path("evil")).expect("made");
        fs::write(programs.join("df-node-x86_64"), script()).expect("written");
        pair
    }

    /// Returns `df` with these words and the script as the program for nodes.
    pub fn df<const N: usize>(&self, words: [&str; N]) -> Run {
        self.world.df(words).env("DF_NODE_PROGRAMS", self.world.path("programs"))
    }

    /// Says what the evil node does from now on.
    pub fn evil(&self, steps: &[Step]) {
        let root = self.world.path("evil");
        let lines: Vec<String> = steps.iter().enumerate().map(|(n, step)| step.line(&root, n)).collect();
        fs::write(root.join("behaviour"), lines.join("\n")).expect("written");
    }
}

/// One thing that an evil node does.
pub enum Step {
    /// Writes these bytes.
    Say(Vec<u8>),
    /// Reads one frame of the operator's.
    Hear,
    /// A line of shell.
    Sh(&'static str),
}

use Step::{Hear, Say, Sh};

impl Step {
    fn line(&self, root: &Path, n: usize) -> String {
        match self {
            Say(bytes) => {
                let file = root.join(format!("say-{n}"));
                fs::write(&file, bytes).expect("written");
                format!("cat '{}'", file.display())
            }
            Hear => "hear".into(),
            Sh(line) => (*line).into(),
        }
    }
}

fn script() -> String {
    format!(
        r#"#!/bin/sh
case "$3" in */evil) ;; *) exec '{}' "$@" ;; esac
hear() {{
    set -- $(dd bs=1 count=5 2>/dev/null | od -An -tu1)
    [ $# = 5 ] || exit 0
    head -c $(($2 + 256 * $3 + 65536 * $4)) > /dev/null
}}
. "$3/behaviour"
"#,
        env!("CARGO_BIN_EXE_df-node")
    )
}

/// Returns bytes as a frame.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a test's frame");
    [&[kind], &len.to_le_bytes()[..], payload].concat()
}

/// Says a message.
pub fn message(kind: u8, value: &Value) -> Step {
    Say(frame(kind, value.to_string().as_bytes()))
}

/// Says a reply.
pub fn reply(value: Value) -> Step {
    message(REPLY, &value)
}

/// What a node says first.
fn greeting() -> Vec<u8> {
    let hello = json!({ "program": STEERING, "oldest": 1, "newest": 1 });
    [PREAMBLE, &frame(HELLO, hello.to_string().as_bytes())].concat()
}

fn survey(more: Value) -> Value {
    let mut survey = json!({
        "arch": "x86_64", "kernel": "6.1.0", "libc": null, "free": 1_u64 << 40, "now": 0, "images": [], "lock": null, "apps": [],
    });
    for (key, value) in more.as_object().expect("an object") {
        survey[key] = value.clone();
    }
    json!({ "survey": survey })
}

/// Greets, hears the operator's greeting and its first request, and then does the rest.
fn greeted(rest: impl IntoIterator<Item = Step>) -> Vec<Step> {
    [Say(greeting()), Hear, Hear].into_iter().chain(rest).collect()
}

/// As [`greeted`], for a copy: what it is asked first it answers with a survey, and the lock comes with the bytes.
pub fn surveyed(more: Value, rest: impl IntoIterator<Item = Step>) -> Vec<Step> {
    greeted([reply(survey(more))].into_iter().chain(rest))
}

/// Takes the lock, the bytes and the release of a copy, which come in one go.
fn taken() -> [Step; 7] {
    [
        Hear,
        reply(json!("done")),
        Hear,
        Hear,
        reply(json!({ "received": { "reused": 0, "held": false } })),
        Hear,
        reply(json!("done")),
    ]
}

/// As [`greeted`], for a command that takes the lock; answers the survey too.
fn locked(more: Value, rest: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let begun = [reply(json!("done")), Hear, reply(survey(more))];
    greeted(begun.into_iter().chain(rest))
}

/// Expects a documented end in time, that the evil node is named, and nothing that steers a terminal.
#[track_caller]
fn tame(output: Output, codes: &[i32]) -> Output {
    assert!(!output.timed_out && output.elapsed < BOUND, "not in time: {output}");
    assert!(output.code.is_some_and(|code| codes.contains(&code)), "expected one of {codes:?}: {output}");
    assert!(output.stdout.contains("evil") || output.stderr.contains("evil"), "the node is not named: {output}");
    harmless(&output);
    output
}

/// Expects nothing that steers a terminal, and no more than a person reads.
#[track_caller]
pub fn harmless(output: &Output) {
    let steers = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
    for text in [&output.stdout, &output.stderr] {
        assert!(!text.contains(steers), "a foreign byte reached the terminal: {text:?}");
        assert!(text.len() < 256 << 10, "{} bytes of output", text.len());
    }
}

/// Lets a node misbehave under `df status`, in both forms, while the other is shown.
#[track_caller]
fn status(pair: &Pair, steps: &[Step], codes: &[i32], said: &str) {
    pair.evil(steps);
    let for_scripts = pair.df(["--json", "--timeout", "6s", "status"]).spawn();
    let output = tame(pair.df(["--timeout", "6s", "status"]).output(), codes);
    assert!(output.stderr.contains(said), "expected \"{said}\" in {output}");
    assert!(
        output.stdout.lines().any(|line| line.starts_with("good ") && line.contains("none")),
        "the other was not asked: {output}"
    );
    let output = tame(for_scripts.finish(BOUND), codes);
    let nodes = output.events("node");
    assert!(nodes.iter().any(|node| node["name"] == "good" && node["reachable"] == true), "{output}");
}

#[test]
fn a_node_that_says_something_before_it_greets_is_understood() {
    let pair = Pair::new();
    let real = format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_df-node"));
    let banner = format!("Welcome {STEERING}\n").repeat(100).into_bytes();
    status(&pair, &[Say(banner), Sh(Box::leak(real.into_boxed_str()))], &[0], "");
}

#[test]
fn what_is_no_node_is_unreachable_in_words() {
    let pair = Pair::new();
    let cases: [(&[Step], &str); 12] = [
        (&[Sh("yes 'login: '")], "login: "),
        (&[Sh("yes \"$(printf '\\033[2J')\"")], r"u{1b}"),
        (&[Sh("exit 0")], "no df-node answered"),
        (&[Sh("printf '\\033[31mno\\n' >&2; exit 1")], "[31mno"),
        (&[Sh("exit 126")], "unreachable"),
        (&[Sh("exit 127")], "unreachable"),
        (&[Sh("exit 255")], "unreachable"),
        (&[Sh("kill -9 $$")], "unreachable"),
        (&[Sh("exec sleep 100")], "no answer within 6 s"),
        (&[Sh("yes \"$(printf '\\033[2J')\" >&2")], "no answer within 6 s"),
        (&[Sh("printf '\\000df-node'; exec sleep 100")], "no answer within 6 s"),
        (&[Sh("while :; do printf x; sleep 0.2; done")], "no answer within 6 s"),
    ];
    for (steps, said) in cases {
        status(&pair, steps, &[9], said);
    }
}

#[test]
fn a_wrong_byte_ends_the_session_with_that_node_alone() {
    let pair = Pair::new();
    let head = |kind: u8, len: u32| Say([&[kind], &len.to_le_bytes()[..]].concat());
    let future = json!({ "program": STEERING, "oldest": 7, "newest": u32::MAX });
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let early = [PREAMBLE, &frame(REPLY, b"\"done\"")].concat();
    let cases: [(Vec<Step>, &str); 13] = [
        (greeted([head(REPLY, u32::MAX)]), "a frame of 4294967295 bytes"),
        (greeted([head(EVENT, 1 << 31)]), "a frame of 2147483648 bytes"),
        (greeted([head(0, 0)]), "unknown kind 0"),
        (greeted([head(0x1b, 1)]), "unknown kind 27"),
        (greeted([head(BYTES, 0)]), "an empty frame"),
        (greeted([Say(frame(BYTES, b"surprise"))]), "none was due"),
        (greeted([Say(frame(2, b"\"survey\""))]), "none was due"),
        (vec![Say(early)], "before the greeting"),
        (greeted([Say(greeting()[PREAMBLE.len()..].to_vec())]), "second greeting"),
        (vec![Say([PREAMBLE, &frame(HELLO, future.to_string().as_bytes())].concat())], "speaks protocol 7..4294967295"),
        (greeted([Say(frame(REPLY, deep.as_bytes()))]), "does not parse"),
        (greeted([reply(json!({ STEERING: STEERING }))]), "does not parse"),
        (greeted([reply(survey(json!({ "apps": [{ "app": STEERING }] })))]), "does not parse"),
    ];
    for (mut steps, said) in cases {
        // It stays, so that its end is not what df noticed.
        steps.push(Sh("exec sleep 100"));
        status(&pair, &steps, &[1, 5], said);
    }
}

#[test]
fn another_answer_than_asked_for_or_none_is_a_failure() {
    let pair = Pair::new();
    let stays = || Sh("exec sleep 100");
    let event = frame(EVENT, json!({ "ready": { "generation": 1 } }).to_string().as_bytes());
    let log = frame(EVENT, json!({ "log": { "len": 9 } }).to_string().as_bytes());
    let endless = |event: &[u8]| [Say(event.repeat(500)), Sh("while cat \"$3/say-3\"; do :; done")];
    let drip = [Say(event.clone()), Sh("while cat \"$3/say-3\"; do sleep 0.5; done")];
    status(&pair, &greeted([reply(json!("done")), stays()]), &[1, 5], "something else than it was asked");
    status(&pair, &greeted([reply(json!({ "bytes": { "len": u64::MAX } })), stays()]), &[1, 5], "something else");
    status(&pair, &greeted(endless(&event)), &[1, 5], "something else than it was asked");
    status(&pair, &greeted(endless(&log)), &[1, 5], "");
    status(&pair, &greeted(drip), &[9], "no word for 6 s");
    status(&pair, &greeted([stays()]), &[9], "no word for 6 s");
    status(&pair, &greeted([Say(vec![REPLY, 255, 0, 0, 0, b'"']), stays()]), &[9], "no word for 6 s");
    status(&pair, &greeted([Say(vec![REPLY, 255, 0, 0, 0, b'"'])]), &[9], "the connection broke");
    status(&pair, &greeted([Sh("printf '\\033[2Jdying' >&2; kill -9 $$")]), &[9], "dying");
}

#[test]
fn names_and_messages_of_a_node_are_shown_as_text() {
    let pair = Pair::new();
    let holder = json!({ "who": STEERING, "command": STEERING.repeat(5000), "since": i64::MAX });
    let odd = json!({ "arch": STEERING, "kernel": STEERING.repeat(2000), "libc": STEERING, "free": u64::MAX, "now": i64::MIN, "lock": holder });
    let fault = |kind: Value| {
        reply(json!({ "fault": {
            "kind": kind, "message": STEERING.repeat(3000), "log": format!("{STEERING}\n").repeat(3000),
            "probes": [{ "name": STEERING, "ok": false, "detail": STEERING.repeat(1000), "seconds": -1e308 }], "serving": null,
        }}))
    };
    status(&pair, &greeted([reply(survey(odd.clone()))]), &[0], "");
    status(&pair, &greeted([fault(json!("failed"))]), &[1, 5], "u{1b}");
    pair.evil(&greeted([reply(survey(odd))]));
    tame(pair.df(["--timeout", "6s", "doctor"]).output(), &[1]);
    let again = Sh("while hear; do cat \"$3/say-3\"; done");
    pair.evil(&greeted([fault(json!({ "locked": { "who": STEERING.repeat(3000), "command": STEERING, "since": 0 } })), again]));
    tame(pair.df(["--timeout", "6s", "cp", "--version", &pair.commit]).output(), &[4, 5]);
    let entry = json!({
        "at": i64::MIN, "who": STEERING, "what": STEERING, "generation": u64::MAX, "from": u64::MAX, "commit": pair.commit,
        "ok": false, "detail": STEERING,
    });
    pair.evil(&greeted([reply(survey(json!({}))), Hear, reply(json!({ "history": { "entries": [entry] } }))]));
    tame(pair.df(["--timeout", "6s", "history"]).output(), &[0]);
    let said = format!("{STEERING}\n").repeat(20).into_bytes();
    let announced = reply(json!({ "bytes": { "len": said.len() } }));
    pair.evil(&greeted([reply(survey(json!({}))), Hear, announced, Say(frame(BYTES, &said))]));
    tame(pair.df(["--timeout", "6s", "logs"]).output(), &[0, 1, 5]);
    let difference = json!({ "path": STEERING, "kind": STEERING, "expected": STEERING, "found": STEERING });
    let image = "ab".repeat(32);
    let generation =
        json!({ "number": 1, "release": image, "commit": pair.commit, "image": image, "since": i64::MIN, "result": "good" });
    let app = json!({ "app": "files", "current": 1, "wanted": true, "running": [], "generations": [generation], "staged": [] });
    let holds = survey(json!({ "images": [image], "apps": [app] }));
    pair.evil(&greeted([reply(holds), Hear, reply(json!({ "checked": { "differences": [difference] } }))]));
    tame(pair.df(["--timeout", "6s", "compare-checksums"]).output(), &[5, 8]);
}

#[test]
fn a_hostile_base_costs_a_whole_copy_and_nothing_else() {
    let pair = Pair::new();
    let words = ["--timeout", "6s", "cp", "--codec", "rsync", "--version", &pair.commit, "--address", "evil"];
    let copy = || pair.df(words).output();
    let holds = || json!({ "images": ["ab".repeat(32)] });
    // Bytes that are not the manifest of the image, then a whole copy that is taken.
    let wrong = [Hear, reply(json!({ "bytes": { "len": 4 } })), Say(frame(BYTES, b"what"))];
    pair.evil(&surveyed(holds(), wrong.into_iter().chain(taken())));
    let output = tame(copy(), &[0]);
    assert!(output.stderr.contains("whole"), "{output}");
    // Counts that no memory holds.
    for value in
        [json!({ "bytes": { "len": u64::MAX } }), json!({ "signatures": { "lens": [u64::MAX, u64::MAX] } }), json!("done")]
    {
        pair.evil(&surveyed(holds(), [Hear, reply(value), Sh("cat > /dev/null")]));
        let output = tame(copy(), &[1, 5]);
        assert!(output.stderr.contains("something else than it was asked"), "{output}");
    }
    // A manifest of which a part never comes.
    pair.evil(&surveyed(holds(), [Hear, reply(json!({ "bytes": { "len": 9 } })), Say(frame(BYTES, b"some")), Sh("exit 1")]));
    tame(copy(), &[9]);
}

#[test]
fn signatures_of_another_length_than_asked_for_are_refused() {
    let pair = Pair::new();
    let (image, manifest) = a_base();
    let manifest = [Hear, reply(json!({ "bytes": { "len": manifest.len() } })), Say(frame(BYTES, &manifest)), Hear];
    let words = ["--timeout", "6s", "cp", "--codec", "rsync", "--version", &pair.commit, "--address", "evil"];
    let begun = |rest: Vec<Step>| {
        let manifest = manifest.iter().map(|step| if let Say(bytes) = step { Say(bytes.clone()) } else { Hear });
        pair.evil(&surveyed(json!({ "images": [image] }), manifest.chain(rest)));
        tame(pair.df(words).output(), &[0, 1])
    };
    for lens in [json!([]), json!([0]), json!([31]), json!([33]), json!([u64::MAX]), json!([32, u64::MAX])] {
        let output = begun(vec![reply(json!({ "signatures": { "lens": lens } })), Sh("cat > /dev/null")]);
        assert!(output.code == Some(1) && output.stderr.contains("something else than it was asked"), "{output}");
    }
    // Of the right length, and no signature: the image goes whole.
    let signature = [reply(json!({ "signatures": { "lens": [32] } })), Say(frame(BYTES, &[0xff; 32]))];
    let output = begun(signature.into_iter().chain(taken()).collect());
    assert!(output.code == Some(0) && output.stderr.contains("whole"), "{output}");
}

#[test]
fn a_copy_hangs_up_with_its_last_word_and_is_answered_all_the_same() {
    let pair = Pair::new();
    // Answers when it has heard the end of what is said: a df that waited for an answer before would wait for ever.
    let at_the_end = [
        Sh("cat > /dev/null"),
        reply(json!("done")),
        reply(json!({ "received": { "reused": 0, "held": false } })),
        reply(json!("done")),
    ];
    pair.evil(&surveyed(json!({}), at_the_end));
    tame(pair.df(["--timeout", "6s", "cp", "--version", &pair.commit, "--address", "evil"]).output(), &[0]);
    // What is refused then is asked for again over a new connection.
    let refused = json!({ "fault": { "kind": "missing", "message": "no such image", "log": "", "probes": [], "serving": null } });
    let refuses = [Sh("cat > /dev/null"), reply(json!("done")), reply(refused.clone()), reply(refused)];
    pair.evil(&surveyed(json!({}), refuses));
    let output = tame(pair.df(["--timeout", "6s", "cp", "--version", &pair.commit, "--address", "evil"]).output(), &[1, 5]);
    assert!(output.stderr.contains("no such image"), "{output}");
}

#[test]
fn received_without_work_is_found_by_the_next_question() {
    let pair = Pair::new();
    let lies = [Hear, Hear, reply(json!({ "received": { "reused": u64::MAX, "held": true } })), Hear, reply(json!("done"))];
    let fault = json!({ "fault": { "kind": "missing", "message": "no such image", "log": "", "probes": [], "serving": null } });
    pair.evil(&locked(json!({}), lies.into_iter().chain([Hear, reply(fault)])));
    let output = tame(pair.df(["--timeout", "6s", "deploy", "--commit-hash", &pair.commit]).output(), &[1, 5, 6, 7]);
    assert!(output.stderr.contains("no such image"), "{output}");
}

/// Returns an image that lies nowhere, and the bytes of its manifest, whose digest it is.
fn a_base() -> (String, Vec<u8>) {
    use df_core::{Digest, Entry, Kind, Manifest};
    let kind = Kind::File { executable: false, len: 600, digest: Digest::of(b"another") };
    let manifest = Manifest::new(vec![Entry { path: "a".parse().expect("a path"), kind }]).expect("a tree");
    (manifest.image().to_string(), manifest.encode())
}

#[test]
fn events_without_end_do_not_hold_a_deploy() {
    let pair = Pair::new();
    let event = json!({ "rolled_back": { "generation": 1, "from": u64::MAX, "reason": STEERING.repeat(3000) } });
    let told = [Hear, message(EVENT, &event), Sh("while cat \"$3/say-12\"; do :; done")];
    let taken = [Hear, Hear, reply(json!({ "received": { "reused": 0, "held": false } })), Hear, reply(json!("done"))];
    pair.evil(&locked(json!({}), taken.into_iter().chain(told)));
    let mut output = pair.df(["--timeout", "6s", "deploy", "--commit-hash", &pair.commit]).output();
    assert!(output.stderr.contains("something else than it was asked"), "{output}");
    // What it told is shown, up to a bound.
    assert!(output.stderr.len() < 16 << 20, "{} bytes", output.stderr.len());
    output.stderr = output.stderr.lines().filter(|line| !line.contains(", before it ")).collect::<Vec<_>>().join("\n");
    tame(output, &[1, 5, 6, 7]);
}

#[test]
fn a_node_that_asks_again_and_again_to_be_confirmed_costs_a_few_connections() {
    let pair = Pair::new();
    let counted = pair.world.path("sessions");
    let count = Sh(Box::leak(format!("echo x >> '{}'", counted.display()).into_boxed_str()));
    let taken = [Hear, Hear, reply(json!({ "received": { "reused": 0, "held": false } })), Hear, reply(json!("done")), Hear];
    let awaiting = (0..900).map(|_| message(EVENT, &json!({ "awaiting": { "generation": 1 } })));
    let told = awaiting.chain([reply(json!("done"))]);
    pair.evil(&[count].into_iter().chain(locked(json!({}), taken.into_iter().chain(told))).collect::<Vec<_>>());
    tame(pair.df(["--timeout", "6s", "deploy", "--commit-hash", &pair.commit]).output(), &[1, 5, 6, 7]);
    let n_sessions = fs::read_to_string(&counted).expect("counted").lines().count();
    assert!((2..20).contains(&n_sessions), "{n_sessions} sessions");
}
