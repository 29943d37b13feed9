//! What people mean by `30s`, `30d` and `2026-01-31`.

use std::time::Duration;

use df_core::Timestamp;

/// A duration or a date that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not a whole number with a unit.
    #[error("not a duration: a whole number and ms, s, m, h, d or w is needed, as in 30s, 5m, 2h or 30d")]
    NotADuration,
    /// Longer than a hundred years.
    #[error("longer than a hundred years")]
    TooLong,
    /// Neither an age nor a date.
    #[error("neither an age nor a date: 30d, 2026-01-31 or 2026-01-31T12:00:00Z is needed")]
    NotADate,
}

/// Which things count as older: `--older 30d`, `--older 2026-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// Older than this.
    Than(Duration),
    /// From before this moment.
    Before(Timestamp),
}

impl Older {
    /// Returns the moment before which things are old.
    pub fn cutoff(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Than(age) => now.minus(age),
            Self::Before(moment) => moment,
        }
    }
}

const HUNDRED_YEARS: Duration = Duration::from_secs(36_525 * 86_400);

/// Reads `500ms`, `30s`, `5m`, `2h`, `30d`, `2w`, and several of them one after the other (`1h30m`).
pub fn duration(text: &str) -> Result<Duration, TimeError> {
    if text.is_empty() {
        return Err(TimeError::NotADuration);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(TimeError::NotADuration)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        total = total.checked_add(length(number, unit)?).ok_or(TimeError::TooLong)?;
        rest = after;
    }
    if total > HUNDRED_YEARS { Err(TimeError::TooLong) } else { Ok(total) }
}

/// Reads an age (`30d`), a day (`2026-01-31`, its beginning in UTC) or a moment (`2026-01-31T12:00:00Z`).
pub fn older(text: &str) -> Result<Older, TimeError> {
    match duration(text) {
        Ok(age) => return Ok(Older::Than(age)),
        Err(TimeError::TooLong) => return Err(TimeError::TooLong),
        Err(_) => {}
    }
    let moment = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => moment,
        Err(_) if text.len() == "2026-01-31".len() => day(text)?,
        Err(_) => return Err(TimeError::NotADate),
    };
    Ok(Older::Before(Timestamp(moment.as_second())))
}

fn length(number: &str, unit: &str) -> Result<Duration, TimeError> {
    if number.is_empty() {
        return Err(TimeError::NotADuration);
    }
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err(TimeError::NotADuration),
    };
    let number: u64 = number.parse().map_err(|_| TimeError::TooLong)?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or(TimeError::TooLong)
}

fn day(text: &str) -> Result<jiff::Timestamp, TimeError> {
    let date: jiff::civil::Date = text.parse().map_err(|_| TimeError::NotADate)?;
    let start = jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0));
    start.map_err(|_| TimeError::NotADate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let table = [
            ("0s", Ok(0)),
            ("500ms", Ok(500)),
            ("30s", Ok(30_000)),
            ("5m", Ok(300_000)),
            ("2h", Ok(7_200_000)),
            ("30d", Ok(2_592_000_000)),
            ("2w", Ok(1_209_600_000)),
            ("1h30m", Ok(5_400_000)),
            ("", Err(TimeError::NotADuration)),
            ("30", Err(TimeError::NotADuration)),
            ("s", Err(TimeError::NotADuration)),
            ("-1s", Err(TimeError::NotADuration)),
            ("1.5h", Err(TimeError::NotADuration)),
            ("30 s", Err(TimeError::NotADuration)),
            ("30S", Err(TimeError::NotADuration)),
            ("3é", Err(TimeError::NotADuration)),
            ("1000000w", Err(TimeError::TooLong)),
            ("99999999999999999999s", Err(TimeError::TooLong)),
            ("18446744073709551615w", Err(TimeError::TooLong)),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn dates_are_ages_days_or_moments() {
        let table = [
            ("30d", Ok(Older::Than(Duration::from_secs(2_592_000)))),
            ("1970-01-02", Ok(Older::Before(Timestamp(86_400)))),
            ("1970-01-02T00:00:01Z", Ok(Older::Before(Timestamp(86_401)))),
            ("1970-01-02T02:00:00+02:00", Ok(Older::Before(Timestamp(86_400)))),
            ("2026-02-30", Err(TimeError::NotADate)),
            ("yesterday", Err(TimeError::NotADate)),
            ("", Err(TimeError::NotADate)),
            ("20260131", Err(TimeError::NotADate)),
            ("9999999w", Err(TimeError::TooLong)),
        ];
        for (text, expected) in table {
            assert_eq!(older(text), expected, "{text}");
        }
        let now = Timestamp(1_000_000);
        assert_eq!(Older::Than(Duration::from_secs(10)).cutoff(now), Timestamp(999_990));
        assert_eq!(Older::Before(Timestamp(5)).cutoff(now), Timestamp(5));
    }
}
