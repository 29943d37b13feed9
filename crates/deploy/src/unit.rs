//! The unit by which systemd starts a node's supervisor, now and after a boot, and again when it was killed.
//!
//! Whether there is one is decided here from what was found ([`choose`]), and so is every byte of it ([`Unit::text`]). A machine that is a node gets one at its first activation; a
//! node in a directory of somebody's machine (`local:`, or an address that names a directory) gets none, unless its owner types `df-node install`. Where there is one, it is used.
//!
//! What somebody changed is left: a drop-in is never touched, a unit that was disabled is not enabled again, and one that was masked is not replaced.

mod found;
mod notify;
mod systemctl;

use std::path::{Path, PathBuf};

use df_core::Hasher;
use df_wire::message::Boot;

use crate::layout::Layout;
use crate::members::OWN;
pub use found::{Found, look};
pub use notify::Notify;
pub use systemctl::{install, refresh, start};

/// How many descriptors systemd keeps for a node: listeners, processes and where programs are heard. All are passed at the start, below the usual limit of 1,024.
const MAX_STORED: usize = 512;
/// How long systemd waits for a sign of life.
const WATCHDOG_S: u64 = 60;
/// The name of the unit of a node that lies where nodes lie.
const USUAL: &str = "df-node.service";

/// Whose systemd it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The machine's.
    System,
    /// That of the user who we are.
    User,
}

/// Why systemd does not start the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// Something else is the machine's init.
    #[error("systemd does not run here")]
    NoSystemd,
    /// The services of a user end with the user's last session, and programs would end with them.
    #[error("the services of {user} end when {user} logs out: loginctl enable-linger {user}")]
    NotLingering { user: String },
    /// The user's own systemd cannot be reached.
    #[error("the systemd of {user} does not run")]
    NoUserSystemd { user: String },
    /// A path that a unit cannot name.
    #[error("a unit cannot name {0}")]
    Path(String),
}

/// A node's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Whose systemd reads it.
    pub scope: Scope,
    /// Where it lies.
    pub file: PathBuf,
    /// What makes systemd start it after a boot.
    pub wanted_by: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Returns the unit that would start a node's supervisor on this machine.
///
/// # Errors
/// There can be none, and why.
pub fn choose(layout: &Layout, found: &Found) -> Result<Unit, WhyNot> {
    let user = || df_core::text::escape(found.user.as_bytes());
    let (scope, target) = match found {
        Found { has_systemd: false, .. } => return Err(WhyNot::NoSystemd),
        Found { is_root: true, .. } => (Scope::System, "multi-user.target"),
        Found { lingers: false, .. } => return Err(WhyNot::NotLingering { user: user() }),
        Found { has_user_systemd: false, .. } => return Err(WhyNot::NoUserSystemd { user: user() }),
        _ => (Scope::User, "default.target"),
    };
    let name = name(&layout.root, &found.usual_root);
    Ok(Unit {
        text: text(layout, &found.program, scope)?,
        file: found.units.join(&name),
        wanted_by: found.units.join(format!("{target}.wants")).join(&name),
        name,
        scope,
    })
}

/// Returns what is known of a node's start after a boot.
pub fn boot(layout: &Layout, found: &Found) -> Boot {
    match choose(layout, found) {
        Err(WhyNot::NotLingering { user }) if layout.is_machine => Boot::NotLingering { user },
        Err(_) => Boot::Nothing,
        Ok(unit) if !exists(&unit.file) && layout.is_machine => Boot::Later { unit: unit.name },
        Ok(unit) if !exists(&unit.file) => Boot::Nothing,
        Ok(unit) => Boot::Unit { enabled: exists(&unit.wanted_by), user: unit.scope == Scope::User, unit: unit.name },
    }
}

/// Returns whether there is something of this name, be it a link that leads nowhere.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns the name of a node's unit: nodes at other places than the usual one have names of their own.
fn name(root: &Path, usual: &Path) -> String {
    if root == usual {
        return USUAL.to_owned();
    }
    let mut hasher = Hasher::new();
    std::io::copy(&mut root.as_os_str().as_encoded_bytes(), &mut hasher).expect("bytes in memory");
    format!("df-node-{}.service", hasher.finish().short())
}

/// Returns the text of the unit.
///
/// - Ended by itself (status 0) means that nothing is wanted: it stays ended. Whatever else ended it, it is started again; `Restart=on-failure` would take a stray SIGTERM for an
///   order. No limit of starts: what serves goes on meanwhile, and without a supervisor nobody could deploy what mends it.
/// - `KillMode=process` and `OOMPolicy=continue`: the programs are no part of the supervisor's life. `Delegate=yes`: it makes groups for them. `DelegateSubgroup=`: it is in none above
///   theirs, so those can count what a program uses, and systemd can start the next supervisor beside them; before systemd 254 it means nothing, and nothing counts.
/// - The store of descriptors lives as long as the unit runs or starts again. Not longer (`FileDescriptorStorePreserve=yes`): after `systemctl stop` and the end of a program
///   nobody would accept, and clients would hang instead of being refused.
/// - Only systemd 254 and newer say by themselves that there is a store; `FDSTORE` says it to all.
/// - Of hardening only what programs have anyway. All of it is inherited, and what the supervisor may not do no program could do either.
fn text(layout: &Layout, program: &Path, scope: Scope) -> Result<String, WhyNot> {
    let root = word(&layout.root)?;
    let (data, tmp, program) = (word(&layout.data)?, word(&layout.tmp)?, word(program)?);
    let log = plain(&layout.root.join("log/supervisor.log"))?;
    let (order, target) = match scope {
        Scope::System => (
            format!("Wants=network-online.target\nAfter=network-online.target\nRequiresMountsFor={root} {data} {tmp}\n"),
            "multi-user.target",
        ),
        Scope::User => (String::new(), "default.target"),
    };
    Ok(format!(
        "# Written by df-node, and again when df brings a newer one: what you change belongs into a drop-in (systemctl edit).\n\
         [Unit]\n\
         Description=df node in {}\n\
         {order}\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={program} supervise --root {root} --data {data} --tmp {tmp}\n\
         Restart=always\n\
         RestartSec=100ms\n\
         RestartPreventExitStatus=0\n\
         SuccessExitStatus=143\n\
         KillMode=process\n\
         Delegate=yes\n\
         DelegateSubgroup={OWN}\n\
         OOMPolicy=continue\n\
         TasksMax=infinity\n\
         FileDescriptorStoreMax={MAX_STORED}\n\
         Environment=FDSTORE={MAX_STORED}\n\
         WatchdogSec={WATCHDOG_S}\n\
         NoNewPrivileges=yes\n\
         StandardOutput=append:{log}\n\
         StandardError=append:{log}\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        plain(&layout.root)?
    ))
}

/// Returns a path as one word of a command line in a unit.
fn word(path: &Path) -> Result<String, WhyNot> {
    let quoted = plain(path)?.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    Ok(format!("\"{quoted}\""))
}

/// Returns a path as a whole value in a unit, where only `%` means something.
fn plain(path: &Path) -> Result<String, WhyNot> {
    let refused = || WhyNot::Path(df_core::text::escape(path.as_os_str().as_encoded_bytes()));
    let text = path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(refused)?;
    Ok(text.replace('%', "%%"))
}

#[cfg(test)]
mod tests;
