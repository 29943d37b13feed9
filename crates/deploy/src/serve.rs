//! `df-node serve`: answers one operator over two streams, until they end.
//!
//! What concerns running programs is passed on to the supervisor unchanged; everything else is answered here.

use std::io::{Read, Write};
use std::time::SystemTime;

use df_cache::export::ExportError;
use df_core::attestation::Subject;
use df_core::{AppName, Digest, ImageId, Release, Timestamp};
use df_wire::message::{AppState, Difference, Fault, FaultKind, LockHolder, Serving, Slice, Source, Survey, Trust};
use df_wire::{Event, Reply, Request};

use crate::collect::{self, Policy, Situation};
use crate::conversation::{Conversation, TalkError};
use crate::layout::Layout;
use crate::lock::{Lock, LockError};
use crate::receive::{self, Parcel, ReceiveError};
use crate::store::StoreError;
use crate::trust::TrustError;
use crate::{control, fetch, front, generation, handing, held, history, identity, logs, machine, staged, store, trust, unit};

/// Bytes of the signatures of one request: twice those of 1 GiB in blocks of 704 bytes, which is the most that df asks for.
const SIGNATURES_LEN: u64 = 64 << 20;

/// Answers an operator until it is done.
///
/// # Errors
/// The connection broke or the other side does not speak the protocol. What was being received is swept later.
pub fn serve(layout: &Layout, input: impl Read, output: impl Write) -> Result<(), TalkError> {
    let mut node = Node { layout, lock: None, admitted: vec![], talk: Conversation::open(input, output)? };
    while let Some(request) = node.talk.request()? {
        node.answer(request)?;
    }
    Ok(())
}

struct Node<'a, R, W> {
    layout: &'a Layout,
    lock: Option<Lock>,
    /// For what somebody vouched in this session.
    admitted: Vec<Subject>,
    talk: Conversation<R, W>,
}

