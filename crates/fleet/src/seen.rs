//! What nodes were last seen to hold, and how fast their lines were: so that deltas can be made before anybody connects.
//!
//! # Format, version 1
//!
//! `seen.json` in the state directory:
//!
//! ```json
//! {"format":1,"nodes":[{"address":"root@web1","at":1767225600,
//!   "link":{"bytes_per_second":12500000,"round_trip":0.02,"together":50000000},
//!   "apps":{"greeter":["<image>","<image>"]},"generations":{"identity":"<digest>","images":["<image>"]}}]}
//! ```
//!
//! The node seen last is the last; an application's images are those most like its next version first. Who a node is and what its generations hold is there where a cache elsewhere is told. Written by rename, under a lock. It is a memory in the
//! loose sense: whatever is missing, damaged or of another format counts as nothing seen, and nothing but time depends on it, and by which words a cache elsewhere is told that a node is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use df_core::{AppName, Digest, ImageId, Timestamp};
use df_wire::message::Survey;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::choice::Link;
use crate::plan;

const NAME: &str = "seen.json";
const FORMAT: u32 = 1;
/// Nodes that are remembered.
const N_NODES: usize = 2000;
/// Images of an application that are remembered.
const N_IMAGES: usize = 8;
/// What is read of the file.
const FILE_LEN: u64 = 16 << 20;
/// How much a new measurement counts beside what was known.
const WEIGHT: f64 = 0.5;

/// What was seen of all nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    nodes: Vec<SeenNode>,
}

/// What was seen of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenNode {
    /// Where it is.
    pub address: Address,
    /// When.
    pub at: Timestamp,
    /// Its line, when enough was ever sent to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Images by application, what serves first.
    #[serde(default)]
    pub apps: BTreeMap<AppName, Vec<ImageId>>,
    /// Who it is and what its generations hold, where a cache elsewhere is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generations: Option<Generations>,
}

/// Which node it is, and what its generations hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Which node.
    pub identity: Digest,
    /// The images of all its applications' generations, in order.
    pub images: Vec<ImageId>,
}

impl Generations {
    /// Takes from what a node said; `None` when it does not say who it is.
    pub fn of(survey: &Survey) -> Option<Self> {
        let generations = survey.apps.iter().flat_map(|app| &app.generations);
        let images: BTreeSet<ImageId> = generations.map(|generation| generation.image).collect();
        Some(Self { identity: survey.identity?, images: images.into_iter().collect() })
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    nodes: Vec<SeenNode>,
}

impl Seen {
    /// Reads what was seen; what cannot be read was not.
    pub fn load(state: &Path) -> Self {
        read(&state.join(NAME)).unwrap_or_default()
    }

    /// Changes what was seen, under a lock.
    ///
    /// # Errors
    /// It cannot be written; nothing but time depends on it.
    pub fn edit(state: &Path, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let _lock = crate::context::lock(state)?;
        let mut seen = Self::load(state);
        change(&mut seen);
        let surplus = seen.nodes.len().saturating_sub(N_NODES);
        seen.nodes.drain(..surplus);
        let json = serde_json::to_vec(&Stored { format: FORMAT, nodes: seen.nodes }).expect("plain data");
        // By rename, so that nobody reads half of it; a power cut may take it, and no copy waits for a disk because of that.
        let mut fresh = tempfile::Builder::new()
            .prefix(df_cache::durable::TEMPORARY)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(state)?;
        fresh.write_all(&json)?;
        fresh.persist(state.join(NAME)).map(drop).map_err(|error| error.error)
    }

    /// Returns what was seen of a node.
    pub fn node(&self, address: &Address) -> Option<&SeenNode> {
        self.nodes.iter().find(|node| node.address == *address)
    }

    /// Returns the line to a node: as it was measured, else [`Link::UNMEASURED`].
    ///
    /// A `local:` node stands for a machine elsewhere, and its copies go as they would go there: the pipe to it is never the measure.
    pub fn link(&self, address: &Address) -> Link {
        let measured = self.node(address).and_then(|node| node.link).filter(|_| !address.is_local());
        measured.unwrap_or(Link::UNMEASURED)
    }

    /// Returns how many bytes a second leave here at most for some nodes together: what the best of their lines was measured with, and what its neighbours
    /// carried at the time.
    pub fn uplink<'a>(&self, nodes: impl IntoIterator<Item = &'a Address>) -> f64 {
        nodes.into_iter().map(|address| self.link(address).uplink()).fold(0.0, f64::max)
    }

    /// Returns whether an image is what was brought to a node last.
    pub fn is_latest(&self, address: &Address, app: &AppName, image: ImageId) -> bool {
        self.node(address).and_then(|node| node.apps.get(app)).and_then(|images| images.first()) == Some(&image)
    }

