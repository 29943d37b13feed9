//! What an image was built of: a CycloneDX bill of materials.
//!
//! # Format
//!
//! One JSON text by the CycloneDX specification 1.6 (ECMA-424). `testdata/sbom-v1.json` is a worked example. The application is the component of `metadata`;
//! `components` are the packages of the lock file, `dependencies` say who needs whom. The property `df:packages` says which packages are listed: `compiled` are those
//! that were compiled, `locked` all that the lock file has for the package that was built (also for tests and other platforms), `none` and `unknown` that no lock
//! file says.
//!
//! Equal releases of which as much is known give equal bytes: the serial number is made of the release's digest (a UUID of version 8), the time is the commit's.
//!
//! Written by hand, because the library for it stops at version 1.5 and these are thirty lines.

use df_core::{Digest, ReleaseId};
use serde_json::{Value, json};

use crate::documents::{Made, Part, Parts, Scope};

/// Returns the bill of materials of a release.
pub fn sbom(made: &Made<'_>) -> Vec<u8> {
    let parts = Parts::of(made);
    let application = format!("{}@{}", made.release.app, made.release.commit);
    let mut dependencies = vec![json!({ "ref": application, "dependsOn": parts.roots })];
    dependencies.extend(parts.packages.iter().map(|part| json!({ "ref": part.purl, "dependsOn": part.needs })));
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial_number(made.release.id()),
        "version": 1,
        "metadata": {
            "timestamp": made.release.committed.to_string(),
            "lifecycles": [{ "phase": "build" }],
            "tools": { "components": [{ "type": "application", "name": "df", "version": made.version }] },
            "component": {
                "type": "application",
                "bom-ref": application,
                "name": made.release.app,
                "version": made.release.commit,
                "hashes": [{ "alg": "BLAKE3", "content": made.release.image }],
            },
            "properties": [{ "name": "df:packages", "value": word(parts.scope) }],
        },
        "components": parts.packages.iter().map(component).collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    let mut bytes = serde_json::to_vec_pretty(&bom).expect("a JSON value");
    bytes.push(b'\n');
    bytes
}

fn component(part: &Part) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
    });
    if let Some(sha256) = &part.sha256 {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
    }
    if let Some(licence) = &part.licence {
        component["licenses"] = match is_expression(licence) {
            true => json!([{ "expression": licence }]),
            false => json!([{ "license": { "name": licence } }]),
        };
    }
    component
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::None => "none",
        Scope::Unknown => "unknown",
        Scope::Locked => "locked",
        Scope::Compiled => "compiled",
    }
}

/// Returns a UUID of version 8 (RFC 9562: of the maker's own making) from a release's digest.
fn serial_number(release: ReleaseId) -> String {
    let digest = Digest::of(format!("df sbom {release}").as_bytes());
    let mut bytes: [u8; 16] = digest.as_bytes()[..16].try_into().expect("16 bytes");
    bytes[6] = 0x80 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("urn:uuid:{}", groups.join("-"))
}

/// Says whether a text has the form of an SPDX expression: identifiers between operators. Old packages write `MIT/Apache-2.0`, which is none.
fn is_expression(text: &str) -> bool {
    let padded = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wants_operand) = (0_i32, true);
    for word in padded.split_whitespace() {
        match word {
            "(" if wants_operand => depth += 1,
            ")" if !wants_operand => depth -= 1,
            "AND" | "OR" | "WITH" if !wants_operand => wants_operand = true,
            _ if wants_operand && is_identifier(word) => wants_operand = false,
            _ => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && !wants_operand
}

fn is_identifier(word: &str) -> bool {
    !matches!(word, "AND" | "OR" | "WITH" | "(" | ")")
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+' | b':'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::documents::tests::Example;

    fn said(made: &Made<'_>) -> Value {
        serde_json::from_slice(&sbom(made)).expect("JSON")
    }

    #[test]
    fn golden_bytes() {
        let bytes = sbom(&Example::new().made());
        assert_eq!(String::from_utf8(bytes).expect("text"), include_str!("../../testdata/sbom-v1.json"));
    }

    #[test]
    fn equal_releases_give_equal_bytes_whenever_they_were_built() {
        let example = Example::new();
        assert_eq!(sbom(&example.made()), sbom(&Made { run: None, ..example.made() }));
        let mut other = Example::new();
        other.release.commit = "ff".repeat(20).parse().expect("a commit");
        assert_ne!(said(&example.made())["serialNumber"], said(&other.made())["serialNumber"]);
    }

    #[test]
    fn every_reference_leads_to_a_component() {
        let example = Example::new();
        for made in [example.made(), Made { compiled: None, ..example.made() }, Made { lock: None, ..example.made() }] {
            let bom = said(&made);
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let mut known: BTreeSet<String> =
                bom["components"].as_array().expect("a list").iter().map(|component| text(&component["bom-ref"])).collect();
            assert!(known.insert(text(&bom["metadata"]["component"]["bom-ref"])));
            for dependency in bom["dependencies"].as_array().expect("a list") {
                assert!(known.contains(&text(&dependency["ref"])), "{dependency}");
                for needed in dependency["dependsOn"].as_array().expect("a list") {
                    assert!(known.contains(&text(needed)), "{dependency}");
                }
            }
        }
    }

    #[test]
    fn licences_are_expressions_only_when_they_are() {
        for good in ["MIT", "MIT OR Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"] {
            assert!(is_expression(good), "{good}");
        }
        for bad in ["MIT/Apache-2.0", "", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT Apache-2.0", "see <file>", "()", "MIT (BSD)"] {
            assert!(!is_expression(bad), "{bad}");
        }
    }
}
