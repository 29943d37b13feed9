//! The order of a group's members, as the kernel keeps it.
//!
//! The filter answers with an index, so we must know the kernel's order. The kernel appends who starts to listen, and when a member
//! stops listening it moves the last one into the freed slot (`__reuseport_detach_sock` in net/core/sock_reuseport.c).
//! There is no way to ask the kernel for the order; it is kept here by the same two rules.
//!
//! One thing the rules make dangerous: when the last member moves, the filter still names its old index until the next `setsockopt`, and for an
//! index beyond the end the kernel falls back to a hash over *all* members. If that last member is the serving one, clients
//! would reach any version for a moment. So before such a removal a *spare* joins the group: a socket of nobody, which the filter never names
//! and which then moves in its place. The next generation takes the spare over.

/// One member: a generation's, or a spare (`None`), and what belongs to it (the socket; nothing in tests).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot<T> {
    pub generation: Option<u64>,
    pub content: T,
}

/// The members of a group in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots<T>(Vec<Slot<T>>);

impl<T> Slots<T> {
    /// Returns members that are already in this order.
    pub fn new(slots: Vec<Slot<T>>) -> Self {
        Slots(slots)
    }

    /// Returns the members in order.
    pub fn as_slice(&self) -> &[Slot<T>] {
        &self.0
    }

    /// Returns the index that makes the filter choose this generation.
    pub fn index_of(&self, generation: u64) -> Option<usize> {
        self.0.iter().position(|slot| slot.generation == Some(generation))
    }

    /// Appends what has just started to listen.
    pub fn push(&mut self, generation: Option<u64>, content: T) {
        self.0.push(Slot { generation, content });
    }

    /// Gives a spare to a generation; false if there is none.
    pub fn take_spare(&mut self, generation: u64) -> bool {
        let spare = self.0.iter_mut().find(|slot| slot.generation.is_none());
        spare.map(|slot| slot.generation = Some(generation)).is_some()
    }

    /// Makes a spare of a member.
    pub fn free(&mut self, index: usize) {
        self.0[index].generation = None;
    }

    /// Renames a member, when a generation goes on with the socket of another.
    pub fn rename(&mut self, index: usize, generation: u64) {
        self.0[index].generation = Some(generation);
    }

    /// Tells whether removing this member would move one that the filter names, while others remain that it must not choose.
    pub fn needs_spare(&self, index: usize, steered: &[u64]) -> bool {
        let last = self.0.len() - 1;
        let moves = index != last && self.0[last].generation.is_some_and(|g| steered.contains(&g));
        moves && last > 1
    }

    /// Removes a member as the kernel does when it stops listening: the last one takes its slot.
    pub fn remove(&mut self, index: usize) -> Slot<T> {
        self.0.swap_remove(index)
    }

    /// Removes members that stopped listening without us, and returns false if the remaining order can't be known.
    ///
    /// With one of them, or at most one remaining, there is one possible order. Otherwise it depends on who left first.
    pub fn forget(&mut self, gone: impl Fn(&Slot<T>) -> bool) -> bool {
        let n_gone = self.0.iter().filter(|slot| gone(slot)).count();
        if n_gone > 1 && self.0.len() - n_gone > 1 {
            return false;
        }
        while let Some(index) = self.0.iter().position(&gone) {
            self.0.swap_remove(index);
        }
        true
    }
}

impl<T> Slots<Option<T>> {
    /// Drops the members without content, which [`forget`](Slots::forget) has removed before.
    pub fn flatten(self) -> Slots<T> {
        let full = |slot: Slot<Option<T>>| slot.content.map(|content| Slot { generation: slot.generation, content });
        Slots(self.0.into_iter().filter_map(full).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(generations: &[u64]) -> Slots<()> {
        let mut slots = Slots::new(Vec::new());
        generations.iter().for_each(|&g| slots.push((g != 0).then_some(g), ()));
        slots
    }

    fn order(slots: &Slots<()>) -> Vec<u64> {
        slots.as_slice().iter().map(|slot| slot.generation.unwrap_or(0)).collect()
    }

    #[track_caller]
    fn check_remove(before: &[u64], generation: u64, after: &[u64]) {
        let mut slots = slots(before);
        slots.remove(slots.index_of(generation).unwrap());
        assert_eq!(order(&slots), after);
    }

    #[test]
    fn the_last_member_fills_the_hole() {
        check_remove(&[1, 2], 1, &[2]);
        check_remove(&[1, 2], 2, &[1]);
        check_remove(&[1, 2, 3, 4], 2, &[1, 4, 3]);
        check_remove(&[1, 2, 3], 3, &[1, 2]);
    }

    #[track_caller]
    fn check_needs_spare(members: &[u64], remove: u64, steered: &[u64], expect: bool) {
        let slots = slots(members);
        assert_eq!(
            slots.needs_spare(slots.index_of(remove).unwrap(), steered),
            expect,
            "{members:?} without {remove}, steered {steered:?}"
        );
    }

    #[test]
    fn a_spare_is_needed_only_when_a_steered_member_would_move_among_others() {
        check_needs_spare(&[1, 2], 1, &[2], false);
        check_needs_spare(&[1, 2, 3], 1, &[3], true);
        check_needs_spare(&[1, 2, 3], 1, &[2, 3], true);
        check_needs_spare(&[1, 2, 3], 1, &[2], false);
        check_needs_spare(&[1, 2, 3], 3, &[3], false);
        check_needs_spare(&[1, 2, 0], 1, &[2], false);
        check_needs_spare(&[1], 1, &[1], false);
    }

    #[test]
    fn a_spare_is_given_to_the_next_generation() {
        let mut slots = slots(&[1, 0, 3]);
        assert!(slots.take_spare(4));
        assert_eq!(order(&slots), [1, 4, 3]);
        assert!(!slots.take_spare(5));
    }

    #[test]
    fn an_order_that_could_be_another_is_not_guessed() {
        let gone = |set: &'static [u64]| move |slot: &Slot<()>| slot.generation.is_some_and(|g| set.contains(&g));
        let mut one = slots(&[1, 2, 3]);
        assert!(one.forget(gone(&[1])));
        assert_eq!(order(&one), [3, 2]);
        let mut all_but_one = slots(&[1, 2, 3]);
        assert!(all_but_one.forget(gone(&[1, 3])));
        assert_eq!(order(&all_but_one), [2]);
        let mut unclear = slots(&[1, 2, 3, 4]);
        assert!(!unclear.forget(gone(&[1, 2])));
        assert_eq!(order(&unclear), [1, 2, 3, 4]);
    }
}
