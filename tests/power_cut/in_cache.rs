//! What a person does with a cache in a directory.

use std::fs;
use std::path::{Path, PathBuf};

use df_testkit::calls::{Meddling, meddle};
use df_testkit::faults;
use df_testkit::process::{Output, Run};

use super::campaign::{Operation, Ran};
use super::whole::named;
use crate::receiving::Recorded;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InCache {
    /// A second release is put in.
    Put,
    /// The older of two is collected.
    Collect,
    /// What is damaged is mended from another cache.
    Repair,
}

impl InCache {
    /// All of it.
    pub const ALL: [Self; 3] = [Self::Put, Self::Collect, Self::Repair];

    /// Prepares it.
    pub fn of(self, recorded: &Recorded) -> Doing<'_> {
        Doing { what: self, recorded }
    }
}

/// An operation on a cache.
pub struct Doing<'a> {
    what: InCache,
    recorded: &'a Recorded,
}

impl Doing<'_> {
    fn df(&self, disk: &Path, words: &[&str]) -> Run {
        let place = format!("file:{}", disk.join("cache").display());
        self.recorded.df(&["--json", "--address", &place]).args(words)
    }

    fn command(&self, disk: &Path) -> Run {
        match self.what {
            InCache::Put => self.df(disk, &["cache", "put", &self.recorded.commits[1]]),
            InCache::Collect => self.df(disk, &["cache", "gc", "--count", "1", "--older", "2100-01-01", "--yes"]),
            InCache::Repair => self.df(disk, &["cache", "repair"]),
        }
    }

    fn get(&self, disk: &Path, version: usize) -> Output {
        // Beside the disk, not on it.
        let to = disk.with_file_name("taken-out");
        df_cache::durable::remove_tree(&to).expect("removed");
        self.df(disk, &["cache", "get", &self.recorded.commits[version], "--output", &to.display().to_string()]).output()
    }
}

impl Operation for Doing<'_> {
    fn name(&self) -> &str {
        match self.what {
            InCache::Put => "a release goes into a cache",
            InCache::Collect => "a cache is collected",
            InCache::Repair => "a cache is repaired",
        }
    }

    fn lay_out(&self, disk: &Path) {
        let put = |version: usize| self.df(disk, &["cache", "put", &self.recorded.commits[version]]).ok();
        put(0);
        if self.what != InCache::Put {
            put(1);
        }
        if self.what == InCache::Repair {
            let packs: Vec<PathBuf> = named(&disk.join("cache/packs")).iter().flat_map(|fan| named(fan)).collect();
            let middle = |path: &Path| fs::metadata(path).expect("it is there").len() / 2;
            packs.iter().for_each(|pack| faults::flip_byte(pack, middle(pack)));
            let big: Vec<PathBuf> = named(&disk.join("cache/big")).iter().flat_map(|fan| named(fan)).collect();
            faults::flip_byte(&big[0], 7);
        }
    }

    fn run(&self, disk: &Path, meddling: &Meddling<'_>) -> Ran {
        let watched = meddle(&self.command(disk), None, meddling);
        Ran { n_calls: watched.n_begun, is_killed: watched.killed, is_done: watched.code == Some(0) }
    }

    fn torn(&self, disk: &Path, ran: &Ran) -> Vec<String> {
        let mut torn = vec![];
        // What is being repaired may still be as it was.
        if self.what != InCache::Repair || ran.is_done {
            let verified = self.df(disk, &["cache", "verify"]).output();
            torn.extend((verified.code != Some(0)).then(|| verified.to_string()));
        }
        let there = if ran.is_done { &[1][..] } else { &[] };
        let taken = there.iter().map(|version| self.get(disk, *version)).filter(|taken| taken.code != Some(0));
        torn.extend(taken.map(|taken| taken.to_string()));
        if self.what == InCache::Collect && ran.is_done && self.get(disk, 0).code == Some(0) {
            torn.push("what was collected is there".into());
        }
        torn
    }

    fn again(&self, disk: &Path) {
        self.command(disk).ok();
    }
}
