//! Makes a service hot-reloadable: listeners by name, readiness, draining, live connections handed over.
//!
//! A service that links this crate can be upgraded while clients are using it. Its supervisor opens the ports, keeps
//! them open across versions and passes them on; the service says when it is ready, and finishes what it has begun
//! when it is told to drain. Nothing here is particular to one supervisor: the words are those of systemd's socket
//! activation and `sd_notify` (see [`protocol`]), so the same binary runs under `df`, under systemd, and by hand.
//!
//! ```no_run
//! use distributive_flow::Service;
//! use std::io::{Read, Write};
//!
//! fn main() -> std::io::Result<()> {
//!     let service = Service::from_env()?; // first thing, before anything opens descriptors
//!     let listener = service.listener("http", "127.0.0.1:8080")?; // passed, or bound here when run by hand
//!     let draining = service.draining()?; // from here on SIGTERM means "finish and leave"
//!     service.ready()?; // clients may come
//!
//!     for connection in draining.incoming(&listener)? {
//!         let mut connection = connection?;
//!         let mut request = [0; 1024];
//!         let _n_read = connection.read(&mut request)?;
//!         connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n")?;
//!     }
//!     service.stopping() // every queued connection was answered
//! }
//! ```
//!
//! Connections that are open then can go to the next version instead, so that their clients notice nothing: see [`connection`].
//!
//! `examples/greeter.rs` is a whole service: threads, keep-alive, slow answers and streams, and what each of them
//! does while draining.
//!
//! # Invariants
//! - Descriptors passed by the supervisor are owned once: [`Service::from_env`] succeeds at most once in a process, and
//!   each descriptor is given out at most once. They never leak into programs that the service starts.
//! - A service that was passed descriptors never binds by itself in their place: a name that was not passed is an error.
//!   Two versions that each bind one port lose the clients queued at the one that leaves.
//! - [`Draining`] goes one way. Once it is set it stays set, and its descriptor stays readable, for every thread.
//! - [`Draining::incoming`] ends only when draining has begun *and* the accept queue is empty.
//! - A connection that is handed over is served by exactly one version, whichever side dies at whatever moment; while it is on its way nobody
//!   touches it.
//! - Everything read from the environment or from a socket is bounded and checked; none of it makes this crate panic.
//!
//! # What it refuses to do
//! - Start threads (but for the feature `hyper`), allocate in a signal handler, read the clock behind your back, print, or exit.
//! - Take any signal but SIGTERM, or take SIGTERM from a program that has a handler of its own.
//! - Take descriptors meant for another process (`LISTEN_PID`), or of another kind than was asked for.
//! - Depend on anything but std and libc, unless asked by the feature `hyper`. It changes no environment variable: that is unsound beside other threads.
//!
//! The semver promise covers what a service calls: the names exported here. [`parent`] is the other end, for supervisors.

pub mod child;
pub mod connection;
mod control;
mod credentials;
mod descriptor;
pub mod draining;
#[cfg(feature = "hyper")]
pub mod http;
pub mod parent;
pub mod protocol;
#[cfg(test)]
mod scarce;
mod signal;

pub use child::{Service, StartError};
pub use connection::{Connection, Handoff};
pub use draining::{Draining, Incoming, Wake};
