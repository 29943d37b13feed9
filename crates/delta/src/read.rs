//! Reads stretches of blobs through what the caller hands in.

use std::io;

use df_core::Digest;

use crate::choose::Slice;

/// Reads `len` bytes at `offset` of a blob. Called from several threads at once.
pub type ReadBlob<'a> = &'a (dyn Fn(Digest, u64, usize) -> io::Result<Vec<u8>> + Sync);

/// A blob could not be read.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub digest: Digest,
    pub source: io::Error,
}

/// Returns the bytes of slices, one after the other. A reader that returns another number of bytes than it was asked for is an error.
pub(crate) fn concat(slices: &[Slice], read: ReadBlob<'_>) -> Result<Vec<u8>, ReadError> {
    let total = slices.iter().map(|slice| slice.len).sum::<u64>();
    if let [slice] = slices {
        // Not copied: a large file's part would be there twice.
        return exactly(*slice, read);
    }
    let mut out = Vec::with_capacity(usize::try_from(total).expect("a piece is at most 64 MiB"));
    for slice in slices {
        out.extend_from_slice(&exactly(*slice, read)?);
    }
    Ok(out)
}

fn exactly(Slice { digest, offset, len }: Slice, read: ReadBlob<'_>) -> Result<Vec<u8>, ReadError> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let bytes = read(digest, offset, len as usize).map_err(|source| ReadError { digest, source })?;
    let is_right = bytes.len() as u64 == len;
    if is_right { Ok(bytes) } else { Err(ReadError { digest, source: io::ErrorKind::UnexpectedEof.into() }) }
}

/// Returns the lengths of slices.
pub(crate) fn lens(slices: &[Slice]) -> Vec<usize> {
    slices.iter().map(|slice| usize::try_from(slice.len).expect("a piece is at most 64 MiB")).collect()
}
