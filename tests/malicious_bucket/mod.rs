//! A bucket in the hands of somebody who means harm, towards both who read it: a node by the URL it was lent, and an operator by `df cache`.
//!
//! Each behaviour is refused in words; nothing gets a name, nothing is left that could be taken for a version, nothing runs, and no secret is told. Each has its
//! control: the same run without it succeeds, and the server says that it struck. `docs/trust.md` lists the same behaviours.

mod desk;
mod forge;
mod node;
mod operator;

use std::collections::BTreeSet;
use std::path::Path;

/// Expects that what a reader says holds no secret that it has or was lent.
#[track_caller]
fn expect_untold(text: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} in: {text}");
    }
}

#[test]
fn the_page_lists_the_behaviours_that_are_tried() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/trust.md")).expect("docs/cache.md");
    let section = page.split("## A malicious bucket").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let listed = |column: usize| -> BTreeSet<&str> {
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        rows.filter_map(|row| Some(row.split('|').nth(column)?.trim())).filter(|cell| !cell.is_empty()).collect()
    };
    let nodes: BTreeSet<&str> = node::BEHAVIOURS.iter().map(|it| it.name).collect();
    let operators: BTreeSet<&str> = operator::BEHAVIOURS.iter().map(|it| it.name).collect();
    let all: Vec<&str> = nodes.iter().chain(&operators).copied().collect();
    assert_eq!((listed(1), listed(2)), (nodes.clone(), operators.clone()), "for the page:\n{}", rows(&nodes, &operators));
    assert_eq!(all.len(), node::BEHAVIOURS.len() + operator::BEHAVIOURS.len(), "none is there twice");
    let different: BTreeSet<&str> = all.into_iter().collect();
    assert!(different.len() >= 30, "{} different behaviours", different.len());
}

/// The rows of the page's table.
fn rows(nodes: &BTreeSet<&str>, operators: &BTreeSet<&str>) -> String {
    let (mut nodes, mut operators) = (nodes.iter(), operators.iter());
    let mut rows = String::new();
    loop {
        match (nodes.next(), operators.next()) {
            (None, None) => return rows,
            (node, operator) => {
                rows += &format!("| {} | {} |\n", node.copied().unwrap_or_default(), operator.copied().unwrap_or_default());
            }
        }
    }
}
