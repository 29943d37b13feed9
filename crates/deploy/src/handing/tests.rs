//! What is handed out, and what never is.

use df_core::{Entry, Kind, Manifest};
use df_wire::message::Reply;
use df_wire::session::FromNode;
use df_wire::{Heard, OperatorSession, Request};

use super::*;
use crate::fixture;

/// Longer than what is held in memory.
const LONG: usize = MEMORY_LEN as usize + 12_345;

/// Puts an image of files into a node's store.
fn image(layout: &Layout, files: &[(&str, &[u8], bool)]) -> ImageId {
    let entries = files.iter().map(|(path, bytes, executable)| Entry {
        path: path.parse().expect("a path"),
        kind: Kind::File { executable: *executable, len: bytes.len() as u64, digest: Digest::of(bytes) },
    });
    let manifest = Manifest::new(entries.collect()).expect("a tree");
    let image = manifest.image();
    fs::create_dir(layout.image(image)).expect("made");
    for (path, bytes, _) in files {
        fs::write(layout.image(image).join(path), bytes).expect("written");
    }
    fs::write(layout.manifest(image), manifest.encode()).expect("written");
    image
}

/// Asks a node and returns what it said, bytes joined to the content they belong to.
fn ask(layout: &Layout, request: &Request) -> Vec<(Heard<FromNode>, Vec<u8>)> {
    let mut operator = OperatorSession::new();
    let said = [operator.hello(), operator.request(request)].concat();
    let mut answer = vec![];
    crate::serve::serve(layout, &said[..], &mut answer).expect("a session");
    let mut heard: Vec<(Heard<FromNode>, Vec<u8>)> = vec![];
    for it in operator.receive(&answer).expect("the protocol") {
        match it {
            Heard::Hello(..) => {}
            Heard::Bytes(bytes) => heard.last_mut().expect("bytes follow a message").1.extend(bytes),
            message => heard.push((message, vec![])),
        }
    }
    operator.end().expect("all was said");
    heard
}

fn blob(bytes: &[u8]) -> (Heard<FromNode>, Vec<u8>) {
    let event = Event::Blob { digest: Digest::of(bytes), len: bytes.len() as u64 };
    (Heard::Message(FromNode::Event(event)), bytes.to_vec())
}

fn no_blob(bytes: &[u8], why: Unread) -> (Heard<FromNode>, Vec<u8>) {
    (Heard::Message(FromNode::Event(Event::NoBlob { digest: Digest::of(bytes), why })), vec![])
}

fn reply(reply: Reply) -> (Heard<FromNode>, Vec<u8>) {
    (Heard::Message(FromNode::Reply(reply)), vec![])
}

fn kind_of(heard: &[(Heard<FromNode>, Vec<u8>)]) -> Option<FaultKind> {
    match heard {
        [(Heard::Message(FromNode::Reply(Reply::Fault(fault))), _)] => Some(fault.kind.clone()),
        _ => None,
    }
}

#[test]
fn contents_come_in_the_order_in_which_they_were_asked_for() {
    let (_dir, layout) = fixture::layout();
    let long: Vec<u8> = (0..LONG).map(|n| ((n * n) >> 5) as u8).collect();
    let image = image(&layout, &[("a", b"one", false), ("b", b"", false), ("c", &long, true)]);
    let digests = [&long[..], b"", b"strange", b"one"].map(Digest::of).to_vec();
    let heard = ask(&layout, &Request::Blobs { image, digests });
    assert!(heard == [blob(&long), blob(b""), no_blob(b"strange", Unread::Missing), blob(b"one"), reply(Reply::Done)]);
}

#[test]
fn damaged_contents_are_named_and_none_of_their_bytes_leave() {
    let (_dir, layout) = fixture::layout();
    let long = vec![7; LONG];
    let files: [(&str, &[u8], bool); 6] = [
        ("flipped", b"flipped", false),
        ("cut", b"cut", false),
        ("grown", b"grown", false),
        ("gone", b"gone", false),
        ("linked", b"linked", false),
        ("long", &long, false),
    ];
    let image = image(&layout, &files);
    let at = |path: &str| layout.image(image).join(path);
    fs::write(at("flipped"), b"flopped").expect("written");
    fs::write(at("cut"), b"cu").expect("written");
    fs::write(at("grown"), b"grown!").expect("written");
    fs::remove_file(at("gone")).expect("removed");
    fs::remove_file(at("linked")).expect("removed");
    fs::write(layout.root.join("secret"), b"linked").expect("written");
    std::os::unix::fs::symlink(layout.root.join("secret"), at("linked")).expect("linked");
    df_testkit::faults::flip_byte(&at("long"), 3);
    let digests = files.iter().map(|(_, bytes, _)| Digest::of(bytes)).collect();
    let heard = ask(&layout, &Request::Blobs { image, digests });
    let expected = [
        no_blob(b"flipped", Unread::Damaged),
        no_blob(b"cut", Unread::Damaged),
        no_blob(b"grown", Unread::Damaged),
        no_blob(b"gone", Unread::Missing),
        no_blob(b"linked", Unread::Unreadable),
        no_blob(&long, Unread::Damaged),
        reply(Reply::Done),
    ];
    assert!(heard == expected, "{:?}", heard.iter().map(|(said, bytes)| (said, bytes.len())).collect::<Vec<_>>());
}

#[test]
fn a_damaged_file_is_made_up_for_by_its_twin() {
    let (_dir, layout) = fixture::layout();
    let image = image(&layout, &[("plain", b"same", false), ("program", b"same", true)]);
    fs::write(layout.image(image).join("plain"), b"sane").expect("written");
    let heard = ask(&layout, &Request::Blobs { image, digests: vec![Digest::of(b"same")] });
    assert!(heard == [blob(b"same"), reply(Reply::Done)]);
}

#[test]
fn nothing_is_handed_out_of_an_image_that_is_not_held_or_whose_manifest_is_damaged_or_too_much_at_once() {
    let (_dir, layout) = fixture::layout();
    let one = Digest::of(b"one");
    let ask = |image, digests| kind_of(&ask(&layout, &Request::Blobs { image, digests }));
    assert_eq!(ask(ImageId(one), vec![one]), Some(FaultKind::Missing));
    let image = image(&layout, &[("a", b"one", false)]);
    assert_eq!(ask(image, vec![one; BLOBS]), None);
    assert_eq!(ask(image, vec![one; BLOBS + 1]), Some(FaultKind::Refused));
    fs::write(layout.manifest(image), b"x").expect("written");
    assert_eq!(ask(image, vec![one]), Some(FaultKind::Damaged));
}

#[test]
fn a_release_is_handed_out_as_it_came_with_those_who_vouched() {
    let (_dir, layout) = fixture::layout();
    let (served, copied) = (fixture::release("greeter", 1), fixture::release("greeter", 2));
    generation::create(&layout, &served, 0, "me", df_core::Timestamp(0)).expect("made");
    staged::add(&layout, &copied, df_core::Timestamp(0)).expect("written");
    fs::create_dir_all(layout.attested(&copied.app)).expect("made");
    fs::write(layout.attested_release(&copied.app, copied.id()), "a bundle").expect("written");
    let ask = |release: ReleaseId| ask(&layout, &Request::Release { app: served.app.clone(), release });
    for (release, attestations) in [(&served, None), (&copied, Some("a bundle".to_owned()))] {
        let text = String::from_utf8(release.encode()).expect("JSON");
        assert!(ask(release.id()) == [reply(Reply::Release { release: text, attestations })]);
    }
    assert_eq!(kind_of(&ask(fixture::release("greeter", 3).id())), Some(FaultKind::Missing));
}
