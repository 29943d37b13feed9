//! Files that a command needs and its commit does not hold: brought by the system's curl, named by their digest, put into the source.
//!
//! A file is kept under its digest and never fetched twice. Its bytes are hashed as they pass, so what has the name has the digest. curl reads no
//! configuration of anyone, follows few redirections and those to https only, and gets the address as one argument after `--`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use df_core::Hasher;
use df_core::name::PathText;
use df_core::spec::{FetchedDigest, FetchedFile};
use df_core::text::{escape, shorten};
use sha2::{Digest as _, Sha256};

use super::verify;
use crate::directory;
use crate::keep::{Keep, make_dir};
use crate::log::Log;
use crate::process::{self, Order, ProcessError};
use crate::recipe::environment::Host;

/// Bytes of one file.
const LEN: u64 = 8 << 30;
/// How often the wish to cancel is passed on.
const TICK: Duration = Duration::from_millis(20);

/// A file that a command needs could not be brought or put.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FilesError {
    #[error("build.fetch: {url} {why}")]
    Address { url: String, why: &'static str },
    #[error("build.fetch needs the program curl, which is not on PATH (Debian: apt install curl)")]
    NoCurl,
    #[error("{url} was not brought: curl ended with {how}: {said}")]
    NotBrought { url: String, how: String, said: String },
    #[error("{url} is longer than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    #[error("{url} is not what build.fetch names: its digest is {found}, not {expected}")]
    Differs { url: String, expected: String, found: String },
    #[error("build.fetch puts a file at {to}, where the commit or another fetched file has something already")]
    Taken { to: String },
    #[error("cannot use {} for what is fetched", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Brings files that are not kept yet, calling `fetching` before the first of them, and puts all of them into a source directory.
pub(crate) fn files(
    files: &[FetchedFile],
    host: &Host,
    keep: &Keep,
    source: &Path,
    log: &mut Log,
    cancel: &AtomicBool,
    fetching: &mut dyn FnMut(),
) -> Result<(), FilesError> {
    if let Some((file, why)) = files.iter().find_map(|file| Some((file, file.wrong()?))) {
        return Err(FilesError::Address { url: shown(file), why });
    }
    let dir = keep.dir.join("files");
    if !files.is_empty() {
        make_dir(&dir).map_err(place(&dir))?;
    }
    for file in files {
        let kept = dir.join(name_of(&file.digest));
        if !is_kept(&kept, &file.digest) {
            fetching();
            bring(&Wanted { file, kept: &kept, dir: &dir, limit: LEN }, host, log, cancel)?;
        }
        put(&kept, &file.to, source)?;
    }
    Ok(())
}

struct Wanted<'a> {
    file: &'a FetchedFile,
    kept: &'a Path,
    dir: &'a Path,
    limit: u64,
}

/// A digest that is being taken.
enum Taking {
    Blake3(Box<Hasher>),
    Sha256(Sha256),
}

