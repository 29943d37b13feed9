//! The exchange form of images: one canonical tar out, and a reader that refuses rather than skips.
//!
//! # What is written
//!
//! ustar entries in manifest order: directories (0555, a slash after the name), files (0444 or 0555), links (0777); owners, times and device numbers 0. A name or
//! target of more than 100 bytes travels in a pax header before its entry, with `path` and `linkpath` records in this order and nothing else. Sizes from
//! 8 GiB on are in base 256. Two zero blocks end it. Equal images give equal bytes; `testdata/tar-v1.digest` is the BLAKE3 of an example.
//!
//! # What is read
//!
//! ustar, pax and GNU archives of files, directories, links and hard links to an earlier file (which become equal blobs). Refused by name and in words: names that are
//! absolute or hold `..`, duplicates, names that lead through something that is no directory, devices, fifos, sparse and unknown entries, setuid, setgid and
//! sticky files, unknown pax records (extended attributes and ACLs among them), links that leave, archives that are cut or go on after their end. Directories that are not
//! listed are implied. No name of an archive ever becomes a name on disk: contents are spooled under numbers.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use df_core::manifest::ManifestError;
use df_core::name::NameError;
use df_core::{Digest, Entry, Hasher, Kind, Manifest, TreePath, limits, text};

use crate::blobs::{Blobs, Bytes, Checked};
use crate::import::{ImportError, ImportOptions, Located, check_link};
use crate::place::At as _;

const BLOCK: usize = 512;
const NAME_LEN: usize = 100;
/// Bytes of one pax or GNU extension: two paths and some numbers.
const EXTENSION_LEN: u64 = 64 << 10;
/// Bytes of all names together, implied directories included: a small archive can imply many long ones.
const NAMES_LEN: usize = 128 << 20;

/// What may come in.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions<'a> {
    /// As for a directory.
    pub import: ImportOptions<'a>,
    /// Bytes of all files together.
    pub max_len: u64,
}

impl Default for ReadOptions<'_> {
    fn default() -> Self {
        Self { import: ImportOptions::default(), max_len: limits::IMAGE_LEN }
    }
}

/// An archive cannot be written, or is no image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TarError {
    #[error("get the bytes of {path}")]
    Source {
        path: TreePath,
        #[source]
        source: io::Error,
    },
    #[error("write the archive")]
    Write(#[source] io::Error),
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error("the archive is cut short, or no tar")]
    Truncated,
    #[error("the archive goes on after its end")]
    Trailing,
    #[error("the header at byte {at} of the archive {why}")]
    Header { at: u64, why: &'static str },
    #[error("the archive holds a record that no image can keep: {}", text::shorten(&text::escape(key), 80))]
    Record { key: Box<[u8]> },
    #[error("the archive holds a name that no image can hold")]
    Name(#[source] NameError),
    #[error("{path} in the archive {why}")]
    Refused { path: TreePath, why: &'static str },
    #[error("the archive lists {0} twice")]
    Duplicate(TreePath),
    #[error("{path} in the archive leads through something that is no directory")]
    Through { path: TreePath },
    #[error("a link in the archive")]
    Link(#[source] ImportError),
    #[error("the archive holds more than is allowed")]
    TooLarge,
    #[error("not a tree that can be an image")]
    Tree(#[source] ManifestError),
    #[error("keep the contents of the archive")]
    Spool(#[source] io::Error),
}

/// Writes the canonical archive of an image; every blob is checked while it passes.
///
/// # Errors
/// What was written so far is no archive.
pub fn write(manifest: &Manifest, source: &dyn Blobs, out: &mut dyn Write) -> Result<(), TarError> {
    for Entry { path, kind } in manifest.entries() {
        let name = path.as_bytes();
        match kind {
            Kind::Directory => write_header(out, &[name, b"/"].concat(), b"", b'5', 0o555, 0)?,
            Kind::Symlink { target } => write_header(out, name, target, b'2', 0o777, 0)?,
            Kind::File { executable, len, digest } => {
                write_header(out, name, b"", b'0', crate::export::mode(*executable), *len)?;
                let failed = |error| TarError::Source { path: path.clone(), source: error };
                let reader = source.blob(*digest).and_then(Bytes::reader).map_err(failed)?;
                copy(&mut Checked::new(reader, *digest, *len), out, path)?;
                pad(out, *len)?;
            }
        }
    }
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(TarError::Write)
}

fn copy(reader: &mut dyn Read, out: &mut dyn Write, path: &TreePath) -> Result<(), TarError> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => out.write_all(&buffer[..n]).map_err(TarError::Write)?,
            Err(source) => return Err(TarError::Source { path: path.clone(), source }),
        }
    }
}

fn pad(out: &mut dyn Write, len: u64) -> Result<(), TarError> {
    let rest = usize::try_from(len % BLOCK as u64).expect("below 512");
    if rest == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][rest..]).map_err(TarError::Write) }
}

