//! The example and the schema that are published say what the parser reads.

use std::collections::BTreeSet;

use super::*;

const SCHEMA: &str = include_str!("../../../../../df.schema.json");

#[test]
fn the_example_is_true() {
    let config = good(EXAMPLE);
    assert_eq!(config.build.sandbox, Sandbox::Strict);
    assert_eq!((config.cache, config.rollout, config.keep, config.paths), <_>::default());
    let off = good(&EXAMPLE.replace("\n  sandbox: strict\n", "\n  sandbox: off\n"));
    assert_eq!(off.build.sandbox, Sandbox::Off);
    for (section, keys) in keys::SECTIONS {
        for key in *keys {
            // A key at the beginning of a line, of a comment, or of a mapping in one line.
            let shown = EXAMPLE.lines().any(|line| {
                let bare = line.trim_start_matches([' ', '#', '-']);
                bare.starts_with(&format!("{key}:"))
                    || line.contains(&format!("{{ {key}:"))
                    || line.contains(&format!(", {key}:"))
            });
            assert!(shown, "the example does not show {section}.{key}");
        }
    }
}

#[test]
fn the_schema_has_the_keys_of_the_parser() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut of_schema = BTreeSet::new();
    schema_keys(&schema, "", &mut of_schema);
    let of_parser: BTreeSet<String> =
        keys::SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}"))).collect();
    assert_eq!(of_schema, of_parser);
}

/// Collects `section.key` of every property below, sections named as in the table of keys.
fn schema_keys(schema: &serde_json::Value, section: &str, keys: &mut BTreeSet<String>) {
    let below = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], false, "{section} takes unknown keys");
        assert_eq!(schema["patternProperties"]["^x-"], true, "{section} refuses x- keys");
        for (key, value) in properties {
            keys.insert(format!("{section}.{key}"));
            schema_keys(value, &below(key), keys);
        }
    }
    schema_keys_of_parts(schema, section, &below("*"), keys);
}

fn schema_keys_of_parts(schema: &serde_json::Value, section: &str, any: &str, keys: &mut BTreeSet<String>) {
    if schema["additionalProperties"].is_object() {
        schema_keys(&schema["additionalProperties"], any, keys);
    }
    if schema["items"].is_object() {
        schema_keys(&schema["items"], &format!("{section}[]"), keys);
    }
    for part in schema["oneOf"].as_array().into_iter().flatten() {
        schema_keys(part, section, keys);
    }
}
