//! Whether a bucket keeps its promise: a conditional write that must fail fails.
//!
//! A server that takes `If-None-Match` and `If-Match` for decoration lets two writers overwrite each other's head without a word.

use std::sync::Arc;

use super::objects::{Body, Condition, Etag, Key, ObjectError, Objects};

/// What a bucket does with conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It refuses what does not hold: any number of writers are safe.
    Conditional,
    /// It writes all the same: one writer at a time, or none.
    Unconditional,
}

/// Writes an object that nobody else writes, and tries to write it twice more under conditions that cannot hold. All three times the same bytes, so that it is right afterwards
/// either way, and nobody needs the permission to delete.
///
/// # Errors
/// Those of writing. [`ObjectError::Changed`] from the first write: the object is there already, somebody else has begun this cache.
pub fn conditions(objects: &dyn Objects, key: &Key, bytes: &Arc<[u8]>) -> Result<Probed, ObjectError> {
    let body = Body::Bytes(Arc::clone(bytes));
    objects.put(key, &body, &Condition::Absent)?;
    let nobodys = Condition::Matches(Etag("\"00000000000000000000000000000000\"".to_owned()));
    for condition in [Condition::Absent, nobodys] {
        match objects.put(key, &body, &condition) {
            Err(ObjectError::Changed { .. }) => {}
            Ok(_) => return Ok(Probed::Unconditional),
            Err(error) => return Err(error),
        }
    }
    Ok(Probed::Conditional)
}
