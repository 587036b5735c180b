//! Moments as text and as the fields of a calendar, in UTC.

use std::time::{Duration, SystemTime};

/// A time in UTC with seconds, e.g. `2026-11-20T09:30:00Z` (RFC 3339). Times before 1970 are its
/// first moment.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of a year that ends a cycle of 400 years, so that the leap day
    // comes last ("chrono-Compatible Low-Level Date Algorithms", Howard Hinnant).
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The moment of these fields, year to second; `None` before 1970 and for fields that are not a date. The second may be
/// 60, which is the next minute.
#[must_use]
pub fn moment([year, month, day, hour, minute, second]: [u64; 6]) -> Option<SystemTime> {
    let leaps = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leaps => 29,
        2 => 28,
        _ => return None,
    };
    let is_one = (1970..=9999).contains(&year)
        && (1..=longest).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_one {
        return None;
    }
    // The inverse of the calculation above.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3_600 + minute * 60 + second))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // From: date -u -d @N +%FT%TZ
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_166_123, "2026-11-20T09:15:23Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(at(seconds)), want, "{seconds}");
        }
        assert_eq!(rfc3339(at(0) - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_text_that_is_no_date_is_refused() {
        for fields in [
            [2026, 2, 29, 0, 0, 0],
            [2100, 2, 29, 0, 0, 0],
            [2026, 13, 1, 0, 0, 0],
            [2026, 0, 1, 0, 0, 0],
            [2026, 4, 31, 0, 0, 0],
            [2026, 4, 0, 0, 0, 0],
            [2026, 4, 1, 24, 0, 0],
            [2026, 4, 1, 0, 60, 0],
            [2026, 4, 1, 0, 0, 61],
            [1969, 12, 31, 0, 0, 0],
            [10_000, 1, 1, 0, 0, 0],
        ] {
            assert_eq!(moment(fields), None, "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_time_is_parsed_back(seconds in 0..253_402_300_800_u64) {
            let text = rfc3339(at(seconds));
            let fields: Vec<u64> =
                text.split(|char: char| !char.is_ascii_digit()).filter_map(|field| field.parse().ok()).collect();
            prop_assert_eq!(moment(fields.try_into().unwrap()), Some(at(seconds)));
        }
    }
}
