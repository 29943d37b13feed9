//! What a node fetches by the URL that it was lent: an image as one stream. Nobody stands behind it who would send the bytes another way.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use df_core::{Digest, Entry, Kind, Manifest, Release};
use df_testkit::process::{Output, Run, wait_until};
use df_testkit::s3::{Act, Fault, Server, Verb};
use df_testkit::survivors;
use serde_json::{Value, json};

use super::expect_untold;
use super::forge::zeros;

/// One piece of what a node fetches, so that its first request asks for all of it.
const PROGRAM_LEN: usize = 300_000;
/// How many behaviours are tried at a time: most of them make a node wait.
const AT_ONCE: usize = 4;

/// What is done to a node, and part of what it says.
pub struct Behaviour {
    pub name: &'static str,
    act: fn(&Errand<'_>),
    said: &'static str,
}

pub const BEHAVIOURS: &[Behaviour] = &[
    Behaviour { name: "a flipped byte", act: |it| it.answer(Act::Flip { at: 70_000 }), said: "other bytes came" },
    Behaviour { name: "an object cut short, well formed", act: |it| it.answer(Act::Truncate { to: 100 }), said: "another part" },
    Behaviour { name: "a length beyond what comes", act: |it| it.answer(Act::LongLength { by: 10 }), said: "another part" },
    Behaviour { name: "more bytes than the object has", act: |it| it.holds(it.with(b"more")), said: "bytes, not" },
    Behaviour { name: "a body without an end", act: |it| it.answer(Act::Endless), said: "whose length nobody says" },
    Behaviour {
        name: "one byte now and then",
        act: |it| it.answer(Act::Drip { every: Duration::from_millis(5) }),
        said: "too slowly",
    },
    Behaviour { name: "a reset in the middle, each time", act: |it| it.answer(Act::CutAnswer { after: 1000 }), said: "cut" },
    Behaviour { name: "no answer but the end", act: |it| it.answer(Act::Drop), said: "cut" },
    Behaviour {
        name: "a redirect to where a cloud keeps secrets",
        act: |it| it.redirect("http://169.254.169.254/latest/meta-data"),
        said: "elsewhere",
    },
    Behaviour { name: "a redirect to a service of this machine", act: |it| it.redirect(&it.stage.trap()), said: "elsewhere" },
    Behaviour { name: "a redirect to a file", act: |it| it.redirect("file:///etc/passwd"), said: "elsewhere" },
    Behaviour { name: "a redirect to plain http elsewhere", act: |it| it.redirect("http://example.org/w/x"), said: "elsewhere" },
    Behaviour { name: "the whole instead of a part", act: |it| it.answer(Act::IgnoreRange), said: "instead of a part" },
    Behaviour { name: "another part, by its name", act: |it| it.answer(Act::WrongRange { by: 7 }), said: "another part" },
    Behaviour {
        name: "another part, under the name of this one",
        act: |it| it.answer(Act::WrongBytes { by: 7 }),
        said: "not a delta",
    },
    Behaviour { name: "no such range", act: |it| it.refuse(416, "InvalidRange"), said: "no such range" },
    Behaviour { name: "access denied for ever", act: |it| it.refuse(403, "AccessDenied"), said: "expired" },
    Behaviour { name: "nothing there", act: |it| it.refuse(404, "NoSuchKey"), said: "not there" },
    Behaviour { name: "too busy for ever", act: |it| it.answer(Act::SlowDown), said: "status 503" },
    Behaviour {
        name: "an error's text in the place of an answer",
        act: |it| it.answer(Act::ErrorWith200),
        said: "the whole instead",
    },
    Behaviour {
        name: "the object of another image",
        act: |it| it.holds(it.stage.padded(&stream(&[7; 1000]).1)),
        said: "delta makes image",
    },
    Behaviour {
        name: "a change of an image that is not here",
        act: |it| it.holds(it.stage.padded(&it.stage.patch())),
        said: "delta expects base",
    },
    Behaviour {
        name: "kilobytes that unpack to gigabytes",
        act: |it| it.holds(it.stage.padded(&it.stage.bomb())),
        said: "zstd frame",
    },
    Behaviour {
        name: "an image with a path that leads out",
        act: |it| it.holds(it.stage.leading_out()),
        said: "delta makes image",
    },
    Behaviour {
        name: "a body said to be compressed",
        act: |it| it.say(&format!("{}Content-Encoding: gzip\r\n\r\n", it.head()), &[0x1f, 0x8b, 8, 0]),
        said: "not a delta",
    },
    Behaviour {
        name: "a body in chunks of nonsense",
        act: |it| it.say(&format!("{}Transfer-Encoding: chunked\r\n\r\n", it.head()), b"ffffffffffffffff\r\nx\r\n-1\r\n"),
        said: "whose length nobody says",
    },
    Behaviour {
        name: "two lengths",
        act: |it| it.say(&format!("{}Content-Length: 5\r\n\r\n", it.head()), b"hello"),
        said: "two lengths",
    },
    Behaviour { name: "a header without an end", act: |it| it.say("HTTP/1.1 206 OK\r\nX: ", b"aaaa"), said: "without an end" },
    Behaviour { name: "headers without an end", act: |it| it.say("HTTP/1.1 206 OK\r\n", b"X: y\r\n"), said: "without an end" },
    Behaviour {
        name: "interim answers without an end",
        act: |it| it.say("", b"HTTP/1.1 100 Continue\r\n\r\n"),
        said: "status 100",
    },
    Behaviour { name: "another protocol", act: |it| it.say("SSH-2.0-OpenSSH_9.6\r\n\r\n", b""), said: "else than HTTP" },
];

/// A bucket, and an image that lies in it.
pub struct Stage {
    dir: tempfile::TempDir,
    server: Server,
    trap: TcpListener,
    release: Release,
    manifest: Manifest,
    /// The object: the image as one stream.
    object: Vec<u8>,
}

/// One behaviour towards one node: it fetches an object that no other node does.
pub struct Errand<'a> {
    stage: &'a Stage,
    key: String,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("df-malicious").tempdir().expect("a directory");
        let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
        trap.set_nonblocking(true).expect("set");
        // The program leaves a mark, should anybody start it.
        let script = format!("#!/bin/sh\ntouch {}\nexec sleep 600\n#", dir.path().join("ran").display());
        let program = [script.as_bytes(), "x".repeat(PROGRAM_LEN).as_bytes()].concat();
        let (manifest, object) = stream(&program);
        let release = json!({
            "format": 1, "app": "files", "commit": "0".repeat(40), "committed": 0, "recipe_key": Digest::of(b"recipe"),
            "sandbox": "off", "image": manifest.image(), "image_len": program.len(),
            "run": { "exec": "run", "limits": {}, "exclusive": false, "ready": 1000, "drain": 1000 },
        });
        let release = serde_json::from_value(release).expect("a release");
        Self { dir, server: Server::start(), trap, release, manifest, object }
    }

    /// Has a node without anything fetch an object, and returns what it said.
    fn fetched(&self, root: &str, key: &str) -> Output {
        let url = self.server.presigned("GET", key, Duration::from_secs(900));
        let fetch = json!({ "fetch": {
            "image": self.release.image, "base": null, "delta": Digest::of(&self.object), "from": 0, "len": self.object.len(),
            "image_len": self.release.image_len, "source": { "url": url },
        } });
        let output = self.told(root, &[fetch]);
        let secret = url.split("X-Amz-Signature=").nth(1).expect("presigned").to_owned();
        expect_untold(&format!("{}{}", output.stdout, output.stderr), &[&secret, self.server.credentials().1]);
        output
    }

    /// Says requests to a node, after its lock.
    fn told(&self, root: &str, requests: &[Value]) -> Output {
        let frame = |kind: u8, payload: &Value| {
            let payload = payload.to_string().into_bytes();
            [&[kind], &(payload.len() as u32).to_le_bytes()[..], &payload].concat()
        };
        let mut said = frame(1, &json!({ "program": "0", "oldest": 1, "newest": 1 }));
        let lock = json!({ "lock": { "who": "x", "command": "x" } });
        [&[lock], requests].concat().iter().for_each(|request| said.extend(frame(2, request)));
        let root = self.root(root).display().to_string();
        let [data, tmp] = ["data", "tmp"].map(|name| format!("{root}/{name}"));
        let run = Run::new(env!("CARGO_BIN_EXE_df-node")).args(["serve", "--root", &root, "--data", &data, "--tmp", &tmp]);
        run.stdin(said).deadline(Duration::from_secs(60)).output()
    }

    fn activate(&self) -> Value {
        json!({ "activate": { "release": self.text(), "expect": 0, "soak": 0, "who": "x", "listen": "127.0.0.1" } })
    }

    /// The release, as it is sent.
    fn text(&self) -> String {
        String::from_utf8(self.release.encode()).expect("JSON")
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ran(&self) -> bool {
        self.dir.path().join("ran").exists()
    }

    /// A service that no client of a bucket has any business with.
    fn trap(&self) -> String {
        format!("http://{}/", self.trap.local_addr().expect("an address"))
    }

    /// Returns other bytes at the length of the object, so that only they are wrong.
    fn padded(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        assert!(bytes.len() <= self.object.len());
        bytes.resize(self.object.len(), 0);
        bytes
    }

    /// The object, as a change of an image that no node has.
    fn patch(&self) -> Vec<u8> {
        let mut bytes = self.object.clone();
        bytes[4] = 1;
        bytes[5..13].copy_from_slice(&Digest::of(b"another image").as_bytes()[..8]);
        bytes
    }

    /// The object with a zstd frame of 1 GiB of zeros in the place of its program.
    fn bomb(&self) -> Vec<u8> {
        let frame = zeros(8192);
        let manifest = self.manifest.encode();
        let head = &self.object[..self.object.len() - self.release.image_len as usize - 1];
        assert!(head.ends_with(&manifest));
        [head, &[1], &varint(frame.len() as u64), &frame].concat()
    }

    /// The object with `../x` in the place of a path of its manifest.
    fn leading_out(&self) -> Vec<u8> {
        let mut bytes = self.object.clone();
        let at = bytes.windows(4).position(|window| window == b"\x03run").expect("its only path");
        bytes[at + 1..at + 4].copy_from_slice(b"../");
        bytes
    }
}

