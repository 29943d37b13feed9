//! The logs of what runs stay within their size, and so does the supervisor's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Supervisor;
use crate::{control, logs};

/// How often logs are looked at: as much as a program writes meanwhile takes room besides.
const EVERY: Duration = Duration::from_secs(1);

/// Looks after the logs for as long as the supervisor lives, on a thread of its own: the disk may let us wait.
pub(super) fn begin(supervisor: &Arc<Supervisor>) {
    let supervisor = Arc::downgrade(supervisor);
    thread::spawn(move || {
        let mut failed = BTreeSet::new();
        while let Some(logs) = supervisor.upgrade().map(|supervisor| supervisor.logs()) {
            failed = logs.into_iter().filter(|path| !is_bounded(path, &failed)).collect();
            thread::sleep(EVERY);
        }
    });
}

/// Returns whether a log is within its size now; why not is said once.
fn is_bounded(path: &Path, failed: &BTreeSet<PathBuf>) -> bool {
    match logs::bound(path) {
        Ok(()) => return true,
        Err(error) if !failed.contains(path) => eprintln!("the log {} grows: {error}", path.display()),
        Err(_) => {}
    }
    false
}

impl Supervisor {
    /// Returns the logs that somebody may be writing to.
    fn logs(&self) -> Vec<PathBuf> {
        let layout = &self.node.layout;
        let apps = self.apps.lock().expect("nobody panics with this lock");
        let mut logs = vec![control::log_path(layout)];
        for (app, handle) in apps.iter() {
            let shown = handle.shown.lock().expect("nobody panics with this lock");
            logs.extend(shown.iter().map(|running| layout.log(app, running.generation)));
        }
        logs
    }
}
