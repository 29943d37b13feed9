//! What the test set up to be reached: one `name=value` a line in a file of the commit.

use std::collections::BTreeMap;

pub struct Stage(BTreeMap<&'static str, &'static str>);

impl Stage {
    pub fn read() -> Self {
        Self(include_str!("stage.txt").lines().filter_map(|line| line.split_once('=')).collect())
    }

    /// Returns what the test calls by this name.
    pub fn get(&self, name: &str) -> &'static str {
        self.0.get(name).copied().unwrap_or_else(|| panic!("the stage has no {name}"))
    }

    pub fn number(&self, name: &str) -> usize {
        self.get(name).parse().unwrap_or_else(|_| panic!("{name} is no number"))
    }

    /// Returns what nobody but the test can know.
    pub fn token(&self) -> &'static str {
        self.get("token")
    }

    /// Returns a path below the home directory of who runs the build.
    pub fn home(&self, path: &str) -> String {
        format!("{}/{path}", self.get("home"))
    }

    /// Returns the build's own directory.
    pub fn own(&self, name: &str) -> String {
        format!("{}/{name}", std::env::var("OUT_DIR").expect("cargo sets it"))
    }
}
