//! A build script that tries to get out: each attempt of the table in a process of its own, one line each of what came of it.
//!
//! It is compiled and run by cargo as the build script of a package, once shut into a room and once outside of one. It has no dependencies and speaks to
//! the kernel by itself. A line is `<name>: escaped <evidence>` or `<name>: held <reason>`; the program of the package prints them all.
//! Nothing in here hurts the machine that it runs on as root: what it kills, writes and reads are the things that the test made for it.

mod files;
mod kernel;
mod network;
mod processes;
mod stage;
mod system;
mod writes;

use std::fmt::Write as _;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stage::Stage;

/// What came of an attempt: the evidence that it got out, or why it did not.
pub type Outcome = io::Result<String>;

/// A name and what it does.
pub type Attempt = (&'static str, fn(&Stage) -> Outcome);

const DEADLINE: Duration = Duration::from_secs(20);

fn main() {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("daemon"), Some(token)) => processes::be_a_daemon(&token),
        (Some("attempt"), Some(name)) => one(&name),
        _ => all(),
    }
}

fn attempts() -> Vec<Attempt> {
    [files::ATTEMPTS, writes::ATTEMPTS, network::ATTEMPTS, processes::ATTEMPTS, kernel::ATTEMPTS].concat()
}

fn one(name: &str) {
    let attempts = attempts();
    let (_, attempt) = attempts.iter().find(|(known, _)| *known == name).expect("an attempt of the table");
    match attempt(&Stage::read()) {
        Ok(evidence) => print!("escaped {evidence}"),
        Err(reason) => print!("held {reason}"),
    }
}

fn all() {
    println!("cargo::rerun-if-changed=attempts");
    let mut outcomes = String::new();
    for (name, _) in attempts() {
        writeln!(outcomes, "{name}: {}", outcome_of(name).replace('\n', " ")).expect("memory");
    }
    let place = std::env::var("OUT_DIR").expect("cargo sets it") + "/outcomes";
    std::fs::write(place, outcomes).expect("the build's own directory");
}

/// Runs one attempt in a process of its own: a filter may kill it, a call may hang.
fn outcome_of(name: &str) -> String {
    let program = std::env::current_exe().expect("the script itself");
    let mut command = Command::new(program);
    command.args(["attempt", name]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return format!("held no process: {error}"),
    };
    let end = Instant::now() + DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(Some(status)) => return format!("held by {status}"),
            Ok(None) if Instant::now() > end => {
                child.kill().ok();
                child.wait().ok();
                return "held it hung".to_owned();
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return format!("held {error}"),
        }
    }
    let mut said = String::new();
    io::Read::read_to_string(&mut child.stdout.take().expect("piped"), &mut said).ok();
    said
}
