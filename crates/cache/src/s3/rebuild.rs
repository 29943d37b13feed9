//! What holds a cache together, made again: the head from the log, the root table from an older record and what later ones say, the index from the ends of the packs.
//!
//! Only this and a collection list anything. What is made again is written under new names, and one swap names it; the fence rises, so that nobody commits what was sent under the lost
//! head. Of a pack that only its end was read of, the name is known but not the digest: then the digest in its reference is zeros, and its trailer says what it is.

mod footers;
mod records;
mod redo;

use std::sync::Arc;

use df_core::Digest;

use super::S3Store;
use super::failure::BucketError;
use super::format::condemned::Condemned;
use super::format::head::{HEAD_LEN, Head};
use super::format::name::{Reference, log_key};
use super::format::roots::Roots;
use super::format::segment::Segment;
use super::identity::{self, copy_key, is_identity};
use super::index::Index;
use super::objects::{Body, Condition, Etag, Key, ObjectError};
use super::swap::{Change, Run, View, head_key};
use super::verify::{Findings, GONE};
use crate::blobs::{Blobs, Nothing};
use crate::scrub::Repaired;
use crate::store::PutError;

/// The digest of a pack of which only the end was read.
const UNKNOWN: [u8; Digest::LEN] = [0; Digest::LEN];
/// A head that is longer is not even asked for.
const DAMAGED_HEAD_LEN: u64 = 16 << 20;
/// So often others may change the head meanwhile.
const TRIES: u32 = 8;

/// All that a head leads to but packs and documents.
pub(crate) struct Parts {
    roots: Roots,
    segments: Vec<Segment>,
    condemned: Condemned,
}

/// Returns whether the digest of a whole pack is known.
pub(super) fn is_known(pack: &Reference) -> bool {
    *pack.digest.as_bytes() != UNKNOWN
}

impl S3Store {
    /// Makes again what holds the cache together, where it is damaged or gone; says in words what, and what is lost with it, nothing when all was whole.
    ///
    /// # Errors
    /// There is no record to make it from, or those of asking and writing.
    pub fn rebuild(&self) -> Result<Repaired, PutError> {
        self.rebuild_from(&Nothing)
    }

    /// As [`S3Store::rebuild`]; releases of which only the name is left come from another copy.
    pub(super) fn rebuild_from(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let mut said = Repaired::default();
        for _ in 0..TRIES {
            let mut findings = self.check_structure()?;
            if findings.objects.is_empty() {
                match self.read_head()? {
                    Some((head, _)) => {
                        let is_new = head.sequence > 1 && self.complete_identity(head.cache)?;
                        said.rebuilt.extend(is_new.then(|| copy_key().to_string()));
                        return Ok(said);
                    }
                    None if self.records()?.is_empty() => return Ok(said),
                    // Nothing but its records says that here is a cache: whoever asks for a repair lists to find that out.
                    None => findings.objects.insert(head_key(), GONE.to_owned()),
                };
            }
            // What the first time made again may show only the second time what else is gone.
            let more = self.rebuild_once(&findings, source)?;
            said.rebuilt.extend(more.rebuilt.into_iter().filter(|word| !said.rebuilt.contains(word)).collect::<Vec<_>>());
            said.gone.extend(more.gone.into_iter().filter(|word| !said.gone.contains(word)).collect::<Vec<_>>());
        }
        Err(BucketError::Contended { tries: TRIES }.into())
    }

