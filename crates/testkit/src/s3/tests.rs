//! The server itself: that it is right when it should be, and wrong in the way it was told.

use super::{Act, Fault, Moto, Server, Verb};
use crate::net::{Answer, Loss, get};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn addr(server: &Server) -> SocketAddr {
    server.endpoint().strip_prefix("http://").expect("http").parse().expect("an address")
}

/// Sends a request with these headers and returns all that came, as text.
fn raw(to: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).expect("a server");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    let mut text = Vec::new();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Asks with a signature in the address.
fn ask(server: &Server, method: &str, key: &str, headers: &str, body: &[u8]) -> String {
    let url = server.presigned(method, key, SOON);
    raw(addr(server), method, url.strip_prefix(&server.endpoint()).expect("its own"), headers, body)
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn fetch(server: &Server, key: &str) -> Result<Answer, Loss> {
    let url = server.presigned("GET", key, SOON);
    get(addr(server), url.strip_prefix(&server.endpoint()).expect("its own"), SOON)
}

fn ok(body: &[u8]) -> Result<Answer, Loss> {
    Ok(Answer { status: 200, body: body.to_vec() })
}

#[test]
fn an_object_holds_other_bytes_in_ranges_too_and_it_is_known_where_it_struck() {
    let server = Server::start();
    server.write("a", b"true");
    server.fault(Fault::new(Act::Holds(b"another".to_vec())).on(Verb::Get).key("a").always());
    assert_eq!(fetch(&server, "a"), ok(b"another"));
    let part = ask(&server, "GET", "a", "Range: bytes=2-9\r\n", b"").to_ascii_lowercase();
    assert!(part.contains("content-range: bytes 2-6/7") && part.ends_with("other"), "{part}");
    assert_eq!((server.struck_at("a"), server.struck_at("b")), (2, 0));
}

#[test]
fn bytes_of_no_server_come_as_they_are_and_until_the_client_goes() {
    let server = Server::start();
    server.fault(Fault::new(Act::Raw { first: b"SSH-2.0-x\r\n".to_vec(), then: vec![] }));
    assert_eq!(ask(&server, "GET", "a", "", b""), "SSH-2.0-x\r\n");
    server.fault(Fault::new(Act::Raw { first: vec![], then: b"again ".to_vec() }));
    let mut stream = TcpStream::connect(addr(&server)).expect("a server");
    stream.write_all(b"GET /df-test/a HTTP/1.1\r\nHost: a\r\n\r\n").expect("asked");
    let mut many = vec![0; 6 << 20];
    stream.read_exact(&mut many).expect("as much as anybody wants");
    assert!(many.chunks(6).all(|word| word == b"again "));
}

#[test]
fn conditions_hold_and_signatures_count() {
    let server = Server::start();
    assert_eq!(status(&ask(&server, "PUT", "a/head", "If-None-Match: *\r\n", b"one")), 200);
    assert_eq!(status(&ask(&server, "PUT", "a/head", "If-None-Match: *\r\n", b"two")), 412);
    assert_eq!(status(&ask(&server, "PUT", "a/head", "If-Match: \"0123\"\r\n", b"two")), 412);
    assert_eq!(status(&ask(&server, "PUT", "a/none", "If-Match: \"0123\"\r\n", b"two")), 404);
    assert_eq!(fetch(&server, "a/head"), ok(b"one"));
    assert_eq!(status(&raw(addr(&server), "GET", "/df-test/a/head", "", b"")), 403);
    let forged = server.presigned("GET", "a/head", SOON).replace("a/head", "a/none");
    assert_eq!(status(&raw(addr(&server), "GET", forged.strip_prefix(&server.endpoint()).expect("its own"), "", b"")), 403);
    let counts = server.counts();
    assert_eq!((counts.put, counts.get, counts.list), (4, 3, 0));
}

#[test]
fn bytes_that_do_not_fit_their_checksum_are_never_seen() {
    let server = Server::start();
    server.write("a", b"old");
    let answer = ask(&server, "PUT", "a", "x-amz-checksum-crc32: AAAAAA==\r\n", b"new");
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(server.read("a").as_deref(), Some(&b"old"[..]));
}

#[test]
fn of_eight_writers_who_saw_the_same_state_one_writes() {
    let server = Server::start();
    // Nobody writes what is there: the object would be in the same state after it, and the next writer's condition would hold, too.
    let one_of_eight = |condition: &str, bytes: std::ops::Range<u8>| {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let write = |byte: u8| status(&ask(&server, "PUT", "head", condition, &vec![byte; 100_000]));
            let writers: Vec<_> = bytes.map(|byte| scope.spawn(move || write(byte))).collect();
            writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
        });
        let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
        assert_eq!((count(200), count(412)), (1, 7), "{condition}: {statuses:?}");
    };
    one_of_eight("If-None-Match: *\r\n", 0..8);
    let answer = ask(&server, "GET", "head", "", b"");
    let etag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a state");
    one_of_eight(&format!("If-Match: {etag}\r\n"), 8..16);
}

