//! Which way an image goes to each node of a command: what the node holds, what is here, what is made already, and what was wished.
//!
//! The deciding is [`crate::choice`]; here the facts for it are brought together, each once for all nodes.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use df_core::{AppName, ImageId, Kind, Manifest};
use df_delta::Level;
use df_delta::choose::{Resemblance, resemblance};
use df_wire::message::{Incoming, Survey};
use tokio::task::spawn_blocking;

use crate::address::Address;
use crate::choice::{self, Crowd, Line, Link, Offer, Queue, Speed, Way, Work};
use crate::deltas::{Deltas, Images};
use crate::plan;
use crate::transfer::CopyError;

mod kinds;

use kinds::Kinds;

/// How many images of a node are looked at as bases, the likeliest first.
const N_BASES: usize = 16;
/// How many entries of manifests are looked at for it: a tree of 50,000 files is compared with four bases, a small one with all.
const N_ENTRIES: usize = 250_000;
/// How many seconds are waited for another df that makes the same delta: as long as two who share the cores need for it, between these.
const PATIENCE: (f64, f64) = (2.0, 120.0);
/// How many seconds it takes to reach a node and hear what it holds: a delta that is begun meanwhile is ahead by that.
const CONNECTING: f64 = 0.15;
/// Bytes of a file that one core packs at most.
const STRETCH_LEN: u64 = 64 << 20;
/// How many files are looked at for programs.
const N_LOOKED_AT: usize = 5000;
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
    pub const fn word(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Copy => "copy",
            Self::Elf => "elf",
            Self::Rsync => "rsync",
            Self::Whole => "whole",
        }
    }

    /// Returns the codec of a delta's pieces that it forces.
    pub(crate) fn of_pieces(self) -> Option<df_delta::Codec> {
        match self {
            Self::Patch => Some(df_delta::Codec::Zstd),
            Self::Copy => Some(df_delta::Codec::Copy),
            Self::Elf => Some(df_delta::Codec::Elf),
            Self::Rsync | Self::Whole => None,
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
    /// How many of the seconds the node works.
    pub apply: f64,
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
    #[error("--codec elf is for programs of x86-64, and the image has none")]
    NoProgram,
}

/// Chooses for the nodes of one command, which share what is made.
#[derive(Debug)]
pub struct Chooser {
    begun: Instant,
    speed: Speed,
    queue: Mutex<Queue>,
    works: Mutex<HashMap<ImageId, Work>>,
    kinds: Kinds,
    crowd: Mutex<Crowd>,
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
    /// Returns the manifest of a base whose blobs are here.
    pub base: &'a dyn Fn(ImageId) -> Option<Manifest>,
}

/// A node that the image goes to, and how.
#[derive(Clone, Copy)]
pub struct Recipient<'a> {
    /// The images that it holds, or is thought to, the likeliest bases first.
    pub bases: &'a [ImageId],
    /// What it holds of receives that were cut.
    pub incoming: &'a [Incoming],
    /// The line to it, beside others.
    pub line: Line,
    /// What was asked for.
    pub wish: Wish,
}

impl Default for Chooser {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            begun: Instant::now(),
            speed: Speed::usual(cores),
            queue: Mutex::default(),
            works: Mutex::default(),
            kinds: Kinds::default(),
            crowd: Mutex::default(),
        }
    }
}

impl Chooser {
    /// Chooses how an image gets to a node, and counts on it that this is done.
    ///
    /// # Errors
    /// The wish cannot be fulfilled there.
    pub fn choose(&self, target: Target<'_>, node: Recipient<'_>) -> Result<Chosen, WishError> {
        let wish = &node.wish;
        if !wish.full && node.bases.contains(&target.image) {
            return Ok(Chosen::held(wish));
        }
        let offers = self.offers(target, node)?;
        let (offer, seconds) = self.settle(&offers, &node.line).expect("whole is always offered, or a wish");
        Ok(Chosen::of(&offer, seconds, wish))
    }

