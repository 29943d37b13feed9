//! Seeded trees, git repositories, nodes and faults for tests
