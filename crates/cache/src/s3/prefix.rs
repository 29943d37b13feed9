//! A blob as what changed since another: zstd with the older one as prefix.

use super::format::FormatError;

/// Returns the bytes that were compressed after `prefix`; they are `len`.
pub(crate) fn decompress(stored: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, FormatError> {
    let _ = (stored, prefix, len);
    Err(FormatError("it is stored as a change, which this program does not know"))
}
