//! The index, from what every pack says at its end: two ranges of each, nothing of what it holds.

use std::collections::HashSet;

use df_core::Digest;
use rayon::prelude::*;

use super::UNKNOWN;
use crate::s3::S3Store;
use crate::s3::failure::BucketError;
use crate::s3::format::condemned::Condemned;
use crate::s3::format::name::{Name, Owner, Reference, Space, owner};
use crate::s3::format::pack::{self, PACK_LEN, TRAILER_LEN};
use crate::s3::format::segment::Segment;
use crate::s3::format::slot::Slot;
use crate::s3::objects::{Listed, ObjectError};

impl S3Store {
    /// Returns a segment of all packs that are in the bucket, not condemned, and end as packs do; and how many they are.
    ///
    /// Among them may be some that no head ever named and that a collection is about to delete. Of what is live every copy is listed, so one stays.
    pub(super) fn segment_of_footers(&self, condemned: &Condemned) -> Result<(Segment, usize), BucketError> {
        let gone: HashSet<Name> = condemned.0.iter().map(|(pack, _)| pack.name).collect();
        let packs: Vec<(Name, Listed)> = self
            .objects
            .list("p/")?
            .into_iter()
            .filter_map(|listed| match owner(&listed.key)? {
                Owner::Named(Space::Pack, name) if !gone.contains(&name) && listed.len <= PACK_LEN => Some((name, listed)),
                _ => None,
            })
            .collect();
        let read: Vec<_> =
            packs.par_iter().map(|(name, listed)| self.rows_of(*name, listed)).collect::<Result<_, BucketError>>()?;
        let read: Vec<(Reference, Vec<Slot>)> = read.into_iter().flatten().collect();
        let n = read.len();
        Ok((Segment::new(read), n))
    }

    /// Reads the rows of a pack; nothing when it does not end as one.
    fn rows_of(&self, name: Name, listed: &Listed) -> Result<Option<(Reference, Vec<Slot>)>, BucketError> {
        let range = |offset: u64, len: u64| match self.objects.get_range(&listed.key, offset, len) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ObjectError::Absent { .. } | ObjectError::Malformed { .. } | ObjectError::TooLong { .. }) => Ok(None),
            Err(error) => Err(BucketError::from(error)),
        };
        let Some(end) = listed.len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
        let Some(trailer) = range(end, TRAILER_LEN as u64)? else { return Ok(None) };
        let Ok(start) = pack::footer(&trailer, listed.len) else { return Ok(None) };
        let Some(footer) = range(start, end - start)? else { return Ok(None) };
        let Ok(slots) = pack::footer_rows(&footer, start) else { return Ok(None) };
        let len = u32::try_from(listed.len).expect("packs stay below 64 MiB");
        Ok(Some((Reference { name, len, digest: Digest::from_bytes(UNKNOWN) }, slots)))
    }
}
