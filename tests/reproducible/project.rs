//! What is built in both worlds: a small project that asks for trouble, and published ones.

use std::path::{Path, PathBuf};

use df_testkit::repo::Repo;
use df_testkit::tree::Tree;

use crate::real::package::fetched;
use crate::support::shared;

/// A project as a repository of one commit, and as plain files.
pub struct Project {
    /// The application's name, and its program's.
    pub program: &'static str,
    /// Where the repository is.
    pub repo: Repo,
    /// The first commit.
    pub commit: String,
}

/// A published project, and what of it is built.
pub struct Published {
    name: &'static str,
    number: &'static str,
    /// Its program's name.
    pub program: &'static str,
    features: &'static str,
}

/// Published projects that `ci/fetch-real` brings, and what makes each one worth a try.
pub const PUBLISHED: [Published; 6] = [
    // A build script that writes files about the time, the compiler and the user; C code (zstd); procedural macros.
    Published { name: "static-web-server", number: "2.44.1", program: "static-web-server", features: "compression-zstd" },
    // C code by other hands, with its own idea of a version and of where it lies (libgit2, zlib); link-time optimisation.
    Published { name: "git-absorb", number: "0.9.0", program: "git-absorb", features: "" },
    // Debug information in the release; a build script that asks git.
    Published { name: "ripgrep", number: "15.2.0", program: "rg", features: "" },
    // A tree of asynchronous code.
    Published { name: "simple-http-server", number: "0.8.1", program: "simple-http-server", features: "" },
    // Link-time optimisation over one code generation unit.
    Published { name: "hexyl", number: "0.17.0", program: "hexyl", features: "" },
    // Link-time optimisation over many, on several cores.
    Published { name: "sd", number: "1.0.0", program: "sd", features: "" },
];

impl Published {
    /// Makes a repository of it.
    pub fn project(&self) -> Project {
        let repo = empty_repo(self.name);
        let mut tree = Tree::read(&fetched(self.name, self.number));
        tree.0.extend(Tree::of_files(&[("df.yaml", &df_yaml(self.program, self.features))]).0);
        let commit = repo.commit_over(&tree, self.number);
        Project { program: self.program, repo, commit }
    }
}

/// A workspace of three packages and one of a registry: a build script that writes files, compiles C and lists a directory; paths, lines and times in
/// the code of all of them. Each test has its own, in a directory of this name.
pub fn small(dir: &str) -> Project {
    let repo = empty_repo(dir);
    let lock = lock_file();
    let yaml = df_yaml("small", "");
    let mut files = SMALL.to_vec();
    files.extend([("Cargo.lock", lock.as_str()), ("df.yaml", yaml.as_str())]);
    let commit = repo.commit(&files, "small");
    Project { program: "small", repo, commit }
}

/// A file of the small project, and what one byte of it can be changed into.
pub const ONE_BYTE: (&str, &str, &str) = ("words/src/lib.rs", "Hello", "Hallo");

const SMALL: &[(&str, &str)] = &[
    ("Cargo.toml", SMALL_MANIFEST),
    ("src/main.rs", SMALL_MAIN),
    ("words/Cargo.toml", "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    (
        "words/src/lib.rs",
        "pub fn greeting() -> &'static str {\n    \"Hello.\"\n}\n\npub fn here() -> (&'static str, u32) {\n    (file!(), line!())\n}\n",
    ),
    ("made/Cargo.toml", "[package]\nname = \"made\"\nversion = \"0.1.0\"\nedition = \"2021\"\nlinks = \"made\"\n"),
    ("made/src/lib.rs", MADE_LIB),
    ("made/build.rs", MADE_BUILD),
    ("made/c/where.c", WHERE_C),
    ("made/data/zebra", "1\n"),
    ("made/data/ant", "2\n"),
    ("made/data/mouse", "3\n"),
    ("made/data/bee", "4\n"),
];
const SMALL_MANIFEST: &str = r#"[package]
name = "small"
version = "0.1.0"
edition = "2021"

[workspace]
members = ["words", "made"]

[dependencies]
words = { path = "words" }
made = { path = "made" }
bytes = "1"

[profile.release]
debug = 1
"#;
const SMALL_MAIN: &str = r#"use bytes::Buf;

fn main() {
    let (file, line) = words::here();
    println!("{} from {file}:{line} in {}", words::greeting(), env!("CARGO_MANIFEST_DIR"));
    println!("{:?} {:?} written by {}", made::NAMES, made::c_says(), made::WRITTEN_TO);
    // Code that panics holds the path of its own source.
    let mut bytes = bytes::Bytes::copy_from_slice(std::env::args().next().unwrap_or_default().as_bytes());
    println!("{}", bytes.get_u8() + made::first_byte_of(&[]));
}
"#;
const MADE_LIB: &str = r#"include!(concat!(env!("OUT_DIR"), "/names.rs"));
pub const WRITTEN_TO: &str = env!("OUT_DIR");

extern "C" {
    fn made_says() -> *const std::ffi::c_char;
}

pub fn c_says() -> &'static std::ffi::CStr {
    // SAFETY: the function returns a constant.
    unsafe { std::ffi::CStr::from_ptr(made_says()) }
}
"#;
/// Sorts what it lists, as a build script has to; everything else it takes as it comes.
const MADE_BUILD: &str = r#"use std::process::Command;
use std::{env, fs, path::Path};

fn main() {
    let (out, here) = (env::var("OUT_DIR").unwrap(), env::var("CARGO_MANIFEST_DIR").unwrap());
    let mut names: Vec<_> = fs::read_dir("data").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let code = format!("pub const NAMES: &[&str] = &{names:?};\npub fn first_byte_of(bytes: &[u8]) -> u8 {{ if bytes.len() > NAMES.len() {{ bytes[0] }} else {{ 0 }} }}\n");
    fs::write(Path::new(&out).join("names.rs"), code).unwrap();
    let run = |program: &str, args: &[&str]| assert!(Command::new(program).args(args).status().unwrap().success());
    let (object, library) = (format!("{out}/where.o"), format!("{out}/libwhere.a"));
    run("cc", &["-g", "-O1", "-fPIC", "-c", &format!("{here}/c/where.c"), "-o", &object]);
    run("ar", &["crs", &library, &object]);
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static=where");
}
"#;
const WHERE_C: &str = "const char *made_says(void) { return __FILE__ \" on \" __DATE__ \" at \" __TIME__; }\n";

/// Returns the settings of a project that gives one program; the sandbox is what it is by default.
fn df_yaml(program: &str, features: &str) -> String {
    format!("app: reproducible\nbuild:\n  cargo: {{ bins: [{program}], features: [{features}] }}\n")
}

/// Returns a lock file with what this repository has locked of it.
fn lock_file() -> String {
    let ours = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("our own Cargo.lock");
    let bytes = ours.split("\n\n").find(|block| block.contains("\nname = \"bytes\"\n")).expect("bytes is in our lock file");
    let own = |name: &str, needs: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\n{needs}\n");
    let small = own("small", "dependencies = [\n \"bytes\",\n \"made\",\n \"words\",\n]\n");
    format!("version = 4\n\n{bytes}\n\n{}{small}{}", own("made", ""), own("words", "")).trim_end().to_owned() + "\n"
}

fn empty_repo(name: &str) -> Repo {
    let dir: PathBuf = shared().join("reproducible").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("make {}: {error}", dir.display()));
    Repo::new(&dir)
}
