//! Which stretches of new bytes resemble which stretches of old ones.

/// New bytes `[new, new + len)` resemble old bytes `[old, old + len)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where the old bytes begin.
    pub old: u32,
    /// Where the new bytes begin.
    pub new: u32,
    /// How many bytes there are.
    pub len: u32,
}

/// How much work a few bytes less are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As fast as the disk reads.
    Fast,
    /// As exact as pays.
    Small,
}

/// Returns segments that resemble each other, with few wrong bytes in them: sorted by `new`, not overlapping in `new`, inside both.
///
/// What no segment covers has nothing like it in `old`. Both may be at most 4 GiB - 1.
pub(crate) fn align(old: &[u8], new: &[u8], effort: Effort) -> Vec<Segment> {
    align_exact(old, new, effort)
}

/// Returns segments of equal bytes: sorted by `new`, not overlapping in `new`, inside both.
pub(crate) fn align_exact(old: &[u8], new: &[u8], _effort: Effort) -> Vec<Segment> {
    let most = old.len().min(new.len());
    let head = (0..most).take_while(|&i| old[i] == new[i]).count();
    let tail = (0..most - head).take_while(|&i| old[old.len() - 1 - i] == new[new.len() - 1 - i]).count();
    let at = |old: usize, new: usize, len: usize| Segment { old: old as u32, new: new as u32, len: len as u32 };
    [at(0, 0, head), at(old.len() - tail, new.len() - tail, tail)].into_iter().filter(|s| s.len > 0).collect()
}
