//! What is held, given to places that come and go.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;

/// A place in memory that may break.
#[derive(Clone, Default)]
struct Shelf {
    names: Arc<Mutex<BTreeSet<String>>>,
    is_broken: Arc<Mutex<bool>>,
}

impl Shelf {
    fn names(&self) -> Vec<String> {
        self.names.lock().expect("no panic").iter().cloned().collect()
    }

    fn touch(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> io::Result<()> {
        if *self.is_broken.lock().expect("no panic") {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        assert!(change(&mut self.names.lock().expect("no panic")), "told twice");
        Ok(())
    }
}

impl Place for Shelf {
    fn hold(&mut self, name: &Name, _: BorrowedFd<'_>) -> io::Result<()> {
        self.touch(|names| names.insert(name.to_string()))
    }

    fn release(&mut self, name: &Name) -> io::Result<()> {
        self.touch(|names| names.remove(&name.to_string()))
    }
}

fn some(inodes: &[u64]) -> BTreeMap<What, OwnedFd> {
    let file = || OwnedFd::from(tempfile::tempfile().expect("a file"));
    inodes.iter().map(|&inode| (What::Socket { inode }, file())).collect()
}

#[test]
fn a_place_holds_what_is_wanted_and_the_next_one_gets_all_of_it() {
    let app = |name: &str| name.parse::<AppName>().expect("a name");
    let (a, b) = (app("a"), app("b"));
    let (first, second) = (Shelf::default(), Shelf::default());
    let holding = Holding::new(Held::new());
    holding.keep(&a, some(&[1, 2]));
    holding.enter_place(Box::new(first.clone()), vec![]).expect("entered");
    assert_eq!(first.names(), ["a/socket/1", "a/socket/2"]);
    holding.keep(&b, some(&[3]));
    holding.keep(&a, some(&[2, 4]));
    assert_eq!(first.names(), ["a/socket/2", "a/socket/4", "b/socket/3"]);
    assert_eq!(holding.apps(), [a.clone(), b.clone()]);
    assert_eq!(holding.of(&a).expect("copies").len(), 2);
    // It dies; what changes meanwhile is not lost.
    *first.is_broken.lock().expect("no panic") = true;
    holding.keep(&b, some(&[]));
    assert!(!holding.has_place());
    holding.keep(&a, some(&[2, 5]));
    // Another one, which knows things of old.
    second.names.lock().expect("no panic").extend(["a/socket/2".to_owned(), "b/socket/3".to_owned()]);
    let theirs = second.names().iter().map(|name| name.parse().expect("a name")).collect();
    holding.enter_place(Box::new(second.clone()), theirs).expect("entered");
    assert_eq!(second.names(), ["a/socket/2", "a/socket/5"]);
}
