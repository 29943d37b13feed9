//! What a person is told of the bytes: how many, before the first of them, and then as many as that.

use df_core::attestation::Subject;
use df_core::{Digest, Entry, Kind, Manifest, RecipeKey, ReleaseId};
use df_testkit::seed::Seed;
use df_wire::{NodeSession, session};

use super::*;
use crate::connection::{Connection, Options};
use crate::deltas::Images;
use crate::{Address, Level, Node, NodeProgram};

const LEN: usize = 2 << 20;
/// What a node hears before its connection breaks, and what it says it had of it afterwards.
const HEARD: u64 = 300_000;
const KEPT: u64 = 200_000;

/// An image of one file that nothing makes shorter.
struct Noise(Vec<u8>);

impl Images for Noise {
    fn holds(&self, _: ImageId) -> bool {
        false
    }
    fn manifest(&self, _: ImageId) -> io::Result<Manifest> {
        let kind = Kind::File { executable: false, len: LEN as u64, digest: Digest::of(&self.0) };
        Ok(Manifest::new(vec![Entry { path: "a".parse().expect("a path"), kind }]).expect("a tree"))
    }
    fn read(&self, _: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.0[offset as usize..][..len].to_vec())
    }
}

fn survey(incoming: Vec<Incoming>) -> df_wire::message::Survey {
    let survey = r#"{"arch":"x86_64","kernel":"6","libc":null,"free":1,"now":0,"images":[],"lock":null,"apps":[]}"#;
    df_wire::message::Survey { incoming, ..serde_json::from_str(survey).expect("a survey") }
}

/// Copies the image whole to a node whose sessions are those of a script, with these answers at hand; returns all that was told, and the delta's length.
async fn told(script: &str, first: &[Incoming], answers: &dyn Fn(Digest) -> Vec<Reply>) -> (Vec<Progress>, u64, Copied) {
    let images = Arc::new(Noise(Seed(3).random().bytes(LEN)));
    let image = images.manifest(ImageId(Digest::of(b""))).expect("it is here").image();
    let deltas = Arc::new(Deltas::to(images, image).expect("it is here"));
    let delta = deltas.patch(None, Level::Fast, None).await.expect("made");
    let dir = tempfile::tempdir().expect("a directory");
    let (root, program) = (dir.path().join("node"), dir.path().join("program"));
    std::fs::create_dir(&root).expect("made");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(root.join(name), bytes).expect("written");
    let encoded = |replies: &[Reply]| replies.iter().flat_map(session::encode_reply).collect::<Vec<u8>>();
    write("hello", NodeSession::default().hello());
    write("again", encoded(&answers(delta.digest())));
    let received = Reply::Received { reused: 0, held: false, fetched: 0 };
    write("received", encoded(std::slice::from_ref(&received)));
    write("locked", encoded(&[Reply::Done]));
    std::fs::write(&program, format!("#!/bin/sh\ncd \"$3\" || exit 1\ncat hello\n{script}\n")).expect("written");
    let options = Options {
        program: NodeProgram::file(&program, &dir.path().join("memo")).expect("a program"),
        places: Default::default(),
        patience: Duration::from_secs(20),
        sockets: None,
        beside: None,
    };
    let node = Node { name: None, address: Address::Local(root.clone()), listen: None, sudo: false };
    let connection = Connection::open(&node, &options).await.expect("it greets");
    let incoming = first.iter().map(|it| Incoming { image, delta: delta.digest(), ..it.clone() }).collect();
    let mut reached = Reached { connection, survey: survey(incoming) };
    let subject = Subject {
        release: ReleaseId(Digest::of(b"release")),
        app: "greeter".parse().expect("a name"),
        commit: "0".repeat(40).parse().expect("a commit"),
        recipe_key: RecipeKey(Digest::of(b"recipe")),
        image,
    };
    let errand = Errand {
        deltas: &deltas,
        app: &"greeter".parse().expect("a name"),
        wish: Wish { level: Some(Level::Fast), ..Wish::default() },
        link: Link::UNMEASURED,
        claim: &Claim { who: "somebody".into(), command: "cp".into(), patience: Duration::from_secs(20) },
        credentials: &Credentials { subject, bundle: None, policy: Default::default() },
        stage: None,
        through: None,
        is_last: true,
    };
    let mut told = vec![];
    let copied = copy(&mut reached, &errand, &mut |progress| told.push(progress)).await.expect("it arrives");
    (told, delta.len(), copied)
}

/// Sums up what was told: each total, and what was sent after it.
fn summed(told: &[Progress]) -> Vec<(u64, u64)> {
    let mut sums = vec![];
    for progress in told {
        match progress {
            Progress::Total(total) => sums.push((*total, 0)),
            Progress::Sent(bytes) => sums.last_mut().expect("a total comes before the first byte").1 += bytes,
        }
    }
    sums
}

fn half(offset: u64) -> Incoming {
    let nothing = Digest::of(b"");
    Incoming { image: ImageId(nothing), base: None, delta: nothing, offset, partial: None }
}

const TAKES_ALL: &str = "cat > /dev/null; cat locked received";

#[tokio::test]
async fn as_many_bytes_are_sent_as_were_told_before_the_first() {
    let (told, len, _) = told(TAKES_ALL, &[], &|_| vec![]).await;
    assert_eq!(summed(&told), [(len, len)]);
    assert!(len > LEN as u64 / 2 && told.len() > 5, "in several goes: {}", told.len());
}

#[tokio::test]
async fn what_is_there_of_an_earlier_session_is_in_no_total() {
    let (told, len, copied) = told(TAKES_ALL, &[half(KEPT)], &|_| vec![]).await;
    assert_eq!(summed(&told), [(len - KEPT, len - KEPT)]);
    assert_eq!(copied.bytes_resumed, KEPT);
}

#[tokio::test]
async fn a_total_is_told_anew_for_a_connection_that_was_opened_again() {
    let script = format!(
        "if [ -f cut ]; then cat again; cat > /dev/null; cat received; else touch cut; head -c {HEARD} > /dev/null; exit; fi"
    );
    // The lock, and where it had come to.
    let answers = |delta: Digest| {
        let image = Noise(Seed(3).random().bytes(LEN)).manifest(ImageId(delta)).expect("it is here").image();
        vec![Reply::Done, Reply::Survey(Box::new(survey(vec![Incoming { image, delta, ..half(KEPT) }])))]
    };
    let (told, len, copied) = told(&script, &[], &answers).await;
    let sums = summed(&told);
    assert_eq!(sums.iter().map(|(total, _)| *total).collect::<Vec<_>>(), [len, len - KEPT]);
    assert!(sums[0].1 < len, "it was cut: {sums:?}");
    assert_eq!((sums[1].1, copied.bytes_resumed), (len - KEPT, KEPT));
}
