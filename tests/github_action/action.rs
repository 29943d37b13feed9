//! What ci/action.yml says, read as far as it is written: a step of it gets its environment from there, as GitHub's runner gives it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The file, in parts.
pub struct Action {
    /// Each input with its default.
    pub inputs: BTreeMap<String, String>,
    /// Each output with the output of a step that it is.
    pub outputs: BTreeMap<String, String>,
    /// The environment of each step that runs ci/action/run, by the word that it gives to it.
    pub steps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Action {
    /// Reads the file of this repository.
    pub fn read() -> Self {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/action.yml")).expect("ci/action.yml");
        let mut action = Self { inputs: BTreeMap::new(), outputs: BTreeMap::new(), steps: BTreeMap::new() };
        let (mut section, mut name, mut step) = ("", "", String::new());
        for line in text.lines() {
            let (indent, line) = (line.len() - line.trim_start().len(), line.trim_start());
            let Some((key, value)) = line.split_once(':').map(|(key, value)| (key, value.trim())) else { continue };
            match (section, indent, key) {
                (_, 0, _) => section = key,
                ("inputs" | "outputs", 2, _) => name = key,
                ("inputs", 4, "default") => drop(action.inputs.insert(name.to_owned(), value.trim_matches('\'').to_owned())),
                ("outputs", 4, "value") => drop(action.outputs.insert(name.to_owned(), inner(value, "steps.run.outputs."))),
                ("runs", 4, "- name") => step.clear(),
                ("runs", 6, "run") => {
                    step = value.strip_prefix("exec \"$GITHUB_ACTION_PATH/action/run\" ").expect("nothing else").to_owned();
                    assert!(action.steps.insert(step.clone(), BTreeMap::new()).is_none(), "{step} is there twice");
                }
                ("runs", 8, _) => {
                    if let Some(env) = action.steps.get_mut(&step).filter(|_| key.starts_with("DF_")) {
                        env.insert(key.to_owned(), inner(value, "inputs."));
                    }
                }
                _ => {}
            }
        }
        action
    }

    /// Returns the environment of a step for these inputs; of the others it is their defaults.
    pub fn environment(&self, step: &str, given: &BTreeMap<&'static str, String>) -> Vec<(String, String)> {
        for name in given.keys() {
            assert!(self.inputs.contains_key(*name), "{name} is no input");
        }
        let value = |input: &String| given.get(input.as_str()).unwrap_or_else(|| &self.inputs[input]).clone();
        self.steps[step].iter().map(|(variable, input)| (variable.clone(), value(input))).collect()
    }
}

/// Returns what an expression `${{ PREFIX name }}` names.
#[track_caller]
fn inner(value: &str, prefix: &str) -> String {
    let expression = value.strip_prefix("${{ ").and_then(|rest| rest.strip_suffix(" }}"));
    expression
        .and_then(|name| name.strip_prefix(prefix))
        .unwrap_or_else(|| panic!("{value} is no expression of {prefix}"))
        .to_owned()
}
