//! Which way an image goes to each node of a command: what the node holds, what is here, what is made already, and what was wished.
//!
//! The deciding is [`crate::choice`]; here the facts for it are brought together, each once for all nodes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use df_core::{AppName, ImageId, Kind, Manifest};
use df_delta::Level;
use df_wire::message::Survey;

use crate::choice::{self, Link, Offer, Queue, Speed, Way, Work};
use crate::plan;
use crate::transfer::Images;

/// How many images of a node are looked at as bases, the likeliest first.
const N_BASES: usize = 16;
/// How many entries of manifests are looked at for it: a tree of 50,000 files is compared with four bases, a small one with all.
const N_ENTRIES: usize = 250_000;
/// What there is of levels.
const LEVELS: [Level; 2] = [Level::Fast, Level::Small];

/// How bytes are packed, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Against old bytes, by zstd.
    Patch,
    /// As a list of what is copied.
    Copy,
    /// With every reference of a program predicted.
    Elf,
    /// Against the node's signature of what it holds.
    Rsync,
    /// Against nothing.
    Whole,
}

impl Codec {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Copy => "copy",
            Self::Elf => "elf",
            Self::Rsync => "rsync",
            Self::Whole => "whole",
        }
    }
}

/// What a person asked for beside the image; nothing of it: whatever is done soonest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// This codec and no other.
    pub codec: Option<Codec>,
    /// This level and no other.
    pub level: Option<Level>,
    /// Whole, also where the image is there: it may be damaged.
    pub full: bool,
}

/// What was chosen for a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// The way.
    pub way: Way,
    /// How hard it is squeezed.
    pub level: Level,
    /// The codec that was wished.
    pub codec: Option<Codec>,
    /// Bytes that will travel up.
    pub bytes: u64,
    /// Whether they are counted and not estimated.
    pub is_exact: bool,
    /// How many seconds it is expected to take.
    pub seconds: f64,
}

/// A wish that cannot be fulfilled on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WishError {
    #[error("--codec {} needs an image that is on the node and here, and there is none", .0.word())]
    NoBase(Codec),
    #[error("--codec rsync needs an image on the node to start from, and it holds none")]
    NothingThere,
}

/// Chooses for the nodes of one command, which share what is made.
#[derive(Debug)]
pub struct Chooser {
    begun: Instant,
    speed: Speed,
    queue: Mutex<Queue>,
    works: Mutex<HashMap<ImageId, Option<Work>>>,
}

/// The image that is on its way.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The images here.
    pub images: &'a dyn Images,
    /// Which.
    pub image: ImageId,
    /// What it holds.
    pub manifest: &'a Manifest,
}

impl Default for Chooser {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { begun: Instant::now(), speed: Speed::usual(cores), queue: Mutex::default(), works: Mutex::default() }
    }
}

impl Chooser {
    /// Chooses how an image gets to a node, and counts on it that this is done.
    ///
    /// # Errors
    /// The wish cannot be fulfilled there.
    pub fn choose(
        &self,
        target: Target<'_>,
        survey: &Survey,
        app: &AppName,
        link: &Link,
        wish: &Wish,
    ) -> Result<Chosen, WishError> {
        if !wish.full && survey.images.contains(&target.image) {
            return Ok(Chosen::held(wish));
        }
        let offers = self.offers(target, &plan::bases(survey, app), link, wish)?;
        let now = self.begun.elapsed().as_secs_f64();
        let mut queue = self.queue.lock().expect("nobody panics while holding it");
        let (offer, seconds) = choice::choose(&offers, link, &queue, now).expect("whole is always offered, or a wish");
        queue.take(offer, now);
        let Offer { way, level, bytes, is_made, .. } = *offer;
        Ok(Chosen { way, level, codec: wish.codec, bytes, is_exact: is_made, seconds })
    }

