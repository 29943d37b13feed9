//! The supervisor becomes another program, by exec: its number, its children and its descriptors stay, and nothing that serves is touched.
//!
//! A newer `df-node` that has something to activate asks for it first ([`Program`] says which is newer). When no application has anything under way, what is known goes into a sealed
//! memory file ([`Document`]), the descriptors lose their close-on-exec flag, and the program of whoever asked is executed. It adopts what it finds there by the same code as after a
//! kill, with two things more: it is the parent of the programs, so that it hears how they end, and the control socket never closed, so that whoever connects meanwhile waits.
//!
//! Format 1 of the document: JSON, at most [`DOCUMENT_LEN`] bytes. A program reads its own format and older ones, and refuses newer ones: then it ends, and the holder, which
//! is still of the former program, starts that again.

mod sys;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;

use df_core::AppName;
use df_wire::message::Program;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::records::Records;
use crate::hold::{Held, Name};
use crate::layout::Layout;

/// The format of the document that this program writes.
pub const FORMAT: u32 = 1;
/// No document is longer.
const DOCUMENT_LEN: u64 = 4 << 20;

/// Nobody can change any more what is in it.
const SEALED: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// What one program leaves to the next.
pub struct Legacy {
    /// The lock of the supervisor.
    pub lock: File,
    /// The control socket.
    pub control: UnixListener,
    /// Our end of the connection with the holder, if there is one.
    pub link: Option<OwnedFd>,
    /// What is held.
    pub held: Held,
    /// What is known of each application.
    pub records: BTreeMap<AppName, Records>,
}

/// What stands in the memory file; numbers are descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    lock: RawFd,
    control: RawFd,
    link: Option<RawFd>,
    held: Vec<(String, RawFd)>,
    records: BTreeMap<AppName, Records>,
}

/// What was left cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LegacyError {
    #[error("descriptor {0} was not left to us")]
    NotLeft(RawFd),
    #[error("what was left to us is not sealed, or too long")]
    NotSealed,
    #[error("what was left to us has format {0}, this program knows {FORMAT} and older ones")]
    Format(u32),
    #[error("what was left to us cannot be read")]
    Json(#[source] serde_json::Error),
    #[error("what was left to us cannot be read")]
    Io(#[source] io::Error),
}

/// Returns what this program is, for [`is_newer`].
pub fn ours() -> Program {
    // When it came to this machine tells two builds of one version apart.
    let at = |metadata: fs::Metadata| metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    let came = fs::metadata("/proc/self/exe").map_or(0, at);
    Program { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), came }
}

/// Returns whether a program is newer than another: by format, then by version, then by when it came to the machine.
pub fn is_newer(a: &Program, b: &Program) -> bool {
    let version = |text: &str| -> Vec<u64> { text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(3).collect() };
    let key = |program: &Program| (program.format, version(&program.version), program.came);
    key(a) > key(b)
}

/// Becomes the program behind a descriptor; returns only why it could not.
pub fn become_program(program: BorrowedFd<'_>, layout: &Layout, legacy: &Legacy) -> io::Error {
    let memory = match write(legacy) {
        Ok(memory) => memory,
        Err(error) => return error,
    };
    let left = descriptors(legacy).into_iter().chain([memory.as_fd()]);
    let kept: Vec<BorrowedFd<'_>> = left.collect();
    if let Err(error) = kept.iter().try_for_each(|descriptor| fcntl_setfd(descriptor, FdFlags::empty())) {
        return error.into();
    }
    let mut words: Vec<OsString> = vec!["df-node".into(), "supervise".into()];
    words.extend(layout.words());
    words.extend(["--adopt".into(), memory.as_raw_fd().to_string().into()]);
    let error = sys::execute(program, &words);
    for descriptor in kept {
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    error
}

/// Takes what the program that we were before left to us.
///
/// # Errors
/// It is not there, is not sealed, or is not understood. Nothing was touched but what belongs to us.
pub fn adopt(number: RawFd) -> Result<Legacy, LegacyError> {
    let mut taken = BTreeSet::new();
    let mut take = |number: RawFd| {
        if number < 3 || !taken.insert(number) {
            return Err(LegacyError::NotLeft(number));
        }
        let descriptor = sys::left(number).ok_or(LegacyError::NotLeft(number))?;
        fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|error| LegacyError::Io(error.into()))?;
        Ok(descriptor)
    };
    let document = read(File::from(take(number)?))?;
    let mut held = Held::new();
    for (name, number) in document.held {
        let descriptor = take(number)?;
        // A name of a kind that is not known any more: closed.
        if let Ok(name) = name.parse::<Name>() {
            held.insert(name, descriptor);
        }
    }
    Ok(Legacy {
        lock: File::from(take(document.lock)?),
        control: UnixListener::from(take(document.control)?),
        link: document.link.map(take).transpose()?,
        held,
        records: document.records,
    })
}

fn descriptors(legacy: &Legacy) -> Vec<BorrowedFd<'_>> {
    let own = [legacy.lock.as_fd(), legacy.control.as_fd()];
    own.into_iter().chain(legacy.link.as_ref().map(AsFd::as_fd)).chain(legacy.held.values().map(AsFd::as_fd)).collect()
}

fn write(legacy: &Legacy) -> io::Result<OwnedFd> {
    let document = Document {
        format: FORMAT,
        lock: legacy.lock.as_raw_fd(),
        control: legacy.control.as_raw_fd(),
        link: legacy.link.as_ref().map(|link| link.as_raw_fd()),
        held: legacy.held.iter().map(|(name, descriptor)| (name.to_string(), descriptor.as_raw_fd())).collect(),
        records: legacy.records.clone(),
    };
    let bytes = serde_json::to_vec(&document)?;
    if bytes.len() as u64 > DOCUMENT_LEN {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more is known than can be handed on"));
    }
    let mut memory = File::from(memfd_create("df-supervisor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    memory.write_all(&bytes)?;
    memory.rewind()?;
    fcntl_add_seals(&memory, SEALED)?;
    Ok(memory.into())
}

fn read(memory: File) -> Result<Document, LegacyError> {
    let is_sealed = fcntl_get_seals(&memory).is_ok_and(|seals| seals.contains(SEALED));
    let len = memory.metadata().map_err(LegacyError::Io)?.len();
    if !is_sealed || len > DOCUMENT_LEN {
        return Err(LegacyError::NotSealed);
    }
    let mut bytes = vec![];
    memory.take(DOCUMENT_LEN).read_to_end(&mut bytes).map_err(LegacyError::Io)?;
    // The format first: what a newer one holds need not be understood.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(&bytes).map_err(LegacyError::Json)?;
    if head.format > FORMAT {
        return Err(LegacyError::Format(head.format));
    }
    serde_json::from_slice(&bytes).map_err(LegacyError::Json)
}

/// Opens the program that a process runs, to execute it.
///
/// # Errors
/// It has ended, or belongs to somebody else.
pub fn program_of(pid: rustix::process::Pid) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/exe", pid.as_raw_nonzero());
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Returns whether a descriptor is closed on exec.
#[cfg(test)]
fn is_closed_on_exec(descriptor: impl AsFd) -> bool {
    rustix::io::fcntl_getfd(descriptor).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC))
}

#[cfg(test)]
mod tests;
