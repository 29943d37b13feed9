//! Datagrams of all sorts against a real socket.

use super::*;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn bound() -> NotifySocket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("@df-parent-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    NotifySocket::bind(NotifyAddress::parse(OsStr::new(&name)).expect("the name is good")).expect("bind")
}

fn send(to: &NotifySocket, datagram: &[u8]) {
    let sender = UnixDatagram::unbound().expect("socket");
    sender.send_to_addr(datagram, &to.address.to_socket_addr().expect("address")).expect("send");
}

fn our_pid() -> Option<i32> {
    i32::try_from(std::process::id()).ok()
}

#[track_caller]
fn check(datagram: &[u8], expect: Received) {
    let socket = bound();
    send(&socket, datagram);
    assert_eq!(socket.try_receive().expect("receive"), Some(expect));
    assert_eq!(socket.try_receive().expect("receive"), None);
}

#[test]
fn a_notification_names_its_sender() {
    check(b"READY=1", Received::Notification(Notification { pid: our_pid(), ready: true, ..Notification::default() }));
}

#[test]
fn hostile_datagrams_are_refused_and_the_next_one_is_heard() {
    let nothing = Received::Notification(Notification { pid: our_pid(), ..Notification::default() });
    check(b"", nothing.clone());
    check(b"X=1\n\0\n=", nothing.clone());
    check(&[b'\n'; MAX_DATAGRAM], nothing);
    check(&[b'\n'; MAX_DATAGRAM + 1], Received::Refused { pid: our_pid(), why: DatagramError::TooLong });
    check(&[b'x'; 100_000], Received::Refused { pid: our_pid(), why: DatagramError::TooLong });
    check(b"READY=1\xff", Received::Refused { pid: our_pid(), why: DatagramError::NotText });
}

#[test]
fn waiting_has_a_deadline() {
    let socket = bound();
    let deadline = Instant::now() + Duration::from_millis(10);
    assert_eq!(socket.receive_until(deadline).expect("receive"), None);
    assert!(Instant::now() >= deadline);
    let sender = std::thread::spawn({
        let to = socket.address.to_socket_addr().expect("address");
        move || UnixDatagram::unbound()?.send_to_addr(b"STOPPING=1", &to)
    });
    let received = socket.receive_until(Instant::now() + Duration::from_secs(10)).expect("receive");
    assert!(matches!(received, Some(Received::Notification(Notification { stopping: true, .. }))));
    sender.join().expect("no panic").expect("sent");
}

#[test]
fn a_path_is_bound_once_and_removed_with_the_socket() {
    let path = std::env::temp_dir().join(format!("df-notify-{}", std::process::id()));
    let address = NotifyAddress::Path(path.clone());
    let socket = NotifySocket::bind(address.clone()).expect("bind");
    assert_eq!(socket.variable(), path.as_os_str());
    assert_eq!(NotifySocket::bind(address).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_descriptor_in_a_datagram_is_not_kept() {
    let socket = bound();
    let (sent, mut peer) = UnixStream::pair().expect("pair");
    send_with_descriptor(&socket, sent.as_raw_fd());
    drop(sent);
    assert!(matches!(socket.try_receive().expect("receive"), Some(Received::Notification(n)) if n.ready));
    // The end of the stream comes only when every copy of the other end is closed.
    peer.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    assert_eq!(peer.read(&mut [0; 1]).expect("end of stream, no timeout"), 0);
}

/// Sends `READY=1` with a descriptor attached, which std cannot.
fn send_with_descriptor(to: &NotifySocket, fd: RawFd) {
    let sender = UnixDatagram::unbound().expect("socket");
    sender.connect_addr(&to.address.to_socket_addr().expect("address")).expect("connect");
    let mut text = *b"READY=1";
    let mut room = [0_u64; 8];
    // SAFETY: every pointer is to a live local; the one control message is written inside `room`, which is aligned.
    let n = unsafe {
        let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = room.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(sender.as_raw_fd(), &raw const message, 0)
    };
    assert_eq!(n, 7, "{}", io::Error::last_os_error());
}
