//! Tables for the format of `protocol`.

use super::*;

const OUR_PID: u32 = 42;

#[track_caller]
fn check_listen(pid: &str, fds: &str, names: Option<&str>, expect: Result<&[&str], &str>) {
    let variables = ListenVariables { pid: Some(OsStr::new(pid)), fds: Some(OsStr::new(fds)), names: names.map(OsStr::new) };
    let got = parse_listen(OUR_PID, &variables).map_err(|e| e.to_string());
    let expect = expect.map(|names| names.iter().map(|n| (*n).to_owned()).collect()).map_err(str::to_owned);
    assert_eq!(got, expect);
}

#[test]
fn descriptors_for_us_come_with_their_names() {
    check_listen("42", "1", Some("http"), Ok(&["http"]));
    check_listen("42", "2", Some("http:admin"), Ok(&["http", "admin"]));
    check_listen("42", "2", Some("http:http"), Ok(&["http", "http"]));
    check_listen("42", "2", None, Ok(&["unknown", "unknown"]));
    check_listen("42", "0", Some(""), Ok(&[]));
    check_listen("42", "0", None, Ok(&[]));
}

#[test]
fn descriptors_for_another_process_are_not_ours() {
    check_listen("43", "1", Some("http"), Ok(&[]));
    let no_pid = ListenVariables { fds: Some(OsStr::new("1")), ..ListenVariables::default() };
    assert_eq!(parse_listen(OUR_PID, &no_pid), Ok(Vec::new()));
    assert_eq!(parse_listen(OUR_PID, &ListenVariables::default()), Ok(Vec::new()));
}

#[test]
fn foreign_variables_are_refused_in_words() {
    let bad_name = "is no name for a descriptor: 1 to 255 bytes of printable ASCII without ':'";
    check_listen("4x", "1", None, Err("LISTEN_PID is no number: \"4x\""));
    check_listen("42", "-1", None, Err("LISTEN_FDS is no number: \"-1\""));
    check_listen("42", "+1", None, Err("LISTEN_FDS is no number: \"+1\""));
    check_listen("42", "", None, Err("LISTEN_FDS is no number: \"\""));
    check_listen("42", "65", None, Err("65 descriptors are passed, the limit is 64"));
    let largest = "18446744073709551615 descriptors are passed, the limit is 64";
    check_listen("42", "18446744073709551615", None, Err(largest));
    check_listen("42", "2", Some("http"), Err("LISTEN_FDNAMES has 1 names for 2 descriptors"));
    check_listen("42", "1", Some("a:b"), Err("LISTEN_FDNAMES has 2 names for 1 descriptors"));
    check_listen("42", "1", Some(""), Err(&format!("\"\" {bad_name}")));
    check_listen("42", "2", Some("a:"), Err(&format!("\"\" {bad_name}")));
    check_listen("42", "1", Some("a\nb"), Err(&format!("\"a\\nb\" {bad_name}")));
    let long = "x".repeat(256);
    check_listen("42", "1", Some(&long), Err(&format!("\"{}...\" {bad_name}", "x".repeat(64))));
}