    /// Chooses for a node that is not connected yet, by the images that it was seen to hold; `None` when nothing has to be made for it, or nothing that
    /// would be ready by the time it answers.
    pub fn foresee(&self, target: Target<'_>, node: Recipient<'_>) -> Option<Chosen> {
        let mut offers = self.offers(target, node).ok()?;
        for offer in offers.iter_mut().filter(|offer| matches!(offer.way, Way::Patch(_))) {
            offer.encode = (offer.encode - CONNECTING).max(0.0);
        }
        let (offer, seconds) = choice::choose(&offers, &node.line, &Queue::default(), 0.0)?;
        if offer.is_made || !matches!(offer.way, Way::Patch(_)) {
            return None;
        }
        let wants = Chosen::of(offer, seconds, &node.wish);
        let begun = Offer { encode: offer.encode + CONNECTING, ..*offer };
        self.settle(&[begun], &node.line);
        Some(wants)
    }

    /// Returns the image of some that the target is most like, and how many bytes are new against it.
    pub fn nearest(&self, target: Target<'_>, bases: &[ImageId]) -> Option<(ImageId, u64)> {
        let works = self.works(target, bases).into_iter();
        works.min_by_key(|(_, work)| work.expected).map(|(base, work)| (base, work.changed + work.fresh))
    }

    /// Chooses among offers, and counts on it that the chosen one is made.
    fn settle(&self, offers: &[Offer], line: &Line) -> Option<(Offer, f64)> {
        let now = self.begun.elapsed().as_secs_f64();
        let mut queue = self.queue.lock().expect("nobody panics while holding it");
        let (offer, seconds) = choice::choose(offers, line, &queue, now)?;
        queue.take(offer, now);
        Some((*offer, seconds))
    }

    fn offers(&self, target: Target<'_>, node: Recipient<'_>) -> Result<Vec<Offer>, WishError> {
        let wish = &node.wish;
        let whole = || self.at_levels(target, node, Way::Whole, whole_work(target.manifest));
        if wish.full || wish.codec == Some(Codec::Whole) {
            return Ok(whole());
        }
        let (level, len) = (wish.level.unwrap_or_default(), target.manifest.total_len());
        // Half of an image is worth its signature least.
        let is_whole = |base: &&ImageId| !node.incoming.iter().any(|it| it.partial == Some(**base));
        let rsync = node.bases.iter().find(is_whole);
        let rsync = rsync.map(|&base| Offer::by_signature(base, level, len, &node.line, &self.speed));
        if wish.codec == Some(Codec::Rsync) {
            return rsync.map(|offer| vec![offer]).ok_or(WishError::NothingThere);
        }
        let patches = self.patches(target, node);
        match wish.codec {
            Some(codec) if patches.is_empty() => Err(WishError::NoBase(codec)),
            Some(_) => Ok(patches),
            // What is here too needs no signature: it costs a round trip, and sends every moved address.
            None if patches.is_empty() => Ok(whole().into_iter().chain(rsync).collect()),
            None => {
                // The whole image is no smaller than a delta to it: what was made says more of how its bytes squeeze than any guess.
                let least = patches.iter().filter(|offer| offer.is_made).map(|offer| offer.bytes).max().unwrap_or(0);
                let whole = whole().into_iter().map(|offer| match offer.is_made {
                    true => offer,
                    false => Offer { bytes: offer.bytes.max(least), ..offer },
                });
                Ok(whole.chain(patches).collect())
            }
        }
    }

    /// Returns the offers of deltas to those bases that are here.
    fn patches(&self, target: Target<'_>, node: Recipient<'_>) -> Vec<Offer> {
        let works = self.works(target, node.bases);
        works.into_iter().flat_map(|(base, work)| self.at_levels(target, node, Way::Patch(base), work)).collect()
    }

    /// Returns what deltas to those bases that are here have to do.
    fn works(&self, target: Target<'_>, bases: &[ImageId]) -> Vec<(ImageId, Work)> {
        let (mut left, mut works) = (N_ENTRIES, vec![]);
        for &base in bases {
            if works.len() == N_BASES || left == 0 {
                break;
            }
            works.extend(self.work(target, base, &mut left).map(|work| (base, work)));
        }
        works
    }

