//! An operator who may speak to a node, and says what no df would: refused, nothing outside the node's directory changes, memory stays bounded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use df_testkit::process::{Output, Run};
use serde_json::{Value, json};

const HELLO: u8 = 1;
const REQUEST: u8 = 2;
const BYTES: u8 = 5;
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A node, and beside it what nobody may touch.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("df-operator").tempdir().expect("a directory");
        fs::create_dir(dir.path().join("canary")).expect("made");
        fs::write(dir.path().join("canary/file"), "sings\n").expect("written");
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Speaks to df-node, which may use half a gibibyte; returns what it did.
    #[track_caller]
    fn told(&self, frames: &[Vec<u8>]) -> Output {
        let before = listing(self.dir.path());
        let root = self.path("root").display().to_string();
        let limited = "ulimit -v 524288; exec \"$0\" serve --root \"$1\" --data \"$1/data\" --tmp \"$1/tmp\"";
        let run = Run::new("/bin/sh").args(["-c", limited, env!("CARGO_BIN_EXE_df-node"), &root]);
        let output = run.stdin(frames.concat()).deadline(Duration::from_secs(30)).output();
        assert!(!output.timed_out && output.signal.is_none(), "{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        assert_eq!(listing(self.dir.path()), before, "something outside the node changed: {output}");
        output
    }
}

/// Everything beside the node's directory.
fn listing(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name == "root") {
                continue;
            }
            let content = if path.is_dir() { vec![] } else { fs::read(&path).unwrap_or_default() };
            found.insert(path.display().to_string(), content);
            if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a test's frame");
    [&[kind], &len.to_le_bytes()[..], payload].concat()
}

fn hello() -> Vec<u8> {
    frame(HELLO, json!({ "program": "0", "oldest": 1, "newest": 1 }).to_string().as_bytes())
}

fn ask(request: &Value) -> Vec<u8> {
    frame(REQUEST, request.to_string().as_bytes())
}

fn lock() -> Vec<u8> {
    ask(&json!({ "lock": { "who": "\u{1b}[2J".repeat(9000), "command": "x" } }))
}

fn image(digit: &str) -> String {
    digit.repeat(64)
}

/// The canonical bytes of a release that nobody built.
fn release(app: &str) -> String {
    let (key, held) = (image("1"), image("a"));
    format!(
        r#"{{"format":1,"app":"{app}","commit":"{COMMIT}","committed":0,"recipe_key":"{key}","sandbox":"off","image":"{held}","image_len":3}}"#
    )
}

fn activate(release: &str) -> Value {
    json!({ "activate": { "release": release, "expect": 0, "soak": 0, "who": "x", "listen": "127.0.0.1" } })
}

fn receive(digit: &str, len: u64) -> Vec<u8> {
    ask(&json!({ "receive": { "image": image(digit), "base": null, "len": len, "image_len": 1 } }))
}

#[test]
fn what_is_not_the_protocol_ends_the_session() {
    let node = Node::new();
    let head = |kind: u8, len: u32| [&[kind], &len.to_le_bytes()[..]].concat();
    let cases: [(Vec<Vec<u8>>, &str); 12] = [
        (vec![vec![]], "stopped in the middle"),
        (vec![vec![0; 100]], "unknown kind 0"),
        (vec![b"GET / HTTP/1.1\r\n\r\n".repeat(9)], "unknown kind"),
        (vec![hello(), head(REQUEST, u32::MAX)], "4294967295 bytes"),
        (vec![hello(), head(REQUEST, 9)], "stopped in the middle"),
        (vec![hello(), hello()], "second greeting"),
        (vec![ask(&json!("survey"))], "before the greeting"),
        (vec![hello(), frame(BYTES, b"x")], "none was due"),
        (vec![hello(), frame(3, b"\"done\"")], "none was due"),
        (vec![hello(), frame(REQUEST, &b"[".repeat(1 << 20))], "does not parse"),
        (vec![hello(), lock(), receive("b", 4), frame(BYTES, b"too many")], "none was due"),
        (vec![hello(), lock(), receive("b", 4), ask(&json!("survey"))], "before all bytes"),
    ];
    for (frames, said) in cases {
        let output = node.told(&frames);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(output.code == Some(1) && text.contains(said), "expected \"{said}\": {output}");
    }
}

