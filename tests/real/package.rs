//! A published package as a git repository: its two versions are two commits, both built into a cache that these tests share.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use df_testkit::process::Run;
use df_testkit::repo::Repo;
use df_testkit::seed::Seed;
use df_testkit::tree::{Entry, Kind, Tree};

use crate::support::{self, PORT, shared};

/// Compiling a whole server on a busy machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(1200);
/// The largest file that the servers serve.
pub const LARGE_LEN: usize = 4 << 20;

/// A package and its two versions.
pub struct Package {
    /// The application's name, which is the package's.
    pub app: &'static str,
    /// Where the repository is.
    pub repo: PathBuf,
    /// The older one, and the one that was published next.
    pub versions: [Version; 2],
}

/// One published version.
pub struct Version {
    /// As published.
    pub number: &'static str,
    /// The commit that holds it.
    pub commit: String,
    /// The package's files.
    pub source: PathBuf,
}

/// Returns an HTTP server that takes its listening descriptor.
pub fn static_web_server() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let run = format!(
            "build:\n  cargo: {{ bins: [static-web-server] }}\n  include: {{ www: www }}\n\
             run:\n  exec: bin/static-web-server\n  args: [\"--fd\", \"0\", \"--root\", \"www\", \"--health\", \"--log-level\", \"error\"]\n  \
             ports: {{ http: {PORT} }}\n  handoff: listener\n  ready: 30s\n  drain: 5s\n\
             verify:\n  - http: {{ port: http, path: /health, status: 200 }}\n"
        );
        make("static-web-server", ["2.44.0", "2.44.1"], &run, www)
    })
}

/// Returns an HTTP server that binds by itself.
pub fn simple_http_server() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let run = format!(
            "build:\n  cargo: {{ bins: [simple-http-server] }}\n  include: {{ www: www }}\n\
             run:\n  exec: bin/simple-http-server\n  \
             args: [\"--ip\", \"{{host:http}}\", \"--port\", \"{{port:http}}\", \"--index\", \"--nocache\", \"www\"]\n  \
             ports: {{ http: {PORT} }}\n  handoff: restart\n  ready: 30s\n  drain: 5s\n\
             verify:\n  - http: {{ port: http, path: /version.txt, status: 200 }}\n"
        );
        make("simple-http-server", ["0.8.0", "0.8.1"], &run, www)
    })
}

/// Returns a program for the command line.
pub fn choose() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| make("choose", ["1.3.6", "1.3.7"], "build:\n  cargo: { bins: [choose] }\n", |_| Tree::default()))
}

/// Returns a tree of Python files.
pub fn networkx() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let build = "build:\n  command: \"mkdir dist && cp -r networkx* dist/\"\n  output: dist\n";
        make("networkx", ["3.4.1", "3.4.2"], build, |_| Tree::default())
    })
}

/// Returns `df` in a package's repository.
///
/// The cache is not the one of the other tests: a build holds its cache's lock, and compiling a server would let them wait past their deadlines.
pub fn df(package: &Path, state: &Path) -> Run {
    support::df(package, state).env("XDG_CACHE_HOME", shared().join("real/cache"))
}

fn make(app: &'static str, numbers: [&'static str; 2], sections: &str, added: fn(&str) -> Tree) -> Package {
    let dir = shared().join("real").join(app);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("make {}: {error}", dir.display()));
    let repo = Repo::new(&dir);
    let df_yaml = format!("app: {app}\n{sections}rollout: {{ soak: 0s }}\n");
    let versions = numbers.map(|number| {
        let source = fetched(app, number);
        let mut tree = Tree::read(&source);
        tree.0.extend(added(number).0);
        tree.0.insert("df.yaml".into(), file(df_yaml.as_bytes()));
        let whole = tempfile::tempdir_in(shared()).expect("a directory");
        tree.write(whole.path());
        Version { number, commit: repo.commit_tree(whole.path(), number), source }
    });
    let package = Package { app, repo: dir, versions };
    for version in &package.versions {
        df(&package.repo, &shared().join("real/state"))
            .args(["build", "--commit-hash", &version.commit])
            .deadline(BUILD_DEADLINE)
            .ok();
    }
    package
}

/// Returns where a package was fetched to.
pub fn fetched(name: &str, number: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let real = std::env::var_os("DF_REAL_DIR").map_or_else(|| root.join("target/real"), |dir| root.join(dir));
    let dir = real.join(name).join(number);
    assert!(dir.is_dir(), "there is no {}: run ci/fetch-real first", dir.display());
    dir
}

/// What the servers serve: small pages, one of which names the version, and a large file that no version changes.
fn www(number: &str) -> Tree {
    let large = Seed(44).random().bytes(LARGE_LEN);
    let small = [
        ("www/index.html", "<!doctype html><title>df</title><p>Served by a program that nobody here wrote.</p>\n".to_owned()),
        ("www/style.css", "p { margin: 2em }\n".to_owned()),
        ("www/version.txt", format!("{number}\n")),
    ];
    let mut tree = Tree(small.map(|(path, text)| (path.into(), file(text.as_bytes()))).into());
    tree.0.insert("www/large.bin".into(), file(&large));
    tree
}

fn file(bytes: &[u8]) -> Entry {
    Entry { kind: Kind::File, content: bytes.to_vec() }
}