fn write_header(out: &mut dyn Write, name: &[u8], target: &[u8], kind: u8, mode: u32, len: u64) -> Result<(), TarError> {
    let mut extension = vec![];
    for (key, value) in [("path", name), ("linkpath", target)] {
        if value.len() > NAME_LEN {
            extension.extend_from_slice(&pax_record(key, value));
        }
    }
    if !extension.is_empty() {
        let header = header(b"pax", b"", b'x', 0o444, extension.len() as u64);
        out.write_all(&header).and_then(|()| out.write_all(&extension)).map_err(TarError::Write)?;
        pad(out, extension.len() as u64)?;
    }
    out.write_all(&header(name, target, kind, mode, len)).map_err(TarError::Write)
}

fn header(name: &[u8], target: &[u8], kind: u8, mode: u32, len: u64) -> [u8; BLOCK] {
    let mut header = tar::Header::new_ustar();
    let fields = header.as_ustar_mut().expect("made as one on the line above");
    let fill = |field: &mut [u8; NAME_LEN], value: &[u8]| {
        let len = value.len().min(NAME_LEN);
        field[..len].copy_from_slice(&value[..len]);
    };
    fill(&mut fields.name, name);
    fill(&mut fields.linkname, target);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(len);
    header.set_cksum();
    *header.as_bytes()
}