    /// Remembers what a node said it holds, if it was asked, and that it now holds an image, which serves or is about to.
    pub fn note(&mut self, address: &Address, survey: Option<&Survey>, app: &AppName, brought: Option<ImageId>, now: Timestamp) {
        let images = self.renew(address, now).apps.entry(app.clone()).or_default();
        let held = survey.map_or_else(|| images.clone(), |survey| plan::bases(survey, app));
        *images = brought.into_iter().chain(held.into_iter().filter(|image| Some(*image) != brought)).collect();
        images.truncate(N_IMAGES);
    }

    /// Remembers who a node is and what its generations hold.
    pub fn has(&mut self, address: &Address, generations: Generations, now: Timestamp) {
        self.renew(address, now).generations = Some(generations);
    }

    /// Remembers how a line was; what was known of it counts half.
    pub fn measured(&mut self, address: &Address, link: Link, now: Timestamp) {
        if ![link.bytes_per_second, link.round_trip, link.together].iter().all(|number| number.is_finite()) {
            return;
        }
        let node = self.renew(address, now);
        let mix = |old: f64, new: f64| old + WEIGHT * (new - old);
        node.link = Some(node.link.map_or(link, |old| Link {
            bytes_per_second: mix(old.bytes_per_second, link.bytes_per_second),
            round_trip: mix(old.round_trip, link.round_trip),
            together: mix(old.uplink(), link.uplink()),
        }));
    }

    /// Forgets a node.
    pub fn forget(&mut self, address: &Address) {
        self.nodes.retain(|node| node.address != *address);
    }

    /// Returns the record of a node, which is the last from now on.
    fn renew(&mut self, address: &Address, now: Timestamp) -> &mut SeenNode {
        let old = self.nodes.iter().position(|node| node.address == *address).map(|at| self.nodes.remove(at));
        let node = old.unwrap_or_else(|| SeenNode {
            address: address.clone(),
            at: now,
            link: None,
            apps: BTreeMap::new(),
            generations: None,
        });
        self.nodes.push(SeenNode { at: now, ..node });
        self.nodes.last_mut().expect("pushed above")
    }
}

fn read(path: &Path) -> Option<Seen> {
    let mut bytes = vec![];
    File::open(path).ok()?.take(FILE_LEN).read_to_end(&mut bytes).ok()?;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    (stored.format == FORMAT).then_some(Seen { nodes: stored.nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(images: &[ImageId]) -> Survey {
        let survey = r#"{"arch":"x86_64","kernel":"6","libc":null,"free":1,"now":0,"images":[],"lock":null,"apps":[]}"#;
        let mut survey: Survey = serde_json::from_str(survey).expect("a survey");
        survey.images = images.to_vec();
        survey
    }

    #[test]
    fn what_was_seen_last_is_remembered_and_damage_is_nothing_seen() {
        let state = tempfile::tempdir().expect("a directory");
        let image = |name: &str| ImageId(Digest::of(name.as_bytes()));
        let (web, app): (Address, AppName) = ("web1".parse().expect("an address"), "greeter".parse().expect("a name"));
        assert_eq!(Seen::load(state.path()).link(&web), Link::UNMEASURED);
        let edit = |change: &dyn Fn(&mut Seen)| Seen::edit(state.path(), |seen| change(seen)).expect("written");
        edit(&|seen| seen.note(&web, Some(&survey(&[image("a"), image("b")])), &app, Some(image("b")), Timestamp(7)));
        edit(&|seen| seen.note(&web, None, &app, Some(image("a")), Timestamp(7)));
        edit(&|seen| seen.note(&web, None, &app, Some(image("b")), Timestamp(7)));
        edit(&|seen| seen.measured(&web, Link { bytes_per_second: 1e6, round_trip: 0.5, together: 0.0 }, Timestamp(8)));
        edit(&|seen| seen.measured(&web, Link { bytes_per_second: 3e6, round_trip: 0.1, together: 9e6 }, Timestamp(9)));
        let seen = Seen::load(state.path());
        let node = seen.node(&web).expect("seen");
        assert_eq!((node.at, &node.apps[&app][..]), (Timestamp(9), &[image("b"), image("a")][..]));
        assert_eq!(seen.link(&web), Link { bytes_per_second: 2e6, round_trip: 0.3, together: 5e6 });
        assert_eq!((seen.uplink([&web]), seen.uplink([])), (5e6, 0.0));
        edit(&|seen| seen.forget(&web));
        assert_eq!(Seen::load(state.path()), Seen::default());
        std::fs::write(state.path().join(NAME), b"{").expect("written");
        assert_eq!(Seen::load(state.path()), Seen::default());
    }

    #[test]
    fn a_local_node_goes_by_the_usual_line_whatever_its_pipe_did() {
        let mut seen = Seen::default();
        let local: Address = "local:/x".parse().expect("an address");
        seen.measured(&local, Link { bytes_per_second: 1e9, round_trip: 0.0, together: 0.0 }, Timestamp(1));
        assert_eq!(seen.link(&local), Link::UNMEASURED);
    }
}
