//! The bytes of an image that the node gets by itself: from a bucket, by a URL that the operator lends it, or from a directory beside it.
//!
//! They become an image as bytes that are sent do: bounded, every file's digest compared, named last. Besides, they have to be those that the operator named, from
//! the first to the last. A node holds no credentials, and remembers no URL.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_cache::http::{Authorities, Client, FetchError, Patience, Resolver, Stream, Url};
use df_core::{Digest, Hasher};
use df_wire::message::{Fault, FaultKind, Source};
use rustix::fs::{Mode, OFlags};

use crate::layout::Layout;
use crate::receive::{self, Parcel, Received};
use crate::serve::{chain, fault, of_receive};

/// How long one URL is used: it is valid for longer.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The variable by which a node on the operator's own machine is told where bytes are put for it.
const BESIDE: &str = "DF_NODE_BESIDE";

/// Fetches an image, and returns how many bytes came for it; `watch` hears of them now and then.
///
/// # Errors
/// The image has no name then; what came stays, if it can be gone on with.
pub fn fetch(
    layout: &Layout,
    parcel: &Parcel,
    len: u64,
    source: &Source,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<(Received, u64), Box<Fault>> {
    let unfetched = |why: String| fault(FaultKind::Unfetched { offset: come_to(layout, parcel) }, why);
    if parcel.from > len {
        return Err(fault(FaultKind::Refused, "a place beyond the end"));
    }
    match source {
        Source::Url(url) => {
            let url = Url::parse(url.reveal()).map_err(|error| unfetched(error.to_string()))?;
            let others = Authorities::read_if_there(&layout.authorities()).map_err(|error| unfetched(chain(&error)))?;
            let client = Client::new(others.as_ref(), Resolver::of_system(), Patience::default());
            let mut named = Named::new(Stream::open(client, url, parcel.from, len, LIMIT, watch), parcel, len);
            let received = receive::receive(layout, parcel, &mut named);
            let (fetched, failure) = (named.inner.fetched(), named.inner.failure().cloned());
            drop_others(received, named.are_others, parcel).map(|received| (received, fetched)).map_err(
                |fault_of| match failure {
                    Some(FetchError::Expired) => {
                        fault(FaultKind::Expired { offset: come_to(layout, parcel) }, chain(&FetchError::Expired))
                    }
                    Some(error) => unfetched(chain(&error)),
                    None => fault_of,
                },
            )
        }
        Source::Beside => {
            let file = beside(std::env::var_os(BESIDE), parcel).and_then(|path| open(&path, len));
            let file = file.map_err(|error| unfetched(format!("what was put beside this node: {error}")))?;
            let mut named = Named::new(Rest { file, at: parcel.from, len }, parcel, len);
            let received = receive::receive(layout, parcel, &mut named);
            drop_others(received, named.are_others, parcel).map(|received| (received, len - parcel.from))
        }
    }
}

/// Makes a fault of a receive that failed; of bytes that were others than the operator named, it says that.
fn drop_others(
    received: Result<Received, receive::ReceiveError>,
    are_others: bool,
    parcel: &Parcel,
) -> Result<Received, Box<Fault>> {
    received.map_err(|error| match are_others {
        true => fault(FaultKind::DeltaRefused, format!("other bytes came for image {} than were named", parcel.image.short())),
        false => of_receive(&error),
    })
}

/// Returns up to where the bytes of a parcel are worked in.
fn come_to(layout: &Layout, parcel: &Parcel) -> u64 {
    let cut = receive::cut(layout).unwrap_or_default();
    let is_it =
        |it: &&df_wire::message::Incoming| it.image == parcel.image && it.base == parcel.base && Some(it.delta) == parcel.delta;
    cut.iter().find(is_it).map_or(0, |it| it.offset)
}

/// Hands bytes on, but the last of them only when they are the ones that were named. Of a rest, each file's digest says it.
struct Named<R> {
    inner: R,
    hasher: Option<Hasher>,
    delta: Option<Digest>,
    left: u64,
    are_others: bool,
}

impl<R> Named<R> {
    fn new(inner: R, parcel: &Parcel, len: u64) -> Self {
        let hasher = (parcel.from == 0).then(Hasher::new);
        Self { inner, hasher, delta: parcel.delta, left: len - parcel.from, are_others: false }
    }
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let len = self.inner.read(&mut out[..most])?;
        self.left -= len as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&out[..len]);
            if self.left == 0 && len > 0 && Some(hasher.finish()) != self.delta {
                self.are_others = true;
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(len)
    }
}

/// A file from a place on.
struct Rest {
    file: std::fs::File,
    at: u64,
    len: u64,
}

impl Read for Rest {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.len - self.at).unwrap_or(usize::MAX));
        let len = self.file.read_at(&mut out[..most], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// Returns where the bytes of a parcel lie beside this node: the directory is told at its start, the name follows from the images.
fn beside(dir: Option<OsString>, parcel: &Parcel) -> io::Result<PathBuf> {
    let dir = dir.map(PathBuf::from).filter(|dir| dir.is_absolute()).ok_or_else(|| io::Error::other("it was not told where"))?;
    Ok(match parcel.base {
        Some(base) => dir.join("d").join(base.to_string()).join(parcel.image.to_string()),
        None => dir.join("w").join(parcel.image.to_string()),
    })
}

fn open(path: &Path, len: u64) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() || found.len() != len {
        return Err(io::Error::other("it is no file of this length"));
    }
    Ok(file)
}
