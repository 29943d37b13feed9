use df_core::{CommitId, Digest, ImageId};

use super::*;
use crate::event::Event;

fn commit() -> CommitId {
    CommitId::new(&"3f2a9c1d".repeat(5)).expect("40 digits")
}

fn image(text: &str) -> ImageId {
    ImageId(Digest::of(text.as_bytes()))
}

fn activation(from_generation: u64, reason: &str) -> Activation {
    Activation {
        node: "web1".into(),
        app: "greeter".parse().expect("a name"),
        generation: 4,
        image: Some(image("x")),
        commit: Some(commit()),
        from_generation,
        reason: reason.into(),
    }
}

fn copied(codec: &'static str, base: Option<ImageId>) -> Event {
    Event::Copied {
        node: "web1".into(),
        image: image("x"),
        base,
        codec: codec.into(),
        bytes_sent: 12_600,
        bytes_received: 300,
        bytes_resumed: 0,
        image_bytes: 4_300_000,
        through_cache: false,
        bytes_fetched: 0,
        seconds: 0.21,
    }
}

fn probe(ok: bool, detail: &str) -> ProbeOutcome {
    ProbeOutcome { name: "http /health".into(), ok, detail: detail.into(), seconds: 0.01 }
}

#[track_caller]
fn check(event: &Event, expected: &[&str]) {
    assert_eq!(lines(event), expected);
}

#[test]
fn copies_say_what_they_cost() {
    check(&copied("whole", None), &["  web1             12.3 KiB sent for 4.1 MiB  whole  0.2 s"]);
    let base = image("y");
    check(
        &copied("patch", Some(base)),
        &[&format!("  web1             12.3 KiB sent for 4.1 MiB  patch of {}  0.2 s", base.short())],
    );
    check(&copied("none", None), &["  web1             holds it already"]);
}

#[test]
fn activations_name_generation_and_commit() {
    check(&Event::Activated(activation(3, "deploy")), &["  web1             generation 4 serves 3f2a9c1d3f2a, before it 3"]);
    check(&Event::Activated(activation(0, "deploy")), &["  web1             generation 4 serves 3f2a9c1d3f2a"]);
    check(
        &Event::RolledBack(activation(5, "a probe\x1b[2J failed")),
        &["  web1             generation 4 serves again 3f2a9c1d3f2a, before it 5: a probe\\u{1b}[2J failed"],
    );
}

#[test]
fn probes_are_a_line_each() {
    let verified = |probes| Event::Verified {
        node: "web1".into(),
        app: "greeter".parse().expect("a name"),
        generation: 4,
        ok: true,
        probes,
    };
    check(&verified(vec![]), &["  web1             generation 4 runs; df.yaml asks no probes"]);
    check(
        &verified(vec![probe(true, ""), probe(false, "status 500\nx")]),
        &["  web1             ok   http /health  0.0 s", "  web1             FAIL http /health  status 500\\nx  0.0 s"],
    );
}

#[test]
fn errors_end_with_what_to_type_next() {
    let event = Event::Error {
        node: Some("web1".into()),
        phase: "activate".into(),
        message: "a probe failed".into(),
        serving: Some("generation 3, commit 3f2a9c1d3f2a".into()),
        next: Some("df logs --address web1".into()),
        log: vec!["panicked\x07".into()],
    };
    check(
        &event,
        &[
            "  | panicked\\u{7}",
            "df: web1: activate: a probe failed",
            "  serves now: generation 3, commit 3f2a9c1d3f2a",
            "  next: df logs --address web1",
        ],
    );
}

#[test]
fn scripts_get_the_fields_of_the_contract() {
    let json = |event: &Event| serde_json::to_value(event).expect("plain data");
    let keys = |event: &Event| json(event).as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&copied("patch", None)),
        "type node image base codec bytes_sent bytes_received bytes_resumed image_bytes through_cache bytes_fetched seconds"
            .split(' ')
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
    );
    assert_eq!(json(&Event::RolledBack(activation(5, "x")))["type"], "rolled_back");
    assert_eq!(json(&Event::Result { ok: true, exit: 0 }), serde_json::json!({"type": "result", "ok": true, "exit": 0}));
    assert_eq!(json(&Event::Activated(activation(5, "x")))["image"], image("x").to_string());
}

#[test]
fn a_build_that_gives_the_same_again_is_said_in_a_line_and_one_that_does_not_with_the_cause() {
    let checked = |again: &str, differences: Vec<df_build::Difference>| Event::Checked {
        app: "greeter".parse().expect("a name"),
        commit: commit(),
        image: image("x"),
        again: image(again),
        reproducible: again == "x",
        differs: differences.iter().map(|difference| difference.path.clone()).collect(),
        differences,
    };
    check(&checked("x", vec![]), &[&format!("reproducible: image {} was built twice", image("x").short())]);
    let difference = df_build::Difference {
        path: "bin/greeter".into(),
        kind: df_build::compare::DifferenceKind::Bytes { here: 400, there: 400 },
        sections: vec![df_build::compare::Section { name: ".rodata".into(), here: Some(9), there: Some(9) }],
        places: vec![df_build::compare::Place {
            section: Some(".rodata".into()),
            offset: 16,
            here: "built at 1763701234".into(),
            there: "built at 1763701299".into(),
        }],
        guess: Some(df_build::compare::Guess::Time),
    };
    let (first, second) = (image("x").short(), image("y").short());
    let words = format!("not reproducible: 3f2a9c1d3f2a was image {first}, and built again is {second}; 1 path differs");
    let expected = [
        words.as_str(),
        "  bin/greeter: differs, 400 bytes (looks like a time)",
        "    in .rodata",
        "    .rodata at 0x10",
        "      here   built at 1763701234",
        "      there  built at 1763701299",
    ];
    check(&checked("y", vec![difference.clone()]), &expected);
    let many = lines(&checked("y", vec![difference; 25]));
    assert_eq!(many.last().map(String::as_str), Some("  and 5 more (df build --check --json lists all)"));
}
