//! What this crate's tests share.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use df_core::{Digest, ImageId, RecipeKey, Release, Timestamp, spec::Sandbox};

use df_wire::message::GenerationResult;

use crate::generation::Record;
use crate::layout::Layout;

/// Returns an empty node in a directory that goes away.
pub(crate) fn layout() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let layout =
        Layout { root: dir.path().join("root"), data: dir.path().join("data"), tmp: dir.path().join("tmp"), is_machine: false };
    layout.create().expect("made");
    (dir, layout)
}

/// Returns a port at which nobody listens, nor can while the socket is open.
pub(crate) fn nobody() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = getsockname(&socket).expect("bound").try_into().expect("what was bound");
    (socket, address)
}

/// Returns what is known of a generation of a release.
pub(crate) fn record(number: u64, release: Release, result: GenerationResult) -> Record {
    let (who, why) = (String::new(), String::new());
    Record { number, release, from: 0, who, since: Timestamp(0), result, why, says_ready: false }
}

/// Returns a release of files only; `n` makes it another one.
pub(crate) fn release(app: &str, n: u64) -> Release {
    Release {
        format: 1,
        app: app.parse().expect("a name"),
        commit: format!("{n:040x}").parse().expect("a commit"),
        committed: Timestamp(0),
        recipe_key: RecipeKey(Digest::of(&n.to_le_bytes())),
        sandbox: Sandbox::Off,
        image: ImageId(Digest::of(&n.to_be_bytes())),
        image_len: 0,
        needs: vec![],
        run: None,
        verify: vec![],
    }
}
