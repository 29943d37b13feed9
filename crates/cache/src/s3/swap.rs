//! Reading the head and what it names, and changing it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};

use df_core::{Digest, ImageId};

use super::commit::{self, Attempt, Outcome};
use super::failure::BucketError;
use super::format::FormatError;
use super::format::condemned::Condemned;
use super::format::head::{HEAD_LEN, Head};
use super::format::log::{LOG_LEN, Record};
use super::format::name::{Name, Reference, Session, Space, hex, log_key};
use super::format::roots::Roots;
use super::format::segment::Segment;
use super::index::Index;
use super::objects::{Body, Condition, Etag, Key, ObjectError};
use super::probe::{Probed, conditions};
use super::{S3Store, merge};

/// So many swaps are tried before somebody is told.
const TRIES: u32 = 100;
/// So often others may take away what a reader is about to read.
const READS: u32 = 8;
/// So many requests whose reply was lost are sent again.
const AGAIN: u32 = 3;
/// So many records are asked at most for what became of an attempt: each knows the 64 commits up to its own, and a collection leaves 256. They are a stranger's word, and one may lead to itself.
const HOPS: u32 = 8;

/// The cache at one moment.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) head: Head,
    pub(crate) etag: Etag,
    pub(crate) roots: Arc<Roots>,
    /// Read when it is needed first.
    index: Arc<OnceLock<Arc<Index>>>,
}

impl View {
    /// Says what the cache is at one moment; the index is read when it is needed.
    pub(crate) fn new(head: Head, etag: Etag, roots: Roots) -> Self {
        Self { head, etag, roots: Arc::new(roots), index: Arc::default() }
    }

    /// The state of a head that is gone.
    pub(crate) fn absent() -> Etag {
        Etag(String::new())
    }
}

/// What a commit changes; `None` leaves as it is.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) roots: Option<Roots>,
    /// Rows that are added.
    pub(crate) added: Segment,
    /// The whole index instead of what there is; `added` comes on top.
    pub(crate) index: Option<Vec<Segment>>,
    pub(crate) condemned: Option<Condemned>,
    pub(crate) fence: Option<u64>,
}

/// What is to be done about a view.
pub(crate) enum Plan<T> {
    /// Nothing, and why.
    Leave(T),
    /// A commit, and what it will have done.
    Commit(Box<Change>, T),
}

/// What becomes of a plan when nothing says any more whether it was done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsure {
    /// It is made again: done twice, it is as if somebody had typed it twice.
    PlanAgain,
    /// That is said: done twice, it would take away what others did in between.
    Say,
}

/// One writer's run: its session, and what it tried.
pub(crate) struct Run {
    pub(crate) session: Session,
    next: std::sync::atomic::AtomicU32,
}