#[test]
fn what_is_done_behind_its_back_is_served() {
    let server = Server::start();
    server.write("p/0a/x", b"abc");
    server.flip("p/0a/x", 1);
    assert_eq!(fetch(&server, "p/0a/x"), ok(b"acc"));
    let before = server.snapshot();
    server.write("head", b"new");
    server.restore(&before);
    assert_eq!(server.keys(), ["p/0a/x"]);
}

#[test]
fn each_fault_strikes_once_and_then_the_server_is_right_again() {
    let cut = |got, expected| Err(Loss::Short { got, expected });
    for (act, expected) in [
        (Act::SlowDown, Err(503)),
        (Act::Conflict, Err(409)),
        (Act::Refuse { status: 403, code: "AccessDenied" }, Err(403)),
        (Act::Redirect { to: "http://169.254.169.254/".to_owned() }, Err(307)),
        (Act::Truncate { to: 2 }, Ok(ok(b"01"))),
        (Act::Flip { at: 0 }, Ok(ok(b"1123456789"))),
        (Act::Body(b"mine".to_vec()), Ok(ok(b"mine"))),
        (Act::Swap { with: "other".to_owned() }, Ok(ok(b"swapped"))),
        (Act::LongLength { by: 5 }, Ok(cut(10, Some(15)))),
        (Act::Drop, Ok(cut(0, None))),
        (Act::LostReply, Ok(cut(0, None))),
        (Act::Drip { every: Duration::from_micros(1) }, Ok(ok(b"0123456789"))),
    ] {
        let server = Server::start();
        server.write("a", b"0123456789");
        server.write("other", b"swapped");
        server.fault(Fault::new(act.clone()).on(Verb::Get).key("a"));
        let found = fetch(&server, "a");
        match expected {
            Ok(expected) => assert_eq!(found, expected, "{act:?}"),
            Err(status) => assert_eq!(found.map(|answer| answer.status), Ok(status), "{act:?}"),
        }
        assert_eq!(server.struck(), 1, "{act:?}");
        assert_eq!(fetch(&server, "a"), ok(b"0123456789"), "after {act:?}");
    }
}

#[test]
fn an_answer_is_cut_after_its_first_bytes() {
    let server = Server::start();
    server.write("a", b"0123456789");
    server.fault(Fault::new(Act::CutAnswer { after: 4 }));
    let answer = ask(&server, "GET", "a", "", b"");
    assert!(answer.contains("content-length: 10") && answer.ends_with("\r\n\r\n0123"), "{answer}");
}

#[test]
fn ranges_are_ignored_moved_and_forged() {
    let server = Server::start();
    server.write("a", b"0123456789");
    for (act, code, range, body) in [
        (None, 206, "bytes 2-4/10", "234"),
        (Some(Act::IgnoreRange), 200, "", "0123456789"),
        (Some(Act::WrongRange { by: 3 }), 206, "bytes 5-7/10", "567"),
        (Some(Act::WrongBytes { by: 3 }), 206, "bytes 2-4/10", "567"),
    ] {
        if let Some(act) = act.clone() {
            server.fault(Fault::new(act));
        }
        let answer = ask(&server, "GET", "a", "Range: bytes=2-4\r\n", b"");
        assert_eq!(status(&answer), code, "{act:?}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{act:?}: {answer}");
        assert_eq!(answer.contains("content-range: "), !range.is_empty(), "{act:?}: {answer}");
        assert!(answer.contains(range), "{act:?}: {answer}");
    }
}

