//! Bytes on a connection that no server of HTTP would send.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// How long a client may take nothing before it counts as gone.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// A client that takes more than this is broken, and the test says so by itself.
const MOST: usize = 1 << 30;

/// Says some bytes, then others again and again until the client goes.
pub(super) fn say(socket: &OwnedFd, first: &[u8], then: &[u8]) -> Result<(), Errno> {
    send_all(socket, first)?;
    // Many at once: one line at a time would be a drip.
    let many = then.repeat((64 << 10) / then.len().max(1));
    let mut said = 0;
    while !many.is_empty() && said < MOST {
        send_all(socket, &many)?;
        said += many.len();
    }
    Ok(())
}

fn send_all(socket: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(len) => bytes = &bytes[len..],
            // The runtime's sockets never wait.
            Err(Errno::AGAIN) => {
                if poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&PATIENCE))? == 0 {
                    return Err(Errno::TIMEDOUT);
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
