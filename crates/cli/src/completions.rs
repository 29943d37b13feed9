//! The completions of a shell: clap's script for the grammar, and around it what only a running df or the shell itself knows.
//!
//! Nodes and versions come from `df __complete`, which reads the records here and contacts nobody. Words that are not ours complete as
//! paths, because they go to the next df. Arguments that name a node or a version carry a hint of clap's that is otherwise unused
//! (`args::word`); what clap makes of it is replaced by our lookup.

use crate::args::{self, Shell};
use crate::name;

const BASH: &str = include_str!("completions/df.bash");
const ZSH: &str = include_str!("completions/df.zsh");
const FISH: &str = include_str!("completions/df.fish");

/// Returns the script for a shell to read.
pub fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(&generated(clap_complete::Shell::Bash)),
        Shell::Zsh => zsh(&generated(clap_complete::Shell::Zsh)),
        Shell::Fish => fish(&generated(clap_complete::Shell::Fish)),
    }
}

fn bash(generated: &str) -> String {
    let commands: Vec<_> = name::COMMANDS.iter().map(|command| command.name).filter(|name| !name.starts_with('_')).collect();
    // The words are hidden in help, and clap lists them all the same.
    generated.replace(" __complete ", " ").replace(" __prepare ", " ").replace(" __hook ", " ")
        + &BASH.replace("@COMMANDS@", &commands.join(" | "))
}

fn zsh(generated: &str) -> String {
    // The top's `--version` takes no value and would hide that those of `cp` and `deploy` do.
    let script = without_lines(generated, |line| {
        ["'__complete:", "'__prepare:", "'__hook:", "'--version["].iter().any(|word| line.starts_with(word))
    });
    let script = script
        .replace(":_hosts'", ":_df_nodes'")
        .replace(":_users'", ":_df_versions'")
        .replace("\":: :_df_commands\"", "\":: :_df_first\"")
        .replace("\n_df() {\n", "\n_df_grammar() {\n");
    // Before the last lines, which call `_df` when the shell loads the file as that function.
    match script.rfind("if [ \"$funcstack[1]\"") {
        Some(at) => format!("{}{ZSH}{}", &script[..at], &script[at..]),
        None => format!("{script}{ZSH}compdef _df df\n"),
    }
}

fn fish(generated: &str) -> String {
    without_lines(generated, |line| {
        line.contains("-a \"__complete\"") || line.contains("-a \"__prepare\"") || line.contains("-a \"__hook\"")
    })
    .replace("(__fish_print_hostnames)", "(command df __complete nodes 2>/dev/null)")
    .replace("(__fish_complete_users)", "(command df __complete versions 2>/dev/null)")
        + FISH
}

fn without_lines(script: &str, unwanted: impl Fn(&str) -> bool) -> String {
    script.lines().filter(|line| !unwanted(line)).map(|line| format!("{line}\n")).collect()
}

fn generated(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::grammar(), "df", &mut script);
    String::from_utf8(script).expect("the grammar is text")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Asks bash itself, in a directory with `build/` and `notes.txt`, with a df that knows two nodes and a version.
    fn completed_by_bash(line: &str) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("here/build")).expect("a directory");
        fs::write(dir.path().join("here/notes.txt"), "").expect("a file");
        let df = dir.path().join("df");
        fs::write(&df, "#!/bin/sh\ncase $2 in nodes) echo web1; echo 'web$(touch hacked)';; versions) echo 3f2a9c1;; esac\n")
            .expect("a file");
        fs::set_permissions(&df, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(dir.path().join("completions"), script(Shell::Bash)).expect("a file");
        // Readline splits at `=` as well.
        let words = line.replace('=', " = ");
        let mut words: Vec<_> = words.split_whitespace().map(|word| format!("'{word}'")).collect();
        if line.ends_with(' ') {
            words.push("''".into());
        }
        let ask = format!(
            "PATH={}:$PATH; . ../completions; COMP_WORDS=({}); COMP_CWORD={n}; _df_words df \"${{COMP_WORDS[{n}]}}\" \"${{COMP_WORDS[{n}-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"; ls hacked 2>/dev/null",
            dir.path().display(),
            words.join(" "),
            n = words.len() - 1
        );
        let output =
            Command::new("bash").args(["--norc", "-c", &ask]).current_dir(dir.path().join("here")).output().expect("bash starts");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn bash_completes_commands_paths_nodes_and_versions() {
        for (line, expected) in [
            ("df bui", "build build/"),
            ("df no", "notes.txt"),
            ("df rollb", "rollback"),
            ("df -C x rollb", "rollback"),
            ("df --address web1 depl", "deploy"),
            ("df __", ""),
            ("df -h no", ""),
            ("df notes.txt b", ""),
            ("df deploy --js", "--json"),
            ("df deploy --address web1", "web1"),
            ("df deploy --address=web1", "web1"),
            ("df rm web", "web1 web$(touch hacked)"),
            ("df with web1 web1", "web1"),
            ("df cp --version ", "3f2a9c1"),
            ("df rollback --to=", "3f2a9c1"),
            ("df --json cache get 3", "3f2a9c1"),
            ("df cache put no", "notes.txt"),
            ("df cache sta", "status"),
        ] {
            assert_eq!(completed_by_bash(line), expected, "{line}");
        }
    }

    #[test]
    fn every_shell_asks_df_for_names_and_hides_how() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            assert!(script.contains("df __complete"), "{shell:?}");
            for borrowed in [
                "_hosts'",
                "_users'",
                "__fish_print_hostnames",
                "__fish_complete_users",
                "@COMMANDS@",
                "'__complete:",
                "\"__complete\"",
                "'__prepare:",
                "\"__prepare\"",
                "'__hook:",
                "\"__hook\"",
            ] {
                assert!(!script.contains(borrowed), "{borrowed} in {shell:?}");
            }
        }
        let zsh = script(Shell::Zsh);
        for part in ["#compdef df\n", ":_df_nodes'", ":_df_versions'", "\":: :_df_first\"", "\n_df_grammar() {\n", "\n_df() {\n"]
        {
            assert!(zsh.contains(part), "{part}");
        }
    }
}
