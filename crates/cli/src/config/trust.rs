//! Who must have vouched for a release, and for how long it may be called the newest.

use std::time::Duration;

use df_core::attestation::{Policy, PublicKey};

use super::error::Fault;
use super::value::{Section, Value};

const DAY: Duration = Duration::from_secs(86_400);

/// How long what was published last counts as the newest, where df.yaml does not say.
pub const NEWEST: Duration = Duration::from_secs(30 * 86_400);

/// Reads for how long it counts; no less than a day, because clocks differ, and no more than ten years.
pub(super) fn newest(value: &Value<'_>) -> Result<Duration, Fault> {
    Section::open(value, "trust")?.or("newest", NEWEST, |value| value.duration(DAY, 3650 * DAY))
}

/// Reads `trust`.
pub(super) fn read(value: &Value<'_>) -> Result<Policy, Fault> {
    let section = Section::open(value, "trust")?;
    let threshold = section.or("threshold", 0, |value| value.whole(0, 64))?;
    let key = |value: &Value<'_>| value.word()?.parse::<PublicKey>().map_err(|error| value.refuse(error.to_string()));
    let keys = section.or("keys", vec![], |value| value.list()?.iter().map(key).collect())?;
    let threshold = u32::try_from(threshold).expect("at most 64");
    Policy::new(threshold, keys).map_err(|error| section.refuse(error.to_string()))
}