impl Run {
    /// Returns the name of the next object.
    pub(crate) fn name(&self) -> Name {
        Name { session: self.session, n: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

impl S3Store {
    /// Reads the head and the root table; `None` when no cache was made here yet. One request when the root table is at hand.
    pub(crate) fn view(&self) -> Result<Option<Arc<View>>, BucketError> {
        let mut last = None;
        loop {
            let Some((head, etag)) = self.head_unless_new()? else { return Ok(None) };
            let found = match self.roots_of(&head) {
                // Another commit came, and a collection after it: the newer head names what is there.
                Err(BucketError::Gone { .. }) if last != Some(head.sequence) => {
                    last = Some(head.sequence);
                    continue;
                }
                result => result?,
            };
            let view = Arc::new(View { index: self.known_index(&head), head, etag, roots: found });
            self.remember(&view);
            self.is_fresh.store(true, Ordering::Release);
            return Ok(Some(view));
        }
    }

    /// Does something with the newest view; once more with a newer one when that fails and others took away meanwhile what the older one names. `None` when no cache was made here
    /// yet.
    pub(crate) fn with_view<T, E: From<BucketError>>(&self, act: impl Fn(&Arc<View>) -> Result<T, E>) -> Result<Option<T>, E> {
        self.view()?.map(|view| self.with_newer(view, act)).transpose()
    }

    /// As [`S3Store::with_view`], beginning with a view that may be old.
    pub(crate) fn with_newer<T, E: From<BucketError>>(
        &self,
        mut view: Arc<View>,
        act: impl Fn(&Arc<View>) -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 1..READS {
            match act(&view) {
                Err(error) => view = self.newer(&view)?.ok_or(error)?,
                result => return result,
            }
        }
        act(&view)
    }

    /// Returns the last view that was read, or reads one.
    pub(crate) fn last_view(&self) -> Result<Option<Arc<View>>, BucketError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() { Ok(known) } else { self.view() }
    }

    /// Returns the index of a view. A segment that a newer head no longer names may be gone: then the caller reads the head again.
    pub(crate) fn index(&self, view: &View) -> Result<Arc<Index>, BucketError> {
        if let Some(index) = view.index.get() {
            return Ok(index.clone());
        }
        let segments =
            view.head.segments.iter().map(|reference| self.segment(&view.head, reference)).collect::<Result<_, _>>()?;
        Ok(view.index.get_or_init(|| Arc::new(Index::new(segments))).clone())
    }

    /// As [`S3Store::commit`], and makes the cache when there is none.
    pub(crate) fn commit_first<T, E: From<BucketError>>(
        &self,
        plan: impl FnMut(&View, &Run) -> Result<Plan<T>, E>,
    ) -> Result<T, E> {
        match self.fresh_view() {
            Some(view) => self.commit_on(view, true, Unsure::PlanAgain, plan),
            None => self.commit_on(self.view_or_first()?, false, Unsure::PlanAgain, plan),
        }
    }

    /// Returns the view that was read since the last commit began, once: whoever looks first and commits then reads the head once. Should it be old by then, the swap does not hold.
    fn fresh_view(&self) -> Option<Arc<View>> {
        let is_fresh = self.is_fresh.swap(false, Ordering::AcqRel);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| is_fresh)
    }

    /// Commits what `plan` says about the newest view, again and again until the swap holds or nothing is to be done.
    ///
    /// Where no cache was made yet, the plan sees an empty one.
    pub(crate) fn commit<T, E: From<BucketError>>(&self, plan: impl FnMut(&View, &Run) -> Result<Plan<T>, E>) -> Result<T, E> {
        self.commit_unless(Unsure::PlanAgain, plan)
    }

    /// As [`S3Store::commit`], for what would take away what others did since when it is done twice: ends with [`BucketError::Unsure`] when nothing says any more whether a swap was done.
    pub(crate) fn commit_once<T, E: From<BucketError>>(
        &self,
        plan: impl FnMut(&View, &Run) -> Result<Plan<T>, E>,
    ) -> Result<T, E> {
        self.commit_unless(Unsure::Say, plan)
    }

    fn commit_unless<T, E: From<BucketError>>(
        &self,
        unsure: Unsure,
        mut plan: impl FnMut(&View, &Run) -> Result<Plan<T>, E>,
    ) -> Result<T, E> {
        if let Some(view) = self.fresh_view() {
            return self.commit_on(view, true, unsure, plan);
        }
        let view = match self.view()? {
            Some(view) => view,
            None => {
                let head = Head::first(self.random());
                let none = View::new(head, View::absent(), Roots::default());
                if let Plan::Leave(done) = plan(&none, &self.begin(&none.head))? {
                    return Ok(done);
                }
                self.view_or_first()?
            }
        };
        self.commit_on(view, false, unsure, plan)
    }

    /// Commits, beginning with a view that `was_here` before or was read for this.
    fn commit_on<T, E: From<BucketError>>(
        &self,
        mut view: Arc<View>,
        mut was_here: bool,
        unsure: Unsure,
        mut plan: impl FnMut(&View, &Run) -> Result<Plan<T>, E>,
    ) -> Result<T, E> {
        let mut run = self.begin(&view.head);
        let mut tried: Vec<(Attempt, T)> = vec![];
        for n in 0..TRIES {
            if run.session.began <= view.head.fence {
                run = self.begin(&view.head);
            }
            let (change, done) = match plan(&view, &run) {
                // That nothing is to be done is said of what the bucket holds now.
                Ok(Plan::Leave(done)) => match self.newer_if(was_here, &view)? {
                    None => return Ok(done),
                    Some(newer) => {
                        (view, was_here) = (newer, false);
                        continue;
                    }
                },
                Ok(Plan::Commit(change, done)) => (change, done),
                // What the view names may be gone because a newer one came.
                Err(error) => match self.newer(&view)? {
                    Some(newer) if was_here || self.took_away(&view, &newer) => {
                        (view, was_here) = (newer, false);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            was_here = false;
            let (attempt, swapped) = self.swap(&view, &run, *change)?;
            if swapped {
                self.is_fresh.store(false, Ordering::Release);
                return Ok(done);
            }
            tried.push((attempt, done));
            (self.options.pause)(commit::backoff(n, self.random_number()));
            view = self.view()?.ok_or(BucketError::HeadLost)?;
            if let Some(done) = self.find_done(&mut tried, &view.head, unsure)? {
                return Ok(done);
            }
        }
        Err(BucketError::Contended { tries: TRIES }.into())
    }

    /// Writes an object that nobody else writes. Its name is drawn once: when it is there, it is ours.
    pub(crate) fn write_once(&self, key: &Key, bytes: &Arc<[u8]>) -> Result<(), BucketError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.put(key, &Body::Bytes(bytes.clone()), &Condition::Absent) {
                Ok(_) | Err(ObjectError::Changed { .. }) => return Ok(()),
                Err(ObjectError::Unknown { .. }) if tries < AGAIN => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads an object that was written once and that a head names: from that head, this machine or the bucket, checked.
    pub(crate) fn read_once(&self, head: &Head, space: Space, reference: &Reference) -> Result<Vec<u8>, BucketError> {
        if let Some(bytes) = head.kept(reference) {
            return Ok(bytes.to_vec());
        }
        let cache = head.cache;
        if let Some(bytes) = self.local.object(cache, space, reference) {
            return Ok(bytes);
        }
        let bytes = self.get_object(&reference.name.key(space), reference)?;
        self.local.keep_object(cache, space, reference, &bytes);
        Ok(bytes)
    }

    /// Reads an object from the bucket and compares it with what it must be.
    pub(crate) fn get_object(&self, key: &Key, reference: &Reference) -> Result<Vec<u8>, BucketError> {
        match self.objects.get(key, u64::from(reference.len)) {
            Ok(object) if Digest::of(&object.bytes) == reference.digest => Ok(object.bytes),
            Ok(_) => Err(BucketError::Damaged { key: key.clone(), source: FormatError("it has other bytes") }),
            Err(ObjectError::TooLong { .. }) => {
                Err(BucketError::Damaged { key: key.clone(), source: FormatError("it has more bytes") })
            }
            Err(ObjectError::Absent { key }) => Err(BucketError::Gone { key }),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the list of the condemned.
    pub(crate) fn condemned(&self, head: &Head) -> Result<Condemned, BucketError> {
        let Some(reference) = &head.condemned else { return Ok(Condemned::default()) };
        let bytes = self.read_once(head, Space::Table, reference)?;
        Condemned::decode(&bytes).map_err(|source| BucketError::Damaged { key: reference.name.key(Space::Table), source })
    }

    pub(crate) fn read_head(&self) -> Result<Option<(Head, Etag)>, BucketError> {
        let key = head_key();
        match self.objects.get(&key, HEAD_LEN) {
            Ok(object) => {
                let head = Head::decode(&object.bytes).map_err(|source| BucketError::of(key, source))?;
                Ok(Some((head, object.etag)))
            }
            Err(ObjectError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the head; none when no cache was made here yet, which is more than that there is no head.
    fn head_unless_new(&self) -> Result<Option<(Head, Etag)>, BucketError> {
        match self.read_head()? {
            None if self.has_identity()? => {
                // Somebody may have begun it in between.
                self.read_head()?.map(Some).ok_or(BucketError::HeadLost)
            }
            found => Ok(found),
        }
    }

    /// Returns the newest view; makes the cache when there is none.
    fn view_or_first(&self) -> Result<Arc<View>, BucketError> {
        if let Some(view) = self.view()? {
            return Ok(view);
        }
        self.probe()?;
        let first = Head::first(self.random());
        match self.put(&head_key(), &Body::Bytes(first.encode().into()), &Condition::Absent) {
            // Somebody else may have been first: then theirs is the cache.
            Ok(_) | Err(ObjectError::Changed { .. } | ObjectError::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.view()?.ok_or(BucketError::HeadLost)
    }

    /// A server that takes conditions for decoration is refused, unless there is one writer at a time.
    fn probe(&self) -> Result<(), BucketError> {
        if self.options.single_writer {
            return Ok(());
        }
        let key = Key::new(format!("probe/{}", hex(&self.random()))).expect("made of words and digits");
        match conditions(&*self.objects, &key, &b"df asks whether conditions hold\n"[..].into())? {
            Probed::Conditional => Ok(()),
            // A collection of somebody who began the cache meanwhile takes probes away; whoever begins it asks the same.
            Probed::Unconditional if self.read_head()?.is_some() => Ok(()),
            Probed::Unconditional => Err(BucketError::Unconditional),
        }
    }

    /// Writes what a change needs, then its record, then the head. Returns whether the swap surely holds.
    pub(crate) fn swap(&self, view: &View, run: &Run, change: Change) -> Result<(Attempt, bool), BucketError> {
        let mut head = view.head.next(self.random());
        let cache = head.cache;
        let attempt = Attempt { sequence: head.sequence, txid: head.txid().expect("it was given one") };
        let mut roots = view.roots.clone();
        if let Some(changed) = change.roots {
            head.roots = None;
            head.drop_unnamed();
            head.roots = Some(self.keep_or_write(&mut head, Space::Table, run, changed.encode())?);
            roots = Arc::new(changed);
        }
        let index = self.write_index(view, run, &mut head, change.added, change.index)?;
        if let Some(condemned) = change.condemned {
            let empty = condemned.0.is_empty();
            head.condemned = if empty { None } else { Some(self.write_object(cache, Space::Table, run, condemned.encode())?) };
        }
        head.drop_unnamed();
        head.fence = head.fence.max(change.fence.unwrap_or(0));
        if view.head.sequence == 1 {
            // With the first commit, so that a head that is lost is never taken for a cache that was not made yet.
            self.write_identity(cache)?;
        }
        if head.encode().len() as u64 > HEAD_LEN {
            // Nobody could read it any more, nor the record.
            return Err(BucketError::Damaged {
                key: head_key(),
                source: FormatError("with one more commit it is longer than it may be"),
            });
        }
        let record = commit::record(&self.options.who, self.options.now, &view.roots, &roots, head.clone());
        self.write_once(&record.key(), &record.encode().into())?;
        match self.put_head(view, &head) {
            Ok(etag) => {
                let view = Arc::new(View { head, etag, roots, index });
                self.remember(&view);
                self.tidy(&view);
                Ok((attempt, true))
            }
            Err(ObjectError::Changed { .. } | ObjectError::Unknown { .. }) => Ok((attempt, false)),
            Err(error) => Err(error.into()),
        }
    }

    fn put_head(&self, view: &View, head: &Head) -> Result<Etag, ObjectError> {
        if self.options.single_writer && view.etag != View::absent() {
            // Without conditions the only guard is a look just before.
            let now = self.objects.get(&head_key(), HEAD_LEN)?;
            if now.etag != view.etag {
                return Err(ObjectError::Changed { key: head_key() });
            }
        }
        let condition = if view.etag == View::absent() { Condition::Absent } else { Condition::Matches(view.etag.clone()) };
        self.put(&head_key(), &Body::Bytes(head.encode().into()), &condition)
    }

    /// Writes the segments of a change and lists them in the head.
    fn write_index(
        &self,
        view: &View,
        run: &Run,
        head: &mut Head,
        added: Segment,
        whole: Option<Vec<Segment>>,
    ) -> Result<Arc<OnceLock<Arc<Index>>>, BucketError> {
        let mut segments = match whole {
            None if added.slots.is_empty() => return Ok(view.index.clone()),
            None => self.index(view)?.segments().to_vec(),
            Some(whole) => {
                head.segments.clear();
                head.drop_unnamed();
                let mut segments = vec![];
                for segment in whole.into_iter().filter(|segment| !segment.slots.is_empty()) {
                    let reference = self.keep_or_write(head, Space::Segment, run, segment.encode())?;
                    head.segments.push(reference);
                    segments.push(Arc::new(segment));
                }
                segments
            }
        };
        if !added.slots.is_empty() {
            let lens: Vec<u64> = segments.iter().map(|segment| segment.slots.len() as u64).collect();
            let mut added = added;
            // What lies in the head is written again with it in any case: the new rows join it.
            let kept = head.segments.iter().rposition(|segment| head.kept(segment).is_none()).map_or(0, |last| last + 1);
            let at = merge::from(&lens, added.slots.len() as u64).map_or(kept, |at| at.min(kept));
            if at < segments.len() {
                let joined =
                    segments.drain(at..).flat_map(|segment| segment.by_pack()).chain(added.by_pack()).collect::<Vec<_>>();
                added = Segment::new(joined);
                head.segments.truncate(at);
                head.drop_unnamed();
            }
            let reference = self.keep_or_write(head, Space::Segment, run, added.encode())?;
            head.segments.push(reference);
            segments.push(Arc::new(added));
        }
        Ok(Arc::new(OnceLock::from(Arc::new(Index::new(segments)))))
    }

    /// Keeps a small table or segment in a head, and writes another one; the head names it next.
    fn keep_or_write(&self, head: &mut Head, space: Space, run: &Run, bytes: Vec<u8>) -> Result<Reference, BucketError> {
        let digest = Digest::of(&bytes);
        if head.keep(digest, &bytes, self.options.kept_len) {
            let len = u32::try_from(bytes.len()).expect("heads are shorter");
            return Ok(Reference { name: run.name(), len, digest });
        }
        self.write_object(head.cache, space, run, bytes)
    }

    /// Writes a table or a segment, and remembers it.
    fn write_object(&self, cache: [u8; 16], space: Space, run: &Run, bytes: Vec<u8>) -> Result<Reference, BucketError> {
        let name = run.name();
        let len = u32::try_from(bytes.len()).expect("frames stay below 2^32 bytes");
        let reference = Reference { name, len, digest: Digest::of(&bytes) };
        self.local.keep_object(cache, space, &reference, &bytes);
        self.write_once(&name.key(space), &bytes.into())?;
        Ok(reference)
    }

    /// Returns which of the attempts made a head that this one follows; forgets those of which nothing says that any more, unless that is to be said.
    ///
    /// Whoever stops so long that a collection removed the records since is not told. Then the plan is made again, by what the bucket holds now: should the attempt have been done, it is done
    /// twice. What it names is looked at anew, as after any swap that did not hold, and the fence of whoever condemned or swept what it had sent is above its session. It cannot be done later
    /// either: its condition names a head that is there no more, and never will be again. Only where there are no conditions, with a single writer, a request that is still on its way may land
    /// at any time, and undo what was done since.
    fn find_done<T>(&self, tried: &mut Vec<(Attempt, T)>, head: &Head, unsure: Unsure) -> Result<Option<T>, BucketError> {
        let mut known = vec![];
        let n_tried = tried.len();
        for (attempt, done) in tried.drain(..) {
            match self.outcome(&attempt, head)? {
                Some(Outcome::Done) => return Ok(Some(done)),
                Some(_) => known.push((attempt, done)),
                None => {}
            }
        }
        if unsure == Unsure::Say && known.len() < n_tried {
            return Err(BucketError::Unsure);
        }
        *tried = known;
        Ok(None)
    }

    /// Returns what became of an attempt, by a head and the records before it; nothing when these do not lead that far.
    fn outcome(&self, attempt: &Attempt, head: &Head) -> Result<Option<Outcome>, BucketError> {
        let mut outcome = commit::outcome(attempt, head);
        for _ in 0..HOPS {
            let Outcome::Ask(older) = outcome else { break };
            let key = log_key(older.sequence, older.txid);
            let object = match self.objects.get(&key, LOG_LEN) {
                Err(ObjectError::Absent { .. }) => return Ok(None),
                result => result?,
            };
            let record = Record::decode(&object.bytes).map_err(|source| BucketError::Damaged { key: key.clone(), source })?;
            if record.head.sequence != older.sequence {
                return Err(BucketError::Damaged { key, source: FormatError("it is the record of another commit") });
            }
            outcome = commit::outcome(attempt, &record.head);
        }
        Ok(Some(outcome).filter(|outcome| !matches!(outcome, Outcome::Ask(_))))
    }

    /// Reads the head again; `None` when it is the one of the view.
    fn newer(&self, view: &View) -> Result<Option<Arc<View>>, BucketError> {
        match self.view()? {
            None if view.etag != View::absent() => Err(BucketError::HeadLost),
            now => Ok(now.filter(|now| now.head != view.head)),
        }
    }

    /// As [`S3Store::newer`], when it is asked for.
    fn newer_if(&self, asked: bool, view: &View) -> Result<Option<Arc<View>>, BucketError> {
        if asked { self.newer(view) } else { Ok(None) }
    }

    /// Returns whether a newer view lacks something that an older one names.
    fn took_away(&self, old: &View, new: &View) -> bool {
        old.head.segments.iter().any(|segment| !new.head.segments.contains(segment)) || old.head.condemned != new.head.condemned
    }

    pub(crate) fn begin(&self, head: &Head) -> Run {
        Run { session: Session { began: head.sequence, random: self.random() }, next: 0.into() }
    }

    fn put(&self, key: &Key, body: &Body, condition: &Condition) -> Result<Etag, ObjectError> {
        let condition = if self.options.single_writer { &Condition::Always } else { condition };
        self.objects.put(key, body, condition)
    }

    pub(crate) fn roots_of(&self, head: &Head) -> Result<Arc<Roots>, BucketError> {
        let Some(reference) = head.roots else { return Ok(Arc::default()) };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.head.roots == Some(reference)) {
            return Ok(known.roots.clone());
        }
        let bytes = self.read_once(head, Space::Table, &reference)?;
        let roots =
            Roots::decode(&bytes).map_err(|source| BucketError::Damaged { key: reference.name.key(Space::Table), source })?;
        Ok(Arc::new(roots))
    }

    pub(crate) fn segment(&self, head: &Head, reference: &Reference) -> Result<Arc<Segment>, BucketError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && let Some(index) = known.index.get()
            && let Some(at) = known.head.segments.iter().position(|one| one == reference)
        {
            return Ok(index.segments()[at].clone());
        }
        let bytes = self.read_once(head, Space::Segment, reference)?;
        let segment =
            Segment::decode(&bytes).map_err(|source| BucketError::Damaged { key: reference.name.key(Space::Segment), source })?;
        Ok(Arc::new(segment))
    }

    /// Returns the index of the last view when it is that of this head too, or when the segments that are known make most of it.
    fn known_index(&self, head: &Head) -> Arc<OnceLock<Arc<Index>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(known) = known else { return Arc::default() };
        if known.head.segments == head.segments {
            return known.index.clone();
        }
        // What is known already is taken along, so that only new segments are read, later, by the one who needs them.
        let Some(index) = known.index.get() else { return Arc::default() };
        let segments: HashMap<_, _> = known.head.segments.iter().zip(index.segments()).collect();
        let taken: Option<Vec<_>> =
            head.segments.iter().map(|reference| segments.get(reference).map(|segment| (*segment).clone())).collect();
        taken.map_or_else(Arc::default, |segments| Arc::new(OnceLock::from(Arc::new(Index::new(segments)))))
    }

    pub(crate) fn remember(&self, view: &Arc<View>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Two threads may read heads in either order; the newer one stays, unless the other is none of those before it.
        let follows =
            |known: &View| known.head.sequence > view.head.sequence && known.head.txid_of(view.head.sequence) == view.head.txid();
        if !known.as_ref().is_some_and(|known| follows(known)) {
            *known = Some(view.clone());
        }
    }

    /// Forgets on this machine what the new head no longer names.
    fn tidy(&self, view: &View) {
        let Head { roots, segments, condemned, cache, .. } = &view.head;
        let tables = roots.iter().chain(condemned).map(|reference| (Space::Table, *reference));
        let kept: Vec<_> = tables.chain(segments.iter().map(|reference| (Space::Segment, *reference))).collect();
        self.local.forget_others(*cache, &kept, |image: ImageId| view.roots.images.contains_key(&image));
    }

    /// Draws 128 bits that nobody drew before.
    pub(crate) fn random(&self) -> [u8; 16] {
        let number = self.draws.fetch_add(1, Ordering::Relaxed);
        let digest = Digest::of(&[&self.options.seed[..], &number.to_le_bytes()].concat());
        digest.as_bytes()[..16].try_into().expect("16 of 32 bytes")
    }

    fn random_number(&self) -> u64 {
        u64::from_le_bytes(self.random()[..8].try_into().expect("8 of 16 bytes"))
    }
}

/// The key of the only object that changes.
pub(crate) fn head_key() -> Key {
    Key::new("head").expect("a word")
}
