//! Published programs that nobody here wrote, from their commits to three nodes.
//!
//! Each comes from its registry as two adjacent versions, which `ci/fetch-real` has put below `target/real`; without them every test here fails
//! and says so. Nodes are directories of this machine, and real ssh servers on loopback addresses.

mod binding_server;
mod command_line;
mod file_tree;
mod fleet;
mod listener_server;
pub mod package;
mod services;
mod thrift;
