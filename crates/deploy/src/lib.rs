//! The machine's side: activation by symlink swap

#[allow(dead_code)] // until the supervisor uses all of it
pub(crate) mod claim;
#[allow(dead_code, unused_imports)]
pub(crate) mod listeners;
#[allow(dead_code, unused_imports)]
pub(crate) mod launch;
#[allow(dead_code)]
pub(crate) mod process;
#[allow(dead_code, unused_imports)]
pub(crate) mod probe;