#[test]
fn a_part_is_given_for_the_whole_and_headers_lie() {
    let server = Server::start();
    server.write("a", b"0123456789");
    server.fault(Fault::new(Act::Partial { to: 3 }));
    let answer = ask(&server, "GET", "a", "", b"");
    assert!(
        answer.starts_with("HTTP/1.1 206 ") && answer.contains("content-range: bytes 0-2/10") && answer.ends_with("\r\n\r\n012"),
        "{answer}"
    );
    server.fault(Fault::new(Act::Header { name: "content-encoding", value: "gzip".to_owned() }));
    let answer = ask(&server, "GET", "a", "", b"");
    assert!(answer.contains("content-encoding: gzip\r\n") && answer.ends_with("0123456789"), "{answer}");
}

#[test]
fn a_write_whose_reply_was_lost_is_done_and_one_that_was_cut_is_not() {
    let server = Server::start();
    server.fault(Fault::new(Act::LostReply).on(Verb::Put).key("done"));
    server.fault(Fault::new(Act::CutRequest { after: 1 }).on(Verb::Put).key("cut"));
    assert_eq!(ask(&server, "PUT", "done", "If-None-Match: *\r\n", b"x"), "");
    assert_eq!(status(&ask(&server, "PUT", "done", "If-None-Match: *\r\n", b"x")), 412);
    assert_eq!(ask(&server, "PUT", "cut", "", &[1; 1000]), "");
    assert_eq!(server.keys(), ["done"]);
}

#[test]
fn a_held_request_is_seen_and_ends_with_its_client() {
    let server = Server::start();
    server.fault(Fault::new(Act::HoldDone).on(Verb::Put));
    let url = server.presigned("PUT", "a", SOON);
    let mut stream = TcpStream::connect(addr(&server)).expect("a server");
    let path = url.strip_prefix(&server.endpoint()).expect("its own");
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1\r\n\r\nx", addr(&server)).expect("a server that reads");
    assert!(server.wait_for(SOON, |requests| requests.len() == 1));
    let written = crate::wait_until(SOON, || server.read("a"));
    assert_eq!(written.as_deref(), Some(&b"x"[..]));
    assert_eq!(server.requests()[0].status, None);
    drop(stream);
}

#[test]
fn lists_are_stale_short_double_and_longer_than_the_bucket() {
    let server = Server::start();
    server.write("p/1", b"x");
    server.write("p/2", b"x");
    let added = Act::AddToList { keys: vec!["p/../3".to_owned()] };
    server.fault(Fault::new(Act::StaleList).on(Verb::List));
    server.write("p/3", b"x");
    for (act, expected) in [
        (None, "p/1 p/2"),
        (Some(Act::HideFromList { keys: "p/2".to_owned() }), "p/1 p/3"),
        (Some(Act::DoubleList), "p/1 p/1 p/2 p/2 p/3 p/3"),
        (Some(added), "p/1 p/2 p/3 p/../3"),
        (None, "p/1 p/2 p/3"),
    ] {
        if let Some(act) = act.clone() {
            server.fault(Fault::new(act).on(Verb::List));
        }
        let answer = ask(&server, "GET", "", "", b"");
        let keys: Vec<&str> = answer.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
        assert_eq!(keys.join(" "), expected, "{act:?}");
    }
}

#[test]
fn moto_starts_with_an_empty_bucket() {
    let moto = Moto::start();
    let to = moto.endpoint().strip_prefix("http://").expect("http").parse().expect("an address");
    let signed =
        "Authorization: AWS4-HMAC-SHA256 Credential=df/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";
    let answer = raw(to, "GET", &format!("/{}?list-type=2", moto.bucket()), signed, b"");
    assert!(answer.contains("<KeyCount>0</KeyCount>"), "{answer}");
}
