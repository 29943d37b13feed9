//! The manual: distributive-flow.1 and a df-COMMAND.1 for each command, never a df.1, which is another program's.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use df_core::text::escape;

use crate::args;
use crate::exit::Exit;

/// The manual could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ManError {
    /// The directory cannot be made.
    #[error("make the directory {}", escape(.path.as_os_str().as_bytes()))]
    MakeDirectory {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A page cannot be written.
    #[error("write {}", escape(.path.as_os_str().as_bytes()))]
    Write {
        /// Which page.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// One page of the manual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The name of its file: `df-build.1`.
    pub file_name: String,
    /// Its text, in roff.
    pub roff: Vec<u8>,
}

/// Writes all pages into the directory, which is made if need be, and returns their paths.
pub fn write(dir: &Path) -> Result<Vec<PathBuf>, ManError> {
    fs::create_dir_all(dir).map_err(|source| ManError::MakeDirectory { path: dir.to_owned(), source })?;
    let write_one = |page: Page| {
        let path = dir.join(page.file_name);
        match fs::write(&path, page.roff) {
            Ok(()) => Ok(path),
            Err(source) => Err(ManError::Write { path, source }),
        }
    };
    pages().into_iter().map(write_one).collect()
}

/// Returns all pages: the program's own first, then the commands' in the order of the help, each followed by those of its own commands.
pub fn pages() -> Vec<Page> {
    let mut grammar = args::grammar().disable_help_subcommand(true);
    grammar.build();
    let mut pages = vec![page("distributive-flow", grammar.clone().display_name("distributive-flow"))];
    add_pages("df", &grammar, &mut pages);
    pages
}

fn add_pages(parent: &str, command: &Command, pages: &mut Vec<Page>) {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = format!("{parent}-{}", command.get_name());
        pages.push(page(&name, command.clone().display_name(name.clone())));
        // `man df-rm` is asked for as often as `man df-remove`.
        for alias in command.get_visible_aliases() {
            pages.push(page(&format!("{parent}-{alias}"), command.clone().display_name(name.clone())));
        }
        add_pages(&name, command, pages);
    }
}

/// Renders a page section by section, because the program has two names: the manual's and the one that is typed.
fn page(name: &str, command: Command) -> Page {
    let is_main = name == "distributive-flow";
    let examples = command.get_after_help().map(ToString::to_string);
    let commands = if is_main { command.clone().display_name("df") } else { command.clone() };
    let has_commands = command.get_subcommands().any(|command| !command.is_hide_set());
    let man = Man::new(command)
        .title(name.to_uppercase())
        .source(format!("distributive-flow {}", env!("CARGO_PKG_VERSION")))
        .manual("distributive-flow");
    let mut roff = Vec::new();
    let mut render = || {
        man.render_title(&mut roff)?;
        man.render_name_section(&mut roff)?;
        man.render_synopsis_section(&mut roff)?;
        man.render_description_section(&mut roff)?;
        man.render_options_section(&mut roff)?;
        if has_commands {
            Man::new(commands.clone()).render_subcommands_section(&mut roff)?;
        }
        closing(is_main, examples.as_deref()).to_writer(&mut roff)
    };
    render().expect("writing to memory does not fail");
    Page { file_name: format!("{name}.1"), roff }
}

/// Returns the sections that clap does not know: examples as they are typed, exit codes, and on the main page whose words are whose.
fn closing(is_main: bool, examples: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    if let Some(examples) = examples {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("nf", []);
        for line in examples.lines().filter(|line| *line != "Examples:") {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    if is_main {
        roff.control("SH", ["THE NAME"]);
        roff.text([roman(
            "The program is called df, as another one is on every machine. A first word that is a command listed here, help, --help or \
             --version, or a global flag followed by such a command, is ours. Everything else goes to the next df on PATH, which replaces \
             this process. A command that finds no df.yaml goes there too when its word names an existing path.",
        )]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        roff.control("TP", []);
        roff.text([bold(exit.code().to_string())]);
        roff.text([roman(exit.meaning())]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(if is_main { "df(1), ssh(1), git(1)" } else { "distributive-flow(1)" })]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_none_is_df() {
        let names: Vec<_> = pages().into_iter().map(|page| page.file_name).collect();
        assert_eq!(names[0], "distributive-flow.1");
        for name in
            ["df-build.1", "df-remove.1", "df-rm.1", "df-list.1", "df-ls.1", "df-cache.1", "df-cache-put.1", "df-list-nodes.1"]
        {
            assert!(names.iter().any(|have| have == name), "{name} in {names:?}");
        }
        assert!(names.iter().all(|name| name != "df.1" && !name.contains("help") && !name.contains("__")), "{names:?}");
        let mut once = names.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), names.len(), "two pages of one name in {names:?}");
    }

    #[test]
    fn the_pages_say_what_the_codes_mean() {
        for page in pages() {
            let text = String::from_utf8(page.roff).expect("text");
            assert!(text.contains("EXIT STATUS") && text.contains("different versions"), "{}", page.file_name);
            assert!(!text.contains("distributive\\-flow\\-"), "a page that is not there is named in {}", page.file_name);
        }
    }

    #[test]
    fn pages_are_written_where_asked_and_errors_name_the_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let written = write(&dir.path().join("a/man1")).expect("pages");
        assert_eq!(written.len(), pages().len());
        assert!(written.iter().all(|path| path.is_file()));
        fs::write(dir.path().join("file"), "").expect("a file");
        let error = write(&dir.path().join("file/man1")).expect_err("a file is no directory").to_string();
        assert!(error.contains("file/man1"), "{error}");
    }
}
