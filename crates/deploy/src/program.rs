//! The command line of `df-node`. df is its user; a person sees it in a unit file or a crontab.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use df_core::Hasher;

use crate::control::Replaced;
use crate::layout::Layout;
use crate::serve::chain;
use crate::supervise::Manner;
use crate::{control, front, hold, launch, serve, supervise, unit, users};

/// The oldest kernel that has what activation needs (pidfd, openat2, close_range).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

const USAGE: &str = "\
usage: df-node serve --root DIR --data DIR --tmp DIR        answers df over standard input and output
       df-node supervise --root DIR --data DIR --tmp DIR    runs what `current` says; for a unit file or a crontab
       df-node install --root DIR --data DIR --tmp DIR      writes the unit by which systemd does that, and enables it
       df-node hold --root DIR --data DIR --tmp DIR         keeps copies of the supervisor's descriptors, and starts it again when it dies
       df-node replace --root DIR --data DIR --tmp DIR      has the supervisor become this program, also an older one
       df-node digest                                       prints the BLAKE3 of this program
       df-node --version";

/// What df-node is asked to do.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Serve(Layout),
    Supervise(Layout, Manner),
    Hold(Layout),
    Replace(Layout),
    Install(Layout),
    Launch,
    Front(Vec<OsString>),
    Digest,
    Version,
}

/// Runs df-node with the arguments of this process.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(command) = parse(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("df-node: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Launch => launch::launch_main(),
        Command::Front(words) => front::front_main(&words),
        Command::Digest => println!("{}", own_digest()?),
        Command::Version => println!("df-node {}", env!("CARGO_PKG_VERSION")),
        Command::Serve(layout) => {
            check_kernel()?;
            layout.create()?;
            users::begin(&layout)?;
            serve::serve(&layout, io::stdin().lock(), io::stdout().lock())?;
        }
        Command::Supervise(layout, manner) => {
            check_kernel()?;
            layout.create()?;
            supervise::run(&layout, manner)?;
        }
        Command::Hold(layout) => {
            layout.create()?;
            hold::holder::run(&layout)?;
        }
        Command::Replace(layout) => match control::replace(&layout, true)? {
            Replaced::Once => println!("the supervisor is this program now"),
            Replaced::Not => println!("the supervisor is this program already, or there is none"),
        },
        Command::Install(layout) => {
            layout.create()?;
            let unit = unit::install(&layout, &unit::look())?;
            println!("{} starts the supervisor after a boot, and now by: systemctl start {}", unit.name, unit.name);
        }
    }
    io::stdout().flush()?;
    Ok(())
}

fn parse(words: &[OsString]) -> Option<Command> {
    let (first, rest) = words.split_first()?;
    match first.to_str()? {
        "serve" => serving(rest).map(Command::Serve),
        "install" => layout(rest).map(Command::Install),
        "supervise" => supervising(rest).map(|(layout, manner)| Command::Supervise(layout, manner)),
        "hold" => layout(rest).map(Command::Hold),
        "replace" => layout(rest).map(Command::Replace),
        "launch" => Some(Command::Launch),
        "front" => Some(Command::Front(rest.to_vec())),
        "digest" => Some(Command::Digest),
        "--version" => Some(Command::Version),
        _ => None,
    }
}

/// Reads where a node lies, and at the end `--machine` if its machine is all its own.
fn serving(words: &[OsString]) -> Option<Layout> {
    match words.split_last() {
        Some((last, rest)) if last == "--machine" => layout(rest).map(|layout| Layout { is_machine: true, ..layout }),
        _ => layout(words),
    }
}

/// Reads where a node lies, and at the end how its supervisor begins: `--alone`, or `--adopt N` when it was another program before.
fn supervising(words: &[OsString]) -> Option<(Layout, Manner)> {
    match words {
        [rest @ .., last] if last == "--alone" => Some((layout(rest)?, Manner::Alone)),
        [rest @ .., word, number] if word == "--adopt" => Some((layout(rest)?, Manner::Adopting(number.to_str()?.parse().ok()?))),
        _ => Some((layout(words)?, Manner::Holding)),
    }
}

fn layout(words: &[OsString]) -> Option<Layout> {
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    (words.len() == 6).then_some(())?;
    Some(Layout { root: value("--root")?, data: value("--data")?, tmp: value("--tmp")?, is_machine: false })
}

fn own_digest() -> io::Result<df_core::Digest> {
    let mut hasher = Hasher::new();
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut hasher)?;
    Ok(hasher.finish())
}

/// Refuses a kernel that is too old, in words, before anything is written.
fn check_kernel() -> Result<(), Box<dyn std::error::Error>> {
    let release = crate::machine::kernel();
    match version(&release) {
        Some(version) if version >= OLDEST_KERNEL => Ok(()),
        _ => Err(format!("this node has Linux {release}; df-node needs {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1).into()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Command> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_are_read_whole_or_not_at_all() {
        let layout = Layout { root: "/r".into(), data: "/d".into(), tmp: "/t".into(), is_machine: false };
        let machine = Layout { is_machine: true, ..layout.clone() };
        assert_eq!(read("serve --root /r --data /d --tmp /t --machine"), Some(Command::Serve(machine)));
        assert_eq!(read("install --root /r --data /d --tmp /t"), Some(Command::Install(layout.clone())));
        assert_eq!(read("serve --root /r --data /d --tmp /t"), Some(Command::Serve(layout.clone())));
        assert_eq!(read("supervise --tmp /t --root /r --data /d"), Some(Command::Supervise(layout.clone(), Manner::Holding)));
        assert_eq!(
            read("supervise --root /r --data /d --tmp /t --alone"),
            Some(Command::Supervise(layout.clone(), Manner::Alone))
        );
        let adopting = Some(Command::Supervise(layout.clone(), Manner::Adopting(7)));
        assert_eq!(read("supervise --root /r --data /d --tmp /t --adopt 7"), adopting);
        assert_eq!(read("hold --root /r --data /d --tmp /t"), Some(Command::Hold(layout.clone())));
        assert_eq!(read("replace --root /r --data /d --tmp /t"), Some(Command::Replace(layout)));
        for line in [
            "",
            "serve",
            "serve --root /r --data /d",
            "serve --root r --data /d --tmp /t",
            "serve --root /r --data /d --tmp /t more",
            "supervise --root /r --data /d --tmp /t --machine",
            "serve --machine",
            "supervise --root /r --data /d --tmp /t --adopt",
            "supervise --root /r --data /d --tmp /t --adopt x",
            "hold --root /r --data /d --tmp /t --alone",
            "--help",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn kernels_are_ordered_by_number() {
        assert!(version("6.18.44-fc") > version("5.10.0"));
        assert!(version("5.9.1").is_some_and(|v| v < OLDEST_KERNEL));
        assert_eq!(version("odd"), None);
    }
}
