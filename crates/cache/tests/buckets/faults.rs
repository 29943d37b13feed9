//! Failures that pass: what is tried again, how often, and what is said when it does not pass.

use std::time::Instant;

use df_cache::s3::objects::{Condition, Objects as _};
use df_core::Timestamp;
use df_testkit::s3::{Act, Fault, Server, Verb};

use crate::support::{body, impatient, key, of, pattern, put, variant};

const LEN: usize = 200_000;

#[test]
fn a_storm_of_503_is_outlived() {
    let server = Server::start();
    let objects = of(&server);
    server.fault(Fault::new(Act::SlowDown).times(40));
    std::thread::scope(|scope| {
        for i in 0..32 {
            let objects = &objects;
            scope.spawn(move || put(objects, &format!("storm/{i}"), &pattern(LEN)));
        }
    });
    assert_eq!(server.keys().len(), 32);
    assert_eq!(objects.requests().put, 72, "retries are counted");
}

#[test]
fn a_storm_that_does_not_end_is_an_error_after_a_number_of_tries() {
    let server = Server::start();
    let objects = of(&server);
    server.fault(Fault::new(Act::SlowDown).always());
    assert_eq!(variant(objects.get(&key("head"), 10)), "Unreachable");
    assert_eq!(variant(objects.put(&key("head"), &body(b"x"), &Condition::Absent)), "Unreachable", "503 does nothing");
    assert_eq!((objects.requests().get, objects.requests().put), (12, 12));
}

#[test]
fn what_breaks_off_is_read_again() {
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "a", &pattern(LEN));
    for act in [
        Act::CutAnswer { after: 1000 },
        Act::LongLength { by: 5 },
        Act::Drop,
        Act::LostReply,
        Act::Refuse { status: 500, code: "InternalError" },
    ] {
        server.fault(Fault::new(act.clone()).on(Verb::Get));
        assert_eq!(objects.get(&key("a"), 2 * LEN as u64).expect("at last").bytes, pattern(LEN), "{act:?}");
        if matches!(act, Act::LongLength { .. }) {
            continue; // Its length contradicts its range: that is no accident.
        }
        server.fault(Fault::new(act.clone()).on(Verb::Get));
        assert_eq!(objects.get_range(&key("a"), 5, 50_000).expect("at last"), pattern(LEN)[5..50_005], "{act:?}");
    }
    assert_eq!(objects.requests().get, 18, "each failed once");
}

#[test]
fn what_is_cut_on_its_way_is_sent_again_from_its_start() {
    let server = Server::start();
    let objects = of(&server);
    for (i, act) in
        [Act::CutRequest { after: 1000 }, Act::Drop, Act::Refuse { status: 500, code: "InternalError" }].into_iter().enumerate()
    {
        server.fault(Fault::new(act.clone()).on(Verb::Put));
        let name = format!("p/{i}");
        objects.put(&key(&name), &body(&pattern(LEN)), &Condition::Absent).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        assert_eq!(objects.get(&key(&name), LEN as u64).expect("there").bytes, pattern(LEN));
    }
    assert_eq!(objects.requests().put, 6);
}

#[test]
fn a_lost_reply_shows_as_a_change_and_without_any_reply_as_unknown() {
    let server = Server::start();
    let objects = of(&server);
    server.fault(Fault::new(Act::LostReply).on(Verb::Put));
    // It was this very put: who must know looks.
    assert_eq!(variant(objects.put(&key("head"), &body(b"1"), &Condition::Absent)), "Changed");
    let object = objects.get(&key("head"), 10).expect("written");
    assert_eq!(object.bytes, b"1");

    server.fault(Fault::new(Act::LostReply).on(Verb::Put));
    assert_eq!(variant(objects.put(&key("head"), &body(b"2"), &Condition::Matches(object.etag))), "Changed");
    assert_eq!(objects.get(&key("head"), 10).expect("written").bytes, b"2");

    server.fault(Fault::new(Act::LostReply).on(Verb::Put));
    objects.put(&key("derived"), &body(b"3"), &Condition::Always).expect("writing it twice is no harm");

    server.fault(Fault::new(Act::Drop).on(Verb::Put).always());
    assert_eq!(variant(objects.put(&key("other"), &body(b"4"), &Condition::Absent)), "Unknown");
}

#[test]
fn a_reply_that_was_lost_before_a_storm_leaves_the_outcome_unknown() {
    let server = Server::start();
    let objects = of(&server);
    server.fault(Fault::new(Act::LostReply).on(Verb::Put));
    server.fault(Fault::new(Act::SlowDown).on(Verb::Put).always());
    assert_eq!(variant(objects.put(&key("head"), &body(b"1"), &Condition::Absent)), "Unknown");
}

