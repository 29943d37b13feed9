//! Putting right what a reading found: from another copy, or by saying honestly what is lost.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use df_core::{Digest, ImageId};

use super::S3Store;
use super::format::segment::Segment;
use super::index::{Index, Place};
use super::swap::{Change, Plan, Run, View};
use super::upload::{Sent, Upload};
use super::verify::Findings;
use crate::blobs::{Blobs, Bytes, Chain, read_checked};
use crate::scrub::Repaired;
use crate::store::{PutError, ReadError};

impl S3Store {
    /// Brings back what `source` has, moves what is whole out of damaged packs, and names what is lost.
    pub(super) fn heal(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        self.commit(|view, run| {
            let findings = self.find_damage(view).map_err(into_put)?;
            if findings.packs.is_empty() && findings.lost.is_empty() && findings.rows.is_empty() && findings.documents.is_empty()
            {
                return Ok(Plan::Leave(Repaired::default()));
            }
            let index = self.index(view)?;
            let (healed, lost) = self.divide(&findings, source);
            let (change, mut repaired) = self.mend(view, run, &index, &findings, &healed, source)?;
            let mut change = change;
            let mut roots = (*view.roots).clone();
            let images: BTreeSet<ImageId> = lost.iter().flat_map(|digest| findings.lost[digest].images.iter().copied()).collect();
            for image in &images {
                roots.images.entry(*image).and_modify(|row| row.whole = false);
            }
            for (release, document) in &findings.documents {
                // A build of the commit makes it again.
                roots.releases.iter_mut().filter(|row| row.stored.id == *release).for_each(|row| {
                    row.documents.remove(document);
                });
            }
            change.roots = (roots != *view.roots).then_some(roots);
            repaired.lost = lost;
            repaired.images = images.into_iter().collect();
            Ok(Plan::Commit(Box::new(change), repaired))
        })
    }

    /// Divides the blobs without a whole copy into those that the source has and the others.
    fn divide(&self, findings: &Findings, source: &dyn Blobs) -> (Vec<(Digest, u64)>, Vec<Digest>) {
        let has = |digest: Digest, len: u64| {
            source.blob(digest).and_then(Bytes::reader).and_then(|reader| read_checked(reader, digest, len)).is_ok()
        };
        let (healed, lost): (Vec<_>, Vec<_>) =
            findings.lost.iter().map(|(&digest, lost)| (digest, lost.len)).partition(|&(digest, len)| has(digest, len));
        (healed, lost.into_iter().map(|(digest, _)| digest).collect())
    }

    /// Sends what is healed and what must move, and says how the index changes.
    fn mend(
        &self,
        view: &View,
        run: &Run,
        index: &Index,
        findings: &Findings,
        healed: &[(Digest, u64)],
        source: &dyn Blobs,
    ) -> Result<(Change, Repaired), PutError> {
        let good = index.without(&findings.rows);
        let damaged: HashSet<_> = findings.packs.keys().copied().collect();
        let stays = Index::new(vec![Segment::new(good.rows().filter(|(pack, _)| !damaged.contains(pack))).into()]);
        let sent: HashSet<Digest> = healed.iter().map(|(digest, _)| *digest).collect();
        let moved: HashMap<Digest, u64> = good
            .places()
            .filter(|Place { pack, slot }| {
                damaged.contains(pack) && !sent.contains(&slot.digest) && !stays.holds(slot.digest, slot.len)
            })
            .filter(|Place { slot, .. }| good.holds(slot.digest, slot.len))
            .map(|Place { slot, .. }| (slot.digest, slot.len))
            .collect();
        let missing: Vec<(Digest, u64)> = healed.iter().copied().chain(moved).collect();
        let both = Chain(vec![source, self]);
        let (known, confirmed) = (HashMap::new(), Mutex::default());
        let upload =
            Upload { run, source: &both, texts: &HashMap::new(), known: &known, confirmed: &confirmed, older: &HashMap::new(), arrived: &|_: &Sent| {} };
        let added = Segment::new(self.upload(&missing, &upload)?);
        let condemned =
            self.condemned(&view.head)?.with(index.packs().into_iter().filter(|pack| damaged.contains(pack)), self.options.now);
        let change = Change {
            added,
            index: Some(stays.segments().iter().map(|segment| (**segment).clone()).collect()),
            condemned: (!damaged.is_empty()).then_some(condemned),
            fence: (!damaged.is_empty()).then_some(view.head.sequence - 1),
            ..Change::default()
        };
        Ok((change, Repaired { healed: healed.iter().map(|(digest, _)| *digest).collect(), ..Repaired::default() }))
    }
}

fn into_put(error: ReadError) -> PutError {
    PutError::Store(error.into())
}