impl<R: Read, W: Write> Node<'_, R, W> {
    fn answer(&mut self, request: Request) -> Result<(), TalkError> {
        if self.lock.is_none() && needs_lock(&request) {
            return self.fault(fault(FaultKind::Refused, "whoever changes something takes the lock first"));
        }
        // A supervisor that outlives an older df-node does not ask.
        if let Request::Activate { release, .. } = &request
            && let Err(error) = decoded(release).and_then(|release| trusted(self.layout, &release))
        {
            return self.fault(error);
        }
        match request {
            Request::Logs { app, generation, lines, follow } => self.logs(&app, generation, lines, follow),
            Request::Manifest { image } => self.manifest(image),
            Request::Blobs { image, digests } => self.blobs(image, &digests),
            Request::Sign { image, stretches, block_len } => self.sign(image, &stretches, block_len),
            Request::Receive { image, base, delta, from, len, image_len } => {
                self.receive(&Parcel { image, base, delta, from }, len, image_len)
            }
            Request::Fetch { image, base, delta, from, len, image_len, source } => {
                self.fetch(&Parcel { image, base, delta: Some(delta), from }, len, image_len, &source)
            }
            Request::Activate { .. }
            | Request::Rollback { .. }
            | Request::TakeBack { .. }
            | Request::Start { .. }
            | Request::Stop { .. }
            | Request::Confirm { .. }
            | Request::Withdraw { .. }
            | Request::Halt { .. }
            | Request::Verify { .. } => control::forward(self.layout, &request, &mut self.talk),
            other => match self.answer_at_once(other) {
                Ok(reply) => self.talk.reply(&reply),
                Err(fault) => self.fault(fault),
            },
        }
    }

    fn answer_at_once(&mut self, request: Request) -> Result<Reply, Box<Fault>> {
        match request {
            Request::SurveyUnless { held } if held::has(self.layout, held, now()).map_err(failed)? => Ok(Reply::Held),
            Request::Survey | Request::SurveyUnless { .. } => survey(self.layout).map(|survey| Reply::Survey(Box::new(survey))),
            Request::Lock { who, command } => self.take_lock(who, command),
            Request::Check { image } => check(self.layout, image),
            Request::Release { app, release } => handing::release(self.layout, &app, release),
            Request::Stage { release } => stage(self.layout, &release),
            Request::Pin { policy } => done(trust::pin(self.layout, &policy)),
            Request::Trust { pinned, attestations } => done(trust::change(self.layout, &pinned, &attestations)),
            Request::Admit { subject, attestations } => self.admit(subject, &attestations),
            Request::History { app, limit } => {
                let entries = history::last(&self.layout.history(&app), limit.min(1000) as usize).map_err(failed)?;
                Ok(Reply::History { entries })
            }
            Request::Collect { app, count, older, dry_run } => {
                collect(self.layout, &app, Policy { count: count as usize, older }, dry_run)
            }
            _ => Err(fault(FaultKind::Unsupported, "this node does not know the request")),
        }
    }

    fn fault(&mut self, fault: Box<Fault>) -> Result<(), TalkError> {
        self.talk.reply(&Reply::Fault(fault))
    }

    fn take_lock(&mut self, who: String, command: String) -> Result<Reply, Box<Fault>> {
        let short = |text: String| df_core::text::shorten(&text, 200);
        let holder = LockHolder { who: short(who), command: short(command), since: now() };
        match Lock::take(&self.layout.run().join("lock"), &holder) {
            Ok(lock) => {
                // The one who asked for it may have been killed; the supervisor brings it to an end.
                if let Some(app) = control::busy(self.layout).map_err(failed)? {
                    let holder =
                        LockHolder { who: "the supervisor".into(), command: format!("activation of {app}"), since: now() };
                    return Err(fault(FaultKind::Locked(holder), format!("an activation of {app} is in progress")));
                }
                self.lock = Some(lock);
                // Without it the node is nobody to others, and does all else as before.
                let _ = identity::ensure(self.layout);
                Ok(Reply::Done)
            }
            Err(LockError::Held(_)) if self.lock.is_some() => Ok(Reply::Done),
            Err(LockError::Held(holder)) => {
                let message = format!("{} is at work here: {} since {}", holder.who, holder.command, holder.since);
                Err(fault(FaultKind::Locked(holder), message))
            }
            Err(LockError::Io(error)) => Err(failed(error)),
        }
    }

    fn admit(&mut self, subject: Subject, attestations: &str) -> Result<Reply, Box<Fault>> {
        done(trust::admit(self.layout, &subject, attestations)).inspect(|_| {
            // One image at a time travels; who names more of them vouches for each again.
            self.admitted.truncate(7);
            self.admitted.insert(0, subject);
        })
    }

    fn manifest(&mut self, image: ImageId) -> Result<(), TalkError> {
        match receive::find(self.layout, image, None) {
            Ok(found) => {
                let bytes = found.manifest.encode();
                self.talk.reply(&Reply::Bytes { len: bytes.len() as u64 })?;
                self.talk.bytes(&bytes)
            }
            Err(error) => self.fault(of_store(error)),
        }
    }

    fn blobs(&mut self, image: ImageId, digests: &[Digest]) -> Result<(), TalkError> {
        match handing::open(self.layout, image, digests) {
            Ok(files) => files.send(digests, &mut self.talk),
            Err(fault) => self.fault(fault),
        }
    }

    fn sign(&mut self, image: ImageId, stretches: &[Vec<Slice>], block_len: u32) -> Result<(), TalkError> {
        match signatures(self.layout, image, stretches, block_len) {
            Ok(signatures) => {
                self.talk.reply(&Reply::Signatures { lens: signatures.iter().map(|s| s.len() as u64).collect() })?;
                signatures.iter().try_for_each(|signature| self.talk.bytes(signature))
            }
            Err(fault) => self.fault(fault),
        }
    }

    fn receive(&mut self, parcel: &Parcel, len: u64, image_len: u64) -> Result<(), TalkError> {
        if let Err(error) = trust::check_image(self.layout, parcel.image, &self.admitted) {
            return self.fault(of_trust(&error));
        }
        // Whole, although it is held, is how a damaged image is mended.
        if parcel.base.is_some() && store::holds(self.layout, parcel.image) {
            return self.talk.reply(&Reply::Received { reused: image_len, held: true, fetched: 0 });
        }
        // With a base, or with what came before a cut, files cost nothing that are there; only what surely has to be written is asked for.
        let needed = if parcel.base.is_none() && parcel.from == 0 { image_len } else { len };
        let room = receive::check_room(self.layout, needed);
        let received = room.and_then(|()| receive::receive(self.layout, parcel, &mut self.talk.announced(len)));
        match received {
            Ok(received) => self.talk.reply(&Reply::Received { reused: received.reused, held: false, fetched: 0 }),
            Err(error) => self.fault(of_receive(&error)),
        }
    }

    /// As [`Self::receive`], with bytes that the node gets by itself; nothing is fetched before it is known that the image may come, and fits.
    fn fetch(&mut self, parcel: &Parcel, len: u64, image_len: u64, source: &Source) -> Result<(), TalkError> {
        if let Err(error) = trust::check_image(self.layout, parcel.image, &self.admitted) {
            return self.fault(of_trust(&error));
        }
        if parcel.base.is_some() && store::holds(self.layout, parcel.image) {
            return self.talk.reply(&Reply::Received { reused: image_len, held: true, fetched: 0 });
        }
        let needed = if parcel.base.is_none() && parcel.from == 0 { image_len } else { len.saturating_sub(parcel.from) };
        if let Err(error) = receive::check_room(self.layout, needed) {
            return self.fault(of_receive(&error));
        }
        let (talk, mut broken) = (&mut self.talk, None);
        let mut watch = |bytes| {
            broken = broken.take().or_else(|| talk.event(&Event::Applied { bytes }).err());
            broken.is_none()
        };
        let fetched = fetch::fetch(self.layout, parcel, len, source, &mut watch);
        if let Some(broken) = broken {
            return Err(broken);
        }
        match fetched {
            Ok((received, fetched)) => self.talk.reply(&Reply::Received { reused: received.reused, held: false, fetched }),
            Err(fault) => self.fault(fault),
        }
    }

    fn logs(&mut self, app: &AppName, generation: Option<u64>, lines: u32, follow: bool) -> Result<(), TalkError> {
        let (layout, lines) = (self.layout, lines.min(10_000) as usize);
        let number = match logged(layout, app, generation) {
            Ok(number) => number,
            Err(fault) => return self.fault(fault),
        };
        if follow {
            return match logs::Following::begin(layout, app, number, generation.is_some(), lines) {
                Ok(mut following) => logs::follow(&mut following, &mut self.talk),
                Err(error) => self.fault(failed(error)),
            };
        }
        match logs::Log::open(&layout.log(app, number)) {
            Ok(mut log) => logs::send(&mut log, lines, &mut self.talk),
            Err(error) => self.fault(failed(error)),
        }
    }
}

