//! Reading: a blob from its pieces, each checked, the whole checked.

use std::io::{self, Read};
use std::sync::{Arc, PoisonError};

use df_core::{Digest, ImageId, Manifest};

use super::S3Store;
use super::failure::BucketError;
use super::format::name::Space;
use super::format::pack;
use super::format::slot::{DEPTH, PREFIX_LEN, Slot};
use super::index::{Found, Index, Place};
use super::objects::ObjectError;
use super::swap::View;
use crate::blobs::{Bytes, Checked, absent, damaged};
use crate::store::ReadError;

/// Blobs up to this length are remembered, the last one: who reads it in parts reads it once.
const REMEMBERED: u64 = 64 << 20;

impl S3Store {
    /// Returns an image's manifest.
    pub(super) fn read_manifest(&self, image: ImageId) -> Result<Manifest, ReadError> {
        let view = self.last_view()?.ok_or(ReadError::NoImage { image })?;
        self.with_newer(view, |view| self.manifest_in(view, image))
    }

    /// Returns an image's manifest as a view has it.
    pub(super) fn manifest_in(&self, view: &View, image: ImageId) -> Result<Manifest, ReadError> {
        let row = view.roots.images.get(&image).ok_or(ReadError::NoImage { image })?;
        let bytes = match self.local.manifest(view.head.cache, image) {
            Some(bytes) => bytes,
            None => {
                let index = self.index(view)?;
                let found = index.find(image.0, Some(row.manifest_len)).ok_or(ReadError::Damaged { digest: image.0 })?;
                let bytes = self.read_found(&index, image.0, &found)?;
                self.local.keep_manifest(view.head.cache, image, &bytes);
                bytes
            }
        };
        Manifest::decode(&bytes).map_err(|_| ReadError::Damaged { digest: image.0 })
    }

    /// Returns a whole blob.
    pub(super) fn read_whole(&self, digest: Digest, len: u64) -> Result<Vec<u8>, ReadError> {
        self.with_found(digest, Some(len), |index, found| self.read_found(index, digest, found))
    }

    /// Returns part of a blob, all of which was checked.
    pub(super) fn read_part(&self, digest: Digest, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        self.with_found(digest, None, |index, found| {
            let range = || ReadError::Range { digest, offset, len };
            let end = offset.checked_add(len as u64).filter(|&end| end <= found.len).ok_or_else(range)?;
            if found.len <= REMEMBERED {
                let blob = self.remembered(index, digest, found)?;
                return Ok(blob[offset as usize..end as usize].to_vec());
            }
            let mut checked = Checked::new(self.pieces(index, digest, found), digest, found.len);
            let mut part = vec![0; len];
            io::copy(&mut checked.by_ref().take(offset), &mut io::sink()).map_err(|error| reading(digest, error))?;
            checked.read_exact(&mut part).map_err(|error| reading(digest, error))?;
            io::copy(&mut checked, &mut io::sink()).map_err(|error| reading(digest, error))?;
            Ok(part)
        })
    }

    /// Hands out a blob: a small one read already, a large one piece by piece.
    pub(super) fn hand_out(&self, digest: Digest) -> io::Result<Bytes> {
        self.with_found(digest, None, |index, found| {
            if found.parts.len() == 1 {
                return Ok(Bytes::Read(Box::new(io::Cursor::new(self.read_found(index, digest, found)?))));
            }
            Ok(Bytes::Read(Box::new(Checked::new(self.pieces(index, digest, found), digest, found.len))))
        })
        .map_err(|error| match error {
            ReadError::NoBlob { digest } => absent(digest),
            ReadError::Damaged { digest } => damaged(digest),
            other => other.into(),
        })
    }

