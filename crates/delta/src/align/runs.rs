//! How far do two slices agree?

/// Returns how many leading bytes are equal.
pub(crate) fn forward(a: &[u8], b: &[u8]) -> usize {
    let most = a.len().min(b.len());
    let (a, b) = (&a[..most], &b[..most]);
    let mut len = 0;
    for (x, y) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let differ = word(x) ^ word(y);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(x, y)| x == y).count()
}

/// Returns how many trailing bytes are equal.
pub(super) fn backward(a: &[u8], b: &[u8]) -> usize {
    let most = a.len().min(b.len());
    let (a, b) = (&a[a.len() - most..], &b[b.len() - most..]);
    let mut len = 0;
    for (x, y) in a.rchunks_exact(8).zip(b.rchunks_exact(8)) {
        let differ = word(x) ^ word(y);
        if differ != 0 {
            return len + (differ.leading_zeros() / 8) as usize;
        }
        len += 8;
    }
    let left = most - len;
    len + a[..left].iter().rev().zip(b[..left].iter().rev()).take_while(|(x, y)| x == y).count()
}

/// Returns how many bytes at the same place are equal.
pub(super) fn equal(a: &[u8], b: &[u8]) -> usize {
    let most = a.len().min(b.len());
    // Counted in bytes and by the hundred, so that the compiler counts many at once.
    let hundreds = a[..most].chunks(128).zip(b[..most].chunks(128));
    hundreds.map(|(x, y)| usize::from(x.iter().zip(y).map(|(x, y)| u8::from(x == y)).sum::<u8>())).sum()
}

/// Returns how many bytes at the same place are equal, of so few that they are counted at once.
pub(super) fn equal_in_window<const N: usize>(a: &[u8; N], b: &[u8; N]) -> usize {
    const { assert!(N < 256) };
    usize::from(a.iter().zip(b).map(|(x, y)| u8::from(x == y)).sum::<u8>())
}

/// Returns which of eight bytes are equal: the lowest bit is the first.
///
/// # Panics
/// When there are not eight.
pub(super) fn equal_of_eight(a: &[u8], b: &[u8]) -> u8 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differ = word(a) ^ word(b);
    // The highest bit of each byte that differs, then each at the place of its byte: a product that adds none of them up.
    let highest = ((differ & LOW) + LOW) | differ;
    (((!highest & !LOW) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Returns which of less than eight bytes are equal: the lowest bit is the first.
pub(super) fn equal_mask(a: &[u8], b: &[u8]) -> u8 {
    a.iter().zip(b).enumerate().fold(0, |mask, (n, (a, b))| mask | u8::from(a == b) << n)
}

/// Returns eight bytes as a number.
///
/// # Panics
/// When there are not eight.
pub(super) fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes were cut"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_a_byte_by_byte_comparison_finds_them() {
        for len in 0..40 {
            for wrong in 0..=len {
                let a = vec![7_u8; len];
                let mut b = a.clone();
                if wrong < len {
                    b[wrong] = 8;
                }
                assert_eq!(forward(&a, &b), wrong);
                assert_eq!(backward(&a, &b), if wrong < len { len - 1 - wrong } else { len });
                let masks =
                    a.chunks(8).zip(b.chunks(8)).map(|(a, b)| if a.len() < 8 { equal_mask(a, b) } else { equal_of_eight(a, b) });
                assert_eq!(masks.map(u8::count_ones).sum::<u32>() as usize, equal(&a, &b));
                if wrong < len / 8 * 8 {
                    assert_eq!(equal_of_eight(&a[wrong / 8 * 8..], &b[wrong / 8 * 8..]), !(1 << (wrong % 8)));
                }
                assert_eq!(equal(&a, &b), if wrong < len { len - 1 } else { len });
            }
        }
    }
}
