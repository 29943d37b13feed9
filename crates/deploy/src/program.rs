//! The command line of `df-node`. df is its user; a person sees it in a unit file or a crontab.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use df_core::Hasher;

use crate::layout::Layout;
use crate::serve::chain;
use crate::{launch, serve, supervise};

/// The oldest kernel that has what activation needs (pidfd, openat2, close_range).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

const USAGE: &str = "\
usage: df-node serve --root DIR --data DIR --tmp DIR        answers df over standard input and output
       df-node supervise --root DIR --data DIR --tmp DIR    runs what `current` says; for a unit file or a crontab
       df-node digest                                       prints the BLAKE3 of this program
       df-node --version";

/// What df-node is asked to do.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Serve(Layout),
    Supervise(Layout),
    Launch,
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
        Command::Digest => println!("{}", own_digest()?),
        Command::Version => println!("df-node {}", env!("CARGO_PKG_VERSION")),
        Command::Serve(layout) => {
            check_kernel()?;
            layout.create()?;
            serve::serve(&layout, io::stdin().lock(), io::stdout().lock())?;
        }
        Command::Supervise(layout) => {
            check_kernel()?;
            layout.create()?;
            supervise::run(&layout)?;
        }
    }
    io::stdout().flush()?;
    Ok(())
}

fn parse(words: &[OsString]) -> Option<Command> {
    let (first, rest) = words.split_first()?;
    match first.to_str()? {
        "serve" => layout(rest).map(Command::Serve),
        "supervise" => layout(rest).map(Command::Supervise),
        "launch" => Some(Command::Launch),
        "digest" => Some(Command::Digest),
        "--version" => Some(Command::Version),
        _ => None,
    }
}

fn layout(words: &[OsString]) -> Option<Layout> {
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    (words.len() == 6).then_some(())?;
    Some(Layout { root: value("--root")?, data: value("--data")?, tmp: value("--tmp")? })
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
        let layout = Layout { root: "/r".into(), data: "/d".into(), tmp: "/t".into() };
        assert_eq!(read("serve --root /r --data /d --tmp /t"), Some(Command::Serve(layout.clone())));
        assert_eq!(read("supervise --tmp /t --root /r --data /d"), Some(Command::Supervise(layout)));
        for line in [
            "",
            "serve",
            "serve --root /r --data /d",
            "serve --root r --data /d --tmp /t",
            "serve --root /r --data /d --tmp /t more",
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