    fn offers(&self, target: Target<'_>, bases: &[ImageId], link: &Link, wish: &Wish) -> Result<Vec<Offer>, WishError> {
        let whole = || self.at_levels(target, wish, Way::Whole, whole_work(target.manifest));
        if wish.full || wish.codec == Some(Codec::Whole) {
            return Ok(whole());
        }
        let level = wish.level.unwrap_or_default();
        let rsync = bases.first().map(|&base| Offer::by_signature(base, level, target.manifest.total_len(), link, &self.speed));
        if wish.codec == Some(Codec::Rsync) {
            return rsync.map(|offer| vec![offer]).ok_or(WishError::NothingThere);
        }
        let patches = self.patches(target, bases, wish);
        match wish.codec {
            Some(codec) if patches.is_empty() => Err(WishError::NoBase(codec)),
            Some(_) => Ok(patches),
            // What is here too needs no signature: it costs a round trip, and sends every moved address.
            None if patches.is_empty() => Ok(whole().into_iter().chain(rsync).collect()),
            None => Ok(whole().into_iter().chain(patches).collect()),
        }
    }

    /// Returns the offers of deltas to those bases that are here.
    fn patches(&self, target: Target<'_>, bases: &[ImageId], wish: &Wish) -> Vec<Offer> {
        let mut left = N_ENTRIES;
        let mut offers = vec![];
        for &base in bases.iter().filter(|base| target.images.holds(**base)).take(N_BASES) {
            if left == 0 {
                break;
            }
            if let Some(work) = self.work(target, base, &mut left) {
                offers.extend(self.at_levels(target, wish, Way::Patch(base), work));
            }
        }
        offers
    }

    fn at_levels(&self, target: Target<'_>, wish: &Wish, way: Way, work: Work) -> Vec<Offer> {
        let levels = LEVELS.into_iter().filter(|level| wish.level.is_none_or(|wished| wished == *level));
        let codec = wish.codec.filter(|_| way != Way::Whole);
        let offer = |level| match target.images.kept_len(way.base(), target.image, level, codec) {
            Some(bytes) => Offer::made(way, level, &work, bytes, &self.speed),
            None => Offer::cold(way, level, &work, &self.speed),
        };
        levels.map(offer).collect()
    }

    /// Returns what a delta to a base has to do; `None` when the base cannot be read. Each base is looked at once, whatever number of nodes holds it.
    fn work(&self, target: Target<'_>, base: ImageId, left: &mut usize) -> Option<Work> {
        if let Some(work) = self.works.lock().expect("nobody panics while holding it").get(&base) {
            return *work;
        }
        let manifest = target.images.manifest(base).ok();
        *left = left.saturating_sub(manifest.as_ref().map_or(0, |base| base.entries().len() + target.manifest.entries().len()));
        let work = manifest.map(|base| work_of(&base, target.manifest));
        self.works.lock().expect("nobody panics while holding it").insert(base, work);
        work
    }
}

impl Chosen {
    fn held(wish: &Wish) -> Self {
        Self { way: Way::Held, level: Level::default(), codec: wish.codec, bytes: 0, is_exact: true, seconds: 0.0 }
    }
}

/// Returns what a delta has to do, by the plan that it would follow.
pub(crate) fn work_of(base: &Manifest, target: &Manifest) -> Work {
    let plan = df_delta::choose::plan(Some(base), target, &[]);
    let mut work = Work::default();
    for piece in &plan.pieces {
        let len = piece.target_len();
        *(if piece.base.is_empty() { &mut work.fresh } else { &mut work.changed }) += len;
        work.largest = work.largest.max(len);
    }
    work
}

fn whole_work(manifest: &Manifest) -> Work {
    let largest = manifest.entries().iter().map(|entry| match entry.kind {
        Kind::File { len, .. } => len,
        Kind::Directory | Kind::Symlink { .. } => 0,
    });
    Work::whole(manifest.total_len(), largest.max().unwrap_or(0))
}
