//! The probe that asks whether connections are accepted.

use super::{Dial, ProbeOutcome, left, outcome, words};
use std::io;
use std::time::{Duration, Instant};

/// Connects, and waits until `accepted` says that the program took the connection from its queue.
///
/// That it connects proves nothing about a program whose listener we made: the kernel completes the handshake for a program that hangs, too. For such
/// a listener `accepted` is that its queue is empty; for a program that binds by itself, that it is connected is all we can tell.
pub fn tcp(name: &str, dial: Dial<'_>, accepted: &dyn Fn() -> io::Result<bool>, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    outcome(name, || {
        let _connection = dial(timeout).map_err(|e| format!("connect: {}", words(&e)))?;
        while !accepted().map_err(|e| e.to_string())? {
            if left(deadline).is_err() {
                return Err("connected, but the program did not accept the connection in time".to_owned());
            }
            std::thread::sleep(POLL); // nothing tells when a queue of somebody else's becomes empty
        }
        Ok("connected".to_owned())
    })
}

const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::queue_len;
    use std::net::{TcpListener, TcpStream};

    const SOON: Duration = Duration::from_secs(10);

    #[track_caller]
    fn check(listener: &TcpListener, timeout: Duration, expect: (bool, &str)) {
        let address = listener.local_addr().unwrap();
        let accepted = || queue_len(listener).map(|n| n == 0);
        let outcome = tcp("tcp", &|t| TcpStream::connect_timeout(&address, t), &accepted, timeout);
        assert_eq!((outcome.ok, outcome.detail.as_str()), expect);
    }

    #[test]
    fn a_program_that_accepts_is_well_and_one_that_hangs_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hangs = "connected, but the program did not accept the connection in time";
        check(&listener, Duration::from_millis(30), (false, hangs));
        listener.accept().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| listener.accept().unwrap());
            check(&listener, SOON, (true, "connected"));
        });
    }

    #[test]
    fn a_refused_connection_is_told() {
        let refused = |_| Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        let outcome = tcp("tcp", &refused, &|| Ok(true), SOON);
        assert_eq!((outcome.ok, outcome.detail.as_str()), (false, "connect: Connection refused (os error 111)"));
    }
}
