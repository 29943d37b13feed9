//! Probes: one question each to a process, to establish that it is well.
//!
//! A probe asks once. How often to ask, and what to conclude, is the caller's decision. Who is asked is decided by the `dial` it gets: for a generation on trial
//! [`Group::dial_trial`](crate::listeners::Group::dial_trial), which no client can do, or a plain connection for the serving one.

mod command;
mod http;
mod relay;
mod steady;
mod tcp;

use df_wire::message::ProbeOutcome;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub use command::command;
pub use http::{HttpProbe, http};
pub use relay::Relay;
pub use steady::{Pace, Question, Steady};
pub use tcp::tcp;

/// Connects within a time to whoever is asked.
pub type Dial<'a> = &'a dyn Fn(Duration) -> io::Result<TcpStream>;

/// Runs one question and makes an outcome of its answer (ok) or failure.
fn outcome(name: &str, question: impl FnOnce() -> Result<String, String>) -> ProbeOutcome {
    let start = Instant::now();
    let answer = question();
    let (ok, detail) = (answer.is_ok(), answer.unwrap_or_else(|failure| failure));
    ProbeOutcome { name: name.to_owned(), ok, detail, seconds: start.elapsed().as_secs_f64() }
}

/// Returns the time left, at least the smallest that a socket takes, or that none is left.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
}

/// Puts an error in words; both kinds of "too late" read the same.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
