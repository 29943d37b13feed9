//! What is left to the next program comes back whole, and nothing else is taken for it.

use std::os::fd::IntoRawFd as _;

use super::*;
use crate::fixture;

fn program(format: u32, version: &str, came: i64) -> Program {
    Program { format, version: version.into(), came }
}

#[test]
fn the_newer_of_two_programs_is_known_by_format_then_version_then_when_it_came() {
    let order = [
        program(1, "", 9),
        program(1, "0.9.9", 5),
        program(1, "0.10.0", 4),
        program(1, "0.10.0", 5),
        program(1, "1.0.0-rc.1", 6),
        program(2, "0.1.0", 1),
    ];
    for (at, a) in order.iter().enumerate() {
        for (other, b) in order.iter().enumerate() {
            assert_eq!(is_newer(a, b), at > other, "{a:?} {b:?}");
        }
    }
}

fn legacy() -> (tempfile::TempDir, Legacy) {
    let (dir, layout) = fixture::layout();
    let file = || File::open(layout.run()).expect("opened");
    let control = UnixListener::bind(dir.path().join("control")).expect("bound");
    let name: Name = "greeter/socket/7".parse().expect("a name");
    let records = Records { next_run: 4, crashes_ms: vec![17], ..Records::default() };
    let app = "greeter".parse().expect("a name");
    let legacy = Legacy {
        lock: file(),
        control,
        link: Some(file().into()),
        held: [(name, file().into())].into(),
        records: [(app, records)].into(),
    };
    (dir, legacy)
}

/// Gives descriptors away, as exec does.
fn leave(legacy: Legacy) -> RawFd {
    let memory = write(&legacy).expect("written").into_raw_fd();
    let _ = (legacy.lock.into_raw_fd(), legacy.control.into_raw_fd(), legacy.link.map(|link| link.into_raw_fd()));
    for descriptor in legacy.held.into_values() {
        let _ = descriptor.into_raw_fd();
    }
    memory
}

#[test]
fn what_is_left_comes_back_whole() {
    let (_dir, legacy) = legacy();
    let adopted = adopt(leave(legacy)).expect("adopted");
    assert_eq!(adopted.held.keys().map(ToString::to_string).collect::<Vec<_>>(), ["greeter/socket/7"]);
    let records = adopted.records.values().next().expect("one application");
    assert_eq!((records.next_run, &records.crashes_ms[..]), (4, &[17][..]));
    let mut all = descriptors(&adopted);
    assert_eq!(all.len(), 4);
    assert!(all.drain(..).all(is_closed_on_exec), "a program that is started would get it");
}

#[test]
fn what_is_not_sealed_or_not_understood_is_refused() {
    let memory = |text: &str, seals| {
        let mut memory = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made"));
        memory.write_all(text.as_bytes()).expect("written");
        memory.rewind().expect("rewound");
        fcntl_add_seals(&memory, seals).expect("sealed");
        read(memory)
    };
    let whole = r#"{"format":1,"lock":1,"control":1,"link":null,"held":[],"records":{}}"#;
    assert!(memory(whole, SEALED).is_ok());
    assert!(matches!(memory(whole, SealFlags::empty()), Err(LegacyError::NotSealed)));
    assert!(matches!(memory(whole, SealFlags::WRITE), Err(LegacyError::NotSealed)));
    assert!(matches!(memory(r#"{"format":2,"new":"thing"}"#, SEALED), Err(LegacyError::Format(2))));
    for text in ["", "{", "{}", r#"{"format":1}"#, r#"{"format":-1}"#, "[]"] {
        assert!(matches!(memory(text, SEALED), Err(LegacyError::Json(_))), "{text}");
    }
    let long = " ".repeat(usize::try_from(DOCUMENT_LEN).expect("small")) + whole;
    assert!(matches!(memory(&long, SEALED), Err(LegacyError::NotSealed)));
    let file = tempfile::tempfile().expect("a file");
    assert!(matches!(read(file), Err(LegacyError::NotSealed)), "no memory file at all");
    for number in [-1, 0, 2, 1_000_000] {
        assert!(matches!(adopt(number), Err(LegacyError::NotLeft(_))), "{number}");
    }
}
