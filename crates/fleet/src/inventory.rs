//! The durable list of nodes.
//!
//! # Format, version 1
//!
//! `nodes.json` in the state directory: `{"format":1,"nodes":[{"name":"web1","address":"root@web1","listen":"10.0.0.1","sudo":false}]}`, in the order
//! added; `name` and `listen` may be absent. Written by rename, under a lock, so that two `df add` at once lose nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use df_core::NodeName;
use serde::{Deserialize, Serialize};

use crate::address::Address;

/// A node as the operator knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// Where it is.
    pub address: Address,
    /// The address that its ports listen on; all of the machine's unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<IpAddr>,
    /// Whether df-node is run by `sudo -n`.
    #[serde(default)]
    pub sudo: bool,
}

impl Node {
    /// Returns the name, or the address of a node without one.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.address.to_string(), ToString::to_string)
    }

    /// Returns the address that ports listen on when they name none.
    pub fn listen(&self) -> IpAddr {
        self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Returns whether a word names this node: its name or its address.
    pub fn is_called(&self, word: &str, here: &Path) -> bool {
        self.name.as_ref().is_some_and(|name| name.as_str() == word)
            || Address::parse(word, here).is_ok_and(|address| address == self.address)
    }
}

/// The nodes that were added, in that order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    nodes: Vec<Node>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    nodes: Vec<Node>,
}

/// The list cannot be used or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InventoryError {
    #[error("the name {name} is used by {address} already")]
    NameUsed { name: NodeName, address: Address },
    #[error("{0} was added already")]
    AddressUsed(Address),
    #[error("no node is called \"{0}\"")]
    Unknown(String),
    #[error("{} is not a list of nodes", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} has format {format}, this program knows 1", path.display())]
    Format { path: PathBuf, format: u32 },
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Inventory {
    /// Reads the list of a state directory; one that does not exist is empty.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn load(state: &Path) -> Result<Self, InventoryError> {
        let path = state.join("nodes.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(InventoryError::Io { path, source }),
        };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|source| InventoryError::Json { path: path.clone(), source })?;
        if stored.format != 1 {
            return Err(InventoryError::Format { path, format: stored.format });
        }
        Ok(Self { nodes: stored.nodes })
    }

    /// Changes the list of a state directory, under a lock; nothing is written when `change` fails.
    ///
    /// # Errors
    /// What `change` says, or the list cannot be read or written.
    pub fn edit<T>(state: &Path, change: impl FnOnce(&mut Self) -> Result<T, InventoryError>) -> Result<T, InventoryError> {
        let path = state.join("nodes.json");
        let io = |source| InventoryError::Io { path: path.clone(), source };
        let _lock = crate::context::lock(state).map_err(io)?;
        let mut inventory = Self::load(state)?;
        let value = change(&mut inventory)?;
        let json = serde_json::to_vec_pretty(&Stored { format: 1, nodes: inventory.nodes }).expect("plain data");
        df_cache::durable::write(&path, &json, 0o644).map_err(io)?;
        Ok(value)
    }

    /// Returns the nodes in the order added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a node; a `local:` one without an address to listen on gets the next of its own.
    ///
    /// # Errors
    /// The name or the address is used already.
    pub fn add(&mut self, mut node: Node) -> Result<Node, InventoryError> {
        for other in &self.nodes {
            if other.address == node.address {
                return Err(InventoryError::AddressUsed(node.address));
            }
            if let Some(name) = node.name.as_ref().filter(|name| other.name.as_ref() == Some(name)) {
                return Err(InventoryError::NameUsed { name: name.clone(), address: other.address.clone() });
            }
        }
        if node.address.is_local() && node.listen.is_none() {
            node.listen = self.free_loopback();
        }
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Takes a node out, by name or address.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn remove(&mut self, word: &str, here: &Path) -> Result<Node, InventoryError> {
        let at = self.nodes.iter().position(|node| node.is_called(word, here));
        at.map(|at| self.nodes.remove(at)).ok_or_else(|| InventoryError::Unknown(df_core::text::escape(word.as_bytes())))
    }

    /// Returns the lowest 127.77.0.N that no node of the list has.
    fn free_loopback(&self) -> Option<IpAddr> {
        let used: BTreeSet<IpAddr> = self.nodes.iter().filter_map(|node| node.listen).collect();
        (1..=254).map(|n| IpAddr::V4(Ipv4Addr::new(127, 77, 0, n))).find(|address| !used.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: Option<&str>, address: &str) -> Node {
        Node {
            name: name.map(|n| n.parse().expect("a name")),
            address: address.parse().expect("an address"),
            listen: None,
            sudo: false,
        }
    }

    #[test]
    fn nodes_keep_their_order_and_local_ones_get_addresses_of_their_own() {
        let state = tempfile::tempdir().expect("a directory");
        for (name, address) in [(Some("b"), "local:/x/b"), (None, "web1"), (Some("a"), "local:/x/a")] {
            Inventory::edit(state.path(), |inventory| inventory.add(node(name, address))).expect("added");
        }
        let inventory = Inventory::load(state.path()).expect("read");
        let listed: Vec<_> = inventory.nodes().iter().map(|n| format!("{} {}", n.label(), n.listen())).collect();
        assert_eq!(listed, ["b 127.77.0.1", "web1 0.0.0.0", "a 127.77.0.2"]);
        Inventory::edit(state.path(), |inventory| inventory.remove("b", Path::new("/"))).expect("removed");
        let added = Inventory::edit(state.path(), |inventory| inventory.add(node(None, "local:/x/c"))).expect("added");
        assert_eq!(added.listen().to_string(), "127.77.0.1");
    }

    #[test]
    fn a_name_or_an_address_is_used_once() {
        let mut inventory = Inventory::default();
        inventory.add(node(Some("a"), "web1")).expect("added");
        assert_eq!(inventory.add(node(Some("a"), "web2")).expect_err("used").to_string(), "the name a is used by web1 already");
        assert_eq!(inventory.add(node(None, "ssh://web1")).expect_err("used").to_string(), "web1 was added already");
        assert!(inventory.remove("x", Path::new("/")).is_err());
    }
}