/// Returns a pax record; its length counts its own digits.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Reads an archive. The contents go as numbered files into `spool`, a directory that is there; they are the caller's to remove.
///
/// # Errors
/// Says which entry makes this no image.
pub fn read(input: &mut dyn Read, spool: &Path, options: ReadOptions<'_>) -> Result<Located, TarError> {
    let mut reader =
        Reader { input, at: 0, spool, options, total: 0, names_len: 0, entries: BTreeMap::new(), files: HashMap::new() };
    let mut extension = Extension::default();
    while let Some(block) = reader.block()? {
        if block == [0; BLOCK] {
            if !extension.is_empty() {
                return Err(reader.bad("announces an entry that does not follow"));
            }
            return reader.finish();
        }
        let header = reader.header(&block)?;
        match header.entry_type().as_byte() {
            b'x' => extension.add_pax(&reader.extension(&header)?)?,
            b'g' => {
                // Records for all entries: git writes a comment. A name for every entry makes no sense.
                let mut global = Extension::default();
                global.add_pax(&reader.extension(&header)?)?;
                if !global.is_empty() {
                    return Err(reader.bad("names all entries at once"));
                }
            }
            b'L' => extension.set("path", trim(reader.extension(&header)?))?,
            b'K' => extension.set("linkpath", trim(reader.extension(&header)?))?,
            _ => reader.entry(&header, std::mem::take(&mut extension))?,
        }
    }
    Err(TarError::Truncated)
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    at: u64,
    spool: &'a Path,
    options: ReadOptions<'a>,
    total: u64,
    names_len: usize,
    /// What each path is, and whether it was only implied by what lies below it.
    entries: BTreeMap<TreePath, (Kind, bool)>,
    files: HashMap<Digest, PathBuf>,
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extension(HashMap<&'static str, Vec<u8>>);

impl Reader<'_> {
    /// Reads a block; `None` at the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        match self.input.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(TarError::Read(error)),
            Ok(()) => {
                self.at += BLOCK as u64;
                Ok(Some(block))
            }
        }
    }

    fn bad(&self, why: &'static str) -> TarError {
        TarError::Header { at: self.at.saturating_sub(BLOCK as u64), why }
    }

    fn header(&self, block: &[u8; BLOCK]) -> Result<tar::Header, TarError> {
        let header = tar::Header::from_byte_slice(block).clone();
        let sum: u32 = block.iter().enumerate().map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
        match header.cksum() {
            Ok(found) if found == sum => Ok(header),
            _ => Err(self.bad("has a wrong checksum")),
        }
    }

    fn len(&self, header: &tar::Header) -> Result<u64, TarError> {
        header.entry_size().map_err(|_| self.bad("has no size"))
    }

    fn extension(&mut self, header: &tar::Header) -> Result<Vec<u8>, TarError> {
        let len = self.len(header)?;
        if len > EXTENSION_LEN {
            return Err(self.bad("announces an extension that is too long"));
        }
        let padded = len.next_multiple_of(BLOCK as u64);
        let mut bytes = vec![0; usize::try_from(padded).expect("bounded two lines above")];
        self.input.read_exact(&mut bytes).map_err(cut)?;
        self.at += padded;
        bytes.truncate(usize::try_from(len).expect("bounded above"));
        Ok(bytes)
    }

    fn entry(&mut self, header: &tar::Header, mut extension: Extension) -> Result<(), TarError> {
        let kind = header.entry_type().as_byte();
        let len = self.len(header)?;
        if extension.0.remove("size").is_some_and(|size| size != len.to_string().as_bytes()) {
            return Err(self.bad("and its extension name two sizes"));
        }
        let name = extension.0.remove("path").unwrap_or_else(|| header.path_bytes().into_owned());
        let target = extension.0.remove("linkpath").or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let mut name = strip_dots(&name);
        if kind == b'5' {
            while let Some(shorter) = name.strip_suffix(b"/") {
                name = shorter;
            }
            if matches!(name, b"" | b".") && len == 0 {
                return Ok(());
            }
        }
        let path = TreePath::new(name).map_err(TarError::Name)?;
        let refused = |why| Err(TarError::Refused { path: path.clone(), why });
        if len > 0 && !matches!(kind, b'0' | 0) {
            return refused("is no file and has contents");
        }
        match kind {
            b'0' | 0 => self.file(header, path, len),
            b'5' => self.insert(path, Kind::Directory),
            b'2' => {
                let target = target.unwrap_or_default();
                check_link(&path, &target, self.options.import).map_err(TarError::Link)?;
                self.insert(path, Kind::Symlink { target: target.into() })
            }
            b'1' => {
                let earlier = TreePath::new(strip_dots(&target.unwrap_or_default())).map_err(TarError::Name)?;
                match self.entries.get(&earlier) {
                    Some((kind @ Kind::File { .. }, _)) => {
                        let kind = kind.clone();
                        self.insert(path, kind)
                    }
                    _ => refused("is a hard link to something that is no earlier file"),
                }
            }
            b'3' | b'4' => refused("is a device; an image holds files, directories and links only"),
            b'6' => refused("is a fifo; an image holds files, directories and links only"),
            b'S' => refused("is a sparse file, which this program does not read"),
            _ => refused("is of an unknown kind"),
        }
    }

    fn file(&mut self, header: &tar::Header, path: TreePath, len: u64) -> Result<(), TarError> {
        let mode = header.mode().map_err(|_| self.bad("has no mode"))?;
        if mode & 0o7000 != 0 {
            return Err(TarError::Refused { path, why: "has a setuid, setgid or sticky bit, which an image cannot keep" });
        }
        self.total = self.total.saturating_add(len);
        if self.total > self.options.max_len || len > limits::FILE_LEN {
            return Err(TarError::TooLarge);
        }
        let digest = self.spool_file(len)?;
        self.insert(path, Kind::File { executable: mode & 0o100 != 0, len, digest })
    }

    fn spool_file(&mut self, len: u64) -> Result<Digest, TarError> {
        let path = self.spool.join(format!("{}", self.at));
        let mut file = File::create_new(&path).at("create", &path).map_err(TarError::Spool)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        let mut left = len;
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left.min(128 << 10)).expect("at most 128 KiB")];
            self.input.read_exact(part).map_err(cut)?;
            hasher.update(part);
            file.write_all(part).at("write", &path).map_err(TarError::Spool)?;
            left -= part.len() as u64;
        }
        let padding = usize::try_from(len.next_multiple_of(BLOCK as u64) - len).expect("below 512");
        self.input.read_exact(&mut [0; BLOCK][..padding]).map_err(cut)?;
        self.at += len + padding as u64;
        let digest = hasher.finish();
        match self.files.entry(digest) {
            Slot::Occupied(_) => fs::remove_file(&path).at("remove", &path).map_err(TarError::Spool)?,
            Slot::Vacant(slot) => drop(slot.insert(path)),
        }
        Ok(digest)
    }

    fn insert(&mut self, path: TreePath, kind: Kind) -> Result<(), TarError> {
        let bytes = path.as_bytes();
        for (slash, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = TreePath::new(&bytes[..slash]).expect("the beginning of a good path");
            match self.entries.get(&above) {
                Some((Kind::Directory, _)) => {}
                Some(_) => return Err(TarError::Through { path }),
                None => self.remember(above, Kind::Directory, true)?,
            }
        }
        match self.entries.get_mut(&path) {
            None => self.remember(path, kind, false),
            Some((Kind::Directory, implied @ true)) if kind == Kind::Directory => {
                *implied = false;
                Ok(())
            }
            Some(_) => Err(TarError::Duplicate(path)),
        }
    }

    fn remember(&mut self, path: TreePath, kind: Kind, implied: bool) -> Result<(), TarError> {
        self.names_len += path.as_bytes().len();
        if self.names_len > NAMES_LEN || self.entries.len() >= limits::MANIFEST_ENTRIES {
            return Err(TarError::TooLarge);
        }
        self.entries.insert(path, (kind, implied));
        Ok(())
    }

    fn finish(mut self) -> Result<Located, TarError> {
        // Programs pad archives with zero blocks; anything else there would be silently dropped.
        while let Some(block) = self.block()? {
            if block != [0; BLOCK] {
                return Err(TarError::Trailing);
            }
        }
        let entries = self.entries.into_iter().map(|(path, (kind, _))| Entry { path, kind }).collect();
        Ok(Located { manifest: Manifest::new(entries).map_err(TarError::Tree)?, files: self.files })
    }
}

