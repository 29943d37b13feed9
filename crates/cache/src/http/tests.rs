//! A server that answers as each test says, by plain HTTP and by TLS on this machine.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use rustls::pki_types::pem::PemObject as _;

use super::*;

/// How an answer is given: the question's number, its range, and the connection.
type Answer = fn(usize, (u64, u64), &mut TcpStream);

/// Bytes of the object.
const LEN: u64 = 300_000;

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(at) >> 5) as u8
}

fn object(first: u64, last: u64) -> Vec<u8> {
    (first..=last).map(byte).collect()
}

impl Server {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}/d/a/b?X-Amz-Signature=canary", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let request = hear(&mut stream);
                let range = request.split("Range: bytes=").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a range");
                let (first, last) = range.split_once('-').expect("a range");
                heard.lock().expect("free").push(range.to_owned());
                let range = (first.parse().expect("a number"), last.parse().expect("a number"));
                std::thread::spawn(move || answer(n, range, &mut stream));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("free").clone()
    }
}

fn hear(stream: &mut impl std::io::Read) -> String {
    let mut bytes = vec![];
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).expect("text")
}

fn head(first: u64, last: u64, total: u64) -> Vec<u8> {
    let len = last - first + 1;
    format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\nContent-Range: bytes {first}-{last}/{total}\r\n\r\n")
        .into_bytes()
}

fn well(_: usize, (first, last): (u64, u64), stream: &mut TcpStream) {
    let _ = stream.write_all(&[head(first, last, LEN), object(first, last)].concat());
}

fn patience() -> Patience {
    Patience {
        head: Duration::from_secs(5),
        silence: Duration::from_secs(1),
        window: Duration::from_millis(500),
        least: 1 << 10,
        pause: Duration::from_millis(1),
    }
}

fn fetch(server: &Server, from: u64) -> Result<Vec<u8>, FetchError> {
    let client = Client::new(None, Resolver::of_system(), patience());
    let mut watch = |_| true;
    let url = Url::parse(&server.url).expect("a URL");
    let mut stream = Stream::open(client, url, from, LEN, Duration::from_secs(20), &mut watch);
    let mut bytes = vec![];
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            assert!(!error.to_string().contains("canary"), "{error}");
            Err(stream.failure().expect("it says why").clone())
        }
    }
}

#[test]
fn an_object_comes_from_any_byte_on() {
    let server = Server::start(well);
    assert!(fetch(&server, 0).expect("whole") == object(0, LEN - 1));
    assert!(fetch(&server, 299_999).expect("its end") == object(299_999, LEN - 1));
    assert!(fetch(&server, LEN).expect("nothing is left").is_empty());
    assert_eq!(server.asked(), ["0-299999", "299999-299999"]);
}

