//! Putting right what a reading found: from another copy, or by saying honestly what is lost.
//!
//! First what holds the cache together is made again ([`super::rebuild`]). Then one commit: new bytes, checked, lie in the bucket under new names before the head names them, and only then
//! nothing names the old ones any more. Damaged packs are condemned, never deleted here: until the grace is over and a collection comes, whatever is in them still is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use df_core::{Digest, ImageId};

use super::S3Store;
use super::format::roots::Roots;
use super::format::segment::Segment;
use super::gc::by_pack;
use super::index::{Index, Place};
use super::swap::{Change, Plan, Run, View};
use super::upload::{Sent, Upload};
use super::verify::{Depth, Findings};
use crate::blobs::{Blobs, Bytes, read_checked};
use crate::document;
use crate::scrub::Repaired;
use crate::store::PutError;

impl S3Store {
    /// Brings back what `source` has, moves what is whole out of damaged packs, and names what is lost.
    pub(super) fn heal(&self, source: &dyn Blobs) -> Result<Repaired, PutError> {
        let mut all = self.rebuild_from(source)?;
        loop {
            let (some, had_manifests) = self.heal_blobs(source)?;
            // What a manifest names is known only after it is whole again.
            let again = had_manifests && !some.healed.is_empty();
            all.healed.extend(some.healed);
            all.lost.extend(some.lost);
            all.images.extend(some.images);
            all.rebuilt.extend(some.rebuilt);
            all.gone.extend(some.gone);
            if !again {
                all.images.sort_unstable();
                all.images.dedup();
                return Ok(all);
            }
        }
    }

    /// Heals what a reading finds; says too whether a manifest was among it.
    fn heal_blobs(&self, source: &dyn Blobs) -> Result<(Repaired, bool), PutError> {
        // Read once: what others commit meanwhile is new, and a repair of it is another one.
        let (_, findings) = self.find_damage_by(&Depth::Everything).map_err(std::io::Error::from)?;
        if findings.is_empty() {
            return Ok((Repaired::default(), false));
        }
        let (healed, lost) = divide(&findings, source);
        let manifests = findings.lost.values().any(|lost| lost.manifest);
        let repaired = self.commit(|view, run| {
            let index = self.index(view)?;
            let mut change = self.mend(view, run, &index, &findings, &healed, source)?;
            let mut roots = (*view.roots).clone();
            // Somebody may have put it again meanwhile.
            let good = index.without(&findings.rows);
            let lost: Vec<Digest> =
                lost.iter().copied().filter(|digest| !good.holds(*digest, findings.lost[digest].len)).collect();
            let images: BTreeSet<ImageId> = lost.iter().flat_map(|digest| findings.lost[digest].images.iter().copied()).collect();
            for image in &images {
                roots.images.entry(*image).and_modify(|row| row.whole = false);
            }
            let mut repaired = Repaired { lost, images: images.into_iter().collect(), ..Repaired::default() };
            self.heal_documents(&mut roots, run, &findings, source, &mut repaired)?;
            change.roots = (roots != *view.roots).then_some(roots);
            if change.roots.is_none() && findings.is_about_documents() {
                return Ok(Plan::Leave(repaired));
            }
            repaired.healed = healed.iter().map(|(digest, _)| *digest).collect();
            Ok::<_, PutError>(Plan::Commit(Box::new(change), repaired))
        })?;
        Ok((repaired, manifests))
    }

