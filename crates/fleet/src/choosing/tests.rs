use std::collections::BTreeMap;

use df_core::{Digest, Entry};

use super::*;
use crate::deltas::Delta;

const MIB: u64 = 1 << 20;

/// A machine with images, each of one program and its length, and with deltas that were made.
#[derive(Default)]
struct Here {
    images: BTreeMap<ImageId, Manifest>,
    made: Vec<(Option<ImageId>, Level, Option<Codec>, u64)>,
}

impl Images for Here {
    fn holds(&self, image: ImageId) -> bool {
        self.images.contains_key(&image)
    }

    fn manifest(&self, image: ImageId) -> io::Result<Manifest> {
        self.images.get(&image).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, digest: Digest, _: u64, _: usize) -> io::Result<Vec<u8>> {
        let machine = if digest == Digest::of(b"arm") { 183 } else { 62 };
        Ok([&b"\x7fELF\x02\x01"[..], &[0; 12], &[machine, 0]].concat())
    }

    fn kept(&self, base: Option<ImageId>, _: ImageId, level: Level, codec: Option<Codec>) -> Option<(u64, Digest)> {
        let made = self.made.iter().find(|made| (made.0, made.1, made.2) == (base, level, codec));
        made.map(|made| (made.3, Digest::of(&made.3.to_le_bytes())))
    }

    fn kept_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>) -> Option<Delta> {
        None
    }
}

fn manifest(path: &str, content: &str, len: u64) -> Manifest {
    let kind = Kind::File { executable: true, len, digest: Digest::of(content.as_bytes()) };
    Manifest::new(vec![Entry { path: path.parse().expect("a path"), kind }]).expect("a tree")
}

impl Here {
    fn with(mut self, path: &str, content: &str, len: u64) -> Self {
        let manifest = manifest(path, content, len);
        self.images.insert(manifest.image(), manifest);
        self
    }

    fn id(&self, content: &str) -> ImageId {
        let has = |manifest: &Manifest| manifest.blobs()[0].0 == Digest::of(content.as_bytes());
        *self.images.iter().find(|(_, manifest)| has(manifest)).expect("it is here").0
    }
}

const SLOW: Link = Link { bytes_per_second: 1e6, round_trip: 0.02, together: 1e6 };
const FAST: Link = Link { bytes_per_second: 1e9, round_trip: 0.0002, together: 1e9 };

/// What is chosen for `new`, an image here, on a node that holds some.
#[track_caller]
fn choose(here: &Here, held: &[ImageId], link: Link, wish: Wish) -> Result<Chosen, WishError> {
    choose_with(here, Recipient { bases: held, incoming: &[], line: link.into(), wish })
}

fn choose_with(here: &Here, node: Recipient<'_>) -> Result<Chosen, WishError> {
    let image = here.id("new");
    let base = |base| here.manifest(base).ok();
    let target = Target { images: here, image, manifest: &here.images[&image], base: &base };
    Chooser { speed: Speed::usual(2), ..Chooser::default() }.choose(target, node)
}

fn here() -> Here {
    Here::default().with("app", "new", 8 * MIB).with("app", "old", 8 * MIB).with("other", "other", MIB).with("arm", "arm", MIB)
}

#[test]
fn the_image_that_is_most_like_the_new_one_is_the_base_whoever_owns_it() {
    let mut here = here();
    let (old, other, stranger) = (here.id("old"), here.id("other"), ImageId(Digest::of(b"not here")));
    let way = |held: &[ImageId], link| choose(&here, held, link, Wish::default()).expect("a way").way;
    assert_eq!(way(&[stranger, other, old], SLOW), Way::Patch(old));
    assert_eq!(way(&[stranger], SLOW), Way::Rsync(stranger));
    assert_eq!(way(&[], SLOW), Way::Whole);
    assert_eq!(way(&[old, here.id("new")], SLOW), Way::Held);
    here.made = vec![(None, Level::Fast, None, 3 * MIB)];
    let way = |held: &[ImageId], link| choose(&here, held, link, Wish::default()).expect("a way").way;
    assert_eq!(way(&[old], FAST), Way::Whole, "making a delta takes longer than sending what is made");
}

#[test]
fn what_is_made_already_is_taken_and_the_smallest_of_it_where_the_line_is_slower_than_its_unpacking() {
    let mut here = here();
    let old = here.id("old");
    here.made = vec![(Some(old), Level::Fast, None, 9000), (Some(old), Level::Small, None, 8000)];
    let modem = Link { bytes_per_second: 7e3, round_trip: 0.2, together: 7e3 };
    for (link, level, bytes) in [(modem, Level::Small, 8000), (SLOW, Level::Fast, 9000), (FAST, Level::Fast, 9000)] {
        let chosen = choose(&here, &[old], link, Wish::default()).expect("a way");
        assert_eq!((chosen.way, chosen.level, chosen.bytes, chosen.is_exact), (Way::Patch(old), level, bytes, true));
    }
    let wish = Wish { level: Some(Level::Fast), ..Wish::default() };
    assert_eq!(choose(&here, &[old], SLOW, wish).expect("a way").bytes, 9000);
    let wish = Wish { codec: Some(Codec::Patch), ..Wish::default() };
    assert!(!choose(&here, &[old], SLOW, wish).expect("a way").is_exact, "another codec was made");
}

