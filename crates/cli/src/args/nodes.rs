//! Which nodes there are, which of them commands act on, and whom they believe.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::word::{NODES, text};

/// `df add ADDRESS`
#[derive(Debug, Clone, Args)]
pub struct Add {
    /// Where the node is: ssh://[user@]host[:port][/root], user@host, host, or local:PATH
    #[allow(rustdoc::broken_intra_doc_links, reason = "the words are df's help, and the brackets no links")]
    #[arg(id = "new", value_name = "ADDRESS", value_parser = text)]
    pub address: String,
    /// Call the node by this name
    #[arg(long, value_parser = text)]
    pub name: Option<String>,
    /// The IP address that the executable's ports listen on
    #[arg(long, value_name = "IP")]
    pub listen: Option<std::net::IpAddr>,
    /// Run df-node by `sudo -n`, so that it is root
    #[arg(long)]
    pub sudo: bool,
}

/// `df remove NAME-OR-ADDRESS`
#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The node
    #[arg(value_name = "NAME-OR-ADDRESS", value_parser = text, value_hint = NODES)]
    pub node: String,
}

/// `df list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// What to list.
    #[command(subcommand)]
    pub what: Listed,
}

/// What `df list` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Listed {
    /// List the nodes, named and unnamed, each in the order added
    Nodes,
    /// List the releases known here and on the nodes, or in the cache at --address: commit, image, time, where it serves
    Versions,
}

/// `df with`
#[derive(Debug, Clone, Args)]
pub struct With {
    /// Names or addresses of the nodes that commands act on from now
    #[arg(value_name = "ADDRESS", value_parser = text, value_hint = NODES, conflicts_with_all = ["pop", "clear"])]
    pub nodes: Vec<String>,
    /// Take the top off the stack
    #[arg(long, conflicts_with = "clear")]
    pub pop: bool,
    /// Empty the stack, so that commands act on all nodes
    #[arg(long)]
    pub clear: bool,
}

/// `df trust`
#[derive(Debug, Clone, Args)]
pub struct Trust {
    /// Attest that nodes shall believe whom df.yaml names, and tell them when enough keys attested it
    #[arg(long)]
    pub sign: bool,
    /// Sign with this key, or the agent's whose .pub file this is; else with the first that the nodes believe and that is at hand
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "sign")]
    pub key: Option<PathBuf>,
    /// Tell the nodes what was attested
    #[arg(long, conflicts_with = "sign")]
    pub send: bool,
}

/// `df doctor`
#[derive(Debug, Clone, Args)]
pub struct Doctor {}

pub(super) const ADD_EXAMPLES: &str = "\
Examples:
  df add ops@web1.example.com --name web1 --sudo
  df add ssh://ops@web2.example.com:2222/srv/df
  df add local:/srv/nodes/a --name a";

pub(super) const WITH_EXAMPLES: &str = "\
Examples:
  df with web1 web2  act on these two nodes from now
  df with            show the stack
  df with --pop      go back to what it was before";

pub(super) const TRUST_EXAMPLES: &str = "\
Examples:
  df trust                          show whom each node believes
  df trust --sign                   attest that it shall be whom df.yaml names
  df trust --sign --key release.pub the same with a key that the agent has
  df trust --send --address web3    tell a node what it missed";
