//! systemd as a place that holds descriptors: what the supervisor puts there comes back when systemd starts it again.
//!
//! sd_notify(3): `FDSTORE=1` with a descriptor and `FDNAME=` puts it there, `FDSTOREREMOVE=1` with the name takes it out. At the start everything comes at descriptors 3 and up, as
//! sd_listen_fds(3) has it. Messages of one process are taken in order, and before systemd notices its end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use distributive_flow::protocol::{FIRST_DESCRIPTOR, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID};
use rustix::io::FdFlags;

use super::{Name, Place};
use crate::unit::Notify;

/// The variable that says how many descriptors systemd keeps for us.
const FDSTORE: &str = "FDSTORE";

/// The descriptor store of this process's unit.
#[derive(Debug)]
pub struct Store(Notify);

/// Returns the store of the unit that this process is; `None` when it is none, or has none.
pub fn store() -> Option<Store> {
    let kept: u32 = std::env::var(FDSTORE).ok()?.parse().ok()?;
    (kept > 0).then_some(())?;
    Notify::of_this_process().map(Store)
}

/// Returns what systemd held and gave back to this process, but for what has no name of ours. The second time there is nothing any more.
pub fn passed() -> Vec<(Name, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let get = |name: &str| std::env::var_os(name).unwrap_or_default();
    let names = names(&get(LISTEN_PID), std::process::id(), &get(LISTEN_FDS), &get(LISTEN_FDNAMES));
    if names.is_empty() || TAKEN.swap(true, Ordering::SeqCst) {
        return vec![];
    }
    let descriptors = (FIRST_DESCRIPTOR..).zip(names).filter_map(|(number, name)| Some((name, own(number)?)));
    descriptors.filter_map(|(name, descriptor)| Some((name.parse().ok()?, descriptor))).collect()
}

impl Place for Store {
    fn hold(&mut self, name: &Name, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        // FDPOLL=0: systemd would let go of a listener that was shut down and of a process that ended; when, is ours to say.
        self.0.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(descriptor))
    }

    fn release(&mut self, name: &Name) -> io::Result<()> {
        self.0.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
    }
}

/// Returns the names of what was passed to process `own_pid`, in order; nothing when it was meant for another, or is not said as it should be.
fn names(pid: &OsStr, own_pid: u32, n_descriptors: &OsStr, names: &OsStr) -> Vec<String> {
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<usize>().ok());
    let names: Vec<String> = names.to_str().map(|names| names.split(':').map(str::to_owned).collect()).unwrap_or_default();
    let are_ours = number(pid) == usize::try_from(own_pid).ok();
    if are_ours && number(n_descriptors) == Some(names.len()) { names } else { vec![] }
}

/// Takes a descriptor that was passed, and keeps it from programs; `None` when there is none of this number.
fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is only asked about here; a number without a descriptor is answered by an error.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(asked).ok()?;
    rustix::io::fcntl_setfd(asked, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open (asked above); whoever started us passed it, by the word of the variables, so nothing else here owns it, and `passed` takes it once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use distributive_flow::protocol::NotifyAddress;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    fn heard(systemd: &UnixDatagram) -> (String, usize) {
        let mut text = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(systemd, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::empty()).expect("a datagram");
        let n_descriptors = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.count(),
            _ => 0,
        });
        let n_descriptors = n_descriptors.sum();
        (String::from_utf8(text[..got.bytes].to_vec()).expect("text"), n_descriptors)
    }

    #[test]
    fn what_is_put_there_and_taken_out_is_said_as_systemd_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bound");
        let mut store = Store(Notify::to(&NotifyAddress::Path(path)).expect("a socket"));
        let name: Name = "greeter/socket/4711".parse().expect("a name");
        store.hold(&name, io::stdin().as_fd()).expect("sent");
        assert_eq!(heard(&systemd), ("FDSTORE=1\nFDPOLL=0\nFDNAME=greeter/socket/4711".to_owned(), 1));
        store.release(&name).expect("sent");
        assert_eq!(heard(&systemd), ("FDSTOREREMOVE=1\nFDNAME=greeter/socket/4711".to_owned(), 0));
        store.0.ready(1);
        assert_eq!(heard(&systemd), ("READY=1\nSTATUS=supervises 1 application".to_owned(), 0));
    }

    #[test]
    fn what_was_passed_to_another_or_is_not_counted_right_is_left_alone() {
        let read = |pid: &str, n: &str, all: &str| names(pid.as_ref(), 12, n.as_ref(), all.as_ref());
        assert_eq!(read("12", "2", "a/socket/1:stored"), ["a/socket/1", "stored"]);
        for (pid, n, all) in [("13", "1", "a"), ("12", "2", "a"), ("12", "1", "a:b"), ("", "", ""), ("12", "x", "a")] {
            assert!(read(pid, n, all).is_empty(), "{pid} {n} {all}");
        }
    }
}
