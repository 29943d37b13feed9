//! Foreign bytes made fit for a terminal.

use std::fmt::Write as _;

/// Returns the bytes as one line of text that cannot steer a terminal.
///
/// Control characters (C0, DEL, C1), line ends, the bidirectional marks and the invisible ones of Unicode are written as escapes, and
/// bytes that are not UTF-8 as `\xNN`. Backslashes are doubled, so that the result says exactly what was there.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            escape_char(c, &mut text);
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string does not fail");
        }
    }
    text
}

/// Returns a log as lines of text: each line escaped, its line ends and tabs kept.
pub fn escape_lines(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .map(|line| line.split(|&b| b == b'\t').map(escape).collect::<Vec<_>>().join("\t"))
        .collect();
    lines.join("\n")
}

/// Returns at most `len` bytes of a text, cut at a character, with `...` where something is missing.
pub fn shorten(text: &str, len: usize) -> String {
    if text.len() <= len {
        return text.to_owned();
    }
    let end = (0..=len.saturating_sub(3)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    format!("{}...", &text[..end])
}

fn escape_char(c: char, text: &mut String) {
    match c {
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        '\r' => text.push_str("\\r"),
        c if c.is_control() || is_invisible(c) => {
            write!(text, "\\u{{{:x}}}", c as u32).expect("writing to a string does not fail");
        }
        c => text.push(c),
    }
}

/// Returns whether a character changes how others are shown, or is not shown at all.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain name", "plain name"),
            (b"\x1b[2Jgone", "\\u{1b}[2Jgone"),
            (b"a\nb\t\\", "a\\nb\\t\\\\"),
            (b"caf\xc3\xa9 \xff", "café \\xff"),
            ("\u{202e}txt.exe".as_bytes(), "\\u{202e}txt.exe"),
            ("\u{9b}1m".as_bytes(), "\\u{9b}1m"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(escape(bytes), expected);
        }
    }

    #[test]
    fn a_log_keeps_its_lines_and_tabs() {
        assert_eq!(escape_lines(b"a\tb\r\n\x07c"), "a\tb\n\\u{7}c");
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(shorten("ééééé", 7), "éé...");
        assert_eq!(shorten("short", 7), "short");
    }
}