#[test]
fn what_was_cut_goes_on_from_its_last_byte() {
    let server = Server::start(|n, (first, last), stream| match n {
        0 => drop(stream.write_all(&[head(first, last, LEN), object(first, 99_999)].concat())),
        1 => drop(stream.write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")),
        2 => {}
        _ => well(n, (first, last), stream),
    });
    assert!(fetch(&server, 0).expect("whole") == object(0, LEN - 1));
    assert_eq!(server.asked(), ["0-299999", "100000-299999", "100000-299999", "100000-299999"]);
}

#[test]
fn a_server_that_never_gets_anywhere_is_given_up() {
    let server =
        Server::start(|_, (first, last), stream| drop(stream.write_all(&[head(first, last, LEN), vec![byte(first)]].concat())));
    assert_eq!(fetch(&server, 0), Err(FetchError::Cut));
    assert_eq!(server.asked().len(), 8);
    let server = Server::start(|_, _, _| {});
    assert_eq!(fetch(&server, 0), Err(FetchError::Cut));
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn every_other_answer_is_refused_at_once() {
    type Case = (Answer, fn(&FetchError) -> bool);
    let cases: [Case; 14] = [
        (
            |_, _, s| drop(s.write_all(b"HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/\r\n\r\n")),
            |e| *e == FetchError::Redirected,
        ),
        (|_, _, s| drop(s.write_all(b"HTTP/1.1 403 No\r\n\r\n")), |e| *e == FetchError::Expired),
        (|_, _, s| drop(s.write_all(b"HTTP/1.1 404 No\r\n\r\n")), |e| *e == FetchError::Gone),
        (|_, _, s| drop(s.write_all(b"HTTP/1.1 101 Other\r\n\r\n")), |e| *e == FetchError::Status(101)),
        (
            |_, _, s| drop(s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")),
            |e| matches!(e, FetchError::Answer(_)),
        ),
        (|_, (a, b), s| drop(s.write_all(&head(a + 1, b, LEN))), |e| matches!(e, FetchError::Answer(_))),
        (|_, (a, b), s| drop(s.write_all(&head(a, b - 1, LEN))), |e| matches!(e, FetchError::Answer(_))),
        (|_, (a, b), s| drop(s.write_all(&head(a, b, LEN + 1))), |e| matches!(e, FetchError::Length { .. })),
        (
            |_, _, s| drop(s.write_all(b"HTTP/1.1 206 OK\r\nContent-Length: 300000\r\n\r\n")),
            |e| matches!(e, FetchError::Answer(_)),
        ),
        (
            |_, _, s| {
                drop(
                    s.write_all(b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-299999/300000\r\nTransfer-Encoding: chunked\r\n\r\n"),
                )
            },
            |e| matches!(e, FetchError::Answer(_)),
        ),
        (|_, _, s| drop(s.write_all(&vec![b'x'; 20_000])), |e| matches!(e, FetchError::Answer(_))),
        (|_, _, s| drop(s.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n")), |e| matches!(e, FetchError::Answer(_))),
        (
            |_, (a, b), s| {
                let _ = s.write_all(&head(a, b, LEN));
                while s.write_all(b"x").is_ok() {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            },
            |e| matches!(e, FetchError::Slow { .. }),
        ),
        (
            |_, _, s| {
                let _ = s.write_all(b"HTTP/1.1 206 OK\r\n");
                while s.write_all(b"A: b\r\n").is_ok() {}
            },
            |e| matches!(e, FetchError::Answer(_)),
        ),
    ];
    for (n, (answer, is_right)) in cases.into_iter().enumerate() {
        let server = Server::start(answer);
        let error = fetch(&server, 0).expect_err("refused");
        assert!(is_right(&error), "case {n}: {error:?}");
        assert_eq!(server.asked().len(), 1, "case {n} is not asked again");
    }
}

#[test]
fn more_than_was_asked_for_is_not_read() {
    let server = Server::start(|_, (first, last), stream| {
        let _ = stream.write_all(&[head(first, last, LEN), object(first, last)].concat());
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    assert!(fetch(&server, 0).expect("whole") == object(0, LEN - 1));
}

#[test]
fn tls_is_spoken_with_whom_the_roots_vouch_for() {
    let authority = df_testkit::tls::Authority::new();
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(authority.certificate()).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(authority.key()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let config = Arc::new(config);
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            let mut tls = rustls::StreamOwned::new(connection, stream.expect("a connection"));
            let mut byte = [0];
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") && tls.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            let _ = tls.write_all(&[head(0, LEN - 1, LEN), object(0, LEN - 1)].concat());
        }
    });
    let ask = |others: Option<&Authorities>, host: &str| {
        let client = Client::new(others, Resolver::of_system(), patience());
        let url = Url::parse(&format!("https://{host}:{port}/k?canary")).expect("a URL");
        let mut part = client.range(&url, 0, LEN, LEN)?;
        let mut bytes = vec![];
        while part.read_into(&mut bytes, 1 << 20)? > 0 {}
        Ok(bytes)
    };
    let known = Authorities::read(&authority.pem()).expect("an authority");
    assert!(ask(Some(&known), "localhost").expect("believed") == object(0, LEN - 1));
    assert!(ask(Some(&known), "127.0.0.1").expect("believed") == object(0, LEN - 1));
    assert!(matches!(ask(Some(&known), "[::ffff:127.0.0.1]"), Err(FetchError::Tls { .. })), "another name");
    assert!(matches!(ask(None, "localhost"), Err(FetchError::Tls { .. })), "nobody vouches for it");
    let another = Authorities::read(&df_testkit::tls::Authority::new().pem()).expect("an authority");
    assert!(matches!(ask(Some(&another), "localhost"), Err(FetchError::Tls { .. })), "another one does not");
}
