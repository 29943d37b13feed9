//! The operator's side: nodes, transfers and rollouts
