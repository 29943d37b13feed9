//! What of cargo's configuration a fetch may hear.
//!
//! A commit's `.cargo/config.toml` can name programs that cargo runs on its own (compilers and their wrappers, credential providers, runners, git). So
//! cargo never sees that file while it fetches: it gets a cleaned one with what says where packages come from, and nothing else. Flags that decide which
//! dependencies a platform has (`--cfg`, `target-feature`, `target-cpu`) are taken out of the compiler's flags one by one.
//!
//! The operator's own configuration (`$CARGO_HOME/config.toml`) applies as it is. One trap lies between the two: cargo finds tokens by a registry's
//! *name*, so a commit that gave a known name another address would be sent the operator's token. That is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use df_core::text::{escape, shorten};
use toml::{Table, Value};

use super::lock::{Lock, LockedSource};
use crate::directory;
use crate::recipe::TARGET;
use crate::recipe::environment::Host;

/// Bytes of a configuration.
const LEN: u64 = 1 << 20;
/// Configurations that include one another.
const N_INCLUDED: usize = 16;

/// How compilers are told to use all that the processor at hand can do.
const NATIVE: [&str; 4] = ["target-cpu=native", "march=native", "mtune=native", "mcpu=native"];

/// The commit's configuration of cargo cannot be used for fetching.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FetchConfigError {
    #[error("{file} of the commit cannot be read: {said}")]
    Unreadable { file: String, said: String },
    #[error("{file} of the commit is a link, or longer than {LEN} bytes; make it a small regular file")]
    NotRegular { file: String },
    #[error("{key} in the commit's cargo configuration is {found}, which lies outside of the commit")]
    Outside { key: String, found: String },
    #[error("{key} in the commit's cargo configuration is {found}, which is no address of a registry or repository")]
    Address { key: String, found: String },
    #[error(
        "the commit says where the registry {name} is ({found}), and you hold a token for that name, which would be sent there; \
         if that is right, write registries.{name}.index = \"{found}\" into {file}"
    )]
    WouldSendToken { name: String, found: String, file: String },
    #[error(
        "{key} in the commit's cargo configuration says {found}, which is another program on each machine; name a processor instead \
         (x86-64-v3, for one), or write `sandbox: off`"
    )]
    Native { key: String, found: String },
}

/// What a fetch hears of a commit's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// A configuration with absolute paths.
    pub text: String,
    /// Flags for the compiler that decide which dependencies a platform has.
    pub flags: Vec<String>,
    /// Directories below the source that hold vendored packages.
    pub vendored: Vec<PathBuf>,
    /// Registries by name, with their addresses.
    pub registries: BTreeMap<String, String>,
}

/// Reads the configuration of a source directory, as cargo would find it from there, and cleans it.
pub(crate) fn of_source(source: &Path) -> Result<Cleaned, FetchConfigError> {
    let mut cleaned = Cleaned::default();
    // The name without an ending is older, and what cargo takes when both are there.
    for name in ["config", "config.toml"] {
        let file = PathBuf::from(".cargo").join(name);
        if let Some(table) = read_in(source, &file)? {
            let mut n_left = N_INCLUDED;
            let table = with_included(source, &file, table, &mut n_left)?;
            refuse_native(&table)?;
            cleaned.take(&table, source)?;
            break;
        }
    }
    Ok(cleaned)
}

/// Refuses a commit that moves a registry for which the operator holds a token.
pub(crate) fn refuse_sent_tokens(cleaned: &Cleaned, host: &Host, variables: &BTreeSet<String>) -> Result<(), FetchConfigError> {
    if cleaned.registries.is_empty() {
        return Ok(());
    }
    let own = Own::read(host);
    for (name, found) in &cleaned.registries {
        let variable = format!("CARGO_REGISTRIES_{}_TOKEN", name.to_uppercase().replace('-', "_"));
        let has_token = own.with_token.contains(name) || variables.contains(&variable);
        if has_token && own.registries.get(name) != Some(found) {
            let file = host.cargo_home.join("config.toml").display().to_string();
            return Err(FetchConfigError::WouldSendToken {
                name: escape(name.as_bytes()),
                found: escape(found.as_bytes()),
                file,
            });
        }
    }
    Ok(())
}