impl Taking {
    fn of(wanted: &FetchedDigest) -> Self {
        match wanted {
            FetchedDigest::Blake3(_) => Self::Blake3(Box::default()),
            FetchedDigest::Sha256(_) => Self::Sha256(Sha256::new()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => drop(hasher.update(bytes)),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Blake3(hasher) => hasher.finish().to_string(),
            Self::Sha256(hasher) => verify::hex(&hasher.finalize()),
        }
    }
}

/// What has come of a file so far.
struct Coming {
    copy: tempfile::NamedTempFile,
    taking: Taking,
    len: u64,
    failed: Option<io::Error>,
}

impl Coming {
    /// Takes bytes; false when no more are wanted.
    fn take(&mut self, bytes: &[u8], limit: u64) -> bool {
        self.len = self.len.saturating_add(bytes.len() as u64);
        if self.len > limit || self.failed.is_some() {
            return false;
        }
        self.taking.add(bytes);
        self.failed = self.copy.write_all(bytes).err();
        self.failed.is_none()
    }
}

fn bring(wanted: &Wanted<'_>, host: &Host, log: &mut Log, cancel: &AtomicBool) -> Result<(), FilesError> {
    let program = host.find("curl").ok_or(FilesError::NoCurl)?;
    let copy = tempfile::NamedTempFile::new_in(wanted.dir).map_err(place(wanted.dir))?;
    let mut coming = Coming { copy, taking: Taking::of(&wanted.file.digest), len: 0, failed: None };
    let mut environment = host.environment();
    environment.extend(host.network.clone());
    let args = arguments(&wanted.file.url, wanted.limit);
    let order = Order { program: &program, args: &args, dir: Path::new("/"), environment: &environment, room: None };
    let ended = stoppable(cancel, |stop| {
        process::run(&order, log, stop, &mut |bytes, _| {
            if !coming.take(bytes, wanted.limit) {
                stop.store(true, Ordering::Relaxed);
            }
        })
    });
    let url = || shown(wanted.file);
    if coming.len > wanted.limit {
        return Err(FilesError::TooLong { url: url(), limit: wanted.limit });
    }
    if let Some(error) = coming.failed {
        return Err(place(wanted.dir)(error));
    }
    let status = ended?;
    match status.code() {
        Some(0) => {}
        // curl's own word for a file that said beforehand that it is too long.
        Some(63) => return Err(FilesError::TooLong { url: url(), limit: wanted.limit }),
        _ => {
            let said = log.last_lines().pop().unwrap_or_default();
            return Err(FilesError::NotBrought { url: url(), how: process::ending(status), said: shorten(&said, 400) });
        }
    }
    let (expected, found) = (hex_of(&wanted.file.digest).to_owned(), coming.taking.finish());
    if found != expected {
        return Err(FilesError::Differs { url: url(), expected, found });
    }
    // Not synced: a kept file is hashed again before it is used.
    coming.copy.persist(wanted.kept).map(drop).map_err(|error| place(wanted.kept)(error.error))
}

/// Returns curl's arguments: `-q` has to come first, or its configuration files are read.
fn arguments(url: &str, limit: u64) -> Vec<String> {
    // A loopback address is for tests and local mirrors: nothing there may send us elsewhere.
    let (protocols, redirections) = if url.starts_with("https://") { ("=https", "5") } else { ("=http", "0") };
    let limit = limit.to_string();
    let args = [
        &["-q", "--proto", protocols, "--proto-redir", "=https", "--fail", "--location", "--max-redirs", redirections][..],
        &["--max-filesize", &limit, "--connect-timeout", "30", "--speed-limit", "1", "--speed-time", "60"],
        &["--globoff", "--silent", "--show-error", "--", url],
    ];
    args.concat().into_iter().map(str::to_owned).collect()
}

/// Runs something that stops when `cancel` is set, or when it sets its own flag.
fn stoppable<T>(cancel: &AtomicBool, run: impl FnOnce(&AtomicBool) -> T) -> T {
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let passing_on = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if cancel.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(TICK);
            }
        });
        let ran = run(&stop);
        done.store(true, Ordering::Relaxed);
        passing_on.thread().unpark();
        ran
    })
}

/// Returns whether a file is kept, by its bytes: a copy is read anyway, and a torn one must not count.
fn is_kept(path: &Path, digest: &FetchedDigest) -> bool {
    let hash = || -> io::Result<String> {
        let (mut file, mut taking, mut buffer) = (open_kept(path)?, Taking::of(digest), vec![0; 256 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(taking.finish()),
                n => taking.add(&buffer[..n]),
            }
        }
    };
    hash().is_ok_and(|found| found == hex_of(digest))
}

