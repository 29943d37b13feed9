//! A bucket that lies, drips, and never ends: refused in bounded time and memory.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use df_cache::s3::objects::{Condition, Objects as _};
use df_testkit::s3::{Act, Fault, Server, Verb};

use crate::support::{body, impatient, key, of, pattern, put, variant};

const LEN: usize = 10_000;

#[track_caller]
fn check_get(act: Act, expected: &str) {
    let server = Server::start();
    let objects = impatient(&server);
    put(&objects, "a", &pattern(LEN));
    server.fault(Fault::new(act.clone()).on(Verb::Get).always());
    let begun = Instant::now();
    assert_eq!(variant(objects.get(&key("a"), LEN as u64)), expected, "{act:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{act:?} took {:?}", begun.elapsed());
}

#[track_caller]
fn check_range(act: Act) {
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "a", &pattern(LEN));
    server.fault(Fault::new(act.clone()).on(Verb::Get));
    assert_eq!(variant(objects.get_range(&key("a"), 100, 500)), "Malformed", "{act:?}");
    assert_eq!(objects.requests().get, 1, "a liar is not asked again");
}

#[test]
fn bodies_without_end_or_of_other_lengths_are_refused() {
    check_get(Act::Body(vec![1; LEN + 1]), "TooLong");
    check_get(Act::LongLength { by: 1 }, "TooLong");
    let endless = {
        let server = Server::start();
        let objects = impatient(&server);
        put(&objects, "a", b"x");
        server.fault(Fault::new(Act::Endless).on(Verb::Get).always());
        variant(objects.get(&key("a"), LEN as u64))
    };
    assert!(["TooLong", "Malformed", "Unreachable"].contains(&&*endless), "{endless}");
}

#[test]
fn silence_and_drips_are_left() {
    check_get(Act::Hold, "Unreachable");
    check_get(Act::Drip { every: Duration::from_millis(50) }, "Unreachable");
}

#[test]
fn errors_in_the_place_of_answers_are_refused() {
    check_get(Act::Refuse { status: 404, code: "NotFound" }, "Malformed");
    check_get(Act::Refuse { status: 418, code: "Teapot" }, "Malformed");
    let server = Server::start();
    let objects = of(&server);
    for verb in [Verb::Get, Verb::Put, Verb::List, Verb::Delete] {
        server.fault(Fault::new(Act::ErrorWith200).on(verb).always());
    }
    // An object of nobody knows what: the reader's digest tells, as for every flipped byte.
    let got = objects.get(&key("a"), 10);
    assert!(got.is_err(), "{got:?}");
    assert!(objects.put(&key("a"), &body(b"x"), &Condition::Absent).is_err());
    assert!(objects.delete(&[key("a")]).is_err());
    assert!(objects.list("a").is_err());
}

#[test]
fn other_ranges_than_asked_for_are_refused() {
    check_range(Act::IgnoreRange);
    check_range(Act::WrongRange { by: 7 });
}

#[test]
fn redirects_are_never_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a socket");
    let to = format!("http://{}/df-test/some/prefix/a", elsewhere.local_addr().expect("an address"));
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "a", b"x");
    server.fault(Fault::new(Act::Redirect { to }).always());
    let error = objects.get(&key("a"), 1).expect_err("not there");
    assert!(error.to_string().contains("never followed"), "{error}");
    assert_eq!(variant(objects.get_range(&key("a"), 0, 1)), "Malformed");
    assert_eq!(variant(objects.put(&key("a"), &body(b"y"), &Condition::Absent)), "Malformed");
    assert_eq!(variant(objects.list("a")), "Malformed");
    assert_eq!(variant(objects.delete(&[key("a")])), "Malformed");
    assert!(elsewhere.accept().is_err(), "somebody was sent there");
}

#[test]
fn states_that_are_none_are_refused() {
    check_get(Act::Etag("x".repeat(5000)), "Malformed");
}

#[test]
fn a_list_without_end_or_order_is_refused_and_names_of_others_are_left_out() {
    let server = Server::start();
    let objects = impatient(&server);
    for name in ["p/a", "p/b", "p/c"] {
        put(&objects, name, b"1");
    }
    let odd = ["p/a b", "p/UPPER", "p/../../etc", "p/\u{7}", "p/%2e%2e"].map(|key| format!("some/prefix/{key}"));
    server.fault(Fault::new(Act::AddToList { keys: odd.to_vec() }).on(Verb::List));
    if let Ok(listed) = objects.list("p/") {
        assert_eq!(listed.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>(), ["p/a", "p/b", "p/c"]);
    }
    server.clear_faults();
    server.fault(Fault::new(Act::DoubleList).on(Verb::List));
    assert_eq!(variant(objects.list("p/")), "Malformed");
    server.clear_faults();
    server.fault(Fault::new(Act::EndlessList).on(Verb::List).always());
    assert_eq!(variant(objects.list("p/")), "Malformed");
}

#[test]
fn answers_without_end_are_cut_before_they_fill_the_memory() {
    let server = Server::start();
    // Patient: not the time ends these, but the bound.
    let objects = of(&server);
    put(&objects, "p/a", b"1");
    for verb in [Verb::List, Verb::Put, Verb::Delete] {
        server.fault(Fault::new(Act::Endless).on(verb).always());
    }
    let begun = Instant::now();
    assert!(objects.list("p/").is_err());
    assert!(objects.delete(&[key("p/a")]).is_err());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_does_not_read_is_left() {
    let server = Server::start();
    let objects = impatient(&server);
    server.fault(Fault::new(Act::Hold).on(Verb::Put).always());
    let begun = Instant::now();
    assert_eq!(variant(objects.put(&key("p/a"), &body(&pattern(30 << 20)), &Condition::Absent)), "Unknown");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn an_answer_to_a_put_that_never_comes_leaves_the_outcome_unknown() {
    for act in [Act::Hold, Act::HoldDone] {
        let server = Server::start();
        let objects = impatient(&server);
        server.fault(Fault::new(act).on(Verb::Put).always());
        assert_eq!(variant(objects.put(&key("head"), &body(&pattern(LEN)), &Condition::Absent)), "Unknown");
    }
}