impl Extension {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn set(&mut self, key: &'static str, value: Vec<u8>) -> Result<(), TarError> {
        match self.0.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(TarError::Record { key: key.as_bytes().into() }),
        }
    }

    /// Takes pax records: names and sizes are kept, what an image has not (times, owners) is dropped, everything else refused.
    fn add_pax(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        const DROPPED: [&[u8]; 9] =
            [b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment", b"LIBARCHIVE.creationtime"];
        while !bytes.is_empty() {
            let bad = || TarError::Record { key: bytes.iter().take(80).copied().collect() };
            let space = bytes.iter().take(8).position(|&b| b == b' ').ok_or_else(bad)?;
            let len: usize = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
            let record = bytes.get(space + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.set("path", value.to_vec())?,
                b"linkpath" => self.set("linkpath", value.to_vec())?,
                b"size" => self.set("size", value.to_vec())?,
                key if DROPPED.contains(&key) => {}
                key => return Err(TarError::Record { key: key.into() }),
            }
            bytes = &bytes[len..];
        }
        Ok(())
    }
}

fn cut(error: io::Error) -> TarError {
    if error.kind() == io::ErrorKind::UnexpectedEof { TarError::Truncated } else { TarError::Read(error) }
}

/// GNU programs end their long names with a NUL.
fn trim(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn strip_dots(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    name
}

#[cfg(test)]
mod tests;
