//! Two worlds that differ in everything a build could notice, on one machine: the plain one is the tests' own, the strange one is a namespace
//! that `strange.sh` furnishes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use df_testkit::process::{Output, Run};
use df_testkit::tree::{Difference, Tree};

/// A user that no system knows by name.
const STRANGER: &str = "4321";
/// What a shell may hold that would change what cargo and compilers do. No build may see any of it.
const JUNK: &str = "RUSTFLAGS=-Cdebuginfo=2 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_INCREMENTAL=1 CC=/bin/false CFLAGS=-DJUNK CXXFLAGS=-DJUNK \
    MAKEFLAGS=-j9 SOURCE_DATE_EPOCH=1 RUSTC_WRAPPER=/bin/false CARGO_ENCODED_RUSTFLAGS=-Cdebuginfo=1 LD_LIBRARY_PATH=/nowhere NUM_JOBS=9";
/// Builds each of the commits, and hands out each one's tree and what `df` printed: the image's id.
const BUILD: &str = r#"n=0; for commit; do n=$((n + 1))
    env LD_PRELOAD="$CLOCK" $JUNK "$DF" -C "$FROM" --state "$PLACE/state" build --commit-hash "$commit" --output "$PLACE/image" > "$OUT/$n.id"
    cp -rL "$PLACE/image" "$OUT/$n"
done"#;
/// Builds a directory by cargo as a person would, and hands out its programs as an image would hold them.
const CARGO_BUILD: &str = r#"cp -r "$FROM" "$PLACE/src" && cd "$PLACE/src" && cargo build --release --locked --offline --target-dir target
    mkdir -p "$OUT/1/bin"; for program; do cp "target/release/$program" "$OUT/1/bin/"; done"#;
/// Says what a program can see of a world, a line each.
const LOOK: &str = r#"echo "directory $PWD"; echo "host $(cat /proc/sys/kernel/hostname)"; echo "user $(id -u)"; echo "umask $(umask)"
    echo "locale $LC_ALL"; echo "zone $TZ"; echo "cores $(nproc)"; echo "jobs $CARGO_BUILD_JOBS"; echo "cargo $CARGO_HOME"
    echo "compiler $(rustc --print sysroot)"; echo "variables $(env | cut -d= -f1 | tr '\n' ' ')"; echo "entries $(ls -U "$FROM" | tr '\n' ' ')"
    echo "year $(LD_PRELOAD="$CLOCK" date +%Y)""#;

/// A place to build in, with a cache of its own.
pub struct World {
    dir: tempfile::TempDir,
    is_strange: bool,
}

/// What came out of a build.
pub struct Image {
    /// Its id, or nothing when plain cargo made it.
    pub id: String,
    /// Its files.
    pub tree: Tree,
}

impl Image {
    /// Lists by what the files of two images differ: the one comparison of all tests here.
    pub fn differences(&self, other: &Image) -> Vec<Difference> {
        self.tree.differences(&other.tree)
    }
}

impl World {
    /// Returns the world of the tests: who runs them, where they run.
    pub fn plain() -> Self {
        Self::make(false)
    }

    /// Returns the other one, which exists only while something runs there.
    pub fn strange() -> Self {
        Self::make(true)
    }

    /// Builds commits of a repository one after the other, by one cache that is empty at first.
    pub fn build(&self, repo: &Path, commits: &[&str], deadline: Duration) -> Vec<Image> {
        self.run(repo, BUILD, commits, deadline);
        (1..=commits.len()).map(|n| self.image(n)).collect()
    }

    /// Builds a directory by plain cargo, with nothing remapped.
    pub fn cargo_build(&self, source: &Path, programs: &[&str], deadline: Duration) -> Image {
        self.run(source, CARGO_BUILD, programs, deadline);
        self.image(1)
    }

    /// Says what a program can see here.
    pub fn look(&self, dir: &Path) -> Vec<String> {
        let looked = self.run(dir, LOOK, &[], crate::support::DEADLINE);
        looked.stdout.lines().map(str::to_owned).collect()
    }

    fn make(is_strange: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("df-world").tempdir().expect("a directory");
        // Another user goes through it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        for name in ["place", "out"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
        }
        Self { dir, is_strange }
    }

    fn run(&self, from: &Path, script: &str, words: &[&str], deadline: Duration) -> Output {
        let junk = if self.is_strange { JUNK } else { "" };
        let script = format!("set -eu; JUNK='{junk}'\n{script}");
        let inner: Vec<&str> = ["sh", "-c", &script, "sh"].into_iter().chain(words.iter().copied()).collect();
        let run = if self.is_strange { self.strange_run(from) } else { self.plain_run(from) };
        run.args(inner).deadline(deadline).ok()
    }

    fn plain_run(&self, from: &Path) -> Run {
        let (place, home) = (self.dir.path().join("place"), std::env::var("HOME").unwrap_or_default());
        let cargo_home = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
        Run::new("env")
            .dir(&place)
            .env("PLACE", &place)
            .env("OUT", self.dir.path().join("out"))
            .env("FROM", from)
            .env("DF", env!("CARGO_BIN_EXE_df"))
            .env("CLOCK", "")
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env("CARGO_HOME", cargo_home)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_BUILD_JOBS", "3")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
    }

    fn strange_run(&self, from: &Path) -> Run {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reproducible/strange.sh");
        let is_root = rustix::process::geteuid().is_root();
        let unshared: &[&str] = if is_root { &["--mount", "--uts"] } else { &["--user", "--map-root-user", "--mount", "--uts"] };
        let (owner, become_stranger) = match is_root {
            true => (STRANGER, format!("setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups --")),
            false => ("0", format!("unshare --user --map-user={STRANGER} --map-group={STRANGER} --")),
        };
        Run::new("unshare")
            .args(unshared)
            .args(["--", "sh"])
            .arg(script)
            .arg(self.dir.path().join("place"))
            .arg(env!("CARGO_BIN_EXE_df"))
            .arg(self.dir.path().join("out"))
            .arg(from)
            .arg(owner)
            .args(become_stranger.split(' '))
    }

    /// Reads what a build handed out.
    fn image(&self, n: usize) -> Image {
        let out = self.dir.path().join("out");
        let id = std::fs::read_to_string(out.join(format!("{n}.id"))).unwrap_or_default();
        Image { id: id.trim().to_owned(), tree: Tree::read(&out.join(n.to_string())) }
    }
}