impl Errand<'_> {
    fn answer(&self, act: Act) {
        self.stage.server.fault(Fault::new(act).on(Verb::Get).key(&self.key).always());
    }

    fn refuse(&self, status: u16, code: &'static str) {
        self.answer(Act::Refuse { status, code });
    }

    fn redirect(&self, to: &str) {
        self.answer(Act::Redirect { to: to.to_owned() });
    }

    fn holds(&self, object: Vec<u8>) {
        assert_ne!(object, self.stage.object);
        self.answer(Act::Holds(object));
    }

    fn with(&self, more: &[u8]) -> Vec<u8> {
        [&self.stage.object[..], more].concat()
    }

    /// Says a head, then something until the node goes.
    fn say(&self, head: &str, then: &[u8]) {
        self.answer(Act::Raw { first: head.as_bytes().to_vec(), then: then.to_vec() });
    }

    /// The head of the right answer, without its end.
    fn head(&self) -> String {
        let len = self.stage.object.len();
        format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\nContent-Range: bytes 0-{}/{len}\r\n", len - 1)
    }

    fn check(&self, behaviour: &Behaviour) {
        let (stage, name) = (self.stage, behaviour.name);
        stage.server.write(&self.key, &stage.object);
        let (good, bad) = (self.key.replace('/', "-good-"), self.key.replace('/', "-bad-"));
        let control = stage.fetched(&good, &self.key);
        assert!(control.stdout.contains("received") && !control.stdout.contains("fault"), "{name}: {control}");
        assert!(stage.root(&good).join("store").join(stage.release.image.to_string()).join("run").is_file(), "{name}");

        (behaviour.act)(self);
        let refused = stage.fetched(&bad, &self.key);
        assert!(stage.server.struck_at(&self.key) > 0, "{name}: it struck");
        assert!(refused.stdout.contains("fault") && refused.stdout.contains(behaviour.said), "{name}: {refused}");
        assert!(!refused.stdout.contains("received"), "{name}: {refused}");
        let named = fs::read_dir(stage.root(&bad).join("store")).map_or(0, Iterator::count);
        assert_eq!(named, 0, "{name}: something has a name");
        let staged = stage.told(&bad, &[json!({ "stage": { "release": stage.text() } })]).stdout;
        assert!(staged.contains("missing") && !stage.ran(), "{name}: {staged}");
    }
}

