//! What a version may use: its processes together where the kernel counts for them, else each by itself.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::members::{Bounds, Members, size};

/// What a version may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open descriptors of each process (RLIMIT_NOFILE).
    pub nofile: Option<u64>,
    /// Bytes of memory of all processes together. Where nobody counts that, each may map so many addresses (RLIMIT_AS), which is less than it seems: a program that reserves much and touches
    /// little needs a high one.
    pub memory: Option<u64>,
    /// Processes and threads at once. Where nobody counts them nothing is started: what the kernel has for each process counts all that its user has.
    pub pids: Option<u64>,
}

impl Limits {
    /// Returns what is for all processes together.
    pub fn bounds(&self) -> Bounds {
        Bounds { memory: self.memory, pids: self.pids }
    }

    /// Returns what is left for each process to be limited to by itself.
    pub fn of_each(&self, members: &Members) -> Self {
        Self { memory: self.memory.filter(|_| !members.memory_is_kept()), ..*self }
    }

    /// Says what holds of what a run's processes may use together; nothing where nothing was asked for.
    pub fn in_words(&self, members: &Members) -> Option<String> {
        let memory = self.memory.map(size).map(|size| match members.memory_is_kept() {
            true => format!("memory {size} for all its processes together"),
            false => format!("address space {size} for each of its processes, because nobody counts their memory here"),
        });
        let pids = self.pids.map(|pids| format!("{pids} processes and threads at once"));
        let words: Vec<String> = [memory, pids].into_iter().flatten().collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Limits this process, and with it all that it starts, each by itself.
    pub(super) fn set(&self) -> io::Result<()> {
        for (resource, limit) in [(Resource::Nofile, self.nofile), (Resource::As, self.memory)] {
            if let Some(limit) = limit {
                let same = getrlimit(resource).maximum == Some(limit);
                setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
                    .or_else(|error| if same { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(())
    }
}
