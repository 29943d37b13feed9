//! Talking to anything that is not the build itself.

use std::ffi::c_void;
use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use crate::stage::Stage;
use crate::system::{Message, Part, call3, held, sendmsg};
use crate::{Attempt, Outcome};

pub const ATTEMPTS: &[Attempt] = &[
    ("tcp-loopback", tcp_loopback),
    ("udp-name-server", udp_name_server),
    ("metadata-address", |_| route_to("169.254.169.254:80")),
    ("public-address", |_| route_to("203.0.113.1:443")),
    ("abstract-socket", abstract_socket),
    ("descriptor-through-abstract-socket", descriptor_sent),
    ("ssh-agent", |stage| unix_socket(stage, stage.get("agent"))),
    ("docker-socket", |stage| unix_socket(stage, stage.get("docker"))),
    ("packet-socket", |_| socket(17, 3)),
    ("raw-socket", |_| socket(2, 3)),
    ("vsock", |_| socket(40, 1)),
    ("netlink-audit", |_| netlink(9)),
    ("interfaces", interfaces),
];

fn tcp_loopback(stage: &Stage) -> Outcome {
    let address = format!("127.0.0.1:{}", stage.get("tcp"));
    let mut stream = TcpStream::connect(&address)?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(stage.token().as_bytes())?;
    Ok(address)
}

fn udp_name_server(stage: &Stage) -> Outcome {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.send_to(stage.token().as_bytes(), format!("127.0.0.1:{}", stage.get("udp")))?;
    Ok("sent".to_owned())
}

/// Asks for a way to an address; nothing is sent.
fn route_to(address: &str) -> Outcome {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    Ok(format!("a route from {}", socket.local_addr()?))
}

fn abstract_socket(stage: &Stage) -> Outcome {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(stage.get("abstract"))?)?;
    stream.write_all(stage.token().as_bytes())?;
    Ok("connected".to_owned())
}

fn unix_socket(stage: &Stage, path: &str) -> Outcome {
    UnixStream::connect(path)?.write_all(stage.token().as_bytes())?;
    Ok(format!("connected to {path}"))
}

#[repr(C)]
struct Rights {
    len: usize,
    level: i32,
    kind: i32,
    descriptor: i32,
    padding: i32,
}

/// CVE-2024-27297: a writable descriptor of the output goes to someone outside, who writes when the build is over.
fn descriptor_sent(stage: &Stage) -> Outcome {
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    let file = fs::File::create(stage.own("sent"))?;
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(stage.get("rights"))?)?;
    let rights = Rights { len: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptor: file.as_raw_fd(), padding: 0 };
    let part = Part { bytes: c"x".as_ptr().cast(), len: 1 };
    let control = &raw const rights as *const c_void;
    let message = Message {
        name: std::ptr::null(),
        name_len: 0,
        parts: &part,
        n_parts: 1,
        control,
        control_len: size_of::<Rights>(),
        flags: 0,
    };
    // SAFETY: the message and all it points to live until the call returns.
    match unsafe { sendmsg(stream.as_raw_fd(), &message, 0) } {
        1 => Ok("sent".to_owned()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn socket(family: usize, kind: usize) -> Outcome {
    // ICMP for the raw one, none for the others.
    let protocol = if (family, kind) == (2, 3) { 1 } else { 0 };
    call3(41, family, kind, protocol)?;
    Ok(format!("a socket of family {family}"))
}

/// The group of the audit log, which only the host's administrator may join.
fn netlink(protocol: usize) -> Outcome {
    let socket = call3(41, 16, 3, protocol)?;
    let mut address = [0u8; 12];
    address[0] = 16;
    address[8] = 1;
    call3(49, socket, address.as_ptr() as usize, address.len())?;
    Ok("joined".to_owned())
}

fn interfaces(_: &Stage) -> Outcome {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let mut names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.find(|name| *name != "lo").map_or_else(|| held("only the loopback"), |name| Ok(format!("sees {name}")))
}
