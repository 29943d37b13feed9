//! What a supervisor writes down for its successor: which processes run, and the kernel's order of the listeners.
//!
//! `run/<app>.json`, replaced by rename at each change. It speaks of this boot only, so it is not synced: after a power cut no process is left to adopt.

use std::fs;
use std::io;
use std::path::PathBuf;

use df_core::name::Label;
use df_core::{AppName, Endpoint};
use df_wire::message::RunState;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::listeners::GroupRecord;
use crate::process::ProcessRecord;

/// What is known of an application's processes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Records {
    /// The next run's number.
    pub next_run: u64,
    /// Versions that run.
    pub versions: Vec<VersionRecord>,
    /// What serves, where its program has ended and is to be started again: clients wait at its listeners.
    #[serde(default)]
    pub waiting: Option<WaitingRecord>,
    /// The listeners.
    pub groups: Vec<GroupRecord>,
    /// When it crashed lately, in milliseconds since the machine started.
    #[serde(default)]
    pub crashes_ms: Vec<u64>,
    /// When what serves is started again.
    #[serde(default)]
    pub restart_at_ms: Option<u64>,
}

/// A version whose program has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitingRecord {
    /// Its run.
    pub run: u64,
    /// Its generation.
    pub generation: u64,
    /// Since when.
    pub since: df_core::Timestamp,
    /// The address for ports that name none.
    pub listen: std::net::IpAddr,
}

/// A version that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its run: a generation may run more than once.
    pub run: u64,
    /// Its generation.
    pub generation: u64,
    /// What it did when this was written.
    pub state: RunState,
    /// Its process.
    pub process: ProcessRecord,
    /// Since when.
    pub since: df_core::Timestamp,
    /// The address for ports that name none.
    pub listen: std::net::IpAddr,
    /// Where it hears whom to give its connections to; none in records of older supervisors.
    #[serde(default)]
    pub handoff: String,
    /// Where it is heard; nowhere in records of older supervisors.
    #[serde(default)]
    pub notify: String,
    /// The last that it said of itself; nothing in records of older supervisors.
    #[serde(default)]
    pub status: String,
    /// It said READY=1; not in records of older supervisors.
    #[serde(default)]
    pub ready: bool,
    /// It said that it stops; not in records of older supervisors.
    #[serde(default)]
    pub stopping: bool,
    /// It was started in the place of another, which it must not meet; not in records of older supervisors.
    #[serde(default)]
    pub alone: bool,
    /// Where its program listens, for each port that is behind a proxy; none in records of older supervisors.
    #[serde(default)]
    pub behind: Vec<(Label, Endpoint)>,
}

fn path(layout: &Layout, app: &AppName) -> PathBuf {
    layout.run().join(format!("{app}.json"))
}

/// Reads what a former supervisor wrote; nothing when it wrote nothing that can be read.
pub fn read(layout: &Layout, app: &AppName) -> Records {
    fs::read(path(layout, app)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Replaces what is written.
///
/// # Errors
/// It cannot be written; what was written before stays.
pub fn write(layout: &Layout, app: &AppName, records: &Records) -> io::Result<()> {
    let path = path(layout, app);
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(records).expect("plain data"))?;
    fs::rename(fresh, path)
}

/// Returns processes of an application that run from this node's store and that nobody has written down: started by a supervisor that was killed before
/// it could. Found by the variables that only df gives; `known` are processes that are, with all that they started.
pub fn orphans(layout: &Layout, app: &AppName, known: &[ProcessRecord]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let app = format!("DF_APP={app}");
    let image = format!("DF_IMAGE={}/", layout.store().display());
    let is_ours = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|&b| b == 0);
        variables.clone().any(|v| v == app.as_bytes()) && variables.any(|v| v.starts_with(image.as_bytes()))
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_known = |pid: i32| {
        let carries = known.iter().any(|record| record.members.carries(pid.cast_unsigned()));
        carries || descends(pid, &known.iter().map(|record| record.pid).collect::<Vec<u32>>())
    };
    pids.filter(|&pid| is_ours(pid) && !is_known(pid)).collect()
}

/// Returns whether a process or one above it is among these.
fn descends(pid: i32, known: &[u32]) -> bool {
    let mut at = Some(pid);
    for _ in 0..64 {
        match at {
            Some(pid) if known.contains(&(pid as u32)) => return true,
            Some(pid) if pid > 1 => at = parent(pid),
            _ => return false,
        }
    }
    false
}

/// Reads a process's parent: the second field behind the name, which ends at the last bracket.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
