//! Real cargo, a registry on the loopback address, git repositories in directories: what is brought, what is refused, and what never runs.

pub(super) mod server;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use df_testkit::Repo;

use self::server::{Answer, Server};
use super::*;

/// A machine with a user's home, a source and df's directory.
struct Site {
    dir: tempfile::TempDir,
    host: Host,
    keep: Keep,
    toolchain: Toolchain,
    events: Vec<BuildEvent>,
}

/// A package in the registry of the test.
struct Published {
    name: &'static str,
    checksum: String,
}

const MAIN: (&str, &str) = ("src/main.rs", "fn main() {}\n");

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["home/.cargo", "keep", "src"] {
            fs::create_dir_all(dir.path().join(name)).expect("a directory");
        }
        let home = dir.path().join("home");
        let host = Host::of(&|name| match name {
            "HOME" => Some(home.display().to_string()),
            "PATH" => std::env::var("PATH").ok(),
            "RUSTUP_HOME" => {
                std::env::var("RUSTUP_HOME").ok().or_else(|| Some(format!("{}/.rustup", std::env::var("HOME").ok()?)))
            }
            _ => None,
        });
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc").stdout;
        let bin = PathBuf::from(String::from_utf8_lossy(&sysroot).trim()).join("bin");
        let bin = bin.join("cargo").is_file().then_some(bin);
        let toolchain = Toolchain { versions: BTreeMap::new(), sysroot: None, commit_hash: None, bin };
        let keep = Keep { dir: dir.path().join("keep") };
        Self { dir, host, keep, toolchain, events: vec![] }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    fn write(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            write(&self.source().join(path), text);
        }
    }

    /// A package `app` with dependencies, and the packages of its lock besides itself.
    fn app(&self, dependencies: &str, needs: &str, packages: &str) {
        let manifest = format!(
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n{dependencies}"
        );
        let lock = format!("version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n{needs}\n{packages}");
        self.write(&[("Cargo.toml", &manifest), ("Cargo.lock", &lock), MAIN]);
    }

    fn fetch(&mut self) -> Result<Lock, FetchError> {
        let mut log = Log::create(&self.dir.path().join("log")).expect("a log");
        let (cancel, mut events) = (AtomicBool::new(false), vec![]);
        let source = self.source();
        let fetched = fetch(&source, &self.toolchain, &self.host, &self.keep, &mut log, &cancel, &mut |event| events.push(event));
        self.events = events;
        fetched
    }

    #[track_caller]
    fn fetched(&mut self) -> Lock {
        self.fetch().unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    #[track_caller]
    fn refused(&mut self, expected: &str) -> FetchError {
        let error = self.fetch().expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}\n{}", self.log());
        error
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn used_network(&self) -> bool {
        self.events.contains(&BuildEvent::Phase("fetch"))
    }

    fn kept(&self, below: &str) -> Vec<PathBuf> {
        let dirs = fs::read_dir(self.keep.dir.join("cargo/registry").join(below)).into_iter().flatten().flatten();
        dirs.flat_map(|dir| fs::read_dir(dir.path()).expect("a directory").flatten()).map(|entry| entry.path()).collect()
    }

    /// cargo as a user runs it, in the source.
    fn users_cargo(&self, args: &[&str]) -> std::process::Output {
        let program = self.toolchain.bin.as_ref().map_or("cargo".into(), |bin| bin.join("cargo"));
        let mut command = Command::new(program);
        command.args(args).current_dir(self.source()).env_clear().envs(self.host.environment());
        command.output().expect("cargo")
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// Puts a package into a registry.
fn publish(server: &Server, name: &'static str) -> Published {
    let dir = tempfile::tempdir().expect("a directory");
    let stem = format!("{name}-1.0.0");
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    write(&dir.path().join(&stem).join("Cargo.toml"), &manifest);
    write(&dir.path().join(&stem).join("src/lib.rs"), "pub fn f() {}\n");
    let private = dir.path().join(&stem).join("src/lib.rs");
    fs::set_permissions(private, fs::Permissions::from_mode(0o600)).expect("a mode");
    let packed = dir.path().join("packed");
    let status = Command::new("tar").arg("-czf").arg(&packed).arg("-C").arg(dir.path()).arg(&stem).status();
    assert!(status.expect("tar").success());
    let checksum = verify::sha256(&mut fs::File::open(&packed).expect("packed")).expect("read");
    server.put("/index/config.json", Answer::Bytes(format!("{{\"dl\":\"{}/dl/{{crate}}\"}}", server.url).into_bytes()));
    let page = format!(
        "{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{checksum}\",\"features\":{{}},\"yanked\":false}}\n"
    );
    let page_path = match name.len() {
        1 => format!("/index/1/{name}"),
        _ => format!("/index/{}/{}/{name}", &name[..2], &name[2..4]),
    };
    server.put(&page_path, Answer::Bytes(page.into_bytes()));
    server.put(&format!("/dl/{name}"), Answer::Bytes(fs::read(&packed).expect("packed")));
    Published { name, checksum }
}

impl Published {
    fn locked(&self, server: &Server) -> String {
        let Self { name, checksum } = self;
        let url = &server.url;
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\nsource = \"sparse+{url}/index/\"\nchecksum = \"{checksum}\"\n"
        )
    }
}

/// A site whose commit takes `leftover` from a registry that its own configuration names.
fn with_registry() -> (Site, Server, Published) {
    let (site, server) = (Site::new(), Server::start());
    let package = publish(&server, "leftover");
    let needs = "dependencies = [\"leftover\"]";
    site.app("leftover = { version = \"1\", registry = \"own\" }\n", needs, &package.locked(&server));
    site.write(&[(".cargo/config.toml", &format!("[registries.own]\nindex = \"sparse+{}/index/\"\n", server.url))]);
    (site, server, package)
}

#[test]
fn what_the_lock_names_is_brought_once() {
    let (mut site, server, package) = with_registry();
    let lock = site.fetched();
    assert!(site.used_network());
    assert_eq!(lock.packages[1].checksum, Some(package.checksum));
    let crates = site.kept("cache");
    assert!(crates.len() == 1 && crates[0].ends_with("leftover-1.0.0.crate"), "{crates:?}");
    assert_eq!(fs::metadata(&crates[0]).expect("there").permissions().mode() & 0o777, 0o644);
    let unpacked = site.kept("src").remove(0).join("src/lib.rs");
    assert_eq!(fs::metadata(unpacked).expect("unpacked").permissions().mode() & 0o777, 0o644, "another user may read it");
    let asked = server.asked().len();
    let begun = std::time::Instant::now();
    site.fetched();
    let took = begun.elapsed();
    assert!(!site.used_network() && server.asked().len() == asked && site.log().is_empty(), "{:?}", server.asked());
    assert!(took < std::time::Duration::from_millis(100), "a marker says it all: {took:?}");
    let read = |name: &str| fs::read_dir(site.source().join(name)).is_ok();
    assert!(!read("target") && !site.host.cargo_home.join("registry").exists(), "nothing is written elsewhere");
}

#[test]
fn what_the_users_cargo_holds_is_not_downloaded_again() {
    let (mut site, server, _) = with_registry();
    assert!(site.users_cargo(&["fetch", "--locked"]).status.success());
    let asked = server.asked().len();
    // Unpacked packages of the user are not what is built.
    let own = site.host.cargo_home.join("registry/src");
    let own = fs::read_dir(own).expect("unpacked").flatten().next().expect("one").path().join("leftover-1.0.0/src/lib.rs");
    fs::write(own, "edited").expect("a file");
    site.fetched();
    assert!(!site.used_network(), "{}", site.log());
    assert_eq!(server.asked().len(), asked);
    let unpacked = fs::read_to_string(site.kept("src").remove(0).join("src/lib.rs")).expect("unpacked");
    assert_eq!(unpacked, "pub fn f() {}\n");
}

#[test]
fn a_package_that_the_user_changed_is_not_taken() {
    let (mut site, server, _) = with_registry();
    assert!(site.users_cargo(&["fetch", "--locked"]).status.success());
    let own = site.host.cargo_home.join("registry/cache");
    let own = fs::read_dir(own).expect("packed").flatten().next().expect("one").path().join("leftover-1.0.0.crate");
    fs::write(own, "something else").expect("a file");
    let asked = server.asked().len();
    site.fetched();
    assert!(site.used_network() && server.asked().len() > asked, "the right one was downloaded");
}

#[test]
fn a_kept_package_that_was_changed_is_brought_again() {
    let (mut site, _server, package) = with_registry();
    site.fetched();
    let kept = site.kept("cache").remove(0);
    fs::write(&kept, "something else").expect("a file");
    fs::write(site.kept("src").remove(0).join("src/lib.rs"), "something else").expect("a file");
    site.fetched();
    let now = verify::sha256(&mut fs::File::open(kept).expect("there")).expect("read");
    assert_eq!(now, package.checksum);
    let unpacked = fs::read_to_string(site.kept("src").remove(0).join("src/lib.rs")).expect("unpacked");
    assert_eq!(unpacked, "pub fn f() {}\n");
}

#[test]
fn a_package_that_came_differently_is_refused() {
    let (mut site, server, _) = with_registry();
    server.put("/dl/leftover", Answer::Bytes(b"something else".to_vec()));
    let error = site.refused("leftover v1.0.0 has another checksum than Cargo.lock says");
    assert!(matches!(error, FetchError::ChecksumSaid { .. }));
}

#[test]
fn a_registry_and_a_lock_that_differ_are_refused() {
    let (mut site, server, package) = with_registry();
    let other = Published { name: "leftover", checksum: "0".repeat(64) };
    let lock = fs::read_to_string(site.source().join("Cargo.lock")).expect("a lock");
    site.write(&[("Cargo.lock", &lock.replace(&package.locked(&server), &other.locked(&server)))]);
    let error = site.refused("leftover");
    assert!(matches!(error, FetchError::ChecksumSaid { .. }), "{error}");
}

#[test]
fn a_lock_that_is_missing_or_would_change_is_refused() {
    let mut site = Site::new();
    site.app("", "", "");
    site.fetched();
    site.write(&[("other/Cargo.toml", "[package]\nname = \"other\"\nversion = \"0.1.0\"\n"), ("other/src/lib.rs", "")]);
    site.app("other = { path = \"other\" }\n", "", "");
    site.refused("Cargo.lock does not fit Cargo.toml; run cargo check");
    fs::remove_file(site.source().join("Cargo.lock")).expect("a file");
    site.refused("the commit has no Cargo.lock; run cargo generate-lockfile");
    fs::remove_file(site.source().join("Cargo.toml")).expect("a file");
    site.refused("the commit has no Cargo.toml");
}

#[test]
fn a_machine_that_cannot_be_reached_is_named() {
    let (mut site, server, package) = with_registry();
    // A port that nobody listens on: it was ours until now.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let url = format!("http://{free}");
    let lock = fs::read_to_string(site.source().join("Cargo.lock")).expect("a lock").replace(&server.url, &url);
    let config = format!("[registries.own]\nindex = \"sparse+{url}/index/\"\n");
    site.write(&[("Cargo.lock", &lock), (".cargo/config.toml", &config)]);
    write(&site.host.cargo_home.join("config.toml"), "[net]\nretry = 0\n");
    let error = site.refused("127.0.0.1");
    assert!(matches!(error, FetchError::NoNetwork { .. }), "{error}");
    drop(package);
}

#[test]
fn a_registry_that_wants_a_token_says_so() {
    let (mut site, server, _) = with_registry();
    server.put("/index/config.json", Answer::Status("401 Unauthorized"));
    let error = site.refused("wants to know who asks");
    assert!(matches!(error, FetchError::NoCredentials { .. }), "{error}");
}

#[test]
fn a_git_revision_is_brought() {
    let mut site = Site::new();
    let repo = Repo::new(&site.dir.path().join("dependency"));
    let files = [("Cargo.toml", "[package]\nname = \"dep\"\nversion = \"0.1.0\"\n"), ("src/lib.rs", "pub fn f() {}")];
    let revision = repo.commit(&files, "one");
    repo.commit(&[("src/lib.rs", "pub fn g() {}")], "two");
    let url = format!("file://{}", repo.dir().display());
    let locked = format!("[[package]]\nname = \"dep\"\nversion = \"0.1.0\"\nsource = \"git+{url}#{revision}\"\n");
    site.app(&format!("dep = {{ git = \"{url}\" }}\n"), "dependencies = [\"dep\"]", &locked);
    site.fetched();
    let checkouts = site.keep.dir.join("cargo/git/checkouts");
    let repository = fs::read_dir(checkouts).expect("checkouts").flatten().next().expect("one").path();
    let checkout = fs::read_dir(repository).expect("revisions").flatten().next().expect("one").path();
    assert_eq!(fs::read_to_string(checkout.join("src/lib.rs")).expect("checked out"), "pub fn f() {}");
    for name in ["config", "logs", "FETCH_HEAD", "index"] {
        let text = String::from_utf8_lossy(&fs::read(checkout.join(".git").join(name)).unwrap_or_default()).into_owned();
        assert!(!checkout.join(".git").join(name).is_dir() && (name == "config") != text.is_empty(), "{name}");
        assert!(!text.contains("cargo/git"), "it names a place of this machine: {text}");
    }
    for (path, mode) in [("", 0o755), ("src", 0o755), ("src/lib.rs", 0o644)] {
        let metadata = fs::metadata(checkout.join(path)).expect("it is there");
        let found = (metadata.permissions().mode() & 0o7777, metadata.mtime());
        assert_eq!(found, (mode, crate::directory::EPOCH_S), "equal on every machine: {path}");
    }
    site.fetched();
    assert!(!site.used_network() && site.log().is_empty());
    fs::remove_dir_all(&checkout).expect("removed");
    site.fetched();
    assert!(checkout.join("src/lib.rs").is_file(), "what is missing is noticed");
    let lock = fs::read_to_string(site.source().join("Cargo.lock")).expect("a lock");
    site.write(&[("Cargo.lock", &lock.replace(&format!("#{revision}"), ""))]);
    site.refused("takes dep 0.1.0 from git without a full revision");
}

#[test]
fn what_the_commit_holds_needs_no_fetch() {
    let (mut site, server, package) = with_registry();
    let manifest = "[package]\nname = \"leftover\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
    let sums = format!("{{\"files\":{{}},\"package\":\"{}\"}}", package.checksum);
    let index = format!("sparse+{}/index/", server.url);
    let config = format!(
        "[registries.own]\nindex = \"{index}\"\n[source.own]\nregistry = \"{index}\"\nreplace-with = \"here\"\n[source.here]\ndirectory = \"vendor\"\n"
    );
    site.write(&[
        ("vendor/leftover/Cargo.toml", manifest),
        ("vendor/leftover/src/lib.rs", ""),
        ("vendor/leftover/.cargo-checksum.json", &sums),
        (".cargo/config.toml", &config),
    ]);
    site.fetched();
    assert!(!site.used_network() && server.asked().is_empty(), "{:?}\n{}", server.asked(), site.log());
}

/// A source whose configuration names programs wherever cargo would run one while it fetches.
fn with_canaries(site: &Site, url: &str) -> PathBuf {
    let canary = site.dir.path().join("canary");
    let script = format!("#!/bin/sh\necho \"$0 $*\" >> {}\nexec \"$@\"\n", canary.display());
    site.write(&[("evil", &script)]);
    let evil = site.source().join("evil");
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).expect("a mode");
    let evil = evil.display();
    let config = format!(
        "[build]\nrustc-wrapper = \"{evil}\"\nrustc-workspace-wrapper = \"{evil}\"\nrustc = \"{evil}\"\n\
         [registry]\nglobal-credential-providers = [\"{evil}\"]\n[credential-alias]\nx = \"{evil}\"\n\
         [registries.own]\nindex = \"sparse+{url}/index/\"\ncredential-provider = [\"{evil}\"]\n\
         [target.x86_64-unknown-linux-gnu]\nlinker = \"{evil}\"\nrunner = \"{evil}\"\n[alias]\nfetch = \"run\"\n\
         [net]\ngit-fetch-with-cli = true\n[env]\nPATH = \"{evil}\"\n"
    );
    site.write(&[(".cargo/config.toml", &config)]);
    canary
}