#[test]
fn what_does_not_squeeze_is_known_by_the_delta_that_was_made() {
    let mut here = here();
    let old = here.id("old");
    here.made = vec![(Some(old), Level::Fast, None, 6 * MIB)];
    let chosen = choose(&here, &[old], SLOW, Wish { level: Some(Level::Fast), ..Wish::default() }).expect("a way");
    assert_eq!(chosen.way, Way::Patch(old), "the whole image would be thought to be 3 MiB");
}

#[test]
fn a_wish_is_fulfilled_or_refused_in_words() {
    let here = here();
    let (old, stranger) = (here.id("old"), ImageId(Digest::of(b"not here")));
    let wish = |codec, held: &[ImageId]| {
        let chosen = choose(&here, held, FAST, Wish { codec: Some(codec), ..Wish::default() });
        chosen.map(|chosen| (chosen.way, chosen.codec)).map_err(|error| error.to_string())
    };
    assert_eq!(wish(Codec::Elf, &[old]), Ok((Way::Patch(old), Some(Codec::Elf))));
    assert_eq!(wish(Codec::Rsync, &[old]), Ok((Way::Rsync(old), None)));
    assert_eq!(wish(Codec::Whole, &[old]), Ok((Way::Whole, None)));
    let none_here = "--codec copy needs an image that is on the node and here, and there is none";
    assert_eq!(wish(Codec::Copy, &[stranger]), Err(none_here.into()));
    assert_eq!(wish(Codec::Rsync, &[]), Err("--codec rsync needs an image on the node to start from, and it holds none".into()));
    let full = Wish { full: true, ..Wish::default() };
    assert_eq!(choose(&here, &[here.id("new")], SLOW, full).expect("a way").way, Way::Whole);
}

#[test]
fn elf_is_for_programs_of_the_machine_that_it_knows() {
    let here = here();
    let target = |content: &str| {
        let image = here.id(content);
        Target { images: &here, image, manifest: &here.images[&image], base: &|_| None }
    };
    assert!(has_program(target("new")));
    assert!(!has_program(target("arm")));
}

#[test]
fn what_is_foreseen_is_being_made_when_the_node_answers() {
    let here = here();
    let (image, old) = (here.id("new"), here.id("old"));
    let base = |base| here.manifest(base).ok();
    let target = Target { images: &here, image, manifest: &here.images[&image], base: &base };
    let node = |bases| Recipient { bases, incoming: &[], line: SLOW.into(), wish: Wish::default() };
    let chooser = Chooser { speed: Speed::usual(2), ..Chooser::default() };
    assert_eq!(chooser.foresee(target, node(&[])), None);
    let held = [old];
    let wants = chooser.foresee(target, node(&held)).expect("a delta");
    assert_eq!((wants.way, wants.level), (Way::Patch(old), Level::Fast));
    let alone = choose(&here, &[old], SLOW, Wish::default()).expect("a way");
    // As if the connection had taken as long as the delta.
    let later = Chooser { begun: chooser.begun - Duration::from_secs(1), ..chooser };
    let chosen = later.choose(target, node(&held)).expect("a way");
    assert!(chosen.way == wants.way && chosen.seconds < alone.seconds);
}

#[test]
fn what_a_cut_session_brought_does_not_count_again() {
    let mut here = here();
    let (image, old) = (here.id("new"), here.id("old"));
    let len = 4 * MIB;
    here.made = vec![(None, Level::Fast, None, len), (Some(old), Level::Fast, None, MIB)];
    let chosen = |delta: u64, offset| {
        let incoming = Incoming { image, base: None, delta: Digest::of(&delta.to_le_bytes()), offset, partial: None };
        let node = Recipient { bases: &[old], incoming: &[incoming], line: SLOW.into(), wish: Wish::default() };
        let chosen = choose_with(&here, node).expect("a way");
        (chosen.way, chosen.bytes)
    };
    assert_eq!(chosen(len, len - 1000), (Way::Whole, 1000));
    assert_eq!(chosen(len, 1000), (Way::Patch(old), MIB));
    assert_eq!(chosen(7, len - 1000), (Way::Patch(old), MIB), "it was another delta");
}

#[test]
fn an_image_all_of_which_came_before_a_cut_is_not_taken_for_one_that_is_held() {
    let (here, app) = (here(), "greeter".parse().expect("a name"));
    let (image, old) = (here.id("new"), here.id("old"));
    let survey = r#"{"arch":"x86_64","kernel":"6","libc":null,"free":1,"now":0,"images":[],"lock":null,"apps":[]}"#;
    let mut survey: Survey = serde_json::from_str(survey).expect("a survey");
    survey.images = vec![old];
    // Its files are there, and it has no name: the part of it that came is all of it.
    survey.incoming = vec![Incoming { image, base: None, delta: Digest::of(b"another"), offset: 9, partial: Some(image) }];
    let bases = bases(&survey, &app, image);
    assert_eq!(bases, [old]);
    let node = Recipient { bases: &bases, incoming: &survey.incoming, line: SLOW.into(), wish: Wish::default() };
    assert_ne!(choose_with(&here, node).expect("a way").way, Way::Held);
}