/// Refuses flags for the processor that happens to build: the recipe does not know it.
fn refuse_native(table: &Table) -> Result<(), FetchConfigError> {
    let part = |name: &str| Some((name.to_owned(), table.get(name)?));
    let target = tables_of(table.get("target")).filter(|(name, _)| is_ours(name));
    let target = target.filter_map(|(name, table)| Some((format!("target.{name}.rustflags"), table.get("rustflags")?)));
    let all = ["build", "env"].into_iter().filter_map(part).chain(target);
    for (key, value) in all {
        if let Some(found) = texts_of(value).into_iter().find(|text| NATIVE.iter().any(|native| text.contains(native))) {
            let shown = |text: &str| shorten(&escape(text.as_bytes()), 200);
            return Err(FetchConfigError::Native { key: shown(&key), found: shown(found) });
        }
    }
    Ok(())
}

/// Returns all texts in a value.
fn texts_of(value: &Value) -> Vec<&str> {
    let (mut open, mut texts) = (vec![value], vec![]);
    while let Some(value) = open.pop() {
        match value {
            Value::String(text) => texts.push(text.as_str()),
            Value::Array(list) => open.extend(list),
            Value::Table(table) => open.extend(table.iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    texts
}

/// Returns whether a table of targets by this name may mean ours.
fn is_ours(target: &str) -> bool {
    target == TARGET || target.starts_with("cfg(")
}

/// Returns the operator's configuration file, if there is one.
pub(crate) fn own_file(host: &Host) -> Option<PathBuf> {
    ["config", "config.toml"].map(|name| host.cargo_home.join(name)).into_iter().find(|path| path.is_file())
}

/// Returns whether the operator's configuration takes packages from other places than they name.
pub(crate) fn own_replaces(host: &Host) -> bool {
    let text = own_file(host).and_then(|file| std::fs::read_to_string(file).ok());
    let table = text.and_then(|text| text.parse::<Table>().ok()).unwrap_or_default();
    tables_of(table.get("source")).any(|(_, source)| source.contains_key("replace-with"))
}

/// Returns the configuration that a build needs besides the commit's: where the registries are that only the operator's configuration names and that
/// the lock takes packages from. No tokens, no programs, nothing else.
pub(crate) fn for_room(lock: &Lock, host: &Host) -> String {
    let used: BTreeSet<String> = lock
        .packages
        .iter()
        .filter_map(|package| match &package.source {
            Some(LockedSource::Registry(url)) => Some(url.clone()),
            Some(LockedSource::Sparse(url)) => Some(format!("sparse+{url}")),
            _ => None,
        })
        .collect();
    let used_here = |(_, index): &(&String, &String)| used.contains(index.strip_prefix("registry+").unwrap_or(index));
    let line = |(name, index): (&String, &String)| format!("[registries.{}]\nindex = {}\n", quoted(name), quoted(index));
    Own::read(host).registries.iter().filter(used_here).map(line).collect()
}

/// What the operator's files say of registries.
#[derive(Default)]
struct Own {
    registries: BTreeMap<String, String>,
    with_token: BTreeSet<String>,
}

impl Own {
    fn read(host: &Host) -> Self {
        let mut own = Self::default();
        let credentials = ["credentials", "credentials.toml"].map(|name| host.cargo_home.join(name));
        for file in own_file(host).into_iter().chain(credentials) {
            let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<Table>().ok()).unwrap_or_default();
            for (name, registry) in tables_of(table.get("registries")) {
                if let Some(index) = registry.get("index").and_then(Value::as_str) {
                    own.registries.insert(name.clone(), index.to_owned());
                }
                if ["token", "secret-key", "credential-provider"].iter().any(|key| registry.contains_key(*key)) {
                    own.with_token.insert(name.clone());
                }
            }
        }
        own
    }
}

impl Cleaned {
    fn take(&mut self, table: &Table, source: &Path) -> Result<(), FetchConfigError> {
        for (name, from) in tables_of(table.get("source")) {
            self.take_source(name, from, source)?;
        }
        for (name, registry) in tables_of(table.get("registries")) {
            let key = format!("registries.{}", quoted(name));
            let mut lines = String::new();
            if let Some(index) = registry.get("index").and_then(Value::as_str) {
                lines += &line("index", address(&format!("{key}.index"), index)?);
                self.registries.insert(name.clone(), index.to_owned());
            }
            if let Some(protocol @ ("git" | "sparse")) = registry.get("protocol").and_then(Value::as_str) {
                lines += &line("protocol", protocol);
            }
            self.add_table(&key, &lines);
        }
        if let Some(default) = table.get("registry").and_then(|registry| registry.get("default")).and_then(Value::as_str) {
            self.add_table("registry", &line("default", default));
        }
        for (from, patched) in tables_of(table.get("patch")) {
            for (name, with) in patched.iter().filter_map(|(name, with)| Some((name, with.as_table()?))) {
                self.take_patch(&format!("patch.{}.{}", quoted(from), quoted(name)), with, source)?;
            }
        }
        self.take_flags(table);
        Ok(())
    }

    fn take_source(&mut self, name: &str, from: &Table, source: &Path) -> Result<(), FetchConfigError> {
        let key = format!("source.{}", quoted(name));
        let mut lines = String::new();
        for (part, value) in from {
            let Some(value) = value.as_str() else { continue };
            let whole = || format!("{key}.{part}");
            lines += &match part.as_str() {
                "replace-with" | "branch" | "tag" | "rev" => line(part, value),
                "registry" | "git" => line(part, address(&whole(), value)?),
                "directory" | "local-registry" => {
                    let dir = inside(source, &whole(), value)?;
                    let written = line(part, &dir.to_string_lossy());
                    self.vendored.push(dir);
                    written
                }
                _ => continue,
            };
        }
        self.add_table(&key, &lines);
        Ok(())
    }

    fn take_patch(&mut self, key: &str, with: &Table, source: &Path) -> Result<(), FetchConfigError> {
        let mut lines = String::new();
        for (part, value) in with {
            lines += &match (part.as_str(), value) {
                ("path", Value::String(path)) => line(part, &inside(source, &format!("{key}.path"), path)?.to_string_lossy()),
                ("git", Value::String(url)) => line(part, address(&format!("{key}.git"), url)?),
                ("branch" | "tag" | "rev" | "version" | "package" | "registry", Value::String(text)) => line(part, text),
                ("default-features", Value::Boolean(on)) => format!("{part} = {on}\n"),
                ("features", Value::Array(features)) => {
                    let list: Vec<String> = features.iter().filter_map(Value::as_str).map(quoted).collect();
                    format!("{part} = [{}]\n", list.join(", "))
                }
                _ => continue,
            };
        }
        self.add_table(key, &lines);
        Ok(())
    }

    /// Takes the flags for all targets, for the one target, and for whatever `cfg(...)` may mean it.
    fn take_flags(&mut self, table: &Table) {
        let target = tables_of(table.get("target")).filter(|(name, _)| is_ours(name));
        let all = table.get("build").and_then(Value::as_table).into_iter().chain(target.map(|(_, table)| table));
        let flags: Vec<String> = all.flat_map(|table| flags_of(table.get("rustflags"))).collect();
        self.flags.extend(deciding(&flags));
    }

    fn add_table(&mut self, key: &str, lines: &str) {
        if !lines.is_empty() {
            self.text += &format!("[{key}]\n{lines}");
        }
    }
}

/// Reads a table in the source; `None` when there is no such file.
fn read_in(source: &Path, file: &Path) -> Result<Option<Table>, FetchConfigError> {
    let shown = || escape(file.as_os_str().as_encoded_bytes());
    let unreadable = |said: &str| FetchConfigError::Unreadable { file: shown(), said: shorten(&escape(said.as_bytes()), 400) };
    let open = || {
        let mut dir = directory::open(source)?;
        for name in file.parent().into_iter().flat_map(Path::components) {
            dir = directory::open_in(&dir, name.as_os_str().as_encoded_bytes())?;
        }
        directory::open_file(&dir, file.file_name().unwrap_or_default().as_encoded_bytes())
    };
    let opened = match open() {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(None),
        Err(_) => return Err(FetchConfigError::NotRegular { file: shown() }),
    };
    let mut text = String::new();
    opened.take(LEN + 1).read_to_string(&mut text).map_err(|error| unreadable(&error.to_string()))?;
    if text.len() as u64 > LEN {
        return Err(FetchConfigError::NotRegular { file: shown() });
    }
    text.parse().map(Some).map_err(|error: toml::de::Error| unreadable(error.message()))
}

/// Returns a table over those that it includes.
fn with_included(source: &Path, file: &Path, table: Table, n_left: &mut usize) -> Result<Table, FetchConfigError> {
    let included = match table.get("include") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => {
            many.iter().filter_map(|one| one.as_str().or_else(|| one.get("path").and_then(Value::as_str))).collect()
        }
        _ => vec![],
    };
    let mut whole = Table::new();
    for one in included {
        let key = format!("include of {}", escape(file.as_os_str().as_encoded_bytes()));
        let outside = || FetchConfigError::Outside { key: key.clone(), found: shorten(&escape(one.as_bytes()), 200) };
        *n_left = n_left.checked_sub(1).ok_or_else(outside)?;
        let path = normal(&file.parent().unwrap_or(Path::new("")).join(one)).ok_or_else(outside)?;
        if let Some(table) = read_in(source, &path)? {
            put_over(&mut whole, with_included(source, &path, table, n_left)?);
        }
    }
    put_over(&mut whole, table);
    Ok(whole)
}

/// Puts a table over another as cargo does: tables go into each other, lists behind each other, anything else replaces.
fn put_over(below: &mut Table, above: Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => put_over(below, above),
            (Some(Value::Array(below)), Value::Array(above)) => below.extend(above),
            (_, value) => drop(below.insert(name, value)),
        }
    }
}

