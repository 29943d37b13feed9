//! What a node does with images: it hears what df said to it once more.

use std::fs;
use std::path::{Path, PathBuf};

use df_testkit::calls::{Meddling, meddle};
use df_testkit::faults;
use df_testkit::process::Run;

use super::campaign::{Operation, Ran};
use super::whole;
use crate::receiving::{Recorded, copy, heard};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNode {
    /// Receives an image as a delta to one that it holds.
    Delta,
    /// Receives an image whole; it holds nothing.
    Whole,
    /// Receives an image whole that it holds, damaged.
    Mend,
    /// Removes images.
    Collect,
}

impl OnNode {
    /// All of it.
    pub const ALL: [Self; 4] = [Self::Delta, Self::Whole, Self::Mend, Self::Collect];

    /// Prepares it.
    pub fn of(self, recorded: &Recorded) -> Doing<'_> {
        Doing { what: self, recorded }
    }
}

/// An operation on a node.
pub struct Doing<'a> {
    what: OnNode,
    recorded: &'a Recorded,
}

/// What an operator says who wants everything collected that no generation holds.
fn collecting() -> Vec<u8> {
    let frame = |kind: u8, text: &str| [&[kind], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let told = [
        frame(1, r#"{"program":"0","oldest":1,"newest":1}"#),
        frame(2, r#"{"lock":{"who":"a test","command":"gc"}}"#),
        frame(2, r#"{"collect":{"app":"files","count":0,"older":4102444800,"dry_run":false}}"#),
    ];
    told.concat()
}

impl Doing<'_> {
    /// Returns a file with what df says to the node.
    fn stream(&self, disk: &Path) -> PathBuf {
        match self.what {
            OnNode::Delta => self.recorded.streams[1].clone(),
            OnNode::Whole | OnNode::Mend => self.recorded.streams[0].clone(),
            OnNode::Collect => {
                let path = disk.with_file_name("said");
                fs::write(&path, collecting()).expect("written");
                path
            }
        }
    }

    fn hear(&self, disk: &Path, meddling: &Meddling<'_>) -> Ran {
        let node = disk.join("node");
        let (data, tmp) = (node.join("data"), node.join("tmp"));
        let words = ["serve".as_ref(), "--root".as_ref(), node.as_path(), "--data".as_ref(), &data, "--tmp".as_ref(), &tmp];
        let watched = meddle(&Run::new(env!("CARGO_BIN_EXE_df-node")).args(words), Some(&self.stream(disk)), meddling);
        let said = heard(&watched);
        let done = if self.what == OnNode::Collect { "{\"collected\":" } else { "{\"received\":" };
        let is_done = said.contains(done) && !said.contains("\"fault\"");
        Ran { n_calls: watched.n_begun, is_killed: watched.killed, is_done }
    }

    /// Returns where the image lies that this is about.
    fn image(&self, node: &Path) -> PathBuf {
        let image = self.recorded.images[usize::from(self.what == OnNode::Delta)];
        node.join("store").join(image.to_string())
    }
}

impl Operation for Doing<'_> {
    fn name(&self) -> &str {
        match self.what {
            OnNode::Delta => "a node receives a delta",
            OnNode::Whole => "a node receives an image whole",
            OnNode::Mend => "a node mends an image",
            OnNode::Collect => "a node collects",
        }
    }

    fn lay_out(&self, disk: &Path) {
        let (node, world) = (disk.join("node"), &self.recorded.world);
        match self.what {
            OnNode::Whole => fs::create_dir(&node).expect("made"),
            OnNode::Delta | OnNode::Mend => copy(&world.path("before"), &node),
            OnNode::Collect => copy(&world.node(1), &node),
        }
        df_cache::durable::remove_tree(&node.join("bin")).expect("removed");
        if self.what == OnNode::Mend {
            faults::flip_byte(&self.image(&node).join("lib.so"), 7);
        }
    }

    fn run(&self, disk: &Path, meddling: &Meddling<'_>) -> Ran {
        self.hear(disk, meddling)
    }

    fn torn(&self, disk: &Path, ran: &Ran) -> Vec<String> {
        let node = disk.join("node");
        let mut torn = whole::torn(&node);
        if self.what == OnNode::Mend && !ran.is_done {
            // That is the damage it began with, if it is the only one.
            torn.retain(|what| !what.contains("has a damaged lib.so: Content"));
        }
        let (is_there, stays) = (self.image(&node).is_dir(), self.what == OnNode::Mend);
        if ran.is_done && is_there == (self.what == OnNode::Collect) {
            torn.push(format!("what was said is not so: {}", self.image(&node).display()));
        }
        if stays && !is_there {
            torn.push("what is mended has no name meanwhile".into());
        }
        let first = node.join("store").join(self.recorded.images[0].to_string());
        if self.what == OnNode::Delta && !first.is_dir() {
            torn.push("the old image is gone".into());
        }
        torn
    }

    fn again(&self, disk: &Path) {
        let ran = self.hear(disk, &Meddling::NONE);
        assert!(ran.is_done, "{} again: {ran:?}", self.name());
        let left = fs::read_dir(disk.join("node/incoming")).expect("listed").count();
        assert!(left == 0 || self.what == OnNode::Delta, "{}: something is left behind", self.name());
    }
}
