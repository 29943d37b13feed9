//! Confirm or revert: what an activation leaves on disk before it moves anything, and what whoever finds it has to do.
//!
//! # Format, `ROOT/apps/<app>/armed.json`
//!
//! One JSON object: the generation that is tried, the one to go back to (0: none), the boot, until when, in milliseconds since that boot, how many of them are
//! for the confirmation alone, and when it has been well for long enough, if it has to be; files of older nodes do not say that, and they do not read it. It is
//! written durably before `current` moves, and removed durably by the confirmation, which is that removal, or after `current` went back. So whoever finds
//! `current` at the generation that is tried, and this file, knows that nobody has confirmed it. A node that is older than the file does not know it, and
//! keeps what `current` says.
//!
//! The clock is the one since boot: nobody sets it. After a boot nothing is waited for any more; it may be the new version that took the machine down.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use df_cache::durable;
use df_core::AppName;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// An activation that nobody has confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Armed {
    /// The generation that is tried.
    pub new: u64,
    /// The one that served before; 0: none.
    pub old: u64,
    /// The kernel's name for the boot in which it was written.
    pub boot: String,
    /// Until when somebody has to confirm it, since that boot, however long it took before.
    pub until_ms: u64,
    /// How long somebody may take to confirm it, once that is all that is waited for.
    pub within_ms: u64,
    /// When its soak is over, since that boot, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well_ms: Option<u64>,
    /// Who asked for it.
    pub who: String,
}

/// What a supervisor that begins finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The generation that `current` names.
    pub current: u64,
    /// This boot.
    pub boot: String,
    /// How long it lasts.
    pub now: Duration,
    /// Whether the generation that is tried still runs, or has nothing to run.
    pub lives: bool,
}

/// What it does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// `current` names another generation: it never moved, or went back. The file goes.
    Forget,
    /// `current` goes back, then the file goes.
    GoBack(&'static str),
    /// It is looked after, and then somebody may confirm it.
    Wait(Wait),
}

/// What is left to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// For so long it still has to stay well, then its probes are asked; `None`: it had no soak.
    pub soak: Option<Duration>,
    /// Then somebody may confirm it for so long.
    pub confirm: Duration,
}

/// Decides what becomes of an activation whose supervisor is gone.
pub fn decide(armed: &Armed, found: &Found) -> Duty {
    if found.current != armed.new {
        return Duty::Forget;
    }
    if found.boot != armed.boot {
        return Duty::GoBack("the machine was started again before somebody had confirmed it");
    }
    if !found.lives {
        return Duty::GoBack("the program ended before somebody had confirmed it");
    }
    match Duration::from_millis(armed.until_ms).checked_sub(found.now).filter(|left| !left.is_zero()) {
        // Whoever confirms has lost its connection to the supervisor that died, and asks anew until it is time.
        Some(left) => Duty::Wait(Wait {
            soak: armed.well_ms.map(|well| Duration::from_millis(well).saturating_sub(found.now)),
            confirm: left.min(Duration::from_millis(armed.within_ms)),
        }),
        None => Duty::GoBack(NOBODY),
    }
}

/// Why a version goes back that nobody confirmed.
pub const NOBODY: &str = "nobody confirmed it in time";

/// Writes down, durably, that an activation has to be confirmed.
///
/// # Errors
/// It cannot be written; what was written before stays.
pub fn arm(layout: &Layout, app: &AppName, armed: &Armed) -> io::Result<()> {
    durable::write(&path(layout, app), &serde_json::to_vec(armed).expect("plain data"), 0o644)
}

/// Removes it, durably; nothing to remove is as good.
///
/// # Errors
/// It may still be there.
pub fn disarm(layout: &Layout, app: &AppName) -> io::Result<()> {
    match fs::remove_file(path(layout, app)) {
        Ok(()) => durable::sync_dir(&layout.app(app)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns what was written down.
///
/// # Errors
/// It cannot be read, or is not ours.
pub fn read(layout: &Layout, app: &AppName) -> io::Result<Option<Armed>> {
    match fs::read(path(layout, app)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns how long this boot lasts, sleep included.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn path(layout: &Layout, app: &AppName) -> PathBuf {
    layout.app(app).join("armed.json")
}

#[cfg(test)]
mod tests;
