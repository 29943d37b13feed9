//! What the pages show is so: links lead somewhere, commands and settings that are shown are taken, tables of codes are those of the program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use df_cli::config::Config;
use df_cli::exit::Exit;

#[test]
fn the_example_configuration_is_taken() {
    let text = std::fs::read(root().join("df.yaml.example")).expect("df.yaml.example");
    Config::parse(&text, "df.yaml.example").expect("the example is right");
}

#[test]
fn every_setting_shown_is_taken() {
    let blocks =
        pages().into_iter().flat_map(|page| fenced(&read(&page), "yaml").into_iter().map(move |block| (page.clone(), block)));
    let mut n_blocks = 0;
    for (page, block) in blocks {
        n_blocks += 1;
        let whole = completed(&block);
        if let Err(error) = Config::parse(whole.as_bytes(), &page.display().to_string()) {
            panic!("{error}\n{whole}");
        }
    }
    assert!(n_blocks > 2, "the blocks were found");
    assert!(Config::parse(completed("runs: {}").as_bytes(), "page").is_err());
}

/// Adds what a piece of a df.yaml lacks to be one.
fn completed(block: &str) -> String {
    let missing = [("app:", "app: shown\n"), ("build:", "build: { include: { a: a } }\n")];
    let added: String =
        missing.iter().filter(|(key, _)| !block.lines().any(|line| line.starts_with(key))).map(|(_, text)| *text).collect();
    added + block
}

#[test]
fn every_command_shown_is_one() {
    let mut n_commands = 0;
    for page in pages() {
        for line in commands(&read(&page)) {
            n_commands += 1;
            assert_eq!(objection(&line), None, "{}: {line}", page.display());
        }
    }
    assert!(n_commands > 20, "the commands were found");
    assert!(objection("df deploy --nonsense").is_some() && objection("df nonsense").is_some());
    assert_eq!(objection("df add"), None, "a command may be named without what it needs");
}

/// Returns what the grammar has against a line; that an argument is missing is no objection, because texts name commands.
fn objection(line: &str) -> Option<String> {
    let words: Vec<OsString> = line.split_whitespace().skip(1).map(|word| word.trim_matches(['"', '\'']).into()).collect();
    let error = df_cli::args::parse(&words).err()?;
    let kind = format!("{:?}", error.kind());
    let is_naming =
        ["MissingRequiredArgument", "MissingSubcommand", "DisplayHelp", "DisplayVersion"].iter().any(|k| kind.starts_with(k));
    (!is_naming).then(|| error.to_string())
}

/// Lists what a page shows of `df`: lines of code blocks, and words in backticks. What begins with a flag or a path is another df's.
fn commands(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("    ").or(line.strip_prefix("$ ")))
        .filter(|line| line.starts_with("df "));
    // Behind a command stands what it does, two blanks away.
    let in_blocks = lines.map(|line| line.split("  ").next().unwrap_or_default().to_owned());
    let in_words =
        text.split('`').skip(1).step_by(2).filter(|words| words.starts_with("df ") && !words.contains('\n')).map(str::to_owned);
    let ours = |line: &String| line.split(' ').nth(1).is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    in_blocks.chain(in_words).filter(ours).collect()
}

#[test]
fn every_link_leads_to_a_file() {
    let mut n_links = 0;
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            n_links += 1;
            let file = page.parent().expect("a page lies in a directory").join(path);
            assert!(file.exists(), "{}: the link to {target} leads nowhere", page.display());
        }
    }
    assert!(n_links > 20, "the links were found");
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let page = read(&root().join("docs/exit-codes.md"));
    let rows: Vec<u8> = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(rows, Exit::ALL.map(Exit::code));
}

#[test]
fn the_service_shown_is_the_one_that_is_compiled() {
    let shown = fenced(&read(&root().join("docs/writing-a-service.md")), "rust");
    let compiled = ["lib.rs", "connection.rs"].map(|file| {
        let doc = read(&root().join("crates/reload/src").join(file));
        let lines = doc.lines().filter_map(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
        fenced(&lines.collect::<Vec<_>>().join("\n"), "no_run")
    });
    assert_eq!(shown, compiled.concat());
}

#[test]
fn what_the_readme_tells_to_run_is_there() {
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["ci/try", "ci/test", "ci/dist", "ci/fetch-real", ".ci/run"] {
        let mode = std::fs::metadata(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name} can be run");
    }
}

/// Returns the contents of the fenced blocks that are marked so.
fn fenced(text: &str, mark: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        if found == mark {
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

/// Lists the pages: what a reader finds beside the code.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "crates/README.md", "crates/CONVENTIONS.md", "benches/README.md"].map(|name| root().join(name)).into();
    let docs = std::fs::read_dir(root().join("docs")).expect("docs/");
    pages.extend(docs.map(|entry| entry.expect("an entry").path()).filter(|path| path.extension().is_some_and(|e| e == "md")));
    pages
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
