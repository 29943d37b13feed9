//! The delta to a base that is only on the node: made from the node's signature of it.

use std::sync::Arc;

use df_core::{ImageId, Manifest};
use df_delta::{Level, Piece, ReadBlob};
use df_wire::message::Slice;
use df_wire::{Reply, Request};

use super::bytes::{Delta, Spool};
use super::{Images, encode_error, manifest_of, run};
use crate::connection::{Connection, NodeError};
use crate::transfer::CopyError;

/// How many slices a node is asked to sign at once: as JSON, one takes 136 bytes at most.
const SLICES: usize = df_wire::frame::PAYLOAD_LEN / 150;
/// How many bytes a node is asked to sign at once: it holds their signatures in memory, 30 MiB at most.
const SIGNED_LEN: u64 = 1 << 30;

/// Makes the delta from a base that is only on the node to an image of this machine.
///
/// # Errors
/// The image cannot be read, or the node does not say what its base is.
pub(super) async fn make(
    connection: &mut Connection,
    base: ImageId,
    (images, manifest): (&Arc<dyn Images>, &Arc<Manifest>),
    level: Level,
) -> Result<Delta, CopyError> {
    let base_manifest = manifest_of(connection, base).await?;
    let plan = df_delta::choose::plan(Some(&base_manifest), manifest, &[]);
    let block_len = df_delta::signature::block_len(&plan.pieces);
    let mut signatures = vec![];
    for batch in batches(plan.pieces.iter().filter(|piece| !piece.base.is_empty()))? {
        signatures.extend(sign(connection, base, &batch, block_len).await?);
    }
    let (images, manifest) = (images.clone(), manifest.clone());
    run(move || {
        let read = |digest, offset, len| images.read(digest, offset, len);
        let read: ReadBlob<'_> = &read;
        let mut spool = Spool::new(&*images);
        df_delta::encode_rsync(&base_manifest, &signatures, (&manifest, read), level, &mut spool).map_err(encode_error)?;
        spool.finish("rsync")
    })
    .await
}

/// Divides pieces among requests that fit a message.
///
/// # Errors
/// One piece alone has more slices than that: the image is better sent whole.
fn batches<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Result<Vec<Vec<&'a Piece>>, CopyError> {
    let mut batches: Vec<Vec<&Piece>> = vec![];
    let (mut n_slices, mut len) = (0, 0);
    for piece in pieces {
        if piece.base.len() > SLICES {
            return Err(CopyError::Scattered(piece.base.len()));
        }
        (n_slices, len) = (n_slices + piece.base.len(), len + piece.base_len());
        match batches.last_mut().filter(|_| n_slices <= SLICES && len <= SIGNED_LEN) {
            Some(batch) => batch.push(piece),
            None => {
                batches.push(vec![piece]);
                (n_slices, len) = (piece.base.len(), piece.base_len());
            }
        }
    }
    Ok(batches)
}

/// Asks a node for the signatures of pieces' old bytes; their lengths are known before.
async fn sign(connection: &mut Connection, base: ImageId, pieces: &[&Piece], block_len: u32) -> Result<Vec<Vec<u8>>, CopyError> {
    let slice = |s: &df_delta::choose::Slice| Slice { digest: s.digest, offset: s.offset, len: s.len };
    let stretches = pieces.iter().map(|piece| piece.base.iter().map(slice).collect()).collect();
    let reply = connection.ask(&Request::Sign { image: base, stretches, block_len }).await?;
    let Reply::Signatures { lens } = reply else { return Err(NodeError::Answer.into()) };
    let expected: Vec<u64> = pieces.iter().map(|piece| df_delta::signature::signature_len(piece.base_len(), block_len)).collect();
    if lens != expected {
        return Err(NodeError::Answer.into());
    }
    let mut signatures = vec![];
    for len in lens {
        signatures.push(connection.bytes(len, len).await?);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use super::*;

    use df_core::Digest;

    fn piece(n_slices: usize) -> Piece {
        let slice = df_delta::Slice { digest: Digest::of(b""), offset: u64::MAX, len: 1 };
        Piece { base: vec![slice; n_slices], target: vec![], paired: vec![] }
    }

    #[test]
    fn what_a_node_is_asked_to_sign_fits_a_message_however_many_files_changed() {
        let pieces = [piece(1), piece(SLICES), piece(SLICES - 1), piece(1), piece(1)];
        let batches = batches(pieces.iter()).expect("each piece fits");
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
        let slices = vec![Slice { digest: Digest::of(b""), offset: u64::MAX, len: u64::MAX }; SLICES];
        let request = Request::Sign { image: ImageId(Digest::of(b"")), stretches: vec![slices], block_len: u32::MAX };
        assert!(serde_json::to_vec(&request).expect("JSON").len() <= df_wire::frame::PAYLOAD_LEN);
        assert!(matches!(super::batches([piece(SLICES + 1)].iter()), Err(CopyError::Scattered(_))));
    }
}
