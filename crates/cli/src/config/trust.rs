//! Who must have vouched for a release.

use df_core::attestation::{Policy, PublicKey};

use super::error::Fault;
use super::value::{Section, Value};

/// Reads `trust`.
pub(super) fn read(value: &Value<'_>) -> Result<Policy, Fault> {
    let section = Section::open(value, "trust")?;
    let threshold = section.or("threshold", 0, |value| value.whole(0, 64))?;
    let key = |value: &Value<'_>| value.word()?.parse::<PublicKey>().map_err(|error| value.refuse(error.to_string()));
    let keys = section.or("keys", vec![], |value| value.list()?.iter().map(key).collect())?;
    let threshold = u32::try_from(threshold).expect("at most 64");
    Policy::new(threshold, keys).map_err(|error| section.refuse(error.to_string()))
}
