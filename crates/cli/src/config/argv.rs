//! Lines cut into words, and the placeholders in them.

/// Cuts a line into words as a shell would: blanks between them, single and double quotes and backslashes hide them. Nothing is expanded;
/// what a shell would take for more than words is refused, because no shell runs.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a ' is never closed".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or("ends in a backslash")?),
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' => return Err(shell(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What an argument asks of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// `{fd:http}`
    Descriptor,
    /// `{addr:http}`
    Address,
    /// `{port:http}`, `{host:http}`
    Part,
}

/// Returns the ports that an argument names in placeholders. `{{` stands for a brace; another brace that opens no placeholder is an error.
pub(super) fn placeholders(argument: &str) -> Result<Vec<(Ask, &str)>, String> {
    let mut found = Vec::new();
    let mut rest = argument;
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            continue;
        }
        let unknown =
            || "a { begins {fd:PORT}, {port:PORT}, {host:PORT} or {addr:PORT}; write {{ for the brace itself".to_owned();
        let (inner, after) = rest.split_once('}').ok_or_else(unknown)?;
        let (what, port) = inner.split_once(':').ok_or_else(unknown)?;
        let ask = match what {
            "fd" => Ask::Descriptor,
            "addr" => Ask::Address,
            "port" | "host" => Ask::Part,
            _ => return Err(unknown()),
        };
        found.push((ask, port));
        rest = after;
    }
    Ok(found)
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    loop {
        match chars.next() {
            None => return Err("a \" is never closed".to_owned()),
            Some('"') => return Ok(()),
            Some(c @ ('$' | '`')) => return Err(shell(c)),
            Some('\\') => match chars.next() {
                None => return Err("ends in a backslash".to_owned()),
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
            },
            Some(c) => word.push(c),
        }
    }
}

fn shell(c: char) -> String {
    format!("no shell runs this, so {c} has no meaning; quote it, or put the line into a script of the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_as_a_shell_would() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("bin/x --flag", Some(&["bin/x", "--flag"])),
            ("  bin/x   a\tb ", Some(&["bin/x", "a", "b"])),
            ("bin/x 'a b' \"c d\" e\\ f", Some(&["bin/x", "a b", "c d", "e f"])),
            ("bin/x ''", Some(&["bin/x", ""])),
            ("a'b'\"c\"d", Some(&["abcd"])),
            ("\"a\\\"b\\n\" '\\'", Some(&["a\"b\\n", "\\"])),
            ("x '$HOME' \\$HOME \"\\$HOME\"", Some(&["x", "$HOME", "$HOME", "$HOME"])),
            ("", Some(&[])),
            ("x 'a", None),
            ("x \"a", None),
            ("x \\", None),
            ("x $HOME", None),
            ("x \"$HOME\"", None),
            ("x | y", None),
            ("x && y", None),
            ("x > y", None),
            ("x *.txt", None),
            ("x `y`", None),
        ];
        for (line, expected) in table {
            let words = split(line).ok();
            assert_eq!(words, expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect()), "{line}");
        }
    }

    #[test]
    fn placeholders_are_found() {
        use Ask::{Address, Descriptor, Part};
        type Found<'a> = Option<&'a [(Ask, &'a str)]>;
        let table: &[(&str, Found)] = &[
            ("--fd={fd:http}", Some(&[(Descriptor, "http")])),
            ("{host:http}:{port:http}", Some(&[(Part, "http"), (Part, "http")])),
            ("{addr:a}", Some(&[(Address, "a")])),
            ("{{\"a\": 1}", Some(&[])),
            ("{{{fd:a}", Some(&[(Descriptor, "a")])),
            ("plain }", Some(&[])),
            ("{", None),
            ("{}", None),
            ("{fd}", None),
            ("{pid:http}", None),
            ("{\"a\": 1}", None),
        ];
        for (argument, expected) in table {
            assert_eq!(placeholders(argument).ok().as_deref(), *expected, "{argument}");
        }
    }
}