#[test]
fn no_program_that_the_commit_names_runs() {
    let (mut site, server, _) = with_registry();
    let canary = with_canaries(&site, &server.url);
    site.fetched();
    assert!(!canary.exists(), "{}", fs::read_to_string(canary).unwrap_or_default());
}

#[test]
fn no_credential_provider_of_the_commit_runs() {
    let (mut site, server, _) = with_registry();
    let canary = with_canaries(&site, &server.url);
    server.put("/index/config.json", Answer::Status("401 Unauthorized"));
    site.refused("wants to know who asks");
    assert!(!canary.exists(), "{}", fs::read_to_string(canary).unwrap_or_default());
}

#[test]
fn a_plain_cargo_fetch_does_run_what_the_commit_names() {
    let (site, server, _) = with_registry();
    let canary = with_canaries(&site, &server.url);
    site.users_cargo(&["fetch", "--locked", "--target", TARGET]);
    assert!(canary.exists(), "the control is none");
}

#[test]
fn a_token_is_not_sent_where_the_commit_says() {
    let (mut site, server, _) = with_registry();
    write(&site.host.cargo_home.join("credentials.toml"), "[registries.own]\ntoken = \"secret\"\n");
    let error = site.refused("you hold a token for that name");
    assert!(error.to_string().contains("write registries.own.index = "), "{error}");
    assert!(server.asked().is_empty());
    let index = format!("sparse+{}/index/", server.url);
    write(&site.host.cargo_home.join("config.toml"), &format!("[registries.own]\nindex = \"{index}\"\n"));
    let lock = site.fetched();
    let room = room_config(&lock, &site.host);
    assert_eq!(room, format!("[registries.\"own\"]\nindex = \"{index}\"\n"));
}

