//! Where two outputs differ, told so that a person sees the cause.
//!
//! Two builds of one recipe ought to be equal. When they are not, the name of a file helps nobody: a time, a path or the order of a hash table got into it, and
//! that can be read at the first bytes that differ. So for a file that differs there is what stands there in both, and for an ELF file in which section. All of it
//! is bounded, because a build may leave any bytes.

mod elf;
mod guess;
mod text;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use df_core::text::escape;
use rustix::fs::FileType;
use serde::Serialize;

use crate::directory;

pub use guess::{Guess, Varied};

/// Differences listed.
const N_DIFFERENCES: usize = 10_000;
/// Differing files of which the bytes are looked at.
const N_EXPLAINED: usize = 100;
/// Directories in directories.
const DEPTH: usize = 300;
/// Files up to here are read whole; of longer ones, what is around the first difference.
const WHOLE_LEN: u64 = 256 << 20;
/// Bytes looked at on each side of the first difference of a longer file.
const AROUND: u64 = 64 << 10;

/// One difference of two trees; all text in it is fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// What.
    #[serde(flatten)]
    pub kind: DifferenceKind,
    /// The sections of an ELF file that differ, those first that tell most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// The first bytes that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
    /// What it comes from, when that is evident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guess: Option<Guess>,
}

/// In what two trees differ at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "`here` is the first tree, `there` the second")]
pub enum DifferenceKind {
    OnlyHere,
    OnlyThere,
    Kind {
        here: &'static str,
        there: &'static str,
    },
    /// Whether it can be executed.
    Executable {
        here: bool,
        there: bool,
    },
    /// Where a link points.
    Target {
        here: String,
        there: String,
    },
    /// The bytes of a file, of these lengths.
    Bytes {
        here: u64,
        there: u64,
    },
}

/// A section of an ELF file that differs; its lengths, none where it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Section {
    pub name: String,
    pub here: Option<u64>,
    pub there: Option<u64>,
}

/// What stands at one place in both files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The section of an ELF file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// The first byte that differs, counted from the beginning of the section or file.
    pub offset: u64,
    /// The text around it in the first file, or the bytes as `hex ...`.
    pub here: String,
    /// As in the second file.
    pub there: String,
}

/// Two trees could not be compared.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CompareError {
    #[error("cannot read {path} of the output")]
    Read { path: String, source: io::Error },
    #[error("{path} is deeper than {DEPTH} directories")]
    TooDeep { path: String },
}

/// Lists in what two trees differ, in the order of paths; at most ten thousand differences. `varied` is what is known to have differed between two builds.
///
/// Owners, times and modes but for the executable bit are no part of an image, and not compared.
///
/// # Errors
/// What cannot be read is an error, never equal.
pub fn compare(here: &Path, there: &Path, varied: &[Varied]) -> Result<Vec<Difference>, CompareError> {
    let open = |path: &Path| directory::open(path).map_err(read_failed(b"the top directory"));
    let mut comparison = Comparison { varied, found: vec![], n_explained: 0 };
    comparison.directory(&open(here)?, &open(there)?, b"", 0)?;
    Ok(comparison.found)
}

impl Difference {
    fn new(path: &[u8], kind: DifferenceKind) -> Self {
        Self { path: escape(path), kind, sections: vec![], places: vec![], guess: None }
    }

    /// Returns the difference as lines for people: what differs, then, indented, the sections and what stands there.
    pub fn lines(&self) -> Vec<String> {
        let because = self.guess.map_or_else(String::new, |guess| format!(" (looks like {guess})"));
        let mut lines = vec![format!("{}: {}{because}", self.path, self.kind)];
        if !self.sections.is_empty() {
            let names: Vec<String> = self.sections.iter().take(N_NAMED).map(ToString::to_string).collect();
            let more = match self.sections.len().saturating_sub(N_NAMED) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            lines.push(format!("  in {}{more}", names.join(", ")));
        }
        for place in &self.places {
            let section = place.section.as_ref().map_or_else(String::new, |section| format!("{section} "));
            lines.push(format!("  {section}at {:#x}", place.offset));
            lines.push(format!("    here   {}", place.here));
            lines.push(format!("    there  {}", place.there));
        }
        lines
    }
}

/// Sections named in a line.
const N_NAMED: usize = 8;

