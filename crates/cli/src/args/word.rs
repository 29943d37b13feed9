//! What a word may hold before anybody asks what it names, and what a shell completes it with.

use clap::ValueHint;

/// The hints stand for what they mark, not for what clap calls them: the shells' scripts get our own lookup in their place (see
/// [`crate::completions`]), because clap's has no hint for words that a program of one's own knows.
pub(crate) const NODES: ValueHint = ValueHint::Hostname;

/// Marks a version, see [`NODES`].
pub(crate) const VERSIONS: ValueHint = ValueHint::Username;

/// The longest name, address or revision that is taken from the command line.
pub(super) const MAX_TEXT_BYTES: usize = 4096;

/// Why a word is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    #[error("holds a control character")]
    Control,
    #[error("begins with `-`")]
    Dash,
}

/// Returns a name or an address that is safe to print and no flag.
pub(super) fn text(word: &str) -> Result<String, WordError> {
    match word {
        "" => Err(WordError::Empty),
        _ if word.len() > MAX_TEXT_BYTES => Err(WordError::TooLong),
        _ if word.chars().any(char::is_control) => Err(WordError::Control),
        _ if word.starts_with('-') => Err(WordError::Dash),
        _ => Ok(word.to_owned()),
    }
}

/// Returns what may name a commit or a version.
pub(super) fn revision(word: &str) -> Result<String, WordError> {
    text(word)
}
