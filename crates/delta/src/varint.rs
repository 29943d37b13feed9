//! Unsigned numbers in one byte for each seven bits, the least first (LEB128), in their shortest form only.

use std::io::{self, Read};

/// Why bytes are not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// They end within it.
    Truncated,
    /// It is longer than it needs to be, or above 2^64.
    Form,
}

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number from the front of `bytes`.
#[inline]
pub(crate) fn take(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let &[first, ref rest @ ..] = *bytes else { return Err(VarintError::Truncated) };
    if first < 0x80 {
        *bytes = rest;
        return Ok(first.into());
    }
    take_long(bytes)
}

/// Reads a number; the inner error is one of form, the outer one of the reader.
pub(crate) fn read(input: &mut dyn Read) -> io::Result<Result<u64, VarintError>> {
    let (mut bytes, mut len) = ([0; 10], 0);
    loop {
        input.read_exact(&mut bytes[len..=len])?;
        len += 1;
        if bytes[len - 1] < 0x80 || len == bytes.len() {
            let mut rest = &bytes[..len];
            return Ok(take(&mut rest).map_err(|_| VarintError::Form));
        }
    }
}

/// Makes small numbers of numbers near zero.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[inline(never)]
fn take_long(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && byte > 1 || at > 9 {
            return Err(VarintError::Form);
        }
        value |= bits << (7 * at);
        if byte < 0x80 {
            if byte == 0 {
                return Err(VarintError::Form);
            }
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(VarintError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        let numbers = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for value in numbers {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(take(&mut &bytes[..]), Ok(value));
            assert_eq!(read(&mut &bytes[..]).expect("is there"), Ok(value));
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), Err(VarintError::Truncated));
            assert_eq!(zigzag(unzigzag(value)), value);
        }
    }

    #[test]
    fn longer_forms_are_refused() {
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(take(&mut &bytes[..]), Err(VarintError::Form), "{bytes:x?}");
            assert_eq!(read(&mut &bytes[..]).expect("is there"), Err(VarintError::Form), "{bytes:x?}");
        }
    }
}
