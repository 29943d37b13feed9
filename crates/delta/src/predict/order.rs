//! The order in which members are predicted: all that are no programs together, then each program.

use std::ops::Range;

/// Where each member is in that order.
pub(super) struct Order<'a> {
    members: &'a [Range<usize>],
    /// The members that are programs, ascending.
    numbers: Vec<usize>,
    /// The bytes of all other members, which come first.
    pub plain_len: usize,
    /// Where each program is then.
    pub programs: Vec<Range<usize>>,
}

impl<'a> Order<'a> {
    /// Takes where the members are in the target, and the numbers of those that are programs, in ascending order.
    pub fn new(members: &'a [Range<usize>], programs: impl Iterator<Item = usize>) -> Self {
        let numbers: Vec<usize> = programs.collect();
        let len = members.last().map_or(0, |range| range.end);
        let mut end = len - numbers.iter().map(|&number| members[number].len()).sum::<usize>();
        let plain_len = end;
        let place = |&number: &usize| {
            end += members[number].len();
            end - members[number].len()..end
        };
        let programs = numbers.iter().map(place).collect();
        Self { members, numbers, plain_len, programs }
    }

    /// Returns the members of the target in that order.
    pub fn gather(&self, target: Vec<u8>) -> Vec<u8> {
        if self.is_in_place() {
            return target;
        }
        let mut out = Vec::with_capacity(target.len());
        let programs = self.numbers.iter().map(|&number| &self.members[number]);
        self.plain().chain(programs).for_each(|range| out.extend_from_slice(&target[range.clone()]));
        out
    }

    /// Puts members back to their places in the target.
    pub fn restore(&self, made: Vec<u8>) -> Vec<u8> {
        if self.is_in_place() {
            return made;
        }
        let mut out = vec![0; made.len()];
        let mut at = 0;
        for range in self.plain() {
            out[range.clone()].copy_from_slice(&made[at..at + range.len()]);
            at += range.len();
        }
        for (&number, range) in self.numbers.iter().zip(&self.programs) {
            out[self.members[number].clone()].copy_from_slice(&made[range.clone()]);
        }
        out
    }

    /// Returns whether members are where they are in the target.
    fn is_in_place(&self) -> bool {
        self.numbers.iter().zip(&self.programs).all(|(&number, range)| self.members[number] == *range)
    }

    fn plain(&self) -> impl Iterator<Item = &Range<usize>> {
        let mut programs = self.numbers.iter().copied().peekable();
        self.members.iter().enumerate().filter(move |(number, _)| programs.next_if_eq(number).is_none()).map(|(_, range)| range)
    }
}
