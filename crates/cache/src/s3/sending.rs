//! What one put sends, over all its tries: what is there is not sent, and what was sent is not sent twice.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use df_core::Digest;

use super::S3Store;
use super::format::segment::Segment;
use super::format::slot::{Slot, n_parts};
use super::index::Index;
use super::journal::Journal;
use super::prefix::Older;
use super::swap::{Run, View};
use super::upload::{Sent, Upload};
use crate::blobs::Blobs;
use crate::store::PutError;

/// What one put has sent so far, and what others before it had.
pub(crate) struct Sending<'a> {
    source: &'a dyn Blobs,
    /// Blobs that are at hand: manifests.
    texts: &'a HashMap<Digest, Vec<u8>>,
    /// Sent, or found and checked.
    mine: Vec<Sent>,
    /// Older blobs that new ones may be like, by the newest head.
    pub(crate) older: HashMap<Digest, Older>,
    /// Pieces of long blobs that others sent who died before they knew the whole: each counts when it is checked again.
    pieces: Vec<Sent>,
    journals: Option<Vec<Journal>>,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(source: &'a dyn Blobs, texts: &'a HashMap<Digest, Vec<u8>>) -> Self {
        Self { source, texts, mine: vec![], older: HashMap::new(), pieces: vec![], journals: None }
    }

    /// Sends what neither the index nor anybody before has; returns the rows that a commit must add, so that all of `lacking` is there.
    pub(crate) fn complete(
        &mut self,
        store: &S3Store,
        index: &Index,
        view: &View,
        run: &Run,
        lacking: &[(Digest, u64)],
    ) -> Result<Segment, PutError> {
        if lacking.is_empty() {
            return Ok(Segment::default());
        }
        let uploads = store.local.of(view.head.cache).join("upload");
        let is_first = self.journals.is_none();
        self.take_over(&uploads);
        usable(&mut self.mine, index, view.head.fence);
        usable(&mut self.pieces, index, view.head.fence);
        let own = Index::default().with(Segment::new(self.mine.iter().cloned()));
        let (there, missing): (Vec<_>, Vec<_>) = lacking.iter().copied().partition(|&(digest, len)| own.holds(digest, len));
        if is_first {
            let blobs = there.iter().filter(|(digest, _)| !self.texts.contains_key(digest));
            self.source.arrived(blobs.map(|(_, len)| len).sum());
        }
        let sent = self.send(store, run, uploads, &missing)?;
        self.mine.extend(sent);
        Ok(select(&self.mine, lacking))
    }

    /// Forgets the journals that nobody needs any more, after a commit.
    pub(crate) fn finish(&mut self, store: &S3Store) {
        let journals = self.journals.take().unwrap_or_default();
        if journals.is_empty() {
            return;
        }
        let Ok(Some(view)) = store.last_view() else { return };
        let Ok(index) = store.index(&view) else { return };
        for journal in journals {
            let done = |(pack, slots): &Sent| {
                pack.name.session.began <= view.head.fence || slots.iter().all(|slot| index.holds(slot.digest, slot.len))
            };
            if journal.packs().iter().all(done) {
                journal.remove();
            }
        }
    }

    fn send(&mut self, store: &S3Store, run: &Run, uploads: PathBuf, missing: &[(Digest, u64)]) -> Result<Vec<Sent>, PutError> {
        let known =
            self.pieces.iter().flat_map(|(_, slots)| slots).map(|slot| ((slot.digest, slot.part), slot.check())).collect();
        let own = Mutex::new(None);
        let confirmed = Mutex::new(HashSet::new());
        let arrived = |sent: &Sent| {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            if own.is_none() {
                *own = Journal::begin(&uploads, run.session).ok();
            }
            if let Some(journal) = &*own {
                journal.record(sent);
            }
        };
        let upload = Upload {
            run,
            source: self.source,
            texts: self.texts,
            known: &known,
            confirmed: &confirmed,
            older: &self.older,
            arrived: &arrived,
        };
        let result = store.upload(missing, &upload);
        self.journals.get_or_insert_default().extend(own.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut sent = result?;
        let confirmed = confirmed.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (pack, slots) in &mut self.pieces {
            let (good, rest) = std::mem::take(slots).into_iter().partition(|slot| confirmed.contains(&(slot.digest, slot.part)));
            *slots = rest;
            sent.push((*pack, good));
        }
        sent.retain(|(_, slots)| !slots.is_empty());
        Ok(sent)
    }

    /// Takes over, once, what those sent who died.
    fn take_over(&mut self, uploads: &std::path::Path) {
        if self.journals.is_some() {
            return;
        }
        let journals = Journal::take_over(uploads);
        for (pack, slots) in journals.iter().flat_map(Journal::packs) {
            let (pieces, blobs) = slots.into_iter().partition(|slot| n_parts(slot.len) > 1);
            self.pieces.push((pack, pieces));
            self.mine.push((pack, blobs));
        }
        self.journals = Some(journals);
    }
}

/// Keeps of what was sent what a commit may name: of sessions above the fence, with all that must be read before it live or sent too.
fn usable(sent: &mut Vec<Sent>, index: &Index, fence: u64) {
    sent.retain(|(pack, _)| pack.name.session.began > fence);
    loop {
        let own = Index::default().with(Segment::new(sent.iter().cloned()));
        let is_there = |prefix: Digest| index.find(prefix, None).is_some() || own.find(prefix, None).is_some();
        let before = sent.iter().map(|(_, slots)| slots.len()).sum::<usize>();
        sent.iter_mut().for_each(|(_, slots)| slots.retain(|slot| slot.prefix().is_none_or(|(prefix, _)| is_there(prefix))));
        if before == sent.iter().map(|(_, slots)| slots.len()).sum::<usize>() {
            return;
        }
    }
}

/// Returns the rows of some blobs and of all that must be read before them.
fn select(sent: &[Sent], blobs: &[(Digest, u64)]) -> Segment {
    let mut names: HashSet<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    loop {
        let named = sent.iter().flat_map(|(_, slots)| slots).filter(|slot| names.contains(&slot.digest));
        let more: Vec<Digest> =
            named.filter_map(Slot::prefix).map(|(prefix, _)| prefix).filter(|prefix| !names.contains(prefix)).collect();
        if more.is_empty() {
            break;
        }
        names.extend(more);
    }
    let wanted = |slots: &[Slot]| slots.iter().filter(|slot| names.contains(&slot.digest)).cloned().collect::<Vec<_>>();
    Segment::new(sent.iter().map(|(pack, slots)| (*pack, wanted(slots))).filter(|(_, slots)| !slots.is_empty()))
}