fn open_kept(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Copies a kept file to its place in the source, with the directories above it, all with the one time of sources.
fn put(kept: &Path, to: &PathText, source: &Path) -> Result<(), FilesError> {
    let taken = || FilesError::Taken { to: to.to_string() };
    let top = directory::open(source).map_err(place(source))?;
    let mut above: Vec<(OwnedFd, &[u8])> = vec![];
    let parts: Vec<&[u8]> = to.as_str().as_bytes().split(|&b| b == b'/').collect();
    let (name, parents) = parts.split_last().expect("a path has a part");
    for part in parents {
        let dir = above.last().map_or(top.as_fd(), |(fd, _)| fd.as_fd());
        // A file or a link of the commit where a directory would have to be.
        let made = directory::make_in(dir, part).map_err(|_| taken())?;
        above.push((made, part));
    }
    let dir = above.last().map_or(top.as_fd(), |(fd, _)| fd.as_fd());
    let write = || -> io::Result<()> {
        let mut file = directory::create_file(dir, name, false)?;
        io::copy(&mut open_kept(kept)?, &mut file)?;
        directory::set_epoch(dir, name)
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
        written => written.map_err(place(&source.join(to.as_str())))?,
    }
    for i in (0..above.len()).rev() {
        let parent = if i == 0 { top.as_fd() } else { above[i - 1].0.as_fd() };
        directory::set_epoch(parent, above[i].1).map_err(place(source))?;
    }
    directory::set_epoch_of(top.as_fd()).map_err(place(source))
}

fn name_of(digest: &FetchedDigest) -> String {
    match digest {
        FetchedDigest::Blake3(hex) => format!("blake3-{hex}"),
        FetchedDigest::Sha256(hex) => format!("sha256-{hex}"),
    }
}

fn hex_of(digest: &FetchedDigest) -> &str {
    let (FetchedDigest::Blake3(hex) | FetchedDigest::Sha256(hex)) = digest;
    hex
}

fn shown(file: &FetchedFile) -> String {
    shorten(&escape(file.url.as_bytes()), 400)
}

fn place(path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::Place { path, source }
}

#[cfg(test)]
mod tests {
    use super::super::tests::server::{Answer, Server};
    use super::*;
    use df_core::Digest;
    use std::fs;

    struct Site {
        dir: tempfile::TempDir,
        host: Host,
        n_fetched: usize,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            for name in ["src/there", "keep", "home"] {
                fs::create_dir_all(dir.path().join(name)).expect("a directory");
            }
            let home = dir.path().join("home").display().to_string();
            let host = Host::of(&|name| match name {
                "HOME" => Some(home.clone()),
                "PATH" => std::env::var("PATH").ok(),
                _ => None,
            });
            Self { dir, host, n_fetched: 0 }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn files(&mut self, wanted: &[FetchedFile]) -> Result<(), FilesError> {
            let mut log = Log::create(&self.path("log")).expect("a log");
            let (keep, source) = (Keep { dir: self.path("keep") }, self.path("src"));
            let (cancel, mut n) = (AtomicBool::new(false), 0);
            let put = files(wanted, &self.host, &keep, &source, &mut log, &cancel, &mut || n += 1);
            self.n_fetched = n;
            put
        }

        #[track_caller]
        fn refused(&mut self, wanted: FetchedFile, expected: &str) {
            let said = self.files(&[wanted]).expect_err(expected).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    fn wanted(url: &str, digest: FetchedDigest, to: &str) -> FetchedFile {
        FetchedFile { url: url.to_owned(), digest, to: PathText::new(to).expect("a path") }
    }

    fn blake3(bytes: &[u8]) -> FetchedDigest {
        FetchedDigest::Blake3(Digest::of(bytes).to_string())
    }

    fn sha256(bytes: &[u8]) -> FetchedDigest {
        FetchedDigest::Sha256(verify::hex(&Sha256::digest(bytes)))
    }

    #[test]
    fn files_are_brought_once_and_put_where_they_belong() {
        let (mut site, server) = (Site::new(), Server::start());
        server.put("/a", Answer::Bytes(b"one".to_vec()));
        // curl would expand braces, and read its configuration from the home.
        server.put("/{b,c}", Answer::Bytes(b"two".to_vec()));
        fs::write(site.path("home/.curlrc"), "fail-early\nuser-agent = x\nproxy = http://127.0.0.1:9\n").expect("a file");
        let (a, b) = (format!("{}/a", server.url), format!("{}/{{b,c}}", server.url));
        let all = [wanted(&a, blake3(b"one"), "a"), wanted(&b, sha256(b"two"), "there/deep/b")];
        site.files(&all).expect("brought");
        assert_eq!(fs::read(site.path("src/a")).expect("there"), b"one");
        let put = site.path("src/there/deep/b");
        assert_eq!(fs::read(&put).expect("there"), b"two");
        for path in [put, site.path("src/there/deep"), site.path("src/there"), site.path("src")] {
            let metadata = fs::metadata(&path).expect("there");
            let time = std::os::unix::fs::MetadataExt::mtime(&metadata);
            assert_eq!(time, crate::directory::EPOCH_S, "{}", path.display());
        }
        assert_eq!((site.n_fetched, server.asked().len()), (2, 2));
        fs::remove_dir_all(site.path("src")).expect("removed");
        fs::create_dir(site.path("src")).expect("made");
        site.files(&all).expect("kept");
        assert_eq!((site.n_fetched, server.asked().len()), (0, 2), "nothing is fetched twice");
        // What was changed in the kept place is not what it is called.
        fs::write(site.path("keep/files").join(name_of(&all[0].digest)), "changed").expect("a file");
        fs::remove_file(site.path("src/a")).expect("removed");
        site.files(&all[..1]).expect("brought again");
        assert_eq!(fs::read(site.path("src/a")).expect("there"), b"one");
    }

    #[test]
    fn a_digest_that_differs_is_refused_naming_both() {
        let (mut site, server) = (Site::new(), Server::start());
        server.put("/a", Answer::Bytes(b"one".to_vec()));
        let url = format!("{}/a", server.url);
        let (found, expected) = (Digest::of(b"one").to_string(), Digest::of(b"two").to_string());
        site.refused(wanted(&url, blake3(b"two"), "a"), &format!("its digest is {found}, not {expected}"));
        assert!(!site.path("src/a").exists());
        assert_eq!(fs::read_dir(site.path("keep/files")).expect("there").count(), 0, "nothing is left");
    }

    #[test]
    fn places_that_are_taken_are_refused() {
        let (mut site, server) = (Site::new(), Server::start());
        server.put("/a", Answer::Bytes(b"one".to_vec()));
        let url = format!("{}/a", server.url);
        fs::write(site.path("src/file"), "of the commit").expect("a file");
        std::os::unix::fs::symlink("../home", site.path("src/link")).expect("a link");
        std::os::unix::fs::symlink("../home/x", site.path("src/dangling")).expect("a link");
        for to in ["file", "there", "file/below", "link/below", "link", "dangling"] {
            site.refused(wanted(&url, blake3(b"one"), to), &format!("puts a file at {to}, where the commit"));
        }
        let twice = [wanted(&url, blake3(b"one"), "x"), wanted(&url, blake3(b"one"), "x")];
        assert!(matches!(site.files(&twice), Err(FilesError::Taken { .. })));
        assert_eq!(fs::read_dir(site.path("home")).expect("there").count(), 0);
        assert_eq!(fs::read(site.path("src/file")).expect("there"), b"of the commit");
    }

    #[test]
    fn addresses_that_could_lead_anywhere_are_refused() {
        let mut site = Site::new();
        let digest = || blake3(b"");
        for url in ["file:///etc/passwd", "http://example.org/a", "-o/x", "ftp://example.org/", "https://", "https://a b/"] {
            assert!(matches!(site.files(&[wanted(url, digest(), "a")]), Err(FilesError::Address { .. })), "{url}");
        }
        site.refused(wanted("https://example.org/", FetchedDigest::Sha256("abc".into()), "a"), "hexadecimal");
    }

    #[test]
    fn what_a_server_does_wrong_is_said() {
        let (mut site, server) = (Site::new(), Server::start());
        server.put("/away", Answer::Redirect("file:///etc/passwd".into()));
        server.put("/on", Answer::Redirect(format!("{}/a", server.url)));
        server.put("/a", Answer::Bytes(b"one".to_vec()));
        for path in ["missing", "away", "on"] {
            let url = format!("{}/{path}", server.url);
            site.refused(wanted(&url, blake3(b"one"), "a"), "was not brought: curl ended with status");
        }
    }

    #[test]
    fn a_file_without_end_is_cut_off() {
        let (site, server) = (Site::new(), Server::start());
        server.put("/endless", Answer::Endless);
        server.put("/long", Answer::Bytes(vec![0; 2 << 20]));
        let mut log = Log::create(&site.path("log")).expect("a log");
        for path in ["endless", "long"] {
            let file = wanted(&format!("{}/{path}", server.url), blake3(b""), "a");
            let (dir, kept) = (site.path("keep"), site.path("keep/x"));
            let wanted = Wanted { file: &file, kept: &kept, dir: &dir, limit: 1 << 20 };
            let error = bring(&wanted, &site.host, &mut log, &AtomicBool::new(false)).expect_err("too long");
            assert!(matches!(error, FilesError::TooLong { limit: 1_048_576, .. }), "{error}");
        }
        assert_eq!(fs::read_dir(site.path("keep")).expect("there").count(), 0, "nothing is left");
    }

    #[test]
    fn waiting_for_a_file_can_be_cancelled() {
        let (site, server) = (Site::new(), Server::start());
        server.put("/endless", Answer::Endless);
        let mut log = Log::create(&site.path("log")).expect("a log");
        let file = wanted(&format!("{}/endless", server.url), blake3(b""), "a");
        let (dir, kept) = (site.path("keep"), site.path("keep/x"));
        let wanted = Wanted { file: &file, kept: &kept, dir: &dir, limit: LEN };
        let error = bring(&wanted, &site.host, &mut log, &AtomicBool::new(true)).expect_err("cancelled");
        assert!(matches!(error, FilesError::Process(ProcessError::Cancelled)), "{error}");
    }

    #[test]
    fn a_machine_without_curl_is_told() {
        let mut site = Site::new();
        site.host.path.clear();
        site.refused(wanted("https://example.org/", blake3(b""), "a"), "needs the program curl");
    }
}
