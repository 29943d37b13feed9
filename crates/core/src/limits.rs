//! The bounds that hold wherever foreign bytes come in.
//!
//! They are far above what real images need and far below what would exhaust a small node.

/// Bytes of a path inside an image.
pub const PATH_LEN: usize = 4096;
/// Bytes of one component of a path.
pub const COMPONENT_LEN: usize = 255;
/// Entries of a manifest.
pub const MANIFEST_ENTRIES: usize = 4_000_000;
/// Bytes of an encoded manifest.
pub const MANIFEST_LEN: u64 = 1 << 30;
/// Bytes of one file of an image.
pub const FILE_LEN: u64 = 1 << 40;
/// Bytes of all files of an image.
pub const IMAGE_LEN: u64 = 1 << 42;
/// Bytes of an encoded release.
pub const RELEASE_LEN: usize = 1 << 20;
/// Bytes of a message of one line that comes from a node, a log or a program.
pub const TEXT_LEN: usize = 4096;