#[test]
fn what_is_encoded_for_a_child_is_what_it_parses() {
    let full: Vec<String> = (0..MAX_DESCRIPTORS).map(|n| format!("port {n}")).collect();
    for names in [vec!["http".to_owned()], vec!["a".to_owned(), "b".to_owned()], full] {
        let encoded = encode_listen(&names).expect("the names are good");
        assert_eq!(encoded.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [LISTEN_FDS, LISTEN_FDNAMES]);
        check_listen("42", &encoded[0].1, Some(&encoded[1].1), Ok(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    }
}

#[test]
fn names_that_would_not_survive_are_not_encoded() {
    assert_eq!(encode_listen::<&str>(&[]), Ok(Vec::new()));
    for bad in ["", "a:b", "a\0", "tab\t", "\u{e9}"] {
        assert!(matches!(encode_listen(&[bad]), Err(ListenError::Name { .. })), "{bad:?}");
    }
    assert_eq!(encode_listen(&["x"; 65]), Err(ListenError::TooMany { n_descriptors: 65 }));
}

#[test]
fn addresses_are_paths_or_abstract_names() {
    for good in ["/run/df/notify", "@df/notify"] {
        let address = NotifyAddress::parse(OsStr::new(good)).expect(good);
        assert_eq!(address.to_variable(), good);
    }
    let long = format!("/{}", "x".repeat(MAX_ADDRESS));
    for bad in ["", "@", "relative", "vsock:2:1", "/nul\0", &long] {
        assert!(NotifyAddress::parse(OsStr::new(bad)).is_err(), "{bad:?}");
    }
}

#[track_caller]
fn check_datagram(datagram: &[u8], expect: Result<Notification, DatagramError>) {
    assert_eq!(Notification::parse(Some(7), datagram), expect);
}

fn nothing() -> Notification {
    Notification { pid: Some(7), ..Notification::default() }
}

#[test]
fn every_message_is_understood_at_the_other_end() {
    let second = Duration::from_secs(1);
    let status = |text: &str| Notification { status: Some(text.to_owned()), ..nothing() };
    for (message, expect) in [
        (Message::Ready, Notification { ready: true, ..nothing() }),
        (Message::Stopping, Notification { stopping: true, ..nothing() }),
        (Message::Status("up = well"), status("up = well")),
        (Message::Status("two\nREADY=1\u{7}"), status("two READY=1 ")),
        (Message::Status(""), status("")),
        (Message::Extend(second), Notification { extend: Some(second), ..nothing() }),
        (Message::Extend(Duration::MAX), Notification { extend: Some(MAX_EXTEND), ..nothing() }),
    ] {
        check_datagram(message.encode().as_bytes(), Ok(expect));
    }
}

#[test]
fn what_became_of_connections_is_understood_and_what_makes_no_sense_of_it_is_left_out() {
    let counted = |given, kept| Counted { given, kept };
    let ports = BTreeMap::from([("a=b".to_owned(), counted(1000, 3)), ("lines".to_owned(), counted(0, u32::MAX))]);
    let encoded = Message::Connections(&ports).encode();
    assert_eq!(encoded, "X_DF_CONNECTIONS=a=b=1000,3:lines=0,4294967295");
    check_datagram(encoded.as_bytes(), Ok(Notification { connections: ports, ..nothing() }));
    let sensible = Notification { connections: BTreeMap::from([("b".to_owned(), counted(1, 2))]), ..nothing() };
    check_datagram(b"X_DF_CONNECTIONS=a=1:b=1,2:=1,2:c=+1,2:d=1,4294967296:e", Ok(sensible));
    check_datagram(b"X_DF_CONNECTIONS=", Ok(nothing()));
    let many: BTreeMap<_, _> = (0..1000).map(|n| (format!("port-{n:03}"), counted(n, n))).collect();
    let encoded = Message::Connections(&many).encode();
    let parsed = Notification::parse(None, encoded.as_bytes()).expect("no longer than a datagram");
    assert_eq!(parsed.connections.len(), MAX_DESCRIPTORS);
}

#[test]
fn a_long_status_is_cut_between_characters() {
    let encoded = Message::Status(&"\u{20ac}".repeat(MAX_DATAGRAM)).encode();
    assert_eq!(encoded.len(), "STATUS=".len() + (MAX_DATAGRAM - "STATUS=".len()) / 3 * 3);
    assert!(Notification::parse(None, encoded.as_bytes()).is_ok());
}

#[test]
fn a_datagram_may_say_several_things() {
    let expect = Notification { ready: true, status: Some("up".to_owned()), ..nothing() };
    check_datagram(b"READY=1\nSTATUS=up", Ok(expect.clone()));
    check_datagram(b"STATUS=starting\nREADY=1\nSTATUS=up\n", Ok(expect));
}

#[test]
fn what_makes_no_sense_is_ignored() {
    for ignored in ["", "\n\n", "=", "READY", "READY=0", "READY=11", "ready=1", " READY=1", "MAINPID=1", "FDSTORE=1"] {
        check_datagram(ignored.as_bytes(), Ok(nothing()));
    }
    for ignored in ["-1", "", "1s", "99999999999999999999999"] {
        check_datagram(format!("EXTEND_TIMEOUT_USEC={ignored}").as_bytes(), Ok(nothing()));
    }
}

#[test]
fn hostile_datagrams_are_refused() {
    check_datagram(b"READY=1\n\xff", Err(DatagramError::NotText));
    check_datagram(&vec![b'\n'; MAX_DATAGRAM], Ok(nothing()));
    check_datagram(&vec![b'\n'; MAX_DATAGRAM + 1], Err(DatagramError::TooLong));
}
