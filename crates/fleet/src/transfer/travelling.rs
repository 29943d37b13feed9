//! To how many nodes bytes travel at once: what each of them gets is a part of what the uplink carries.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::choice::Link;

/// One of those to whom bytes travel, until it is dropped.
pub(super) struct Travelling<'a> {
    all: &'a AtomicUsize,
    /// How many there were at each look, together, and how many looks.
    seen: usize,
    looks: usize,
}

impl<'a> Travelling<'a> {
    pub(super) fn among(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self { all, seen: 0, looks: 0 }
    }

    /// Counts those who are on the way now.
    pub(super) fn look(&mut self) {
        self.seen += self.all.load(Ordering::Relaxed);
        self.looks += 1;
    }

    /// Returns a line as it was measured meanwhile, with what all lines carried if the others got as much.
    pub(super) fn together(&self, link: Link) -> Link {
        let n_at_once = self.seen as f64 / self.looks.max(1) as f64;
        Link { together: link.bytes_per_second * n_at_once.max(1.0), ..link }
    }
}

impl Drop for Travelling<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_three_shared_tells_of_an_uplink_three_times_as_fast() {
        let all = AtomicUsize::default();
        let mut first = Travelling::among(&all);
        first.look();
        let (mut second, third) = (Travelling::among(&all), Travelling::among(&all));
        second.look();
        first.look();
        let link = Link { bytes_per_second: 1e6, ..Link::UNMEASURED };
        assert_eq!((first.together(link).together, second.together(link).together), (2e6, 3e6));
        assert_eq!(third.together(link).together, 1e6, "it was not looked");
        drop((first, second, third));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