#[test]
fn whoever_changes_something_takes_the_lock_first() {
    let node = Node::new();
    let app = json!({ "app": "x", "listen": "127.0.0.1" });
    let requests = [
        receive("b", 0),
        ask(&json!({ "stage": { "release": release("x") } })),
        ask(&activate(&release("x"))),
        ask(&json!({ "rollback": { "app": "x", "to": null, "expect": 0, "soak": 0, "who": "x", "listen": "127.0.0.1" } })),
        ask(&json!({ "start": app })),
        ask(&json!({ "stop": { "app": "x", "all": true, "now": true } })),
        ask(&json!({ "collect": { "app": "x", "count": 0, "older": i64::MAX, "dry_run": false } })),
    ];
    for request in requests {
        let output = node.told(&[hello(), request]);
        assert!(output.stdout.contains("takes the lock first"), "{output}");
    }
    let left = fs::read_dir(node.path("root/apps")).expect("made").count();
    assert_eq!((left, node.path("root/run/control.sock").exists()), (0, false), "something was done");
}

#[test]
fn names_that_lead_elsewhere_are_no_names() {
    let node = Node::new();
    for app in ["../../canary", "..", ".", "", "a/b", "/etc", "A", "\u{1b}", &"a".repeat(500)] {
        for request in [
            json!({ "history": { "app": app, "limit": u32::MAX } }),
            json!({ "logs": { "app": app, "generation": 1, "lines": u32::MAX, "follow": false } }),
            json!({ "collect": { "app": app, "count": 0, "older": i64::MAX, "dry_run": false } }),
            json!({ "stop": { "app": app, "all": true, "now": true } }),
        ] {
            let output = node.told(&[hello(), lock(), ask(&request)]);
            assert!(output.stderr.contains("does not parse"), "{output}");
        }
        let output = node.told(&[hello(), lock(), ask(&json!({ "stage": { "release": release(app) } }))]);
        assert!(output.stdout.contains("fault") && output.stdout.contains("not a release"), "{output}");
    }
    let output = node.told(&[hello(), lock(), ask(&json!({ "check": { "image": "../../canary" } }))]);
    assert!(output.stderr.contains("does not parse"), "{output}");
}

#[test]
fn a_release_in_another_form_is_refused_by_stage_and_by_activate() {
    let node = Node::new();
    let spaced = release("x").replacen(':', ": ", 1);
    let newer = release("x").replacen(":1", ":2", 1);
    for text in ["", "{}", &spaced, &newer, &format!("{} ", release("x")), &"[".repeat(200_000)] {
        for request in [json!({ "stage": { "release": text } }), activate(text)] {
            let output = node.told(&[hello(), lock(), ask(&request)]);
            assert!(output.stdout.contains("\"refused\""), "{output}");
        }
    }
    let output = node.told(&[hello(), lock(), ask(&json!({ "stage": { "release": release("x") } }))]);
    assert!(output.stdout.contains("\"missing\""), "an image that is not there: {output}");
    assert_eq!(fs::read_dir(node.path("root/apps")).expect("made").count(), 0, "something was remembered");
}

#[test]
fn bytes_that_do_not_make_the_image_leave_nothing() {
    let node = Node::new();
    let noise: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let bombs = [vec![0; 4096], noise, [b"\x28\xb5\x2f\xfd".as_slice(), &[0xff; 200]].concat()];
    for bytes in bombs {
        let output = node.told(&[hello(), lock(), receive("b", bytes.len() as u64), frame(BYTES, &bytes), ask(&json!("survey"))]);
        assert!(output.stdout.contains("fault") && output.stdout.contains("\"images\":[]"), "{output}");
    }
    let cut = node.told(&[hello(), lock(), receive("b", u64::MAX), frame(BYTES, b"x")]);
    assert_eq!(cut.code, Some(1), "{cut}");
    for place in ["store", "manifests", "incoming"] {
        assert_eq!(fs::read_dir(node.path("root").join(place)).expect("made").count(), 0, "something is left in {place}");
    }
}