    /// Reads a blob whose places are known.
    pub(super) fn read_found(&self, index: &Index, digest: Digest, found: &Found) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![];
        for copies in &found.parts {
            bytes.extend_from_slice(&self.read_piece(index, digest, copies, DEPTH)?);
        }
        // One piece was checked by the same digest.
        if found.parts.len() == 1 || Digest::of(&bytes) == digest { Ok(bytes) } else { Err(ReadError::Damaged { digest }) }
    }

    /// Reads one piece of a blob of a known length by itself.
    pub(super) fn read_part_of(&self, index: &Index, digest: Digest, len: u64, part: u32) -> Result<Vec<u8>, ReadError> {
        let read = |index: &Index| {
            let found = index.find(digest, Some(len)).ok_or(ReadError::NoBlob { digest })?;
            let copies = found.parts.get(part as usize).ok_or(ReadError::NoBlob { digest })?;
            self.read_piece(index, digest, copies, DEPTH)
        };
        match read(index) {
            Err(ReadError::Damaged { .. }) => self.with_found(digest, Some(len), |index, _| read(index)),
            result => result,
        }
    }

    /// Returns the bytes of a row from what is stored for it; blobs that must be read before it are.
    pub(super) fn decode(&self, index: &Index, slot: &Slot, stored: &[u8], depth: u8) -> Result<Vec<u8>, ReadError> {
        let bad = || ReadError::Damaged { digest: slot.digest };
        let prefix = match slot.prefix() {
            None => Arc::default(),
            Some((prefix, _)) => {
                // The depth in the rows is a stranger's word; this count is ours.
                let depth = depth.checked_sub(1).ok_or_else(bad)?;
                self.read_prefix(index, prefix, depth)?.ok_or_else(bad)?
            }
        };
        pack::decode(slot, stored, &prefix).map_err(|_| bad())
    }

    /// Reads a blob that others are changes of.
    fn read_prefix(&self, index: &Index, digest: Digest, depth: u8) -> Result<Option<Arc<Vec<u8>>>, ReadError> {
        if let Some(bytes) = self.prefixes.find(digest, depth) {
            return Ok(Some(bytes));
        }
        let Some(found) = index.find(digest, None).filter(|found| found.len <= PREFIX_LEN) else { return Ok(None) };
        self.read_older(index, &found, depth)?;
        let mut bytes = Vec::with_capacity(found.len as usize);
        for copies in &found.parts {
            bytes.extend_from_slice(&self.read_piece(index, digest, copies, depth)?);
        }
        let bytes = Arc::new(bytes);
        self.prefixes.keep(digest, depth, bytes.clone());
        Ok(Some(bytes))
    }

    /// Reads what a blob is a change of, before any of it: of a chain of them one is half made at a time.
    fn read_older(&self, index: &Index, found: &Found, depth: u8) -> Result<(), ReadError> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
        for copies in &found.parts {
            let older = copies[0].slot.prefix().map(|(older, _)| self.read_prefix(index, older, depth));
            // Another copy may do without it.
            older.filter(|_| copies.len() == 1).transpose()?;
        }
        Ok(())
    }

    /// Reads a piece from the first of its copies that is whole.
    fn read_piece(&self, index: &Index, digest: Digest, copies: &[Place], depth: u8) -> Result<Vec<u8>, ReadError> {
        let mut last = ReadError::Damaged { digest };
        for Place { pack, slot } in copies {
            let result = self.read_stored(pack.name.key(Space::Pack), slot);
            match result.and_then(|stored| self.decode(index, slot, &stored, depth)) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn read_stored(&self, pack: super::objects::Key, slot: &Slot) -> Result<Vec<u8>, ReadError> {
        // An empty range cannot be asked for.
        if slot.stored == 0 {
            return Ok(vec![]);
        }
        match self.objects.get_range(&pack, u64::from(slot.offset), u64::from(slot.stored)) {
            Ok(bytes) => Ok(bytes),
            Err(ObjectError::Absent { .. } | ObjectError::Malformed { .. } | ObjectError::TooLong { .. }) => {
                Err(ReadError::Damaged { digest: slot.digest })
            }
            Err(error) => Err(BucketError::from(error).into()),
        }
    }

    /// Does something with a blob's places; once more by a newer head, when those that were known do not have it.
    fn with_found<T>(
        &self,
        digest: Digest,
        len: Option<u64>,
        act: impl Fn(&Arc<Index>, &Found) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let none = || ReadError::NoBlob { digest };
        let view = self.last_view()?.ok_or_else(none)?;
        self.with_newer(view, |view| {
            let index = self.index(view)?;
            let found = index.find(digest, len).ok_or_else(none)?;
            act(&index, &found)
        })
    }

    fn pieces(&self, index: &Arc<Index>, digest: Digest, found: &Found) -> Pieces {
        Pieces { store: self.clone(), index: index.clone(), digest, found: found.clone(), part: 0, left: io::Cursor::new(vec![]) }
    }

    fn remembered(&self, index: &Index, digest: Digest, found: &Found) -> Result<Arc<Vec<u8>>, ReadError> {
        let last = self.last_blob.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, blob)) = last.filter(|(known, blob)| *known == digest && blob.len() as u64 == found.len) {
            return Ok(blob);
        }
        let blob = Arc::new(self.read_found(index, digest, found)?);
        *self.last_blob.lock().unwrap_or_else(PoisonError::into_inner) = Some((digest, blob.clone()));
        Ok(blob)
    }
}

/// A blob, piece by piece.
struct Pieces {
    store: S3Store,
    index: Arc<Index>,
    digest: Digest,
    found: Found,
    part: usize,
    left: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.left.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let Some(copies) = self.found.parts.get(self.part) else { return Ok(0) };
            self.part += 1;
            // One piece at a time is in memory.
            self.left = io::Cursor::default();
            self.left = io::Cursor::new(self.store.read_piece(&self.index, self.digest, copies, DEPTH)?);
        }
    }
}

fn reading(digest: Digest, error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ReadError::Damaged { digest },
        _ => ReadError::Store(error),
    }
}
