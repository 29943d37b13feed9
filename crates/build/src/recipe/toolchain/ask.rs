//! The tools themselves: found on the search path, asked for what they are and which files they work with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_core::Digest;
use df_core::text::{escape, shorten};

use super::choice::{self, Choice};
use super::content::{self, Contents, Files};
use super::{BUILD_VERSION, Chosen, N_KEPT, Toolchain, ToolchainError, Wanted, text_of_configs};
use crate::keep::Keep;
use crate::recipe::environment::{self, Host};

/// What of a C compiler decides about its output, besides itself.
const C_PROGRAMS: [&str; 6] = ["cc1", "cc1plus", "collect2", "as", "ar", "c++"];
/// What of the C library and of the compiler's own goes into every program.
const C_FILES: [&str; 20] = [
    "crt1.o",
    "Scrt1.o",
    "rcrt1.o",
    "crti.o",
    "crtn.o",
    "crtbegin.o",
    "crtbeginS.o",
    "crtbeginT.o",
    "crtend.o",
    "crtendS.o",
    "libc.so.6",
    "libc.a",
    "libc_nonshared.a",
    "libm.so.6",
    "libm.a",
    "libgcc.a",
    "libgcc_eh.a",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libstdc++.a",
];

/// The programs that there are, by name. A strict build has a search path of its own, so its C compiler is looked for there.
pub(super) struct Found(pub Vec<(&'static str, PathBuf)>);

impl Found {
    pub fn new(host: &Host, wanted: Wanted) -> Result<Self, ToolchainError> {
        let tools = [
            ("rustc", "install Rust from https://rustup.rs", true),
            ("cargo", "install Rust from https://rustup.rs", true),
            ("cc", "install a C compiler, which links Rust programs (Debian: apt install gcc)", true),
            ("ld", "", false),
            ("as", "", false),
        ];
        let mut found = vec![];
        for (program, advice, needed) in tools {
            let path = find(host, wanted, program);
            match (path, host.find(program)) {
                (Some(path), _) => found.push((program, path)),
                (None, Some(path)) if wanted.cargo && needed => return Err(not_visible(program, &path)),
                (None, _) if wanted.cargo && needed => return Err(ToolchainError::Missing { program, advice }),
                (None, _) => {}
            }
        }
        Ok(Self(found))
    }

    pub fn path(&self, program: &str) -> Option<&Path> {
        self.0.iter().find_map(|(name, path)| (*name == program).then_some(path.as_path()))
    }
}

/// Asks all tools; returns them, and the files whose change makes the answer a new one.
pub(super) fn ask(
    host: &Host,
    keep: &Keep,
    chosen: &Chosen<'_>,
    wanted: Wanted,
    found: &Found,
    files_above: &[PathBuf],
) -> Result<(Toolchain, Vec<PathBuf>), ToolchainError> {
    let failed = |source| ToolchainError::Ask { program: "rustc", source };
    // Beside the source, so that what rustup and cargo find in the directories above is the same.
    crate::keep::make_dir(&keep.dir).map_err(failed)?;
    let dir = tempfile::Builder::new().prefix("ask-").tempdir_in(&keep.dir).map_err(failed)?;
    let mut choice = None;
    for (name, _) in &chosen.digests {
        let bytes = (chosen.read)(name).unwrap_or_default();
        let named = choice::parse(name, &bytes)?;
        // rustup prefers the file without an ending, which comes first.
        choice = choice.or(Some(named));
        fs::write(dir.path().join(name), bytes).map_err(failed)?;
    }
    let asker = Asker { host, found, dir: dir.path(), wanted };
    let mut toolchain = Toolchain::default();
    let mut tools = asker.rust(&choice.unwrap_or_default(), &mut toolchain)?;
    tools.extend(asker.c(toolchain.sysroot.as_deref())?);
    if wanted.strict {
        refuse_invisible(&tools, &toolchain)?;
    }
    toolchain.versions = versions(&tools, &Contents::known(keep))?;
    let configs = if wanted.strict { vec![] } else { text_of_configs(files_above) };
    if !configs.is_empty() {
        toolchain.versions.insert("cargo configuration outside of the source".into(), Digest::of(&configs).short());
    }
    let behind = behind(host, found, &tools, toolchain.sysroot.as_deref());
    Ok((toolchain, behind))
}

/// A tool: its name in the recipe, what it says of itself, and its files.
struct Tool {
    name: &'static str,
    version: String,
    files: Files,
}

struct Asker<'a> {
    host: &'a Host,
    found: &'a Found,
    dir: &'a Path,
    wanted: Wanted,
}

impl Asker<'_> {
    fn rust(&self, choice: &Choice, toolchain: &mut Toolchain) -> Result<Vec<Tool>, ToolchainError> {
        let mut tools = vec![];
        if let Some(found) = self.found.path("rustc") {
            let verbose = match self.said("rustc", &["-vV"]).map_err(|error| not_installed(error, choice)) {
                // rustup without a default toolchain: the command finds no compiler either, and may want none.
                Err(ToolchainError::Refused { .. }) if !self.wanted.cargo && choice.channel.is_none() => return Ok(tools),
                answer => answer?,
            };
            let version = version_of(&verbose, "rustc ");
            toolchain.commit_hash = verbose.lines().find_map(|line| line.strip_prefix("commit-hash: ")).map(str::to_owned);
            let sysroot = PathBuf::from(self.said("rustc", &["--print", "sysroot"])?.trim());
            let own = sysroot.join("bin/rustc");
            let by_rustup = own.is_file() && own.canonicalize().ok() != found.canonicalize().ok();
            check_choice(choice, &version, &sysroot, by_rustup)?;
            let rustc = if by_rustup { &own } else { found };
            toolchain.bin = rustc.parent().filter(|dir| dir.join("cargo").is_file()).map(Path::to_owned);
            toolchain.sysroot = Some(sysroot.to_string_lossy().into_owned());
            tools.push(Tool { name: "rustc", version, files: content::of_rustc(rustc, &sysroot) });
        }
        if let Some(found) = self.found.path("cargo") {
            let version = version_of(&self.said("cargo", &["-V"]).map_err(|error| not_installed(error, choice))?, "cargo ");
            let mut files = Files::default();
            files.add("cargo", &toolchain.bin.as_ref().map_or_else(|| found.to_owned(), |bin| bin.join("cargo")));
            tools.push(Tool { name: "cargo", version, files });
        }
        Ok(tools)
    }

    /// The C compiler with the programs that it starts, the linker that it starts, and the C library that both work with.
    fn c(&self, sysroot: Option<&str>) -> Result<Vec<Tool>, ToolchainError> {
        let Some(found) = self.found.path("cc") else { return Ok(vec![]) };
        let mut cc = Files::default();
        cc.add("cc", found);
        for name in C_PROGRAMS {
            cc.files_of(name, self.named_by_cc("prog", name));
        }
        let mut libc = Files::default();
        for name in C_FILES {
            libc.files_of(name, self.named_by_cc("file", name));
        }
        if self.wanted.cargo && !libc.0.contains_key("crt1.o") {
            return Err(ToolchainError::NoCLibrary);
        }
        let libc_version = libc.0.get("libc.so.6").and_then(|path| content::libc_version(path)).unwrap_or_default();
        let mut ld = Files::default();
        ld.files_of("ld", self.named_by_cc("prog", "ld"));
        let brings_its_own = sysroot.is_some_and(|sysroot| content::own_linker(Path::new(sysroot)).is_file());
        let ld_version = match ld.0.get("ld") {
            Some(path) => version_of(&self.say("ld", path, &["--version"])?, "GNU ld "),
            None if self.wanted.cargo && !brings_its_own => {
                let advice = "install a linker (Debian: apt install binutils)";
                return Err(ToolchainError::Missing { program: "ld", advice });
            }
            None => String::new(),
        };
        let version = version_of(&self.said("cc", &["--version"])?, "cc ");
        let tools = [("cc", version, cc), ("ld", ld_version, ld), ("libc", libc_version, libc)];
        Ok(tools
            .into_iter()
            .filter(|(_, _, files)| !files.0.is_empty())
            .map(|(name, version, files)| Tool { name, version, files })
            .collect())
    }

    /// Returns the file that the C compiler means by a name; one without a directory is looked for as it does, on the search path.
    fn named_by_cc(&self, kind: &str, name: &str) -> Option<PathBuf> {
        let said = self.said("cc", &[&format!("-print-{kind}-name={name}")]).ok()?;
        let path = PathBuf::from(said.trim());
        match (path.is_absolute(), kind) {
            (true, _) => Some(path),
            (false, "prog") => find(self.host, self.wanted, name),
            (false, _) => None,
        }
    }

    fn said(&self, program: &'static str, args: &[&str]) -> Result<String, ToolchainError> {
        self.say(program, self.found.path(program).expect("asked only for what was found"), args)
    }

    fn say(&self, program: &'static str, path: &Path, args: &[&str]) -> Result<String, ToolchainError> {
        let output = Command::new(path)
            .args(args)
            .current_dir(self.dir)
            .env_clear()
            .envs(self.host.environment())
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ToolchainError::Ask { program, source })?;
        if !output.status.success() {
            let first = output.stderr.split(|&b| b == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
            return Err(ToolchainError::Refused { program, said: shorten(&escape(first), 400) });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Files {
    fn files_of(&mut self, role: &str, path: Option<PathBuf>) {
        if let Some(path) = path {
            self.add(role, &path);
        }
    }
}

fn find(host: &Host, wanted: Wanted, program: &str) -> Option<PathBuf> {
    let is_rust = matches!(program, "rustc" | "cargo");
    if wanted.strict && !is_rust { environment::find_in_room(program) } else { host.find(program) }
}

/// rustup's own words for a toolchain that the commit names and that is not here, as the line that mends it.
fn not_installed(error: ToolchainError, choice: &Choice) -> ToolchainError {
    match (error, &choice.channel) {
        (ToolchainError::Refused { said, .. }, Some(channel)) if said.contains("is not installed") => {
            ToolchainError::NotInstalled { channel: channel.clone() }
        }
        (error, _) => error,
    }
}

fn check_choice(choice: &Choice, version: &str, sysroot: &Path, by_rustup: bool) -> Result<(), ToolchainError> {
    if let Some(channel) = &choice.channel
        && !by_rustup
        && !choice::fits(channel, version)
    {
        return Err(ToolchainError::Other { channel: channel.clone(), version: version.to_owned() });
    }
    let rustlib = sysroot.join("lib/rustlib");
    let option = choice.channel.as_ref().map_or_else(String::new, |channel| format!(" --toolchain {channel}"));
    let lacking = |what: &'static str, name: &str| ToolchainError::Lacking {
        what,
        name: name.to_owned(),
        mend: format!("rustup {what} add{option} {name}"),
    };
    if let Some(target) = choice.targets.iter().find(|target| !rustlib.join(target).join("lib").is_dir()) {
        return Err(lacking("target", target));
    }
    // Without rustup's list nobody can tell what is installed.
    let installed = fs::read_to_string(rustlib.join("components")).ok().filter(|_| by_rustup);
    match installed.as_ref().and_then(|installed| choice::lacking_component(choice, installed)) {
        Some(component) => Err(lacking("component", component)),
        None => Ok(()),
    }
}

/// Refuses a tool that the room of a strict build would not hold: it holds the system's directories and the Rust toolchain.
fn refuse_invisible(tools: &[Tool], toolchain: &Toolchain) -> Result<(), ToolchainError> {
    let sysroot = toolchain.sysroot.as_ref().and_then(|sysroot| Path::new(sysroot).canonicalize().ok());
    let is_visible = |path: &Path| {
        let is_rust = sysroot.as_ref().is_some_and(|sysroot| path.starts_with(sysroot));
        is_rust || ["/usr", "/bin", "/sbin", "/lib", "/lib64"].iter().any(|dir| path.starts_with(dir))
    };
    for tool in tools {
        if let Some(path) = tool.files.0.values().find(|path| !is_visible(path)) {
            return Err(not_visible(tool.name, path));
        }
    }
    Ok(())
}

fn not_visible(program: &'static str, path: &Path) -> ToolchainError {
    ToolchainError::NotVisible { program, path: path.to_owned() }
}

fn versions(tools: &[Tool], contents: &Contents<'_>) -> Result<BTreeMap<String, String>, ToolchainError> {
    let mut versions = BTreeMap::from([("df build".to_owned(), BUILD_VERSION.to_owned())]);
    for tool in tools {
        let read = |source| ToolchainError::Ask { program: tool.name, source };
        let digest = contents.digest(&tool.files).map_err(read)?;
        versions.insert(tool.name.to_owned(), format!("{} #{}", tool.version, digest.short()).trim_start().to_owned());
    }
    contents.keep(N_KEPT);
    Ok(versions)
}

fn behind(host: &Host, found: &Found, tools: &[Tool], sysroot: Option<&str>) -> Vec<PathBuf> {
    let mut behind = vec![host.rustup_home.join("settings.toml")];
    behind.extend(found.0.iter().map(|(_, path)| path.clone()));
    behind.extend(tools.iter().flat_map(|tool| tool.files.0.values().cloned()));
    behind.extend(sysroot.into_iter().flat_map(|sysroot| content::directories(Path::new(sysroot))));
    behind
}

fn version_of(text: &str, prefix: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    shorten(&escape(line.strip_prefix(prefix).unwrap_or(line).trim().as_bytes()), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_short() {
        assert_eq!(version_of("rustc 1.95.0 (abc 2026-01-01)\nbinary: rustc", "rustc "), "1.95.0 (abc 2026-01-01)");
        assert_eq!(version_of("gcc (Debian 12) 12.2\n", "cc "), "gcc (Debian 12) 12.2");
    }

    #[test]
    fn what_the_room_does_not_hold_is_refused_by_name() {
        let tool = |path: &str| Tool {
            name: "cc",
            version: String::new(),
            files: Files([("cc".to_owned(), PathBuf::from(path))].into()),
        };
        let toolchain = Toolchain { sysroot: Some("/".into()), ..Toolchain::default() };
        assert!(refuse_invisible(&[tool("/usr/bin/gcc"), tool("/lib64/x")], &Toolchain::default()).is_ok());
        assert!(refuse_invisible(&[tool("/opt/gcc/bin/gcc")], &toolchain).is_ok());
        let said = refuse_invisible(&[tool("/opt/gcc/bin/gcc")], &Toolchain::default()).expect_err("refused").to_string();
        assert!(said.starts_with("cc is at /opt/gcc/bin/gcc"), "{said}");
        assert!(refuse_invisible(&[tool("/usrlocal/cc")], &Toolchain::default()).is_err());
    }

    #[test]
    fn a_component_or_target_that_is_named_is_asked_for_by_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let rustlib = dir.path().join("lib/rustlib");
        fs::create_dir_all(rustlib.join("wasm32-wasip1/lib")).expect("a directory");
        fs::write(rustlib.join("components"), "rust-src\n").expect("written");
        let check = |components: &[&str], targets: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let choice = Choice { channel: Some("1.95.0".into()), components: owned(components), targets: owned(targets) };
            check_choice(&choice, "1.95.0", dir.path(), true).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["rust-src"], &["wasm32-wasip1"]), Ok(()));
        let said = check(&["miri"], &[]).expect_err("lacking");
        assert!(said.ends_with("rustup component add --toolchain 1.95.0 miri"), "{said}");
        let said = check(&[], &["wasm32-wasip2"]).expect_err("lacking");
        assert!(said.ends_with("rustup target add --toolchain 1.95.0 wasm32-wasip2"), "{said}");
    }
}