    /// Takes damaged documents from another copy; what none has is let go of, and said to be gone. What could not be asked for stays named, for the next repair.
    fn heal_documents(
        &self,
        roots: &mut Roots,
        run: &Run,
        findings: &Findings,
        source: &dyn Blobs,
        said: &mut Repaired,
    ) -> Result<(), PutError> {
        for &(release, document, object) in &findings.documents {
            let Some(row) = roots.releases.iter_mut().find(|row| row.stored.id == release) else { continue };
            // Somebody may have attached it again meanwhile.
            if row.documents.get(&document).is_none_or(|held| held.object != object) {
                continue;
            }
            let copy = match source.document(&row.stored.release.app, release, document) {
                Ok(copy) => copy.filter(|bytes| bytes.len() <= document::LEN),
                Err(error) => {
                    let why = df_core::text::escape(error.to_string().as_bytes());
                    said.gone.push(format!("the {document} of release {release} is damaged still: {why}"));
                    continue;
                }
            };
            row.documents.remove(&document);
            if let Some(bytes) = copy {
                self.add_documents(roots, run, release, &[(document, &bytes)])?;
            }
            let is_back = roots.release(release).is_some_and(|row| row.documents.contains_key(&document));
            match is_back {
                true => said.rebuilt.push(format!("the {document} of release {release}, from another copy")),
                false => said.gone.push(format!(
                    "the {document} of release {release} is lost: no other copy has it; a build of its commit makes it again"
                )),
            }
        }
        Ok(())
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
    ) -> Result<Change, PutError> {
        let good = index.without(&findings.rows);
        let damaged: HashSet<_> = findings.packs.keys().map(|pack| pack.name).collect();
        let stays = Index::new(vec![Segment::new(good.rows().filter(|(pack, _)| !damaged.contains(&pack.name))).into()]);
        let sent: HashSet<Digest> = healed.iter().map(|(digest, _)| *digest).collect();
        let moved: HashMap<Digest, u64> = good
            .places()
            .filter(|Place { pack, slot }| {
                damaged.contains(&pack.name) && !sent.contains(&slot.digest) && !stays.holds(slot.digest, slot.len)
            })
            .filter(|Place { slot, .. }| good.holds(slot.digest, slot.len))
            .map(|Place { slot, .. }| (slot.digest, slot.len))
            .collect();
        let missing: Vec<(Digest, u64)> = healed.iter().copied().chain(moved).collect();
        let checked = Checking(source, self);
        let (known, confirmed) = (HashMap::new(), Mutex::default());
        let upload = Upload {
            run,
            source: &checked,
            texts: &HashMap::new(),
            known: &known,
            confirmed: &confirmed,
            older: &HashMap::new(),
            arrived: &|_: &Sent| {},
        };
        let added = Segment::new(self.upload(&missing, &upload)?);
        let gone: Vec<_> = by_pack(index).into_keys().filter(|pack| damaged.contains(&pack.name)).collect();
        let condemned = (!gone.is_empty()).then(|| Ok::<_, PutError>(self.condemned(&view.head)?.with(gone, self.options.now)));
        Ok(Change {
            added,
            index: Some(stays.segments().iter().map(|segment| (**segment).clone()).collect()),
            fence: condemned.is_some().then_some(view.head.sequence - 1),
            condemned: condemned.transpose()?,
            ..Change::default()
        })
    }
}

/// A source that may lie, and the cache itself for what that says wrongly.
struct Checking<'a>(&'a dyn Blobs, &'a S3Store);

impl Blobs for Checking<'_> {
    fn blob(&self, digest: Digest) -> std::io::Result<Bytes> {
        let right = self.0.blob(digest).is_ok_and(|bytes| is_right(bytes, digest));
        if right { self.0.blob(digest) } else { self.1.blob(digest) }
    }
}

fn is_right(bytes: Bytes, digest: Digest) -> bool {
    bytes.reader().and_then(crate::blobs::hash).is_ok_and(|(found, _)| found == digest)
}

/// Divides the blobs without a whole copy into those that the source has, checked, and the others.
fn divide(findings: &Findings, source: &dyn Blobs) -> (Vec<(Digest, u64)>, Vec<Digest>) {
    let has = |digest: Digest, len: u64| {
        source.blob(digest).and_then(Bytes::reader).and_then(|reader| read_checked(reader, digest, len)).is_ok()
    };
    let (healed, lost): (Vec<_>, Vec<_>) =
        findings.lost.iter().map(|(&digest, lost)| (digest, lost.len)).partition(|&(digest, len)| has(digest, len));
    (healed, lost.into_iter().map(|(digest, _)| digest).collect())
}
