//! In which order nodes get a new version, and what happens when one fails.
//!
//! A pure machine: it is told how nodes ended and says which are next. The canary nodes go first and alone; then the others, so many at once. When more
//! failed than may, no further node begins, and those that had succeeded go back: a fleet does not stay on two versions because nobody looked.

use std::collections::{BTreeSet, VecDeque};

/// How careful a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// So many nodes go first; the others wait until all of them are well.
    pub canary: usize,
    /// So many at once after that, at least 1.
    pub parallel: usize,
    /// More failures than this end the rollout.
    pub max_failures: usize,
}

/// A rollout under way over nodes numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    policy: Policy,
    canaries: BTreeSet<usize>,
    waiting: VecDeque<usize>,
    running: BTreeSet<usize>,
    succeeded: Vec<usize>,
    failed: Vec<usize>,
    cancelled: bool,
}

impl Rollout {
    /// Plans a rollout over so many nodes, in their order.
    pub fn new(n_nodes: usize, policy: Policy) -> Self {
        let canaries = if n_nodes > 1 { (0..policy.canary.min(n_nodes)).collect() } else { BTreeSet::new() };
        Self {
            policy,
            canaries,
            waiting: (0..n_nodes).collect(),
            running: BTreeSet::new(),
            succeeded: vec![],
            failed: vec![],
            cancelled: false,
        }
    }

    /// Returns the nodes that begin now.
    pub fn begin(&mut self) -> Vec<usize> {
        if self.is_stopped() {
            return vec![];
        }
        let canaries_under_way = self.waiting.front().is_some_and(|next| self.canaries.contains(next))
            || self.running.iter().any(|n| self.canaries.contains(n));
        let mut begun = vec![];
        while self.running.len() < self.policy.parallel.max(1) {
            let Some(&next) = self.waiting.front() else { break };
            if canaries_under_way && !self.canaries.contains(&next) {
                break;
            }
            self.waiting.pop_front();
            self.running.insert(next);
            begun.push(next);
        }
        begun
    }

    /// Takes note of how a node ended.
    pub fn ended(&mut self, node: usize, ok: bool) {
        self.running.remove(&node);
        if ok { self.succeeded.push(node) } else { self.failed.push(node) }
    }

    /// Lets no further node begin.
    pub fn cancel(&mut self) {
        self.cancelled = true;
    }

    /// Returns whether nothing runs and nothing will begin.
    pub fn is_over(&self) -> bool {
        self.running.is_empty() && (self.waiting.is_empty() || self.is_stopped())
    }

    /// Returns the nodes that have to go back, newest first; none while some still run.
    pub fn to_revert(&self) -> Vec<usize> {
        if self.is_over() && self.is_stopped() { self.succeeded.iter().rev().copied().collect() } else { vec![] }
    }

    /// Returns the nodes that never began.
    pub fn untouched(&self) -> Vec<usize> {
        self.waiting.iter().copied().collect()
    }

    fn is_stopped(&self) -> bool {
        let canary_failed = self.failed.iter().any(|node| self.canaries.contains(node));
        self.cancelled || canary_failed || self.failed.len() > self.policy.max_failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(canary: usize, parallel: usize, max_failures: usize) -> Policy {
        Policy { canary, parallel, max_failures }
    }

    #[test]
    fn canaries_go_first_and_alone() {
        let mut rollout = Rollout::new(5, policy(1, 3, 0));
        assert_eq!(rollout.begin(), [0]);
        assert_eq!(rollout.begin(), [0; 0]);
        rollout.ended(0, true);
        assert_eq!(rollout.begin(), [1, 2, 3]);
        rollout.ended(2, true);
        assert_eq!(rollout.begin(), [4]);
        for node in [1, 3, 4] {
            assert!(!rollout.is_over());
            rollout.ended(node, true);
        }
        assert!(rollout.is_over());
        assert_eq!(rollout.to_revert(), [0; 0]);
    }

    #[test]
    fn a_failed_canary_stops_everything_and_leaves_nothing_to_revert() {
        let mut rollout = Rollout::new(3, policy(1, 3, 2));
        rollout.begin();
        rollout.ended(0, false);
        assert!(rollout.is_over());
        assert_eq!((rollout.begin(), rollout.to_revert(), rollout.untouched()), (vec![], vec![], vec![1, 2]));
    }

    #[test]
    fn too_many_failures_take_back_what_succeeded() {
        let mut rollout = Rollout::new(4, policy(0, 2, 0));
        assert_eq!(rollout.begin(), [0, 1]);
        rollout.ended(0, true);
        assert_eq!(rollout.begin(), [2]);
        rollout.ended(1, false);
        assert_eq!((rollout.begin(), rollout.to_revert()), (vec![], vec![]), "one still runs");
        rollout.ended(2, true);
        assert_eq!((rollout.to_revert(), rollout.untouched()), (vec![2, 0], vec![3]));
    }

    #[test]
    fn one_node_is_no_canary() {
        let mut rollout = Rollout::new(1, policy(1, 10, 0));
        assert_eq!(rollout.begin(), [0]);
    }

    proptest! {
        #[test]
        fn every_node_ends_once_or_is_untouched(n in 0_usize..8, canary in 0_usize..4, parallel in 0_usize..4, max in 0_usize..4, fates in proptest::collection::vec(any::<bool>(), 8)) {
            let mut rollout = Rollout::new(n, policy(canary, parallel, max));
            let mut begun = vec![];
            let mut running: Vec<usize> = vec![];
            loop {
                let new = rollout.begin();
                begun.extend(new.iter().copied());
                running.extend(new);
                prop_assert!(running.len() <= parallel.max(1));
                let Some(node) = running.pop() else { break };
                rollout.ended(node, fates[node]);
            }
            prop_assert!(rollout.is_over());
            let mut all: Vec<usize> = begun.into_iter().chain(rollout.untouched()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
            for node in rollout.to_revert() {
                prop_assert!(fates[node]);
            }
        }
    }
}