/// Returns the generation whose output is asked for: the one that is named, or the one that serves.
fn logged(layout: &Layout, app: &AppName, generation: Option<u64>) -> Result<u64, Box<Fault>> {
    let number = generation.map_or_else(|| generation::current(layout, app), Ok).map_err(failed)?;
    if number == 0 {
        return Err(fault(FaultKind::Missing, format!("{app} has no current generation here")));
    }
    if !layout.generation(app, number).is_dir() {
        return Err(fault(FaultKind::Missing, format!("there is no generation {number}")));
    }
    Ok(number)
}

fn needs_lock(request: &Request) -> bool {
    match request {
        Request::Collect { dry_run, .. } => !dry_run,
        Request::Survey
        | Request::SurveyUnless { .. }
        | Request::Lock { .. }
        | Request::Manifest { .. }
        | Request::Blobs { .. }
        | Request::Release { .. }
        | Request::Sign { .. }
        | Request::Check { .. }
        | Request::Verify { .. }
        | Request::Confirm { .. }
        | Request::Withdraw { .. }
        | Request::Halt { .. }
        | Request::Logs { .. }
        | Request::History { .. } => false,
        Request::Receive { .. }
        | Request::Fetch { .. }
        | Request::Pin { .. }
        | Request::Trust { .. }
        | Request::Admit { .. }
        | Request::Stage { .. }
        | Request::Activate { .. }
        | Request::Rollback { .. }
        | Request::TakeBack { .. }
        | Request::Start { .. }
        | Request::Stop { .. }
        | Request::Replace { .. } => true,
    }
}

