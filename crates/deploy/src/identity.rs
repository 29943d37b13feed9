//! Which node this is, whatever operators call it and by whichever address they reach it: so that several of them can speak of one node elsewhere.
//!
//! # Format
//!
//! `ROOT/identity` holds 32 random bytes, written once, by the first operator who takes the lock. What the node says of itself is a digest of them and of `/etc/machine-id`: a node whose disk
//! was copied to another machine is another one there, and nobody learns the machine's own id, which is not for strangers.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use df_cache::durable::Pending;
use df_core::{Digest, Hasher};

use crate::layout::Layout;

/// What the digest begins with: the same bytes mean nothing else anywhere.
const CONTEXT: &[u8] = b"df-node identity 1\n";
const LEN: usize = 32;
const MACHINE: &str = "/etc/machine-id";

/// Makes sure that the node is somebody. Of two who do it at once both find the same afterwards.
///
/// # Errors
/// It cannot be written.
pub fn ensure(layout: &Layout) -> io::Result<()> {
    let path = layout.identity();
    if path.exists() {
        return Ok(());
    }
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut pending = Pending::beside(&layout.root)?;
    pending.file().write_all(&bytes)?;
    match pending.create(&path, 0o644) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Returns which node this is; `None` before anybody changed something here, or when it cannot be read.
pub fn find(layout: &Layout) -> Option<Digest> {
    of(&layout.identity(), Path::new(MACHINE))
}

fn of(own: &Path, machine: &Path) -> Option<Digest> {
    let own = fs::read(own).ok().filter(|bytes| bytes.len() == LEN)?;
    // Where machines have no id, what was drawn has to do.
    let machine = fs::read(machine).unwrap_or_default();
    Some(Hasher::new().update(CONTEXT).update(&own).update(&machine).finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_node_is_the_same_each_time_and_another_on_another_machine() {
        let (dir, layout) = fixture::layout();
        assert_eq!(find(&layout), None, "nobody changed anything");
        ensure(&layout).expect("written");
        let first = find(&layout).expect("somebody");
        ensure(&layout).expect("there already");
        assert_eq!(find(&layout), Some(first));
        let machines = ["a", "b"].map(|id| {
            let path = dir.path().join(id);
            fs::write(&path, id).expect("written");
            of(&layout.identity(), &path).expect("somebody")
        });
        assert_ne!(machines[0], machines[1]);
        fs::write(layout.identity(), "cut").expect("written");
        assert_eq!(find(&layout), None);
    }
}
