//! Stand-in until entropy has it.
use crate::diff::Level;
use crate::entropy::{self, EntropyError, Shape};
use crate::varint;
use std::ops::Range;

pub(super) fn pack_corrections(
    predicted: &[u8],
    actual: &[u8],
    holes: &[Range<u32>],
    base: &[u8],
    shape: Shape,
    level: Level,
    out: &mut Vec<u8>,
) {
    let (mut gaps, mut values, mut literals) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    let mut gap = 0u64;
    for hole in holes.iter().cloned().chain([actual.len() as u32..actual.len() as u32]) {
        for i in at..hole.start as usize {
            if predicted[i] != actual[i] {
                varint::put(&mut gaps, gap);
                gap = 0;
                values.push(actual[i].wrapping_sub(predicted[i]));
            } else {
                gap += 1;
            }
        }
        literals.extend_from_slice(&actual[hole.start as usize..hole.end as usize]);
        at = hole.end as usize;
    }
    if gaps.is_empty() && literals.is_empty() {
        return;
    }
    varint::put(out, gaps.len() as u64);
    varint::put(out, values.len() as u64);
    let mut part = |bytes: &[u8], context: &[u8], shape| {
        let mut packed = Vec::new();
        entropy::pack(bytes, context, shape, level, &mut packed);
        varint::put(out, packed.len() as u64);
        out.extend(packed);
    };
    part(&gaps, &[], Shape::Numbers);
    part(&values, &[], Shape::Bytes);
    part(&literals, if base.len() < 1 << 20 || level == Level::Small { base } else { &[] }, shape);
}

pub(super) fn correct(mut packed: &[u8], target: &mut [u8], holes: &[Range<u32>], base: &[u8]) -> Result<(), EntropyError> {
    let bad = EntropyError::Length { expected: target.len() };
    let in_holes: usize = holes.iter().map(|h| h.len()).sum();
    if packed.is_empty() {
        return if in_holes == 0 { Ok(()) } else { Err(bad) };
    }
    let number = |packed: &mut &[u8]| varint::take(packed).ok().and_then(|n| usize::try_from(n).ok()).ok_or(bad);
    let (n_gaps, n_values) = (number(&mut packed)?, number(&mut packed)?);
    if n_gaps > 2 * target.len() + 100 || n_values > target.len() {
        return Err(bad);
    }
    let mut part = |len: usize, context: &[u8]| {
        let n = number(&mut packed)?;
        let p = packed.split_off(..n).ok_or(bad)?;
        entropy::unpack(p, if context.len() < 1 << 20 { context } else { context }, len)
    };
    let (gaps, values, literals) = (part(n_gaps, &[])?, part(n_values, &[])?, part(in_holes, base)?);
    let (mut gaps, mut values, mut literals) = (&gaps[..], values.iter(), &literals[..]);
    let mut next = |gaps: &mut &[u8]| if gaps.is_empty() { u64::MAX } else { varint::take(gaps).unwrap_or(u64::MAX) };
    let mut gap = next(&mut gaps);
    let mut at = 0;
    let len = target.len();
    for hole in holes.iter().cloned().chain([len as u32..len as u32]) {
        for i in at..hole.start as usize {
            if gap == 0 {
                target[i] = target[i].wrapping_add(*values.next().ok_or(bad)?);
                gap = next(&mut gaps);
            } else {
                gap -= 1;
            }
        }
        let n = hole.len();
        target[hole.start as usize..hole.end as usize].copy_from_slice(literals.split_off(..n).ok_or(bad)?);
        at = hole.end as usize;
    }
    Ok(())
}