#[test]
fn a_registry_that_only_the_user_names_is_known_in_the_room_too() {
    let (mut site, server, _) = with_registry();
    fs::remove_file(site.source().join(".cargo/config.toml")).expect("a file");
    let index = format!("sparse+{}/index/", server.url);
    let own = format!(
        "[registries.own]\nindex = \"{index}\"\n[registries.unused]\nindex = \"https://example.org/\"\n[build]\njobs = 1\n"
    );
    write(&site.host.cargo_home.join("config.toml"), &own);
    let lock = site.fetched();
    assert_eq!(room_config(&lock, &site.host), format!("[registries.\"own\"]\nindex = \"{index}\"\n"));
}

#[test]
fn a_condition_that_the_commits_flags_decide_is_heard() {
    let (mut site, server, package) = with_registry();
    let manifest = fs::read_to_string(site.source().join("Cargo.toml")).expect("a manifest");
    let config = fs::read_to_string(site.source().join(".cargo/config.toml")).expect("a configuration");
    site.write(&[("Cargo.toml", &manifest.replace("[dependencies]", "[target.'cfg(special)'.dependencies]"))]);
    site.fetched();
    assert!(site.kept("cache").is_empty(), "not for this target");
    site.write(&[(".cargo/config.toml", &format!("{config}[build]\nrustflags = [\"--cfg\", \"special\"]\n"))]);
    site.fetched();
    assert_eq!(site.kept("cache").len(), 1, "{}", package.name);
    drop(server);
}

