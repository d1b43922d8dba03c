//! Wall time in whole seconds, as certificates and tokens carry it. Floor 0: imports nothing.
//!
//! Arithmetic saturates: a wish of a billion years clamps instead of wrapping or panicking.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The last second that X.509 can name: 9999-12-31 23:59:59 (RFC 5280 section 4.1.2.5.2).
    pub const MAX: Self = Self(253_402_300_799);

    /// From seconds since 1970-01-01 UTC; later than [`Time::MAX`] becomes that.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(seconds).min(Self::MAX)
    }

    /// Seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn unix(self) -> u64 {
        self.0
    }

    /// This many seconds later, rounded up; at most [`Time::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let whole = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
        Self::from_unix(self.0.saturating_add(whole))
    }

    /// This many whole seconds earlier; not before 1970.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// How long after `earlier` this is; zero where it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// The moment that lies `numerator / denominator` of the way from this one to `end`.
    #[must_use]
    pub fn fraction_until(self, end: Self, numerator: u32, denominator: u32) -> Self {
        self.plus(end.since(self) * numerator / denominator.max(1))
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        Self::from_unix(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

/// RFC 3339 in UTC: what a person compares with the output of `date -u`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        // Civil date from a count of days: years start in March, so that the leap day is the last of its year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_a_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Time::from_unix(seconds).to_string(), text);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let day = Duration::from_secs(86_400);
        assert_eq!(Time::MAX.plus(day), Time::MAX);
        assert_eq!(Time::from_unix(5).plus(Duration::MAX), Time::MAX);
        assert_eq!(Time::from_unix(5).minus(day), Time::from_unix(0));
        assert_eq!(Time::from_unix(5).since(Time::from_unix(9)), Duration::ZERO);
        assert_eq!(Time::from_unix(100).fraction_until(Time::from_unix(400), 2, 3), Time::from_unix(300));
        assert_eq!(Time::from_unix(400).fraction_until(Time::from_unix(100), 2, 3), Time::from_unix(400));
    }
}
