//! The line to a node, as it is while others are served over the same uplink.
//!
//! Nodes that hold the same base stand before the same choice: what the first of them takes, all take. So a line is weighed as it is when all of them are served
//! at once. A whole image then travels once for each of them over the operator's uplink, whereas a delta is made once.

use std::collections::HashMap;

use df_core::ImageId;

use super::Link;
use crate::address::Address;

/// A line to a node, and what of the uplink remains for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    link: Link,
    bytes_per_second: f64,
}

impl From<Link> for Line {
    /// Returns a line that nothing else is sent beside.
    fn from(link: Link) -> Self {
        Self { link, bytes_per_second: link.bytes_per_second.max(1.0) }
    }
}

impl Line {
    /// Returns a line beside others of so many bytes a second, over an uplink that every one of them gets its fair share of: none has more than it can use, and
    /// what it leaves the others divide.
    pub fn beside(link: Link, others: &[f64], uplink: f64) -> Self {
        let alone = Self::from(link);
        let mut rates: Vec<f64> = others.iter().copied().chain([alone.bytes_per_second]).collect();
        rates.sort_by(f64::total_cmp);
        let (mut left, n) = (uplink.max(alone.bytes_per_second), rates.len());
        for (at, rate) in rates.into_iter().enumerate() {
            let share = left / (n - at) as f64;
            if rate > share {
                return Self { bytes_per_second: alone.bytes_per_second.min(share).max(1.0), ..alone };
            }
            left -= rate;
        }
        alone
    }

    /// Returns how long bytes take. The rounds until the line has found its rate are those of the line alone: others do not make them more.
    pub fn seconds(&self, bytes: u64) -> f64 {
        self.link.rounds(bytes) + bytes as f64 / self.bytes_per_second
    }

    /// Returns the bytes a second that it carries.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    /// Returns the seconds to the node and back.
    pub fn round_trip(&self) -> f64 {
        self.link.round_trip
    }
}

/// The nodes of a command that something is yet to be brought to: what each holds to start from, and its line.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// Bytes a second that leave here at most, as far as it is known.
    uplink: f64,
    /// How many are served at once.
    at_once: usize,
    nodes: HashMap<Address, (Vec<ImageId>, Link)>,
}

impl Default for Crowd {
    /// Returns a crowd in which everybody is alone.
    fn default() -> Self {
        Self::new(0.0, 1)
    }
}

impl Crowd {
    /// Returns an empty crowd that shares an uplink, so many at once.
    pub fn new(uplink: f64, at_once: usize) -> Self {
        Self { uplink, at_once: at_once.max(1), nodes: HashMap::new() }
    }

    /// Takes note of what a node holds, or is thought to.
    pub fn join(&mut self, node: &Address, bases: &[ImageId], link: Link) {
        self.nodes.insert(node.clone(), (bases.to_vec(), link));
    }

    /// Takes note that nothing is brought to a node, or nothing any more.
    pub fn leave(&mut self, node: &Address) {
        self.nodes.remove(node);
    }

    /// Returns the line to a node beside those that have a base in common with it.
    pub fn line(&self, node: &Address, link: Link) -> Line {
        let Some((bases, _)) = self.nodes.get(node) else { return link.into() };
        let others =
            self.nodes.iter().filter(|(other, (held, _))| *other != node && held.iter().any(|base| bases.contains(base)));
        let mut rates: Vec<f64> = others.map(|(_, (_, link))| link.bytes_per_second).collect();
        // Those that leave most of the uplink, when not all have a place: then it is no less.
        rates.sort_by(f64::total_cmp);
        rates.truncate(self.at_once - 1);
        Line::beside(link, &rates, self.uplink)
    }
}