    fn at_levels(&self, target: Target<'_>, node: Recipient<'_>, way: Way, work: Work) -> Vec<Offer> {
        let levels = LEVELS.into_iter().filter(|level| node.wish.level.is_none_or(|wished| wished == *level));
        let codec = node.wish.codec.filter(|_| way != Way::Whole);
        let offer = |level| {
            let kept = target.images.kept(way.base(), target.image, level, codec);
            let mut offer = match kept {
                Some((bytes, _)) => Offer::made(way, level, &work, bytes, &self.speed),
                None => Offer::cold(way, level, &work, &self.speed),
            };
            // What an earlier session brought of the same delta does not travel again. One that has to be made will be the same: its bytes depend on
            // nothing else.
            let is_same = |it: &&Incoming| {
                let is_delta = kept.map_or(level == Level::default(), |(_, digest)| digest == it.delta);
                it.image == target.image && it.base == way.base() && is_delta
            };
            let resumed = node.incoming.iter().filter(is_same).map(|it| it.offset).max();
            offer.bytes = offer.bytes.saturating_sub(resumed.unwrap_or(0)).max(1);
            offer
        };
        levels.map(offer).collect()
    }

    /// Returns what a delta to a base has to do; `None` when the base cannot be read. Each base is looked at once, whatever number of nodes holds it.
    fn work(&self, target: Target<'_>, base: ImageId, left: &mut usize) -> Option<Work> {
        if let Some(work) = self.works.lock().expect("nobody panics while holding it").get(&base) {
            return Some(*work);
        }
        let manifest = (target.base)(base)?;
        *left = left.saturating_sub(manifest.entries().len() + target.manifest.entries().len());
        let work = self.kinds.told(work_of(&manifest, target.manifest), target.images, &manifest, target.manifest);
        self.works.lock().expect("nobody panics while holding it").insert(base, work);
        Some(work)
    }
}

impl Chosen {
    /// Returns the choice for a node that was surveyed anew and holds the image now.
    pub fn held(wish: &Wish) -> Self {
        Self { way: Way::Held, level: Level::default(), codec: wish.codec, bytes: 0, is_exact: true, apply: 0.0, seconds: 0.0 }
    }

    /// Returns the choice of the whole image, after another way failed.
    pub fn whole(self) -> Self {
        Self { way: Way::Whole, codec: None, is_exact: false, ..self }
    }

    /// Returns the choice as it is when the delta is made and its length known.
    pub fn exactly(self, bytes: u64, line: &Line) -> Self {
        Self { bytes, is_exact: true, seconds: line.seconds(bytes).max(self.apply), ..self }
    }

    fn of(offer: &Offer, seconds: f64, wish: &Wish) -> Self {
        let Offer { way, level, bytes, is_made, apply, .. } = *offer;
        let codec = wish.codec.filter(|_| matches!(way, Way::Patch(_)));
        Self { way, level, codec, bytes, is_exact: is_made, apply, seconds }
    }
}

/// Returns what a delta can be to: images that a node holds, and what came of others in receives that were cut. All files of the image itself may have come in such a one: it has no name yet, and
/// is not held.
fn bases(survey: &Survey, app: &AppName, image: ImageId) -> Vec<ImageId> {
    let partials = survey.incoming.iter().filter_map(|it| it.partial).filter(|partial| *partial != image);
    plan::bases(survey, app).into_iter().chain(partials).collect()
}

impl Deltas {
    /// Chooses how the image gets to a node, and counts on it that this is done.
    ///
    /// # Errors
    /// The wish cannot be fulfilled there.
    pub async fn choose(
        self: &Arc<Self>,
        node: &Address,
        survey: &Survey,
        app: &AppName,
        link: Link,
        wish: Wish,
    ) -> Result<Chosen, CopyError> {
        if !wish.full && survey.images.contains(&self.image()) {
            return Ok(Chosen::held(&wish));
        }
        let bases = bases(survey, app, self.image());
        self.crowd(|crowd| crowd.join(node, &bases, link));
        let line = self.line(node, link);
        let (deltas, incoming) = (self.clone(), survey.incoming.clone());
        // It reads manifests, and may wait.
        let chosen = spawn_blocking(move || {
            let node = Recipient { bases: &bases, incoming: &incoming, line, wish };
            deltas.with_target(|target| deltas.chooser().choose(target, node))
        });
        Ok(chosen.await.map_err(|error| CopyError::Here(io::Error::other(error)))??)
    }

