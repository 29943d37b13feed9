//! Bytes and a base to fewer bytes, and back.
//!
//! The unit is a pair of images: [`encode`] makes a delta from the one that a receiver holds to the one it shall have, [`apply()`] makes the image of it.
//! Files that both manifests hold travel as nothing, by digest. [`choose::plan`] pairs the rest with old bytes that resemble them, and each [`Piece`] of that
//! plan is one stretch of new bytes against one stretch of old ones. When the base lies only with the receiver, [`signature()`] and [`encode_rsync`] stand in.
//!
//! It refuses to know a path of a file system, a socket or a store: bytes come through a [`ReadBlob`] and go into a [`Sink`] or a writer. It does not decide whether a
//! delta is worth it, keeps none, and does not link or copy what the base holds already: that is the receiver's business.
//!
//! Invariants:
//! - Both sides compute the plan from the two manifests, and from the pairs that the sender found by content; no delta says where its bytes go. The plan is part
//!   of the format ([`mod@format`]).
//! - A receiver never gives bytes a name that they do not have: the manifest is checked by its digest before the sink sees anything, every blob by its BLAKE3
//!   before [`Sink::blob`] or [`Sink::finish`]. A bad delta costs time and nothing else; [`ApplyError::is_damaged`] says when a whole copy is worth asking for.
//! - Memory is bounded whatever a delta claims. Pieces in flight are weighed by all that they take, and take at most [`apply::IN_FLIGHT`] together, besides the two manifests; one
//!   that needs more by itself is alone. No piece that an encoder makes of programs as compilers make them takes more than 256 MiB: at most 64 MiB of base, 64 MiB of target and what is packed, less than
//!   the target; of a program, which is 48 MiB at most, its references, in what compilers make less than it is long. A delta that no encoder makes may have more: 72 MiB of packed bytes, and some bytes of
//!   numbers for each byte of the two sides.
//! - The encoder takes at most eight times the longer of the two sides of the largest piece, or of 32 MiB, and some MiB for each of at most eight pieces at once: they are together no longer than that. This
//!   is for programs as compilers make them at [`Level::Fast`] (an index of every place makes it up to fourteen times at [`Level::Small`]); for all else it takes up to
//!   256 MiB of zstd's tables for each.

pub mod apply;
pub mod choose;
pub mod diff;
pub mod entropy;
pub mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod signature;

mod align;
mod blocks;
mod codec;
mod elf;
mod paged;
mod predict;
mod read;
mod varint;

pub use apply::{Applied, ApplyError, Kept, Mark, Sink, apply, resume};
pub use choose::{Piece, Plan, Slice};
pub use codec::CodecError;
pub use diff::{Codecs, EncodeError, Encoded, Level, Options, encode, encode_rsync};
pub use format::Codec;
pub use paged::Paged;
pub use predict::{Sort, StreamLen};
pub use read::ReadBlob;
pub use signature::{SignatureError, signature};
