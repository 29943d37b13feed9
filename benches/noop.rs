//! What does doing nothing cost?
//!
//! `df build` of a commit that is built, and `df cp` of an image that three local nodes hold, beside their floors: starting any process, starting each
//! of our programs, and one conversation with one node. The aim is a median under 100 ms for each of the two, on two idle cores.
//!
//!     cargo bench --bench noop
//!
//! Prints a table and writes target/bench/noop.json. The data is the tests' greeter, made anew from this repository's files.

#[allow(dead_code, reason = "written for the tests, which need more of it")]
#[path = "../tests/support/mod.rs"]
mod support;
mod timing;

use std::process::Command;

use support::{World, versions};
use timing::{Row, command, measure, report};

/// The aim, for the rows that have one.
const AIM_MS: f64 = 100.0;

fn main() {
    let (versions, world) = (versions(), World::new(3));
    world.df(["cp", "--version", &versions.v1]).ok();
    let df = |words: &[&str]| command(&versions.repo, &world.path("state"), words);
    let rows = [
        measure("true", None, || Command::new("true")),
        measure("df-node --version", None, || with_words(env!("CARGO_BIN_EXE_df-node"), "--version")),
        measure("df completions bash", None, || df(&["completions", "bash"])),
        measure("df with (reads df.yaml and the state)", None, || df(&["with"])),
        measure("df status, one node", None, || df(&["status", "--address", "n1"])),
        measure("df status, three nodes", None, || df(&["status"])),
        measure("df build, nothing new", Some(AIM_MS), || df(&["build", "--commit-hash", &versions.v1])),
        measure("df cp, three nodes, nothing new", Some(AIM_MS), || df(&["cp", "--version", &versions.v1])),
    ];
    report("noop", &rows);
    let missed: Vec<&Row> = rows.iter().filter(|row| row.aim_ms.is_some_and(|aim| row.median_ms > aim)).collect();
    for row in missed {
        println!("missed: {} takes {:.1} ms", row.name, row.median_ms);
    }
}

fn with_words(program: &str, word: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(word);
    command
}