fn tables_of(value: Option<&Value>) -> impl Iterator<Item = (&String, &Table)> {
    value.and_then(Value::as_table).into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_table()?)))
}

fn flags_of(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(line)) => line.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![],
    }
}

/// Returns the flags that decide what `cfg(...)` means. Any other could load code into the compiler (`-Zcodegen-backend`, `-Cllvm-args=-load`).
fn deciding(flags: &[String]) -> Vec<String> {
    let decides = |option: &str| option.starts_with("target-feature=") || option.starts_with("target-cpu=");
    let mut taken = vec![];
    let mut words = flags.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--cfg" => taken.extend(words.next().map(|cfg| format!("--cfg={cfg}"))),
            "-C" | "--codegen" => taken.extend(words.next().filter(|option| decides(option)).map(|option| format!("-C{option}"))),
            _ if word.starts_with("--cfg=") => taken.push(word.to_owned()),
            _ => taken.extend(word.strip_prefix("-C").filter(|option| decides(option)).map(|option| format!("-C{option}"))),
        }
    }
    taken
}

fn line(key: &str, value: &str) -> String {
    format!("{key} = {}\n", quoted(value))
}

/// Writes text as TOML.
fn quoted(text: &str) -> String {
    // A JSON text is a TOML one too, but for one character that TOML wants escaped.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn address<'a>(key: &str, text: &'a str) -> Result<&'a str, FetchConfigError> {
    let url = text.strip_prefix("sparse+").or_else(|| text.strip_prefix("registry+")).unwrap_or(text);
    let known = ["https://", "http://", "ssh://", "git://", "file://"].iter().any(|scheme| url.starts_with(scheme));
    if known && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(FetchConfigError::Address { key: escape(key.as_bytes()), found: shorten(&escape(text.as_bytes()), 200) })
}

