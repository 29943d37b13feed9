//! A proxy in front of a program that takes no socket and only knows a port: haproxy from the distribution, one for each version.
//!
//! What the supervisor starts is `df-node front`, exactly as it starts a program that takes listening descriptors; so a version behind a proxy is on trial,
//! serves, waits, drains and is adopted as every other. The front starts the program with a loopback port of its own, waits until it accepts there, and only
//! then has haproxy accept on the listening sockets that the version was given: nobody is accepted before the program serves, they wait in the queue. The kernel steers
//! between versions, so no proxy is ever told of another version.
//!
//! What to do when is decided in `course.rs`, without process or clock; `run.rs` does it. It reads no file of the node and writes none: what haproxy is told lies in
//! memory, and is gone with it.

mod configuration;
mod course;
mod order;
mod port;
mod run;
mod said;
mod sys;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_core::Endpoint;
use df_core::spec::{Handoff, Probe};

use crate::launch::LaunchSpec;
use crate::supervise::Place;
use configuration::{Speaks, Way};
use order::Order;

pub use run::front_main;

/// Where haproxy is looked for, as systemd does for what it starts. Not in PATH: the supervisor has another one than a session that says what the node has, and a third after a boot.
const USUAL: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// What haproxy is told is written for this version and newer ones.
const OLDEST: &str = "2.6";
/// The number of a version's first listening descriptor.
const FIRST_LISTENER: usize = 3;

/// A version cannot be put behind a proxy; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The node has no haproxy.
    #[error(
        "handoff: proxy needs the program haproxy, {OLDEST} or newer, and this node has none (looked in {}): apt install haproxy",
        USUAL.join(", ")
    )]
    NoProxy,
    /// Which ports the kernel gives to connections cannot be told.
    #[error("look for a port for the program: {}", port::RANGE_FILE)]
    Range(#[source] io::Error),
    /// All are taken.
    #[error("no port of 127.0.0.1 is free for the program")]
    NoPort,
}

/// Returns the node's haproxy.
///
/// # Errors
/// There is none.
pub fn find() -> Result<PathBuf, FrontError> {
    look(&USUAL).ok_or(FrontError::NoProxy)
}

/// Returns the ports of a version as its program sees them: those behind a proxy are free ports of a loopback address, new ones at each call.
///
/// # Errors
/// There is none left.
pub fn behind(places: &[Place]) -> Result<Vec<Place>, FrontError> {
    let n_ports = places.iter().filter(|place| place.handoff == Handoff::Proxy).count();
    let mut free = port::choose(n_ports)?.into_iter();
    let moved = |place: &Place| match place.handoff {
        Handoff::Proxy => {
            let port = free.next().expect("one was chosen for each");
            Place { address: Endpoint::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)), ..place.clone() }
        }
        _ => place.clone(),
    };
    Ok(places.iter().map(moved).collect())
}

/// Returns the one port that a program behind a proxy listens at, as most know it: `PORT`. With several it is that of `http`, else the first in order of names.
pub fn port_variable(behind: &[Place]) -> Option<(String, String)> {
    let proxied = || behind.iter().filter(|place| place.handoff == Handoff::Proxy);
    let place = proxied().find(|place| place.label.as_str() == "http").or_else(|| proxied().next())?;
    Some(("PORT".to_owned(), place.address.socket()?.port().to_string()))
}

/// Returns how to start a program behind a proxy, from how it would be started alone with the ports of `behind`; itself where no port is behind one.
///
/// # Errors
/// The node has no proxy.
pub fn wrap(spec: &LaunchSpec, behind: &[Place], verify: &[Probe], drain: Duration) -> Result<LaunchSpec, FrontError> {
    let ways = ways(behind, verify);
    if ways.is_empty() {
        return Ok(spec.clone());
    }
    let order = Order { proxy: find()?, drain, ways, program: spec.program.clone(), args: spec.args.clone() };
    // The launcher is this very program too, and may execute itself as any user, wherever its file lies by now.
    let mut front = LaunchSpec { program: "/proc/self/exe".into(), args: order.words(), ..spec.clone() };
    front.env.insert(order::WAYS.to_owned(), order.variable());
    Ok(front)
}

/// Returns what the proxy takes where, and where it goes. HTTP is spoken where a probe asks in HTTP.
fn ways(behind: &[Place], verify: &[Probe]) -> Vec<Way> {
    let listeners = behind.iter().filter(|place| place.handoff.has_listener()).zip(FIRST_LISTENER..);
    let is_http = |place: &Place| verify.iter().any(|probe| matches!(probe, Probe::Http { port, .. } if *port == place.label));
    let way = |(place, descriptor): (&Place, usize)| {
        let port = place.address.socket()?.port();
        let speaks = if is_http(place) { Speaks::Http } else { Speaks::Tcp };
        Some(Way { label: place.label.clone(), speaks, descriptor, port })
    };
    listeners.filter(|(place, _)| place.handoff == Handoff::Proxy).filter_map(way).collect()
}

/// Looks for haproxy in these directories, in order.
fn look(directories: &[&str]) -> Option<PathBuf> {
    directories.iter().map(|dir| Path::new(dir).join("haproxy")).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
