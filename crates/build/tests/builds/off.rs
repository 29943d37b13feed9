//! What a build gives, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use df_build::{BuildError, BuildEvent, Built, Repository};
use df_core::Recipe;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, FetchedDigest, FetchedFile, Relocatable, Sandbox};
use df_testkit::{Kind, Repo, Tree, wait_until};

use crate::support::{self, Place, off, path, place, said};

fn command(line: &str) -> BuildSection {
    off(support::command(line))
}

fn cargo() -> BuildSection {
    off(support::cargo())
}

const MANIFEST: &str = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\n";
const MAIN: &str = "fn main() { println!(\"a\"); assert!(std::env::args().len() < 2, \"too many\"); }\n";

/// Debug information names the directory of the compilation: what remapping is for.
fn with_debug() -> (&'static str, String) {
    ("Cargo.toml", format!("{MANIFEST}[profile.release]\ndebug = true\n"))
}

fn hello() -> Place {
    place(&[("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("src/main.rs", MAIN)])
}

#[test]
fn a_cargo_project_gives_its_programs() {
    let place = hello();
    place.repo.commit(&[("examples/ex.rs", "fn main() { println!(\"example\"); }"), ("share/a.txt", "text")], "more");
    let mut section = cargo();
    section.include.insert(path("share"), path("static/files"));
    if let BuildTool::Cargo(cargo) = &mut section.tool {
        cargo.bins = vec!["hello".into()];
        cargo.examples = vec!["ex".into()];
    }
    let outcome = place.build(&section);
    assert_eq!(outcome.events[0].to_string(), "sandbox: off — the build runs with your rights");
    let compiled = outcome.events.iter().filter(|event| matches!(event, BuildEvent::Compiled { done: 1, total: 1, .. })).count();
    assert_eq!(compiled, 1, "{:?}", outcome.events);
    let built = outcome.built();
    let tree = Tree::read(&built.output);
    let names: Vec<String> = tree.0.keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["bin/ex", "bin/hello", "static/files/a.txt"]);
    assert_eq!(
        (said(&built.output.join("bin/hello")), said(&built.output.join("bin/ex"))),
        ("a".to_owned(), "example".to_owned())
    );
    assert!(built.compiled && built.log.is_file());
    let kept = built.output.clone();
    drop(built);
    assert!(!kept.exists(), "the output goes with its value");
}

#[test]
fn one_changed_byte_under_equal_times_changes_the_program() {
    let place = place(&[
        ("Cargo.toml", &format!("{MANIFEST}[dependencies]\nword = {{ path = \"word\" }}\n")),
        (
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\ndependencies = [\n \"word\",\n]\n\n[[package]]\nname = \"word\"\nversion = \"0.1.0\"\n",
        ),
        ("src/main.rs", "fn main() { println!(\"{}\", word::WORD); }"),
        ("word/Cargo.toml", "[package]\nname = \"word\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
        ("word/src/lib.rs", "pub const WORD: &str = \"a\";"),
    ]);
    assert_eq!(said(&place.build(&cargo()).built().output.join("bin/hello")), "a");
    place.repo.commit(&[("word/src/lib.rs", "pub const WORD: &str = \"b\";")], "two");
    assert_eq!(said(&place.build(&cargo()).built().output.join("bin/hello")), "b");
}

#[test]
fn a_vendored_package_that_was_edited_is_compiled_again() {
    let sum = "0123456789abcdef".repeat(4);
    // The registry by the name that cargo gave it in our own lock file.
    let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).expect("our own lock file");
    let index = ours.split("source = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("we have dependencies");
    let vendored = "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = \"vendor\"\n";
    let lock = format!(
        "{LOCK}dependencies = [\n \"word\",\n]\n\n[[package]]\nname = \"word\"\nversion = \"0.1.0\"\nsource = \"{index}\"\nchecksum = \"{sum}\"\n"
    );
    let place = place(&[
        ("Cargo.toml", &format!("{MANIFEST}[dependencies]\nword = \"0.1.0\"\n")),
        ("Cargo.lock", &lock),
        (".cargo/config.toml", vendored),
        ("src/main.rs", "fn main() { println!(\"{}\", word::WORD); }"),
        ("vendor/word/Cargo.toml", "[package]\nname = \"word\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
        ("vendor/word/.cargo-checksum.json", &format!("{{\"files\":{{}},\"package\":\"{sum}\"}}")),
        ("vendor/word/src/lib.rs", "pub const WORD: &str = \"a\";"),
    ]);
    assert_eq!(said(&place.build(&cargo()).built().output.join("bin/hello")), "a");
    place.repo.commit(&[("vendor/word/src/lib.rs", "pub const WORD: &str = \"b\";")], "two");
    assert_eq!(said(&place.build(&cargo()).built().output.join("bin/hello")), "b");
}

#[test]
fn a_kept_target_directory_and_a_fresh_one_give_the_same_bits_without_paths() {
    let hello_with_debug = || {
        let (place, (file, text)) = (hello(), with_debug());
        place.repo.commit(&[(file, &text)], "debug");
        place
    };
    let place = hello_with_debug();
    let program = |built: &Built| fs::read(built.output.join("bin/hello")).expect("the program");
    let first = program(&place.build(&cargo()).built());
    place.repo.commit(&[("src/main.rs", &MAIN.replace("\"a\"", "\"b\""))], "two");
    assert_ne!(program(&place.build(&cargo()).built()), first);
    place.repo.commit(&[("src/main.rs", MAIN)], "three");
    let outcome = place.build(&cargo());
    assert!(!outcome.events.iter().any(|event| matches!(event, BuildEvent::NotRelocatable { .. })), "{:?}", outcome.events);
    assert_eq!(program(&outcome.built()), first, "kept");
    // Another cache directory is another build path.
    let other = hello_with_debug();
    let mut required = cargo();
    required.relocatable = Relocatable::Required;
    assert_eq!(program(&other.build(&required).built()), first, "fresh, elsewhere");
}

#[test]
fn a_program_that_holds_its_build_path_is_said_or_refused() {
    let place = hello();
    place.repo.commit(&[("src/main.rs", "fn main() { println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\")); }")], "two");
    let outcome = place.build(&cargo());
    assert!(outcome.events.contains(&BuildEvent::NotRelocatable { paths: vec!["bin/hello".into()] }), "{:?}", outcome.events);
    drop(outcome);
    let mut required = cargo();
    required.relocatable = Relocatable::Required;
    let refusal = place.build(&required).refusal();
    assert!(refusal.contains("bin/hello"), "{refusal}");
}

#[test]
fn flags_of_the_commit_still_count() {
    let source =
        "fn main() { println!(\"{}\", if cfg!(ours) { \"ours\" } else { \"lost\" }); assert!(std::env::args().len() < 2); }";
    for config in ["[build]\nrustflags = [\"--cfg=ours\"]\n", "[target.x86_64-unknown-linux-gnu]\nrustflags = [\"--cfg=ours\"]\n"]
    {
        let (place, (file, text)) = (hello(), with_debug());
        place.repo.commit(&[("src/main.rs", source), (".cargo/config.toml", config), (file, &text)], "flags");
        let mut section = cargo();
        section.relocatable = Relocatable::Required;
        assert_eq!(said(&place.build(&section).built().output.join("bin/hello")), "ours", "{config}");
    }
}

#[test]
fn a_failing_build_shows_the_end_of_its_log() {
    let place = hello();
    place.repo.commit(&[("src/main.rs", "fn main() { let x: u8 = \"\u{202e}\"; }")], "two");
    let BuildError::Failed { what, how, lines, log } = place.build(&cargo()).result.expect_err("it does not compile") else {
        panic!("another error")
    };
    assert_eq!((what, how.as_str()), ("cargo build", "status 101"));
    assert!(lines.len() <= 50 && lines.iter().any(|line| line.contains("mismatched types")), "{lines:?}");
    assert!(!lines.concat().contains('\u{202e}'), "escaped");
    assert!(log.starts_with(place.cache().canonicalize().expect("the cache")) && log.is_file());

    let place = self::place(&[("a", "")]);
    let refusal = place.build(&command("seq 1 1000; exit 3")).refusal();
    let expected: Vec<String> = (951..=1000).map(|n: u32| n.to_string()).collect();
    assert!(refusal.contains("the build command ended with status 3"), "{refusal}");
    assert_eq!(refusal.lines().skip(1).collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_cargo_project_lacks_is_said_in_words() {
    let check = |files: &[(&str, &str)], edit: fn(&mut CargoBuild), expected: &str| {
        let mut section = cargo();
        if let BuildTool::Cargo(cargo) = &mut section.tool {
            edit(cargo);
        }
        let refusal = place(files).build(&section).refusal();
        assert!(refusal.contains(expected), "{refusal:?} does not say {expected:?}");
    };
    let main = ("src/main.rs", MAIN);
    check(&[main], |_| (), "no Cargo.toml");
    check(&[("Cargo.toml", MANIFEST), main], |_| (), "no Cargo.lock; run cargo generate-lockfile");
    check(&[("Cargo.toml", MANIFEST), ("Cargo.lock", "version = 4\n"), main], |_| (), "Cargo.lock does not fit Cargo.toml");
    let good = [("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), main];
    check(&good, |cargo| cargo.package = Some("other".into()), "no package other in the commit; it has hello");
    check(&good, |cargo| cargo.bins = vec!["-x".into()], "no program -x; it has hello");
    check(&good, |cargo| cargo.examples = vec!["ex".into()], "no example ex; it has none");
    let library = [("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("src/lib.rs", "")];
    check(&library, |_| (), "has no programs");
    let two = [
        ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b\"]\nresolver = \"3\"\n"),
        (
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"0.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"0.0.0\"\n",
        ),
        ("a/Cargo.toml", "[package]\nname = \"a\"\n"),
        ("a/src/main.rs", MAIN),
        ("b/Cargo.toml", "[package]\nname = \"b\"\n"),
        ("b/src/main.rs", MAIN),
    ];
    check(&two, |_| (), "several packages (a, b)");
}

#[test]
fn a_package_outside_of_the_commit_is_refused() {
    let place = hello();
    let outside = place.dir.path().join("outside");
    Tree::of_files(&[("Cargo.toml", "[package]\nname = \"outside\"\nversion = \"0.1.0\"\n"), ("src/lib.rs", "")]).write(&outside);
    let manifest = format!("{MANIFEST}[dependencies]\noutside = {{ path = \"{}\" }}\n", outside.display());
    let lock = format!("{}dependencies = [\n \"outside\",\n]\n\n[[package]]\nname = \"outside\"\nversion = \"0.1.0\"\n", LOCK);
    place.repo.commit(&[("Cargo.toml", &manifest), ("Cargo.lock", &lock)], "two");
    let refusal = place.build(&cargo()).refusal();
    assert!(refusal.contains("the package outside lies outside of the commit"), "{refusal}");
    place.repo.commit(&[("Cargo.toml", &manifest.replace(&outside.display().to_string(), "../../outside"))], "three");
    assert!(place.build(&cargo()).refusal().contains("outside/Cargo.toml"));
}

#[test]
fn a_command_sees_the_commit_and_a_clean_environment() {
    let place = place(&[("a.txt", "one\n")]);
    let outcome = place.build(&command("mkdir out && env | sort > out/env && cp a.txt out && umask > out/umask && ls > out/ls"));
    let built = outcome.built();
    let read = |name: &str| fs::read_to_string(built.output.join(name)).expect("a file");
    let names: Vec<String> = read("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    let allowed = [
        "CARGO_HOME",
        "GIT_CEILING_DIRECTORIES",
        "HOME",
        "LANG",
        "LC_ALL",
        "PATH",
        "PWD",
        "RUSTUP_AUTO_INSTALL",
        "RUSTUP_HOME",
        "SOURCE_DATE_EPOCH",
        "TZ",
        "_",
        "OLDPWD",
        "SHLVL",
    ];
    assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{names:?}");
    assert_eq!((read("a.txt").as_str(), read("umask").trim(), read("ls").as_str()), ("one\n", "0022", "a.txt\nout\n"));
    drop(built);
    // What the first build left in the source directory is not there for the second.
    place.build(&command("test ! -e out && mkdir out && touch out/new")).built();
}

#[test]
fn an_output_that_cannot_be_an_image_is_refused_by_name() {
    let place = place(&[("a", "")]);
    for (line, expected) in [
        ("true", "the command left no out"),
        ("ln -s / out", "out is a symbolic link"),
        ("touch out", "out is no directory"),
        ("mkdir out", "left nothing"),
        ("mkdir -p out/d && mkfifo out/d/pipe", "out/d/pipe, which is a named pipe"),
        ("mkdir out && cp /bin/true out/su && chmod u+s out/su", "out/su, which runs with its owner's rights"),
    ] {
        let refusal = place.build(&command(line)).refusal();
        assert!(refusal.contains(expected), "{line}: {refusal:?} does not say {expected:?}");
    }
    let mut through = command("mkdir -p real/out && ln -s real link");
    if let BuildTool::Command { output, .. } = &mut through.tool {
        *output = path("link/out");
    }
    assert!(place.build(&through).refusal().contains("is a symbolic link"), "links on the way count too");
}

#[test]
fn modes_and_shared_files_are_made_plain() {
    let place = place(&[("a", "")]);
    let built = place
        .build(&command(
            "mkdir -m 0700 out && cd out && echo x > a && chmod 0600 a && ln a b && cp /bin/true t && chmod 0711 t && ln -s a l",
        ))
        .built();
    let mode = |name: &str| fs::symlink_metadata(built.output.join(name)).expect("a file").permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("b"), mode("t")), (0o644, 0o644, 0o755));
    assert_eq!(fs::read_link(built.output.join("l")).expect("a link"), Path::new("a"));
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(fs::metadata(built.output.join("a")).expect("a file").nlink(), 1);
}

#[test]
fn processes_that_a_command_leaves_are_killed() {
    let place = place(&[("a", "")]);
    let started = std::time::Instant::now();
    let built = place.build(&command("mkdir out; sleep 1000 & echo $! > out/pid; trap '' TERM HUP")).built();
    let pid: i32 = fs::read_to_string(built.output.join("pid")).expect("a pid").trim().parse().expect("a number");
    assert!(started.elapsed() < Duration::from_secs(60), "the build did not wait for it");
    // A killed process that nobody has waited for is a zombie, which is dead enough.
    let gone = wait_until(Duration::from_secs(10), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
    assert!(gone.is_some(), "process {pid} lives on");
}

#[test]
fn a_cancelled_build_ends_at_once_with_all_it_started() {
    let place = place(&[("a", "")]);
    let (pid_file, cancel) = (place.dir.path().join("pid"), AtomicBool::new(false));
    let (builder, repo) = (place.builder(), place.repo.dir());
    let section = command(&format!("sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' & wait", pid_file.display()));
    let result = std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            let repository = Repository::open(repo).expect("a repository");
            let commit = repository.resolve("HEAD").expect("a commit");
            builder.build(&repository, &commit, &section, &mut |_| (), &cancel)
        });
        wait_until(Duration::from_secs(30), || pid_file.exists().then_some(())).expect("the command started");
        cancel.store(true, Ordering::Relaxed);
        build.join().expect("no panic")
    });
    assert!(matches!(result, Err(BuildError::Cancelled)));
    let pid = fs::read_to_string(&pid_file).expect("a pid");
    let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).map_or(true, |stat| stat.contains(") Z "));
    wait_until(Duration::from_secs(10), || stat().then_some(())).expect("it is dead");
}

#[test]
fn a_second_build_waits_and_says_so() {
    let place = place(&[("a", "")]);
    let builder = place.builder();
    let first = place.build_in(&builder, &command("mkdir out && touch out/a")).built();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (repo, builder) = (place.repo.dir(), &builder);
    std::thread::scope(|scope| {
        let second = scope.spawn(move || {
            let repository = Repository::open(repo).expect("a repository");
            let commit = repository.resolve("HEAD").expect("a commit");
            let mut say = |event| drop(sender.send(event));
            builder.build(&repository, &commit, &command("mkdir out && touch out/b"), &mut say, &AtomicBool::new(false)).map(drop)
        });
        let waits =
            std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(30)).ok()).any(|event| event == BuildEvent::Waiting);
        assert!(waits, "it did not say that it waits");
        assert!(first.output.join("a").exists(), "the first output is still there");
        drop(first);
        second.join().expect("no panic").expect("it is built");
    });
}

#[test]
fn files_of_the_commit_alone_make_an_image() {
    let place = place(&[("site/index.html", "hi"), ("site/js/a.js", "x"), ("df.yaml", "")]);
    place.repo.commit_over(&Tree::from_table(&[("site/run", "#!", Kind::Executable), ("site/l", "run", Kind::Symlink)]), "two");
    let mut files = off(BuildTool::Files);
    files.sandbox = Sandbox::Strict;
    files.include.insert(path("site"), path("www"));
    files.include.insert(path("site/run"), path("bin/run"));
    let outcome = place.build(&files);
    assert_eq!(outcome.events, [BuildEvent::Phase("source"), BuildEvent::Phase("output")]);
    let built = outcome.built();
    assert!(!built.compiled);
    let expected = Tree::from_table(&[
        ("bin/run", "#!", Kind::Executable),
        ("www/index.html", "hi", Kind::File),
        ("www/js/a.js", "x", Kind::File),
        ("www/l", "run", Kind::Symlink),
        ("www/run", "#!", Kind::Executable),
    ]);
    assert_eq!(Tree::read(&built.output).differences(&expected), []);
    drop(built);
    files.include.insert(path("nosuch"), path("x"));
    assert!(place.build(&files).refusal().contains("build.include names nosuch"));
    files.include.remove(&path("nosuch"));
    files.include.insert(path("df.yaml"), path("www/run"));
    let refusal = place.build(&files).refusal();
    assert!(refusal.contains("build.include puts site/run (into www) where"), "{refusal}");
}

#[test]
fn nothing_is_included_through_a_link_that_a_command_left() {
    let place = place(&[("a", "new")]);
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    let mut section = command(&format!("mkdir out && ln -s {} out/static", outside.display()));
    section.include.insert(path("a"), path("static/a"));
    let refusal = place.build(&section).refusal();
    assert!(refusal.contains("static/a"), "{refusal}");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 0);
}

#[test]
fn a_link_out_of_the_source_is_refused_unless_it_is_named() {
    let place = place(&[("a", "")]);
    place.repo.commit_over(&Tree::from_table(&[("d/py", "/usr/bin/python3", Kind::Symlink)]), "two");
    let mut section = command("mkdir out && cp -P d/py out");
    let refusal = place.build(&section).refusal();
    assert!(refusal.contains("the link d/py leaves the source (to /usr/bin/python3)"), "{refusal}");
    section.outside_links.push("/usr/bin/python3".into());
    let built = place.build(&section).built();
    assert_eq!(fs::read_link(built.output.join("py")).expect("a link"), Path::new("/usr/bin/python3"));
}

#[test]
fn a_recipe_says_why_a_build_is_needed() {
    let place = hello();
    let changes = |recipe: &Recipe| -> Option<Vec<String>> {
        Some(place.builder().changes(recipe)?.iter().map(ToString::to_string).collect())
    };
    let first = place.recipe(&cargo());
    assert_eq!(changes(&first), None, "never built here");
    drop(place.build(&cargo()).built());
    assert_eq!(place.recipe(&cargo()).key(), first.key());
    assert_eq!(changes(&place.recipe(&cargo())), Some(vec![]));
    assert!(first.toolchain.contains_key("rustc") && first.toolchain.contains_key("cc"), "{:?}", first.toolchain);

    place.repo.commit(&[("src/main.rs", "fn main() {}"), ("src/b.rs", "")], "two");
    let changed = changes(&place.recipe(&cargo())).expect("built before");
    assert!(changed.len() == 1 && changed[0].starts_with("2 source files: "), "{changed:?}");
    place.repo.commit(&[("Cargo.toml", &format!("{MANIFEST}\n# x\n"))], "three");
    let changed = changes(&place.recipe(&cargo())).expect("built before");
    assert!(changed.len() == 2 && changed[0].starts_with("Cargo.toml: "), "{changed:?}");
    // What is kept from earlier trees is only a saving.
    let repository = Repository::open(place.repo.dir()).expect("a repository");
    let commit = repository.resolve("HEAD").expect("a commit");
    let manifest = repository.manifest(&commit).expect("a manifest");
    assert_eq!(place.recipe(&cargo()).source, df_core::Digest::of(&manifest.encode()));
    let equal = hello();
    assert_eq!(equal.recipe(&cargo()).source, first.source, "equal trees, equal sources");
}

#[test]
fn a_toolchain_that_is_not_here_is_said_before_anything_compiles() {
    let place = hello();
    place.repo.commit(&[("rust-toolchain.toml", "[toolchain]\npath = \"/tmp/evil\"\n")], "path");
    assert!(place.build(&cargo()).refusal().contains("not a path"));
    if Command::new("rustup").arg("--version").output().is_err() {
        return; // A compiler without rustup reads no such file.
    }
    place.repo.commit(&[("rust-toolchain.toml", "[toolchain]\nchannel = \"1.2.3\"\n")], "two");
    let outcome = place.build(&cargo());
    assert!(!outcome.events.iter().any(|event| matches!(event, BuildEvent::Phase(_))), "{:?}", outcome.events);
    let refusal = outcome.refusal();
    assert!(refusal.ends_with("which is not installed; run: rustup toolchain install 1.2.3"), "{refusal}");
}

#[test]
fn a_build_script_that_asks_git_finds_no_repository_around_the_cache() {
    let place = place(&[("x", "1")]);
    // The cache lies in the work tree of some repository, as it does for a home directory under git.
    Repo::new(&place.cache()).commit(&[("home", "1")], "home");
    let built = place.build(&command("mkdir out; git rev-parse HEAD > out/commit 2>&1 || true")).built();
    let said = fs::read_to_string(built.output.join("commit")).expect("written");
    assert!(said.contains("not a git repository"), "{said}");
}

#[test]
fn a_command_has_the_files_that_it_names_by_digest() {
    let place = place(&[("a.txt", "one\n")]);
    let digest = df_core::Digest::of(b"two\n").to_string();
    // What is kept under its digest is not fetched: nobody listens at this address.
    let kept = place.cache().join("build/files");
    fs::create_dir_all(&kept).expect("a directory");
    fs::write(kept.join(format!("blake3-{digest}")), "two\n").expect("a file");
    let file = |to: &str| FetchedFile {
        url: "http://127.0.0.1:9/b".into(),
        digest: FetchedDigest::Blake3(digest.clone()),
        to: path(to),
    };
    let mut section = command("mkdir out && cat a.txt more/b.txt > out/both");
    section.fetch = vec![file("more/b.txt")];
    for sandbox in [Sandbox::Off, Sandbox::Strict] {
        section.sandbox = sandbox;
        let built = place.build(&section).built();
        assert_eq!(fs::read_to_string(built.output.join("both")).expect("a file"), "one\ntwo\n");
    }
    section.fetch = vec![file("a.txt")];
    let refusal = place.build(&section).refusal();
    assert!(refusal.contains("puts a file at a.txt, where the commit"), "{refusal}");
}