impl std::fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnlyHere => f.write_str("is only in the first build"),
            Self::OnlyThere => f.write_str("is only in the second build"),
            Self::Kind { here, there } => write!(f, "is {here}, then {there}"),
            Self::Executable { here: true, .. } => f.write_str("is executable, then not"),
            Self::Executable { here: false, .. } => f.write_str("is not executable, then it is"),
            Self::Target { here, there } => write!(f, "is a link to {here}, then to {there}"),
            Self::Bytes { here, there } if here == there => write!(f, "differs, {here} bytes"),
            Self::Bytes { here, there } => write!(f, "differs, {here} bytes, then {there}"),
        }
    }
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.here, self.there) {
            (Some(here), Some(there)) if here != there => write!(f, "{} ({here} bytes, then {there})", self.name),
            (Some(_), None) => write!(f, "{} (only in the first)", self.name),
            (None, Some(_)) => write!(f, "{} (only in the second)", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

struct Comparison<'a> {
    varied: &'a [Varied],
    found: Vec<Difference>,
    n_explained: usize,
}

impl Comparison<'_> {
    fn directory(&mut self, here: &OwnedFd, there: &OwnedFd, path: &[u8], depth: usize) -> Result<(), CompareError> {
        if depth > DEPTH {
            return Err(CompareError::TooDeep { path: escape(path) });
        }
        let names = |directory| directory::names(directory).map_err(read_failed(path));
        let (here_names, there_names) = (names(here)?, names(there)?);
        let mut all: Vec<&Vec<u8>> = here_names.iter().chain(&there_names).collect();
        all.sort_unstable();
        all.dedup();
        for name in all {
            let below = if path.is_empty() { name.clone() } else { [path, b"/", name].concat() };
            match (here_names.binary_search(name).is_ok(), there_names.binary_search(name).is_ok()) {
                (true, true) => self.entry(here, there, name, &below, depth)?,
                (true, false) => self.add(&below, DifferenceKind::OnlyHere),
                (false, _) => self.add(&below, DifferenceKind::OnlyThere),
            }
        }
        Ok(())
    }

    fn entry(&mut self, here: &OwnedFd, there: &OwnedFd, name: &[u8], path: &[u8], depth: usize) -> Result<(), CompareError> {
        let failed = || read_failed(path);
        let look = |directory: &OwnedFd| match directory::look(directory, name) {
            Ok(Some(stat)) => Ok(stat),
            Ok(None) => Err(failed()(io::ErrorKind::NotFound.into())),
            Err(error) => Err(failed()(error)),
        };
        let (here_stat, there_stat) = (look(here)?, look(there)?);
        match (directory::type_of(&here_stat), directory::type_of(&there_stat)) {
            (FileType::Directory, FileType::Directory) => {
                let open = |directory: &OwnedFd| directory::open_in(directory, name).map_err(failed());
                self.directory(&open(here)?, &open(there)?, path, depth + 1)?;
            }
            (FileType::RegularFile, FileType::RegularFile) => {
                let executable = |stat: &rustix::fs::Stat| stat.st_mode & 0o111 != 0;
                let (was, is) = (executable(&here_stat), executable(&there_stat));
                if was != is {
                    self.add(path, DifferenceKind::Executable { here: was, there: is });
                }
                let open = |directory: &OwnedFd| directory::open_file(directory, name).map_err(failed());
                self.file(&open(here)?, &open(there)?, path).map_err(failed())?;
            }
            (FileType::Symlink, FileType::Symlink) => {
                let target = |directory: &OwnedFd| directory::read_link(directory, name).map_err(failed());
                let (was, is) = (target(here)?, target(there)?);
                if was != is {
                    self.add(path, DifferenceKind::Target { here: escape(&was), there: escape(&is) });
                }
            }
            (was, is) if was == is => {}
            (was, is) => self.add(path, DifferenceKind::Kind { here: word(was), there: word(is) }),
        }
        Ok(())
    }

    fn file(&mut self, here: &File, there: &File, path: &[u8]) -> io::Result<()> {
        let Some(first) = first_difference(here, there)? else { return Ok(()) };
        let (here_len, there_len) = (here.metadata()?.len(), there.metadata()?.len());
        let mut difference = Difference::new(path, DifferenceKind::Bytes { here: here_len, there: there_len });
        if self.n_explained < N_EXPLAINED {
            self.n_explained += 1;
            let is_long = here_len.max(there_len) > WHOLE_LEN;
            let from = if is_long { first.saturating_sub(AROUND) } else { 0 };
            let len = if is_long { 2 * AROUND } else { WHOLE_LEN };
            let (here, there) = (part(here, from, len)?, part(there, from, len)?);
            let is_elf = !is_long && [&here, &there].iter().all(|bytes| bytes.starts_with(b"\x7fELF"));
            let explained = if is_elf { elf::explain(&here, &there, self.varied) } else { None };
            let explained = explained.unwrap_or_else(|| text::explain(&here, &there, self.varied));
            difference.sections = explained.sections;
            difference.places = explained.places;
            difference.guess = explained.guess;
            // Places in sections are counted from their beginning.
            difference.places.iter_mut().filter(|place| place.section.is_none()).for_each(|place| place.offset += from);
        }
        self.push(difference);
        Ok(())
    }

    fn add(&mut self, path: &[u8], kind: DifferenceKind) {
        self.push(Difference::new(path, kind));
    }

    fn push(&mut self, difference: Difference) {
        if self.found.len() < N_DIFFERENCES {
            self.found.push(difference);
        }
    }
}

/// What is to be said of two files that differ.
#[derive(Debug, Default)]
struct Explained {
    sections: Vec<Section>,
    places: Vec<Place>,
    guess: Option<Guess>,
}

fn read_failed(path: &[u8]) -> impl FnOnce(io::Error) -> CompareError {
    let path = escape(path);
    move |source| CompareError::Read { path, source }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a link",
        _ => "something special",
    }
}

/// Returns the position of the first byte that differs; the end of the shorter file when that is where the longer one goes on.
fn first_difference(mut here: &File, mut there: &File) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut offset = 0;
    loop {
        let (n, m) = (fill(&mut here, &mut left)?, fill(&mut there, &mut right)?);
        if let Some(at) = left[..n].iter().zip(&right[..m]).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
        match (n, m) {
            (n, m) if n != m => return Ok(Some(offset + n.min(m) as u64)),
            (0, _) => return Ok(None),
            _ => offset += n as u64,
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn part(file: &File, from: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().saturating_sub(from).min(len);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