#[test]
fn a_node_takes_nothing_from_a_malicious_bucket() {
    let stage = Stage::new();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(behaviour) = BEHAVIOURS.get(n) else { return };
                    Errand { stage: &stage, key: format!("w/{n}") }.check(behaviour);
                }
            });
        }
    });
    assert!(stage.trap.accept().is_err(), "somebody was sent there");
    assert!(!stage.ran());
    // The control of running: where the image came whole, it does.
    stage.told("w-good-0", &[stage.activate()]);
    let ran = wait_until(Duration::from_secs(20), || stage.ran().then_some(()));
    survivors::kill_under(stage.dir.path());
    assert!(ran.is_some(), "what came whole can be started");
}

/// Makes an image of one program, and its stream, as it is told in the format of deltas.
fn stream(program: &[u8]) -> (Manifest, Vec<u8>) {
    let kind = Kind::File { executable: true, len: program.len() as u64, digest: Digest::of(program) };
    let manifest = Manifest::new(vec![Entry { path: "run".parse().expect("a path"), kind }]).expect("a tree");
    let bytes = manifest.encode();
    let header = [b"dfd\x03\0", &[0; 8][..], &manifest.image().0.as_bytes()[..8], &varint(bytes.len() as u64)].concat();
    (manifest, [&header[..], &[0], &bytes, &[0], program].concat())
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
