//! Moves away, in place, what a linker derived from elsewhere.

/// What was done to a file, in what [`inverse`] must undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(pub u8);

/// What [`forward`] did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transformed {
    /// What [`inverse`] needs.
    pub flags: Flags,
    /// Where the addends of relocations were moved to, sorted: file offsets of eight bytes that hold an address.
    pub pointers: Vec<u32>,
}

/// Transforms a file in place; `None`, and the bytes are as they were, if it is not understood.
pub(crate) fn forward(_bytes: &mut [u8]) -> Option<Transformed> {
    None
}

/// Undoes [`forward`]. Whatever the bytes are, it ends; `None` if they cannot have come from it.
pub(crate) fn inverse(_bytes: &mut [u8], _how: Flags) -> Option<()> {
    None
}
