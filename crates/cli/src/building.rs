//! A build as a person sees it while it runs: one row with its phase, then crates compiled of crates to compile.

use df_build::BuildEvent;

use crate::output::Output;
use crate::progress::Row;

/// Shows one build until it is dropped.
pub struct Building {
    output: Output,
    row: Row,
    verbose: bool,
}

impl Building {
    /// Begins to show the build of what is named: `building 1a2b3c4d`.
    pub fn begin(output: &Output, label: &str, verbose: bool) -> Self {
        Self { output: output.clone(), row: output.progress().row(label), verbose }
    }

    /// Shows what happened.
    pub fn tell(&self, event: &BuildEvent) {
        match shown(event) {
            Shown::Phase { words, is_long } => self.row.phase(words, is_long),
            Shown::Crates { done, total, name } => self.row.count(done, total, name),
            Shown::Note => self.output.note(format!("  {event}")),
        }
        if self.verbose && matches!(event, BuildEvent::Phase(_) | BuildEvent::Compiled { .. }) {
            self.output.note(format!("  {event}"));
        }
    }
}

/// What an event does on the screen.
#[derive(Debug, PartialEq, Eq)]
enum Shown<'a> {
    /// The row says so; where nobody looks at rows, a long phase is worth a line.
    Phase {
        words: &'static str,
        is_long: bool,
    },
    Crates {
        done: usize,
        total: usize,
        name: &'a str,
    },
    /// A line that stays.
    Note,
}

fn shown(event: &BuildEvent) -> Shown<'_> {
    match event {
        BuildEvent::Phase(phase) => {
            let (words, is_long) = match *phase {
                "source" => ("writing the source", false),
                "fetch" => ("fetching packages", true),
                "dependencies" => ("compiling dependencies", true),
                "compile" => ("compiling", true),
                "command" => ("running the command", true),
                "output" => ("taking the output", false),
                other => (other, false),
            };
            Shown::Phase { words, is_long }
        }
        BuildEvent::Compiled { done, total, name } => Shown::Crates { done: *done, total: *total, name },
        _ => Shown::Note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_moves_a_bar_and_what_is_worth_knowing_stays() {
        let compiled = BuildEvent::Compiled { done: 37, total: 154, name: "serde_json".into() };
        let table = [
            (BuildEvent::Phase("fetch"), Shown::Phase { words: "fetching packages", is_long: true }),
            (BuildEvent::Phase("output"), Shown::Phase { words: "taking the output", is_long: false }),
            (compiled, Shown::Crates { done: 37, total: 154, name: "serde_json" }),
            (BuildEvent::Unsandboxed, Shown::Note),
            (BuildEvent::NotRelocatable { paths: vec!["a".into()] }, Shown::Note),
        ];
        for (event, expected) in table {
            assert_eq!(shown(&event), expected);
        }
    }
}