#[test]
fn absurd_numbers_are_refused_in_bounded_memory() {
    let node = Node::new();
    let (held, content) = hold(&node);
    let slice = |offset: u64, len: u64| json!({ "digest": content, "offset": offset, "len": len });
    let sign = |stretches: Value, block_len: u32| {
        ask(&json!({ "sign": { "image": held, "stretches": stretches, "block_len": block_len } }))
    };
    let whole = slice(0, 32 << 20);
    for request in [
        sign(json!([[slice(u64::MAX, 1)]]), 704),
        sign(json!([[slice(1, u64::MAX)]]), 704),
        sign(json!([[slice(0, u64::MAX), slice(0, u64::MAX)]]), 704),
        sign(json!([[slice(0, 1 << 40)]]), 704),
        sign(json!([[slice(0, 3)]]), 0),
        sign(json!([[slice(0, 3)]]), u32::MAX),
        sign(json!([[{ "digest": image("e"), "offset": 0, "len": 1 }]]), 704),
        // Each stretch is one that may be asked for; all of them together are gigabytes of signatures.
        sign(Value::Array(vec![json!([whole]); 7000]), 256),
    ] {
        let output = node.told(&[hello(), request, ask(&json!("survey"))]);
        assert!(output.code == Some(0) && output.stdout.contains("fault") && output.stdout.contains("survey"), "{output}");
    }
    let logs = json!({ "logs": { "app": "x", "generation": u64::MAX, "lines": u32::MAX, "follow": false } });
    let output = node.told(&[hello(), ask(&logs), ask(&json!({ "history": { "app": "x", "limit": u32::MAX } }))]);
    assert_eq!(output.code, Some(0), "{output}");
}

/// Puts an image with one file of 32 MiB into a node by hand; returns its id and its file's digest.
fn hold(node: &Node) -> (String, String) {
    use df_core::{Digest, Entry, Kind, Manifest};
    let bytes = vec![7; 32 << 20];
    let digest = Digest::of(&bytes);
    let kind = Kind::File { executable: false, len: bytes.len() as u64, digest };
    let manifest = Manifest::new(vec![Entry { path: "a".parse().expect("a path"), kind }]).expect("a tree");
    let (root, id) = (node.path("root"), manifest.image().to_string());
    fs::create_dir_all(root.join("store").join(&id)).expect("made");
    fs::create_dir_all(root.join("manifests")).expect("made");
    fs::write(root.join("store").join(&id).join("a"), bytes).expect("written");
    fs::write(root.join("manifests").join(&id), manifest.encode()).expect("written");
    (id, digest.to_string())
}

/// Expects df-node to end with an error that names a thing, before it changed anything there.
#[test]
fn links_planted_where_the_node_keeps_things_are_not_followed() {
    for place in ["store", "manifests", "incoming", "apps", "run", "log"] {
        let node = Node::new();
        fs::create_dir(node.path("root")).expect("made");
        std::os::unix::fs::symlink(node.path("canary"), node.path("root").join(place)).expect("planted");
        let output = node.told(&[hello(), lock(), ask(&json!("survey"))]);
        assert!(output.code == Some(1) && output.stderr.contains(&format!("root/{place}")), "{output}");
    }
    let node = Node::new();
    node.told(&[hello()]);
    std::os::unix::fs::symlink(node.path("canary/file"), node.path("root/run/lock")).expect("planted");
    let output = node.told(&[hello(), lock()]);
    assert!(output.stdout.contains("fault"), "{output}");
}