/// Says what the node holds and runs.
fn survey(layout: &Layout) -> Result<Survey, Box<Fault>> {
    let mut running = control::running(layout).map_err(failed)?;
    let mut apps = vec![];
    for app in generation::apps(layout).map_err(failed)? {
        let state = running.iter().position(|state| state.app == app).map(|at| running.swap_remove(at));
        let records = generation::list(layout, &app).map_err(failed)?;
        let current = generation::current(layout, &app).map_err(failed)?;
        // What is only files is not meant to run, whatever was written down.
        let is_files = records.iter().any(|record| record.number == current && record.release.run.is_none());
        let (wanted, running) =
            (!is_files && control::wanted(layout, &app), state.map(|state| state.running).unwrap_or_default());
        let is_down = wanted && running.is_empty();
        let given_up = if is_down { history::given_up(&layout.history(&app), current).map_err(failed)? } else { None };
        apps.push(AppState {
            current,
            wanted,
            running,
            given_up,
            generations: records.iter().map(generation::Record::to_wire).collect(),
            staged: staged::list(layout, &app).map_err(failed)?,
            app,
        });
    }
    Ok(Survey {
        arch: std::env::consts::ARCH.to_owned(),
        kernel: machine::kernel(),
        libc: machine::libc(),
        interpreters: Some(machine::interpreters()),
        free: machine::free(&layout.root).map_err(failed)?,
        now: now(),
        images: store::images(layout).map_err(failed)?,
        incoming: receive::cut(layout).map_err(failed)?,
        lock: Lock::holder(&layout.run().join("lock")).map_err(failed)?,
        // One that cannot be read admits nothing; what serves may still be seen and go back.
        trust: Some(Trust { pinned: trust::pinned(layout).ok().flatten() }),
        hands_out: true,
        proxy: Some(front::find().map(|path| path.display().to_string()).unwrap_or_default()),
        boot: Some(unit::boot(layout, &unit::look())),
        identity: identity::find(layout),
        apps,
    })
}

/// Reads an image back from disk.
fn check(layout: &Layout, image: ImageId) -> Result<Reply, Box<Fault>> {
    let manifest = store::manifest(layout, image).map_err(of_store)?;
    let found = df_cache::check::tree(&layout.image(image), &manifest).map_err(failed)?;
    let differences = found.into_iter().take(1000).map(|difference| Difference {
        path: String::from_utf8_lossy(&difference.path).into_owned(),
        kind: difference.kind.to_string(),
        expected: difference.expected,
        found: difference.found,
    });
    Ok(Reply::Checked { differences: differences.collect() })
}

fn stage(layout: &Layout, release: &str) -> Result<Reply, Box<Fault>> {
    let release = decoded(release)?;
    if !store::holds(layout, release.image) {
        return Err(of_store(StoreError::Missing(release.image)));
    }
    trusted(layout, &release)?;
    staged::add(layout, &release, now()).map_err(failed)?;
    Ok(Reply::Done)
}

fn trusted(layout: &Layout, release: &Release) -> Result<(), Box<Fault>> {
    trust::check(layout, release).map_err(|error| of_trust(&error))
}

fn done(trusted: Result<(), TrustError>) -> Result<Reply, Box<Fault>> {
    trusted.map(|()| Reply::Done).map_err(|error| of_trust(&error))
}

fn decoded(release: &str) -> Result<Release, Box<Fault>> {
    Release::decode(release.as_bytes()).map_err(|error| fault(FaultKind::Refused, chain(&error)))
}

fn collect(layout: &Layout, app: &AppName, policy: Policy, dry_run: bool) -> Result<Reply, Box<Fault>> {
    let records = generation::list(layout, app).map_err(failed)?;
    let current = generation::current(layout, app).map_err(failed)?;
    let running = control::running(layout).map_err(failed)?;
    let running: Vec<u64> =
        running.iter().filter(|state| state.app == *app).flat_map(|state| state.running.iter().map(|r| r.generation)).collect();
    let gone = collect::plan(&Situation { records: &records, current, running: &running }, policy);
    let collected = collect::perform(layout, app, &gone, policy, dry_run).map_err(failed)?;
    Ok(Reply::Collected { collected })
}

