use df_core::{Digest, ImageId, Timestamp};
use df_fleet::message::LockHolder;

use super::*;
use crate::exit::of_nodes;

fn fault(kind: FaultKind) -> NodeError {
    NodeError::Fault(Box::new(Fault { kind, message: "it is so".into(), log: String::new(), probes: vec![], serving: None }))
}

fn holder() -> LockHolder {
    LockHolder { who: "ann@desk".into(), command: "deploy greeter".into(), since: Timestamp(0) }
}

#[test]
fn one_node_alone_decides_the_exit() {
    let table = [
        (NodeError::Unreachable { why: "no route".into() }, Exit::Unreachable),
        (NodeError::Silent(std::time::Duration::from_secs(1)), Exit::Unreachable),
        (NodeError::Answer, Exit::Failed),
        (fault(FaultKind::Locked(holder())), Exit::Locked),
        (fault(FaultKind::Reverted), Exit::PutBack),
        (fault(FaultKind::ProbeFailed), Exit::Failed),
        (fault(FaultKind::DiskFull), Exit::Failed),
        (fault(FaultKind::Moved { found: 3 }), Exit::Failed),
    ];
    for (error, exit) in table {
        assert_eq!(of_nodes(&[end_of(&error)]), exit, "{error}");
    }
}

#[test]
fn every_fault_says_what_serves_and_what_to_type_next() {
    let serving = Serving {
        generation: 3,
        commit: df_core::CommitId::new(&"ab".repeat(20)).expect("40 digits"),
        image: ImageId(Digest::of(b"x")),
        pid: Some(7),
        from: 0,
    };
    let error = NodeError::Fault(Box::new(Fault {
        kind: FaultKind::StartFailed,
        message: "it ended with status 1".into(),
        log: "one\ntwo".into(),
        probes: vec![],
        serving: Some(serving),
    }));
    let expected = Event::Error {
        node: Some("web1".into()),
        phase: "activate".into(),
        message: "it ended with status 1".into(),
        serving: Some("generation 3, commit abababababab".into()),
        next: Some("df logs --address web1".into()),
        log: vec!["one".into(), "two".into()],
    };
    assert_eq!(of_node("web1", "activate", &error), expected);
    let Event::Error { next, serving, .. } = of_node("web1", "cp", &fault(FaultKind::Locked(holder()))) else {
        panic!("an error")
    };
    assert_eq!(next.as_deref(), Some("wait for ann@desk, then type it again"));
    assert_eq!(serving.as_deref(), Some("what served before; nothing was changed"));
}

#[test]
fn what_is_missing_is_brought_by_what_fits_the_command() {
    for (phase, expected) in
        [("rollback", "history"), ("verify", "start"), ("restart", "deploy"), ("logs", "history"), ("activate", "cp")]
    {
        let Event::Error { next, .. } = of_node("web1", phase, &fault(FaultKind::Missing)) else { panic!("an error") };
        assert_eq!(next, Some(format!("df {expected} --address web1")), "{phase}");
    }
}

#[test]
fn the_log_of_a_version_that_failed_is_shown_not_that_of_the_serving_one() {
    let next = |kind, generation| match of_activation("web1", &fault(kind), generation) {
        Event::Error { next, .. } => next.expect("always one"),
        _ => panic!("an error"),
    };
    assert_eq!(next(FaultKind::ProbeFailed, Some(7)), "df logs --generation 7 --address web1");
    assert_eq!(next(FaultKind::StartFailed, None), "df logs --address web1");
    assert_eq!(next(FaultKind::DiskFull, Some(7)), "df gc --address web1");
}

#[test]
fn causes_are_said_once() {
    let inner = std::io::Error::other("disk on fire");
    let error = df_cache::store::PutError::Store(inner);
    assert_eq!(chain(&error), "write to the store: disk on fire");
}