    /// Returns how long to wait for another df that makes the same delta.
    pub(crate) fn patience(&self, base: Option<ImageId>, level: Level) -> Duration {
        let chooser = self.chooser();
        let (way, work) = match base {
            None => (Way::Whole, whole_work(self.manifest())),
            Some(base) => {
                let work = self.with_target(|target| chooser.works(target, &[base]).pop());
                (Way::Patch(base), work.map_or_else(|| whole_work(self.manifest()), |(_, work)| work))
            }
        };
        let encode = Offer::cold(way, level, &work, &chooser.speed).encode;
        Duration::from_secs_f64((2.0 * encode).clamp(PATIENCE.0, PATIENCE.1))
    }

    /// Says whether the image can be sent as it is wished at all, whatever a node holds.
    ///
    /// # Errors
    /// There is nothing in it for the codec.
    pub fn allows(&self, wish: &Wish) -> Result<(), WishError> {
        let wants_program = wish.codec == Some(Codec::Elf);
        if wants_program && !self.with_target(has_program) { Err(WishError::NoProgram) } else { Ok(()) }
    }

    /// As [`Chooser::foresee`].
    pub fn foresee(&self, bases: &[ImageId], line: Line, wish: Wish) -> Option<Chosen> {
        self.with_target(|target| self.chooser().foresee(target, Recipient { bases, incoming: &[], line, wish }))
    }

    /// Says which nodes the image will probably be brought to side by side: a choice is made for what remains of the uplink.
    pub fn expect(&self, crowd: Crowd) {
        self.crowd(|it| *it = crowd);
    }

    /// Takes note that nothing is brought to a node, or nothing any more: what it would have had of the uplink is for the others.
    pub fn leave(&self, node: &Address) {
        self.crowd(|crowd| crowd.leave(node));
    }

    /// Returns the line to a node beside those that are served with it.
    pub fn line(&self, node: &Address, link: Link) -> Line {
        self.crowd(|crowd| crowd.line(node, link))
    }

    fn crowd<T>(&self, work: impl FnOnce(&mut Crowd) -> T) -> T {
        work(&mut self.chooser().crowd.lock().expect("nobody panics while holding it"))
    }

    /// Makes what was foreseen, unless another df has it ready before.
    ///
    /// # Errors
    /// An image cannot be read.
    pub async fn make(&self, chosen: &Chosen) -> Result<(), CopyError> {
        self.patch(chosen.way.base(), chosen.level, chosen.codec).await.map(drop)
    }

    /// As [`Chooser::nearest`].
    pub fn nearest(&self, bases: &[ImageId]) -> Option<(ImageId, u64)> {
        self.with_target(|target| self.chooser().nearest(target, bases))
    }

    fn with_target<T>(&self, work: impl FnOnce(Target<'_>) -> T) -> T {
        let base = |base| self.base(base);
        work(Target { images: self.images(), image: self.image(), manifest: self.manifest(), base: &base })
    }
}

/// Returns whether an image holds a program or a library for x86-64, among the first of its files.
fn has_program(target: Target<'_>) -> bool {
    let blobs = target.manifest.blobs();
    let long = blobs.iter().filter(|(_, len)| *len >= 64).take(N_LOOKED_AT);
    long.into_iter().any(|(digest, _)| {
        let head = target.images.read(*digest, 0, 20).unwrap_or_default();
        // The magic number, 64 bits, least significant byte first; and the machine.
        head.starts_with(b"\x7fELF\x02\x01") && head.get(18..20) == Some(&[62, 0])
    })
}

/// Returns what a delta has to do.
fn work_of(base: &Manifest, target: &Manifest) -> Work {
    let Resemblance { changed, fresh, largest, expected, .. } = resemblance(base, target);
    Work { changed, fresh, largest, expected, ..Work::default() }
}

fn whole_work(manifest: &Manifest) -> Work {
    let largest = manifest.entries().iter().map(|entry| match entry.kind {
        Kind::File { len, .. } => len,
        Kind::Directory | Kind::Symlink { .. } => 0,
    });
    // A longer one is cut, and many cores work at it.
    Work::whole(manifest.total_len(), largest.max().unwrap_or(0).min(STRETCH_LEN))
}

#[cfg(test)]
mod tests;