/// Returns a directory that a configuration names, absolute; also behind links it may not lie outside of the source.
fn inside(source: &Path, key: &str, path: &str) -> Result<PathBuf, FetchConfigError> {
    let outside = || FetchConfigError::Outside { key: escape(key.as_bytes()), found: shorten(&escape(path.as_bytes()), 200) };
    let place = source.join(normal(Path::new(path)).ok_or_else(outside)?);
    let real = |path: &Path| path.canonicalize().ok();
    match (real(&place), real(source)) {
        (Some(place), Some(source)) if !place.starts_with(&source) => Err(outside()),
        _ => Ok(place),
    }
}

/// Returns a relative path without `.` and `..`; `None` when it leads out.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn source(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join(".cargo")).expect("a directory");
        for (path, text) in files {
            fs::write(dir.path().join(path), text).expect("a file");
        }
        dir
    }

    fn cleaned(text: &str) -> Result<Cleaned, FetchConfigError> {
        of_source(source(&[(".cargo/config.toml", text)]).path())
    }

    #[test]
    fn only_what_says_where_packages_come_from_is_heard() {
        let dir = source(&[(
            ".cargo/config.toml",
            "paths = ['/x']\n[build]\nrustc = 'evil'\nrustc-wrapper = 'evil'\nrustflags = ['--cfg', 'a', '-Clinker=evil', '-Zcodegen-backend=evil.so']\n\
             [source.crates-io]\nreplace-with = 'v'\nevil = 'x'\n[source.v]\ndirectory = 'vendor'\n\
             [registries.own]\nindex = 'https://example.org/'\ntoken = 'secret'\ncredential-provider = 'evil'\n\
             [registry]\ndefault = 'own'\nglobal-credential-providers = ['evil']\n[net]\ngit-fetch-with-cli = true\n[http]\nproxy = 'evil'\n\
             [target.x86_64-unknown-linux-gnu]\nrunner = 'evil'\nrustflags = '-C target-cpu=x86-64-v3 -C llvm-args=-load=evil.so'\n\
             [env]\nPATH = 'evil'\n[patch.crates-io]\na = { path = 'a', evil = 1 }\n",
        )]);
        let cleaned = of_source(dir.path()).expect("cleaned");
        let at = dir.path().display();
        let expected = format!(
            "[source.\"crates-io\"]\nreplace-with = \"v\"\n[source.\"v\"]\ndirectory = \"{at}/vendor\"\n\
             [registries.\"own\"]\nindex = \"https://example.org/\"\n[registry]\ndefault = \"own\"\n\
             [patch.\"crates-io\".\"a\"]\npath = \"{at}/a\"\n"
        );
        assert_eq!(cleaned.text, expected);
        assert_eq!(cleaned.flags, ["--cfg=a", "-Ctarget-cpu=x86-64-v3"]);
        assert_eq!(cleaned.vendored, [dir.path().join("vendor")]);
        assert!(cleaned.text.parse::<Table>().is_ok());
    }

    #[test]
    fn text_stays_text_in_what_is_written() {
        let cleaned = cleaned("[source.\"a\\\"]\\n[build]\\nrustc = \\\"x\"]\nreplace-with = \"b\\\"\\nrustc = \\\"\\u007F\"\n")
            .expect("cleaned");
        let table: Table = cleaned.text.parse().expect("TOML");
        assert_eq!(table.keys().collect::<Vec<_>>(), ["source"], "{}", cleaned.text);
    }

    #[test]
    fn included_files_lie_under_what_includes_them() {
        let dir = source(&[
            (
                ".cargo/config.toml",
                "include = ['more.toml', { path = 'none.toml', optional = true }]\n[source.a]\nreplace-with = 'over'\n",
            ),
            (".cargo/more.toml", "[source.a]\nreplace-with = 'under'\n[source.b]\nreplace-with = 'c'\n"),
        ]);
        let text = of_source(dir.path()).expect("cleaned").text;
        assert_eq!(text, "[source.\"a\"]\nreplace-with = \"over\"\n[source.\"b\"]\nreplace-with = \"c\"\n");
        assert!(matches!(cleaned("include = '../../x.toml'"), Err(FetchConfigError::Outside { .. })));
        assert!(matches!(cleaned("include = 'config.toml'"), Err(FetchConfigError::Outside { .. })), "for ever");
    }

    #[test]
    fn what_leads_out_of_the_commit_is_refused() {
        for path in ["/usr/share/cargo/registry", "../x", "a/../../x"] {
            for text in [
                format!("[source.a]\ndirectory = '{path}'"),
                format!("[source.a]\nlocal-registry = '{path}'"),
                format!("[patch.a.b]\npath = '{path}'"),
            ] {
                assert!(matches!(cleaned(&text), Err(FetchConfigError::Outside { .. })), "{text}");
            }
        }
        let dir = source(&[(".cargo/config.toml", "[source.a]\ndirectory = 'out'")]);
        std::os::unix::fs::symlink("/usr", dir.path().join("out")).expect("a link");
        assert!(matches!(of_source(dir.path()), Err(FetchConfigError::Outside { .. })));
    }

    #[test]
    fn addresses_and_files_of_other_kinds_are_refused() {
        for text in [
            "[registries.a]\nindex = 'ext::sh -c x'",
            "[source.a]\ngit = '-oProxyCommand=x'",
            "[source.a]\nregistry = 'https://a b'",
            "[patch.a.b]\ngit = 'ext::x'",
        ] {
            assert!(matches!(cleaned(text), Err(FetchConfigError::Address { .. })), "{text}");
        }
        assert!(matches!(cleaned("[source"), Err(FetchConfigError::Unreadable { .. })));
        assert!(matches!(cleaned(&"#".repeat(1 + LEN as usize)), Err(FetchConfigError::NotRegular { .. })));
        let dir = source(&[]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(".cargo/config.toml")).expect("a link");
        assert!(matches!(of_source(dir.path()), Err(FetchConfigError::NotRegular { .. })));
        assert_eq!(of_source(source(&[]).path()).expect("none"), Cleaned::default());
    }
}