    fn rebuild_once(&self, findings: &Findings, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let mut said = Repaired::default();
        let (head, etag) = self.head_or_record(&mut said)?;
        let newest = head.txid().map(|txid| log_key(head.sequence, txid));
        let is_record = |key: &&Key| key.as_str().starts_with("log/") && !is_identity(key);
        let swaps = |key: &Key| !is_identity(key) && (!is_record(&key) || Some(key) == newest.as_ref());
        if findings.objects.keys().any(swaps) {
            let run = self.begin(&head);
            let head_was_lost = findings.objects.contains_key(&head_key());
            let parts = self.parts(&head, head_was_lost, &run, source, &mut said)?;
            let view = View::new(head.clone(), etag, parts.roots.clone());
            let change = Change {
                roots: Some(parts.roots),
                index: Some(parts.segments),
                condemned: Some(parts.condemned),
                fence: Some(head.sequence),
                ..Change::default()
            };
            let (_, swapped) = self.swap(&view, &run, change)?;
            if !swapped {
                return Ok(said);
            }
        }
        for key in findings.objects.keys().filter(|key| is_identity(key)) {
            let body = Body::Bytes(identity::text(head.cache).into());
            self.objects.put(key, &body, &Condition::Always).map_err(BucketError::from)?;
            said.rebuilt.push(key.to_string());
        }
        // What a damaged record said nobody knows any more; that it is gone is said plainly by its absence.
        let records: Vec<Key> = findings.objects.keys().filter(is_record).cloned().collect();
        said.rebuilt.extend(records.iter().map(|key| format!("{key} is removed: it says nothing any more")));
        self.delete(records)?;
        Ok(said)
    }

    /// Returns the head, or what the newest record says it is, and the state it is in; none when it is gone.
    fn head_or_record(&self, said: &mut Repaired) -> Result<(Head, Etag), PutError> {
        match self.read_head() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) | Err(BucketError::Damaged { .. } | BucketError::Object(ObjectError::TooLong { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        let etag = match self.objects.get(&head_key(), DAMAGED_HEAD_LEN.max(HEAD_LEN)) {
            Ok(object) => object.etag,
            Err(ObjectError::Absent { .. }) => View::absent(),
            Err(error) => return Err(BucketError::from(error).into()),
        };
        let records = self.records()?;
        let (sequence, newest) = records.newest(self, &self.identities()?)?.ok_or(BucketError::LogLost)?;
        said.rebuilt.push(format!("the head, as commit {sequence} made it"));
        let lost = records.unreadable_after(self, sequence)?;
        said.gone.extend(lost.iter().map(|n| format!("what commit {n} did is lost: its record is damaged")));
        Ok((newest.head, etag))
    }

    /// Returns all that a head leads to, made again where it is lost; of a head that is lost itself, all that it may have led to.
    fn parts(&self, head: &Head, was_lost: bool, run: &Run, source: &dyn Blobs, said: &mut Repaired) -> Result<Parts, PutError> {
        let mut parts = self.parts_of(head, run, source, said)?;
        let others = if was_lost { self.heads_beside(head)? } else { vec![] };
        for other in &others {
            parts = records::join(parts, self.parts_of(other, run, source, said)?);
        }
        if !others.is_empty() {
            let n = others.len() + 1;
            said.rebuilt.push(format!("what {n} commits of one moment name, because nothing says which of them was the last"));
        }
        Ok(parts)
    }

    fn parts_of(&self, head: &Head, run: &Run, source: &dyn Blobs, said: &mut Repaired) -> Result<Parts, PutError> {
        let condemned = match self.condemned(head) {
            Ok(condemned) => condemned,
            Err(BucketError::Damaged { .. } | BucketError::Gone { .. }) => {
                said.rebuilt.push("the list of what is condemned, empty: a collection takes what nothing names".into());
                Condemned::default()
            }
            Err(error) => return Err(error.into()),
        };
        let segments = match self.segments_of(head)? {
            Some(segments) => segments,
            None => {
                let (segment, n) = self.segment_of_footers(&condemned)?;
                said.rebuilt.push(format!("the index, from the ends of {n} packs"));
                vec![segment]
            }
        };
        let roots = match self.roots_of(head) {
            Ok(roots) => (*roots).clone(),
            Err(BucketError::Damaged { .. } | BucketError::Gone { .. }) => {
                let index = Index::new(segments.iter().cloned().map(Arc::new).collect());
                self.older_roots(head, &index, run, source, said)?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Parts { roots, segments, condemned })
    }

    /// Returns the segments of a head; nothing when one is lost.
    fn segments_of(&self, head: &Head) -> Result<Option<Vec<Segment>>, BucketError> {
        let mut segments = vec![];
        for reference in &head.segments {
            match self.segment(head, reference) {
                Ok(segment) => segments.push((*segment).clone()),
                Err(BucketError::Damaged { .. } | BucketError::Gone { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(segments))
    }
}