#[test]
fn a_conflict_is_a_change() {
    let server = Server::start();
    let objects = of(&server);
    server.fault(Fault::new(Act::Conflict).on(Verb::Put));
    assert_eq!(variant(objects.put(&key("head"), &body(b"1"), &Condition::Absent)), "Changed");
    assert_eq!(objects.requests().put, 1, "who planned plans again");
}

#[test]
fn denied_is_neither_absent_nor_tried_again() {
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "a", b"x");
    for (status, code) in
        [(403, "AccessDenied"), (403, "NoSuchKey"), (403, "RequestTimeTooSkewed"), (401, "Unauthorized"), (400, "ExpiredToken")]
    {
        server.fault(Fault::new(Act::Refuse { status, code }).on(Verb::Get));
        assert_eq!(variant(objects.get(&key("a"), 1)), "Denied", "{code}");
    }
    assert_eq!(objects.requests().get, 5);
    let wrong = crate::support::options(&server.endpoint(), server.bucket(), (server.credentials().0, "wrong"));
    let wrong = df_cache::s3::aws::AwsObjects::open(&wrong).expect("a client");
    let error = wrong.get(&key("a"), 1).expect_err("not ours");
    assert!(error.to_string().contains("the secret key is not the one of the access key"), "{error}");
}

#[test]
fn a_bucket_that_is_not_there_makes_nothing_absent() {
    let server = Server::start();
    let objects =
        df_cache::s3::aws::AwsObjects::open(&crate::support::options(&server.endpoint(), "another", server.credentials()));
    let error = objects.expect("a client").get(&key("head"), 1).expect_err("no bucket");
    assert!(error.to_string().contains("there is no bucket of this name"), "{error}");
    assert_eq!(variant::<()>(Err(error)), "Unreachable");
}

#[test]
fn a_part_that_cannot_be_sent_gives_the_whole_upload_up() {
    let server = Server::start();
    let objects = of(&server);
    let bytes = body(&pattern(65 << 20));
    server.fault(Fault::new(Act::SlowDown).on(Verb::Put).nth(2).times(2));
    objects.put(&key("w/a"), &bytes, &Condition::Always).expect("parts are tried again");
    server.fault(Fault::new(Act::Refuse { status: 403, code: "AccessDenied" }).on(Verb::Put).nth(3));
    let before = objects.requests().delete;
    assert_eq!(variant(objects.put(&key("w/b"), &bytes, &Condition::Always)), "Denied");
    assert_eq!(objects.requests().delete - before, 1, "what was sent is removed");
    assert_eq!(variant(objects.get(&key("w/b"), 1)), "Absent");
}

#[test]
fn parts_of_an_upload_that_nobody_ends_are_removed_when_they_are_old() {
    let server = Server::start();
    let objects = of(&server);
    let refuse = || Fault::new(Act::Refuse { status: 403, code: "AccessDenied" });
    server.fault(refuse().on(Verb::Put).nth(2));
    // It cannot clean up either, as after a kill.
    server.fault(refuse().on(Verb::Multipart).nth(2));
    assert_eq!(variant(objects.put(&key("w/a"), &body(&pattern(65 << 20)), &Condition::Always)), "Denied");
    assert_eq!(objects.abandon(Timestamp(0)).expect("a list"), 0, "it may still be going on");
    assert_eq!(objects.abandon(Timestamp(i64::MAX)).expect("a list"), 1);
    assert_eq!(objects.abandon(Timestamp(i64::MAX)).expect("a list"), 0);
}

#[test]
fn nobody_there_is_said_soon() {
    let server = Server::start();
    let objects = impatient(&server);
    drop(server);
    let begun = Instant::now();
    let error = objects.get(&key("head"), 1).expect_err("nobody");
    assert!(begun.elapsed().as_secs() < 10);
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(variant(objects.put(&key("head"), &body(b"x"), &Condition::Absent)), "Unreachable", "nothing was sent");
}

#[test]
fn a_list_may_be_stale_and_is_tried_again_when_it_breaks_off() {
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "p/a", b"1");
    server.fault(Fault::new(Act::StaleList).on(Verb::List));
    put(&objects, "p/b", b"1");
    assert_eq!(objects.list("p/").expect("a list").len(), 1);
    server.fault(Fault::new(Act::CutAnswer { after: 50 }).on(Verb::List));
    assert_eq!(objects.list("p/").expect("a list").len(), 2);
}
