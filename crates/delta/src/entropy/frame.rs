//! One zstd frame of the strictest form: no checksum, no content size, no dictionary, a bounded window, nothing after it.

use zstd_safe::{CCtx, CParameter, DCtx};

use super::EntropyError;
use crate::diff::Level;
use crate::format::WINDOW_LOG;

/// What every frame begins with, and what is therefore not sent: zstd's magic and a descriptor that announces nothing but a window.
const FRAME: [u8; 5] = [0x28, 0xb5, 0x2f, 0xfd, 0x00];

/// From this window on, as a power of two, tables are so large that clearing them takes noticeable time.
const LONG: u32 = 18;

/// Packs, without the first five bytes that are always the same.
pub(super) fn compress(bytes: &[u8], prefix: &[u8], level: Level) -> Option<Vec<u8>> {
    let window_log = (usize::BITS - (bytes.len() + prefix.len()).max(1 << 10).leading_zeros()).min(WINDOW_LOG);
    let mut context = CCtx::create();
    let number = if level == Level::Small { 19 } else { 12 };
    let mut parameters =
        vec![CParameter::ContentSizeFlag(false), CParameter::WindowLog(window_log), CParameter::CompressionLevel(number)];
    if level == Level::Fast && window_log >= LONG {
        // A smaller table than goes with the level: clearing that one takes up to a tenth of the time of an encode, and saves 0.03 % (0.24 % at most) of twenty deltas.
        parameters.push(CParameter::HashLog(window_log.min(22) - 1));
    }
    for parameter in parameters {
        context.set_parameter(parameter).ok()?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).ok()?;
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).ok()?;
    out.starts_with(&FRAME).then(|| out.split_off(FRAME.len()))
}

/// Unpacks exactly `len` bytes.
pub(super) fn decompress(body: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, EntropyError> {
    let window = body.first().ok_or(EntropyError::Frame)?;
    // The window descriptor of RFC 8878: five bits of exponent above 2^10, three of eighths.
    let (exponent, eighths) = (10 + u32::from(window >> 3), window & 7);
    if exponent > WINDOW_LOG || (exponent == WINDOW_LOG && eighths > 0) {
        return Err(EntropyError::Frame);
    }
    let packed = [&FRAME, body].concat();
    // One frame and nothing else: `decompress` would go on with a second one, or skip what it is told to.
    if zstd_safe::find_frame_compressed_size(&packed).ok() != Some(packed.len()) {
        return Err(EntropyError::Frame);
    }
    let refuse = |code| EntropyError::Zstd(zstd_safe::get_error_name(code));
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(refuse)?;
    }
    let mut out = Vec::with_capacity(len);
    context.decompress(&mut out, &packed).map_err(refuse)?;
    if out.len() == len { Ok(out) } else { Err(EntropyError::Length { expected: len }) }
}
