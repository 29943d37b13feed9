//! Rooms at work: real ones, on this machine. Each test runs as who runs the tests; one of them starts all again as nobody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::process::Order;

/// A directory of the host and a room that has parts of it.
struct Stage {
    dir: tempfile::TempDir,
    mounts: Vec<Mount>,
}

/// How a program ended and what it said.
struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), mounts: vec![] }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        give(&path).unwrap();
        path
    }

    fn with(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    #[track_caller]
    fn run(&self, command: &[&str]) -> Said {
        let args: Vec<String> = command[1..].iter().map(|&arg| arg.to_owned()).collect();
        let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let room = Room { mounts: self.mounts.clone(), host_name: "df".to_owned() };
        let order = Order {
            program: Path::new(command[0]),
            args: &args,
            dir: Path::new("/"),
            environment: &environment,
            room: Some(&room),
        };
        let (inside, outputs) = start(&order, &room).unwrap();
        let (mut stdout, mut stderr) = (outputs.stdout, outputs.stderr);
        let reader = std::thread::spawn(move || {
            let mut text = vec![];
            stderr.read_to_end(&mut text).unwrap();
            text
        });
        let mut out = vec![];
        stdout.read_to_end(&mut out).unwrap();
        let err = reader.join().unwrap();
        let status = inside.wait().unwrap().code();
        Said { status, out: String::from_utf8_lossy(&out).into_owned(), err: String::from_utf8_lossy(&err).into_owned() }
    }

    #[track_caller]
    fn sh(&self, script: &str) -> Said {
        self.run(&["/bin/sh", "-c", script])
    }
}

#[test]
fn a_program_sees_only_the_constant_places() {
    let said = Stage::new().sh("echo /* /dev/* /etc/*; id; pwd; hostname; umask; touch /tmp/a /dev/shm/b && echo written");
    eprintln!("{} / {} / {:?}", said.out, said.err, said.status);
}
