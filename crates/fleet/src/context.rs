//! The nodes that a command acts on: a stack; empty means all.
//!
//! # Format, version 1
//!
//! `context.json` in the state directory: `{"format":1,"stack":[["web1","web2"],["web1"]]}`, the top last. The words are names or addresses as they
//! were typed; they are looked up when a command runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, Node};

/// The stack of contexts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    stack: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    stack: Vec<Vec<String>>,
}

/// The stack cannot be used, or its words name no node.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ContextError {
    #[error("no node is called \"{0}\"")]
    Unknown(String),
    #[error("there is no context to pop")]
    Empty,
    #[error("{} is not a stack of contexts", .0.display())]
    Json(PathBuf),
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Context {
    /// Reads the stack of a state directory; one that does not exist is empty.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn load(state: &Path) -> Result<Self, ContextError> {
        let path = state.join("context.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ContextError::Io { path, source }),
        };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(Stored { format: 1, stack }) => Ok(Self { stack }),
            _ => Err(ContextError::Json(path)),
        }
    }

    /// Changes the stack of a state directory, under a lock.
    ///
    /// # Errors
    /// What `change` says, or the stack cannot be read or written.
    pub fn edit<T>(state: &Path, change: impl FnOnce(&mut Self) -> Result<T, ContextError>) -> Result<T, ContextError> {
        let path = state.join("context.json");
        let io = |source| ContextError::Io { path: path.clone(), source };
        let _lock = lock(state).map_err(io)?;
        let mut context = Self::load(state)?;
        let value = change(&mut context)?;
        let json = serde_json::to_vec(&Stored { format: 1, stack: context.stack }).expect("plain data");
        df_cache::durable::write(&path, &json, 0o644).map_err(io)?;
        Ok(value)
    }

    /// Puts nodes on top.
    pub fn push(&mut self, words: Vec<String>) {
        self.stack.push(words);
    }

    /// Takes the top off.
    ///
    /// # Errors
    /// There is none.
    pub fn pop(&mut self) -> Result<Vec<String>, ContextError> {
        self.stack.pop().ok_or(ContextError::Empty)
    }

    /// Takes all off: commands act on all nodes again.
    pub fn clear(&mut self) {
        self.stack.clear();
    }

    /// Returns the stack, the top last.
    pub fn stack(&self) -> &[Vec<String>] {
        &self.stack
    }
}

/// Returns the nodes of a command: those given by `--address`, else the top of the stack, else all; each once, in the order given.
///
/// # Errors
/// A word names no node of the list. An address that was not added is no error: it is a node for this one command.
pub fn nodes(inventory: &Inventory, context: &Context, given: &[String], here: &Path) -> Result<Vec<Node>, ContextError> {
    let words = match (given, context.stack.last()) {
        ([], None) => return Ok(inventory.nodes().to_vec()),
        ([], Some(top)) => top,
        (given, _) => given,
    };
    let mut nodes: Vec<Node> = vec![];
    // Nodes that were not added join for this one command, so that no two listen on one loopback address.
    let mut known = inventory.clone();
    for word in words {
        let node = find(&mut known, word, here)?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

fn find(inventory: &mut Inventory, word: &str, here: &Path) -> Result<Node, ContextError> {
    if let Some(node) = inventory.nodes().iter().find(|node| node.is_called(word, here)) {
        return Ok(node.clone());
    }
    // A bare word is a name that was mistyped far more often than a host; an address is unmistakable.
    let unmistakable = word.contains('@') || word.starts_with("ssh://") || word.starts_with("local:");
    match crate::Address::parse(word, here) {
        Ok(address) if unmistakable => {
            let node = Node { name: None, address, listen: None, sudo: false };
            Ok(inventory.add(node).expect("a node of this address was looked for above"))
        }
        _ => Err(ContextError::Unknown(df_core::text::escape(word.as_bytes()))),
    }
}

/// Makes the state directory and takes its lock until the file is dropped.
pub(crate) fn lock(state: &Path) -> io::Result<File> {
    std::fs::create_dir_all(state)?;
    let file = OpenOptions::new().create(true).append(true).open(state.join("lock"))?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        for (name, address) in [("a", "local:/x/a"), ("b", "web1"), ("c", "web2")] {
            let node = Node {
                name: Some(name.parse().expect("a name")),
                address: address.parse().expect("an address"),
                listen: None,
                sudo: false,
            };
            inventory.add(node).expect("added");
        }
        inventory
    }

    #[test]
    fn given_then_the_top_then_all() {
        let mut context = Context::default();
        let labels = |context: &Context, given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            nodes(&inventory(), context, &given, Path::new("/"))
                .map(|nodes| nodes.iter().map(Node::label).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(labels(&context, &[]).expect("known"), "a b c");
        context.push(vec!["b".into(), "web1".into(), "a".into()]);
        assert_eq!(labels(&context, &[]).expect("known"), "b a");
        assert_eq!(labels(&context, &["c"]).expect("known"), "c");
        assert_eq!(labels(&context, &["root@elsewhere"]).expect("an address"), "root@elsewhere");
        let given = ["local:/x/p".to_owned(), "local:/x/q".to_owned(), "local:/x/p".to_owned()];
        let strangers = nodes(&inventory(), &context, &given, Path::new("/")).expect("addresses");
        assert_eq!(strangers.iter().map(|n| n.listen().to_string()).collect::<Vec<_>>(), ["127.77.0.2", "127.77.0.3"]);
        assert_eq!(labels(&context, &["d"]).expect_err("unknown").to_string(), "no node is called \"d\"");
        context.pop().expect("one");
        assert!(matches!(context.pop(), Err(ContextError::Empty)));
    }

    #[test]
    fn the_stack_is_kept() {
        let state = tempfile::tempdir().expect("a directory");
        for words in [vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]] {
            let push = |context: &mut Context| {
                context.push(words);
                Ok(())
            };
            Context::edit(state.path(), push).expect("kept");
        }
        assert_eq!(
            Context::load(state.path()).expect("read").stack(),
            [vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]]
        );
    }
}
