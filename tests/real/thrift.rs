//! What the next version of a real server costs on the wire, beside what rsync needs for the same two trees.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use df_testkit::process::Run;
use df_testkit::tree;

use super::fleet::Fleet;
use super::package::static_web_server;

#[test]
fn the_next_version_of_a_server_costs_at_most_half_of_what_rsync_sends() {
    let fleet = Fleet::ssh(static_web_server(), 1);
    let [old, new] = fleet.package.versions.each_ref().map(|version| {
        let tree = fleet.path(version.number);
        fleet.df(["cache", "get", &version.commit, "--output", tree.to_str().expect("a plain path")]).ok();
        tree
    });
    fleet.df(["cp", "--version", &fleet.package.versions[0].commit]).ok();
    let wire = Wire::below(&fleet.path("wire"));
    let copy = wire.count(fleet.df(["--json", "cp", "--version", &fleet.package.versions[1].commit])).ok();
    let copied = &copy.events("copied")[0];
    let said = copied["bytes_sent"].as_u64().expect("a number") + copied["bytes_received"].as_u64().expect("a number");
    let seen = wire.n_bytes();
    let image = copied["image"].as_str().expect("an image");
    expect_equal(&new, &fleet.root(1).join("store").join(image));

    let target = fleet.path("rsynced");
    Run::new("cp").arg("-a").args([&old, &target]).ok();
    // The tree that df wrote may be read-only; rsync has to write into its copy.
    Run::new("chmod").args(["-R", "u+w"]).arg(&target).ok();
    let rsync = rsync(&new, &target, &fleet.path("rsh"));
    expect_equal(&new, &target);

    let of = |bytes: u64| bytes as f64 * 100.0 / rsync as f64;
    println!(
        "{} {} to {}, image of {} bytes",
        fleet.package.app, fleet.package.versions[0].number, fleet.package.versions[1].number, copied["image_bytes"]
    );
    println!("rsync -a -c -z: {rsync} bytes both ways");
    println!("df cp says:     {said} bytes both ways ({:.1} %), as {}", of(said), copied["codec"]);
    println!("df cp, counted: {seen} bytes through ssh ({:.1} %)", of(seen));
    assert!(said * 2 <= rsync, "df cp says {said} bytes, rsync needs {rsync}");
    assert!(seen * 2 <= rsync, "df cp put {seen} bytes through ssh, rsync needs {rsync}");
}

/// An `ssh` before the real one on PATH that keeps what goes through it: nobody has to believe what df says about itself.
struct Wire {
    dir: PathBuf,
}

impl Wire {
    fn below(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let ssh = Run::new("sh").args(["-c", "command -v ssh"]).ok().stdout;
        let text =
            "#!/bin/bash\nset -o pipefail\nd=$(dirname \"$0\")\ntee \"$d/sent.$$\" | SSH \"$@\" | tee \"$d/received.$$\"\n";
        script(&dir.join("ssh"), &text.replace("SSH", ssh.trim()));
        Self { dir: dir.to_owned() }
    }

    fn count(&self, run: Run) -> Run {
        let path = std::env::var("PATH").expect("a search path");
        run.env("PATH", format!("{}:{path}", self.dir.display()))
    }

    fn n_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).expect("the directory made above").flatten();
        let counted = files.filter(|file| file.file_name() != "ssh").map(|file| file.metadata().expect("a file of ours").len());
        let sum = counted.sum();
        assert!(sum > 0, "nothing went through the counted ssh, which proves nothing");
        sum
    }
}

/// Brings `target` to `source` as if over a network; returns the bytes of both directions.
fn rsync(source: &Path, target: &Path, rsh: &Path) -> u64 {
    // It gets the host's name, which is nobody's, and then what would run there.
    script(rsh, "#!/bin/sh\nshift\nexec \"$@\"\n");
    let run = Run::new("rsync").args(["-a", "-c", "-z", "--no-whole-file", "--delete", "--stats", "-e"]).arg(rsh);
    let said =
        run.env("LC_ALL", "C").arg(format!("{}/", source.display())).arg(format!("there:{}/", target.display())).ok().stdout;
    let total = |words: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(words)).unwrap_or_else(|| panic!("no {words:?} in {said}"));
        line.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    };
    total("Total bytes sent: ") + total("Total bytes received: ")
}

fn script(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

#[track_caller]
fn expect_equal(one: &Path, other: &Path) {
    let differences = tree::compare(one, other);
    assert!(differences.is_empty(), "{} and {} differ: {differences:?}", one.display(), other.display());
}
