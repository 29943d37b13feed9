//! Where nodes fetch from under `--through-cache`: the bucket of df.yaml, or a directory, which nodes on this machine reach.
//!
//! Presigned are only objects that are made for this, never packs, which hold other images too; for a quarter of an hour. A URL goes to the node and nowhere else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use df_cache::s3::S3Store;
use df_cache::s3::derived::Derived;
use df_cache::s3::objects::Body;
use df_fleet::deltas::Delta;
use df_fleet::message::{Secret, Source};
use df_fleet::{Depot, Object, Through};

use crate::bucket;
use crate::config::Remote;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// How long a URL is valid.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Opens what nodes fetch from, and says what it is called; nothing goes there yet.
///
/// # Errors
/// df.yaml names no cache elsewhere, or it cannot be opened.
pub fn open(session: &Session) -> Result<(Arc<Through>, String), Failure> {
    let Some(remote) = &session.config.cache.remote else {
        let message = "--through-cache has nodes fetch from cache.remote, and df.yaml names none";
        return Err(Failure::new(Exit::Usage, "copy", message).next("the same without --through-cache"));
    };
    let through = match remote {
        Remote::Bucket(address) => Through::new(Arc::new(Bucket(bucket::open(session, address, false)?)), None),
        Remote::Directory(path) => {
            let depot = Directory::make(&session.call.here.join(path)).map_err(|error| Failure::here("cache", &error))?;
            let dir = depot.0.clone();
            Through::new(Arc::new(depot), Some(dir))
        }
    };
    Ok((Arc::new(through), remote.to_string()))
}

struct Bucket(S3Store);

impl Depot for Bucket {
    fn holds(&self, object: &Object, len: u64) -> io::Result<bool> {
        Ok(self.0.derived_has(&derived(object), len)?)
    }

    fn put(&self, object: &Object, delta: &Delta) -> io::Result<()> {
        let body = match (delta.memory(), delta.file()) {
            (Some(bytes), _) => Body::Bytes(bytes),
            (None, Some(file)) => Body::File { file, offset: 0, len: delta.len() },
            (None, None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.0.derived_put(&derived(object), &body)?)
    }

    fn source(&self, object: &Object) -> io::Result<Source> {
        Ok(Source::Url(Secret::new(self.0.derived_url(&derived(object), LIFETIME)?)))
    }
}

fn derived(object: &Object) -> Derived {
    match object.base {
        Some(from) => Derived::Delta { from, to: object.image },
        None => Derived::Whole(object.image),
    }
}

/// A directory for this command alone, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn make(cache: &Path) -> io::Result<Self> {
        fs::create_dir_all(cache)?;
        for entry in fs::read_dir(cache)? {
            // What a command left that was killed.
            let name = entry?.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix("through-")?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = fs::remove_dir_all(cache.join(name));
            }
        }
        let dir = cache.join(format!("through-{}", std::process::id()));
        fs::create_dir(&dir)?;
        fs::canonicalize(dir).map(Self)
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.0.join(derived(object).key().to_string())
    }
}

impl Depot for Directory {
    fn holds(&self, object: &Object, len: u64) -> io::Result<bool> {
        Ok(fs::metadata(self.path(object)).is_ok_and(|found| found.len() == len))
    }

    fn put(&self, object: &Object, delta: &Delta) -> io::Result<()> {
        let path = self.path(object);
        fs::create_dir_all(path.parent().expect("it lies in d or w"))?;
        let new = path.with_extension("new");
        io::copy(&mut delta.reader(), &mut fs::File::create(&new)?)?;
        fs::rename(new, path)
    }

    fn source(&self, _: &Object) -> io::Result<Source> {
        Ok(Source::Beside)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
