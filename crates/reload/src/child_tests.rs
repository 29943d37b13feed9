//! What a service is given and says, without touching this process's environment.

use super::*;
use crate::parent::{NotifySocket, Received};
use std::ffi::OsStr;

const OUR_PID: u32 = 42;

fn service(variables: &[(&str, &str)], fds: Vec<OwnedFd>) -> Result<Service, StartError> {
    let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    Service::from_variables(&get, OUR_PID, |n| {
        assert_eq!(n, fds.len(), "as many as the variables say");
        Ok(fds)
    })
}

fn passed(names: &str, fds: Vec<OwnedFd>) -> Service {
    let n = fds.len().to_string();
    service(&[("LISTEN_PID", "42"), ("LISTEN_FDS", &n), ("LISTEN_FDNAMES", names)], fds).expect("good variables")
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("bind")
}

#[test]
fn passed_listeners_are_found_by_name_and_given_once() -> io::Result<()> {
    let (first, second, admin) = (tcp(), tcp(), tcp());
    let addresses = [first.local_addr()?, second.local_addr()?, admin.local_addr()?];
    let service = passed("http:admin:http", vec![first.into(), admin.into(), second.into()]);
    assert_eq!(service.listener("http", "127.0.0.1:0")?.local_addr()?, addresses[0]);
    assert_eq!(service.listener("http", "127.0.0.1:0")?.local_addr()?, addresses[1]);
    assert_eq!(service.listener("admin", "127.0.0.1:0")?.local_addr()?, addresses[2]);
    let again = service.listener("http", "127.0.0.1:0").expect_err("both are taken");
    assert_eq!(again.to_string(), "the descriptor passed as \"http\" has been taken before");
    Ok(())
}

#[test]
fn a_name_that_was_not_passed_is_never_bound() {
    let service = passed("http:admin", vec![tcp().into(), tcp().into()]);
    let refused = service.listener("htpp", "127.0.0.1:0").expect_err("not passed");
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    assert_eq!(refused.to_string(), "no descriptor was passed as \"htpp\", only as: http, admin");
    assert!(service.udp_socket("dns", "127.0.0.1:0").is_err());
    assert!(service.unix_listener("control", "/nonexistent/socket").is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
}

#[test]
fn a_descriptor_of_another_kind_is_refused_and_kept() -> io::Result<()> {
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let address = udp.local_addr()?;
    let service = passed("dns", vec![udp.into()]);
    let refused = service.listener("dns", "127.0.0.1:0").expect_err("it is UDP");
    assert_eq!(refused.to_string(), "the descriptor passed as \"dns\" is not a listening TCP socket");
    assert_eq!(service.udp_socket("dns", "127.0.0.1:0")?.local_addr()?, address);
    Ok(())
}

#[test]
fn without_a_supervisor_it_binds_by_itself_and_talks_to_nobody() -> io::Result<()> {
    for variables in [&[][..], &[("LISTEN_PID", "43"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")]] {
        let service = service(variables, Vec::new())?;
        assert!(!service.is_supervised());
        assert!(service.listener("http", "127.0.0.1:0")?.local_addr()?.ip().is_loopback());
        assert!(service.udp_socket("dns", "127.0.0.1:0")?.local_addr()?.ip().is_loopback());
        service.ready()?;
        assert_eq!((service.commit(), service.generation(), service.data_dir()), (None, None, None));
    }
    Ok(())
}

#[test]
fn where_and_what_it_is_comes_from_the_environment() -> io::Result<()> {
    let variables = [
        ("DF_APP", "greeter"),
        ("DF_COMMIT", "c0ffee"),
        ("DF_GENERATION", "7"),
        ("DF_IMAGE", "/image"),
        ("DF_DATA", "/data"),
        ("DF_TMP", "/tmp/df"),
    ];
    let service = service(&variables, Vec::new())?;
    assert_eq!((service.app(), service.commit(), service.generation()), (Some("greeter"), Some("c0ffee"), Some(7)));
    assert_eq!(service.image_dir(), Some(Path::new("/image")));
    assert_eq!((service.data_dir(), service.tmp_dir()), (Some(Path::new("/data")), Some(Path::new("/tmp/df"))));
    Ok(())
}

#[test]
fn variables_that_make_no_sense_are_refused_in_words() {
    for (name, value, words) in [
        ("DF_GENERATION", "seven", "DF_GENERATION makes no sense: \"seven\""),
        ("DF_GENERATION", "", "DF_GENERATION makes no sense: \"\""),
        (
            "NOTIFY_SOCKET",
            "here",
            "read NOTIFY_SOCKET: the address is neither an absolute path nor @name of at most 107 bytes: \"here\"",
        ),
        ("DF_CONNECTIONS", "http=keep", "DF_CONNECTIONS makes no sense: \"http=keep\""),
    ] {
        let refused = service(&[(name, value)], Vec::new()).expect_err(words);
        assert_eq!(io::Error::from(refused).to_string(), words);
    }
}

#[test]
fn every_sentence_reaches_the_supervisor() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("df-child-{}", std::process::id()));
    let name = format!("@df-child-{}", std::process::id());
    for address in [name.as_ref(), path.as_os_str()] {
        let supervisor = NotifySocket::bind(NotifyAddress::parse(address).expect("good address"))?;
        let address = supervisor.variable().into_string().expect("ASCII");
        let service = service(&[("NOTIFY_SOCKET", &address)], Vec::new())?;
        assert!(service.is_supervised());
        service.ready()?;
        service.status("up\nand well")?;
        service.extend(Duration::from_millis(1500))?;
        service.stopping()?;
        let heard: Vec<_> = std::iter::from_fn(|| supervisor.try_receive().expect("receive"))
            .map(|received| match received {
                Received::Notification(n) => (n.ready, n.stopping, n.status, n.extend),
                Received::Refused { why, .. } => panic!("{why}"),
            })
            .collect();
        let expect = [
            (true, false, None, None),
            (false, false, Some("up and well".to_owned()), None),
            (false, false, None, Some(Duration::from_millis(1500))),
            (false, true, None, None),
        ];
        assert_eq!(heard, expect);
    }
    let gone = service(&[("NOTIFY_SOCKET", OsStr::new(&name).to_str().expect("ASCII"))], Vec::new())?;
    assert!(gone.ready().is_err(), "nobody hears it any more, and that is said");
    Ok(())
}

#[test]
fn a_supervisor_that_does_not_read_cannot_hold_the_service() -> io::Result<()> {
    let address = format!("@df-child-deaf-{}", std::process::id());
    let _deaf = NotifySocket::bind(NotifyAddress::parse(OsStr::new(&address)).expect("good address"))?;
    let service = service(&[("NOTIFY_SOCKET", &address)], Vec::new())?;
    let (sender, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let refused = (0..100_000).find_map(|_| service.ready().err());
        sender.send(refused.map(|e| e.kind()))
    });
    let refused = outcome.recv_timeout(Duration::from_secs(20)).expect("it came back");
    assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
    Ok(())
}
