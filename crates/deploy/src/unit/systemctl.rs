//! Writing a node's unit, and having systemd read and start it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use df_cache::durable;

use super::{Found, Scope, Unit, WhyNot, choose, exists, found};
use crate::layout::{Layout, make_dir};

/// No unit could be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InstallError {
    #[error("there is no unit for this node")]
    None(#[source] WhyNot),
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("systemctl {what}")]
    Systemctl {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("systemctl {what} ended with {status}")]
    Refused { what: String, status: ExitStatus },
}

/// Writes a node's unit, unless it is there as it should be, and enables it when it is new. Returns it.
///
/// # Errors
/// There can be none here, or it cannot be written. Then the supervisor is started without.
pub fn install(layout: &Layout, found: &Found) -> Result<Unit, InstallError> {
    let unit = choose(layout, found).map_err(InstallError::None)?;
    let is_new = !exists(&unit.file);
    if is_new || write_changed(&unit)? {
        if is_new {
            write(&unit)?;
        }
        run(&unit, &["daemon-reload"])?;
    }
    if is_new {
        run(&unit, &["enable", "--quiet", &unit.name])?;
    }
    Ok(unit)
}

/// Has the unit of a node name the program that we are, where there is a unit.
///
/// # Errors
/// It cannot be written, and names the program that it named.
pub fn refresh(layout: &Layout, found: &Found) -> Result<(), InstallError> {
    match choose(layout, found) {
        Ok(unit) if exists(&unit.file) && write_changed(&unit)? => run(&unit, &["daemon-reload"]),
        _ => Ok(()),
    }
}

/// Starts a node's supervisor by its unit, written first where the machine is the node; `None` where there is none. The child ends when the supervisor listens, or failed to.
///
/// # Errors
/// There should be a unit, and it cannot be used.
pub fn start(layout: &Layout, found: &Found, log: fs::File) -> Result<Option<Child>, InstallError> {
    let unit = match choose(layout, found) {
        Ok(unit) if layout.is_machine || exists(&unit.file) => install(layout, found)?,
        _ => return Ok(None),
    };
    let failed = |source| InstallError::Systemctl { what: format!("start {}", unit.name), source };
    let mut command = systemctl(&unit);
    Ok(Some(command.args(["start", &unit.name]).stdout(Stdio::null()).stderr(log).spawn().map_err(failed)?))
}

/// Replaces the text of a unit that is there and ours; says whether it had to.
fn write_changed(unit: &Unit) -> Result<bool, InstallError> {
    // A link is somebody's will: `systemctl mask` makes one.
    let is_link = unit.file.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let is_same = fs::read(&unit.file).is_ok_and(|bytes| bytes == unit.text.as_bytes());
    if is_link || is_same {
        return Ok(false);
    }
    write(unit).map(|()| true)
}

fn write(unit: &Unit) -> Result<(), InstallError> {
    let directory = unit.file.parent().expect("it lies in the directory of units");
    let written = make_dir(directory).and_then(|()| durable::write(&unit.file, unit.text.as_bytes(), 0o644));
    written.map_err(|source| InstallError::Io { path: unit.file.clone(), source })
}

fn run(unit: &Unit, words: &[&str]) -> Result<(), InstallError> {
    let what = || words.join(" ");
    let status = systemctl(unit).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status.map_err(|source| InstallError::Systemctl { what: what(), source })? {
        status if status.success() => Ok(()),
        status => Err(InstallError::Refused { what: what(), status }),
    }
}

fn systemctl(unit: &Unit) -> Command {
    let mut command = Command::new("systemctl");
    command.arg("--no-ask-password").stdin(Stdio::null()).current_dir("/");
    if unit.scope == Scope::User {
        // A session over ssh may have been made without it.
        let run = found::run_dir(rustix::process::geteuid().as_raw());
        command.arg("--user").env("XDG_RUNTIME_DIR", run).env_remove("DBUS_SESSION_BUS_ADDRESS");
    }
    command
}