#[test]
fn a_mirror_of_the_users_own_is_refused_in_words_and_one_of_the_commit_is_not() {
    let (mut site, server, _) = with_registry();
    let mirror = Server::start();
    publish(&mirror, "leftover");
    let index = |server: &Server| format!("sparse+{}/index/", server.url);
    // The mirror has the very bytes.
    for path in ["/dl/leftover", "/index/le/ft/leftover"] {
        let same = server.answers.lock().expect("no panic")[path].clone();
        mirror.put(path, same);
    }
    let replaced = format!(
        "[source.original]\nregistry = \"{}\"\nreplace-with = \"mirror\"\n[source.mirror]\nregistry = \"{}\"\n",
        index(&server),
        index(&mirror)
    );
    write(&site.host.cargo_home.join("config.toml"), &replaced);
    let error = site.refused("replaces the source of packages");
    assert!(matches!(error, FetchError::Replaced { .. }) && server.asked().is_empty(), "{:?}", server.asked());
    fs::remove_file(site.host.cargo_home.join("config.toml")).expect("removed");
    let config = fs::read_to_string(site.source().join(".cargo/config.toml")).expect("a configuration");
    site.write(&[(".cargo/config.toml", &format!("{config}{replaced}"))]);
    site.fetched();
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

#[test]
fn flags_for_the_processor_that_happens_to_build_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let read = |text: &str| {
        write(&dir.path().join(".cargo/config.toml"), text);
        config::of_source(dir.path()).map(drop).map_err(|error| error.to_string())
    };
    for (text, key) in [
        ("[build]\nrustflags = [\"-C\", \"target-cpu=native\"]\n", "build"),
        ("[build]\nrustflags = \"-Ctarget-cpu=native\"\n", "build"),
        ("[target.'cfg(unix)']\nrustflags = [\"-Ctarget-cpu=native\"]\n", "target.cfg(unix).rustflags"),
        ("[env]\nCFLAGS = { value = \"-O2 -march=native\" }\n", "env"),
    ] {
        let said = read(text).expect_err(text);
        assert!(said.starts_with(&format!("{key} in the commit's cargo configuration says ")), "{said}");
    }
    write(&dir.path().join(".cargo/more.toml"), "[build]\nrustflags = [\"-Ctarget-cpu=native\"]\n");
    read("include = [\"more.toml\"]\n").expect_err("another file counts");
    for text in [
        "# rustflags = [\"-Ctarget-cpu=native\"]\n",
        "[build]\nrustflags = [\"-Ctarget-cpu=x86-64-v3\"]\n",
        "[target.aarch64-unknown-linux-gnu]\nrustflags = [\"-Ctarget-cpu=native\"]\n",
    ] {
        assert_eq!(read(text), Ok(()), "{text}");
    }
}