/// Computes signatures of stretches of an image; refuses sizes that no honest operator asks for.
fn signatures(layout: &Layout, image: ImageId, stretches: &[Vec<Slice>], block_len: u32) -> Result<Vec<Vec<u8>>, Box<Fault>> {
    let contents = receive::find(layout, image, None).map_err(of_store)?.contents;
    let lens = stretches.iter().map(|stretch| stretch.iter().fold(0_u64, |sum, slice| sum.saturating_add(slice.len)));
    let answer = lens.fold(0_u64, |sum, len| sum.saturating_add(df_delta::signature::signature_len(len, block_len)));
    if answer > SIGNATURES_LEN {
        return Err(fault(FaultKind::Refused, "signatures of more bytes than this node holds in memory"));
    }
    stretches.iter().map(|stretch| signature(&contents, stretch, block_len)).collect()
}

fn signature(contents: &store::Contents, stretch: &[Slice], block_len: u32) -> Result<Vec<u8>, Box<Fault>> {
    let len = stretch.iter().try_fold(0_u64, |sum, slice| sum.checked_add(slice.len));
    if len.is_none_or(|len| len > df_delta::format::BASE_LEN) {
        return Err(fault(FaultKind::Refused, "a stretch that is too long"));
    }
    let mut bytes = vec![];
    for slice in stretch {
        bytes.extend(contents.read(slice.digest, slice.offset, slice.len as usize).map_err(failed)?);
    }
    df_delta::signature(&bytes, block_len).map_err(|error| fault(FaultKind::Refused, error.to_string()))
}

pub(crate) fn of_store(error: StoreError) -> Box<Fault> {
    let kind = match error {
        StoreError::Missing(_) => FaultKind::Missing,
        StoreError::Damaged(_) => FaultKind::Damaged,
        StoreError::Io { .. } => FaultKind::Failed,
    };
    fault(kind, chain(&error))
}

pub(crate) fn of_receive(error: &ReceiveError) -> Box<Fault> {
    let full = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
    let kind = match error {
        ReceiveError::NoRoom { .. } => FaultKind::DiskFull,
        _ if full => FaultKind::DiskFull,
        ReceiveError::Busy => FaultKind::Refused,
        ReceiveError::Elsewhere { offset } => FaultKind::Elsewhere { offset: *offset },
        ReceiveError::Base(_) | ReceiveError::Export(ExportError::Damaged { .. }) => FaultKind::DeltaRefused,
        ReceiveError::Delta(error) if error.is_damaged() => FaultKind::DeltaRefused,
        ReceiveError::Delta(_) | ReceiveError::Export(_) | ReceiveError::Io { .. } => FaultKind::Failed,
    };
    fault(kind, chain(error))
}

/// Makes a fault of what is not believed.
pub(crate) fn of_trust(error: &TrustError) -> Box<Fault> {
    let kind = match error {
        TrustError::Io { .. } | TrustError::Records(_) => FaultKind::Failed,
        TrustError::Release { .. }
        | TrustError::Image(_)
        | TrustError::Pinned { .. }
        | TrustError::Old { .. }
        | TrustError::Far { .. }
        | TrustError::Change(_)
        | TrustError::Bundle(_)
        | TrustError::Damaged(_) => FaultKind::Untrusted,
    };
    fault(kind, chain(error))
}

/// Makes a fault of which nothing more is known.
pub(crate) fn fault(kind: FaultKind, message: impl Into<String>) -> Box<Fault> {
    let message = df_core::text::shorten(&message.into(), df_core::limits::TEXT_LEN);
    Box::new(Fault { kind, message, log: String::new(), probes: vec![], serving: None })
}

/// Makes a fault of an error of the system.
pub(crate) fn failed(error: impl std::error::Error) -> Box<Fault> {
    fault(FaultKind::Failed, chain(&error))
}

/// Returns an error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns this machine's clock.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Returns what serves, from the records alone.
pub(crate) fn serving(layout: &Layout, app: &AppName, pid: Option<i32>) -> Option<Serving> {
    let current = generation::current(layout, app).ok().filter(|&current| current > 0)?;
    let record = generation::read(layout, app, current).ok()?;
    Some(Serving { generation: current, commit: record.release.commit, image: record.release.image, pid, from: record.from })
}
