//! A connection that is asked more than once, as browsers and proxies keep them.
//!
//! A server may close such a connection while nobody asks anything, and then a question may already be on its way. Every client of HTTP asks it again elsewhere and no person notices, so
//! that is told apart from a loss here ([`Missed::Closed`]). Once one byte of an answer came, or on the first question of a connection, it is a loss as any other.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Answer, Loss, MAX_ANSWER_BYTES, header, loss, parse};

/// An open connection.
#[derive(Debug)]
pub struct Kept {
    addr: SocketAddr,
    stream: TcpStream,
    n_answers: u64,
}

/// A question that got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missed {
    /// The other side closed the connection between two questions: this one can be asked again.
    Closed,
    /// A client noticed.
    Lost(Loss),
}

impl Kept {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or nobody answers in time.
    pub fn connect(addr: SocketAddr, deadline: Duration) -> Result<Kept, Loss> {
        let stream = TcpStream::connect_timeout(&addr, deadline).map_err(loss)?;
        stream.set_nodelay(true).map_err(loss)?;
        stream.set_write_timeout(Some(deadline)).map_err(loss)?;
        Ok(Kept { addr, stream, n_answers: 0 })
    }

    /// Sends `GET path` and reads the whole answer; says whether the connection can be asked again.
    ///
    /// # Errors
    /// There was no whole answer in time.
    pub fn ask(&mut self, path: &str, deadline: Duration) -> Result<(Answer, bool), Missed> {
        let end = Instant::now() + deadline;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr);
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.write_all(request.as_bytes()) {
            return Err(self.missed(&bytes, loss(error)));
        }
        let mut buffer = [0; 16 << 10];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Lost(Loss::Timeout));
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| Missed::Lost(loss(error)))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.missed(&bytes, parse(&bytes).err().unwrap_or(Loss::Reset))),
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.missed(&bytes, loss(error))),
            }
            match parse(&bytes) {
                Ok(answer) => {
                    self.n_answers += 1;
                    return Ok((answer, goes_on(&bytes)));
                }
                Err(Loss::Short { .. }) if bytes.len() <= MAX_ANSWER_BYTES => {}
                Err(loss) => return Err(Missed::Lost(loss)),
            }
        }
    }

    fn missed(&self, bytes: &[u8], loss: Loss) -> Missed {
        let between = self.n_answers > 0 && bytes.is_empty();
        match loss {
            Loss::Reset | Loss::Short { .. } if between => Missed::Closed,
            loss => Missed::Lost(loss),
        }
    }
}

/// Whether the server keeps the connection after this answer.
fn goes_on(answer: &[u8]) -> bool {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]);
    match header(&head, "connection") {
        Some(words) => !words.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")),
        None => head.starts_with("HTTP/1.1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::free_addr;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(20);

    /// Answers one connection, question by question, and closes it.
    fn serve(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind(free_addr()).expect("a free address");
        let addr = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for answer in answers {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        addr
    }

    const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbye";

    #[test]
    fn questions_are_answered_on_one_connection_until_it_says_that_it_ends() {
        let mut kept = Kept::connect(serve(&[HI, LAST]), SOON).expect("it listens");
        let answer = |body: &str| Answer { status: 200, body: body.into() };
        assert_eq!(kept.ask("/", SOON), Ok((answer("hi"), true)));
        assert_eq!(kept.ask("/", SOON), Ok((answer("bye"), false)));
    }

    #[test]
    fn what_is_closed_between_two_questions_is_no_loss_and_what_is_cut_within_an_answer_is() {
        let mut kept = Kept::connect(serve(&[HI]), SOON).expect("it listens");
        kept.ask("/", SOON).expect("the first is answered");
        assert_eq!(kept.ask("/", SOON), Err(Missed::Closed));
        let mut kept = Kept::connect(serve(&[HI, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh"]), SOON).expect("it listens");
        kept.ask("/", SOON).expect("the first is answered");
        assert_eq!(kept.ask("/", SOON), Err(Missed::Lost(Loss::Short { got: 1, expected: Some(2) })));
    }

    #[test]
    fn a_new_connection_that_is_closed_without_an_answer_is_a_loss() {
        let mut kept = Kept::connect(serve(&[]), SOON).expect("it listens");
        assert!(matches!(kept.ask("/", SOON), Err(Missed::Lost(_))));
    }
}
