use super::*;
use crate::contract;

#[test]
fn keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = std::cell::Cell::new(0);
    contract::run(|| {
        count.set(count.get() + 1);
        DiskStore::open(&dir.path().join(format!("{}", count.get()))).expect("a store")
    });
}
