//! `strftime_now`: some templates put the day into the system prompt.

use std::fmt::Write;

/// 26 July 2024: the day that Llama 3's own template names where it is not told one. A fixed day, so that
/// tokenising a dataset again tomorrow gives the same tokens.
pub(crate) const DEFAULT_TIME: i64 = 1_721_952_000;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `strftime` in the C locale, at `seconds` since 1970 in UTC. A directive that is not known stays as it is.
pub(crate) fn strftime(seconds: i64, format: &str) -> String {
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let weekday = (days + 4).rem_euclid(7);
    let year_day = days - days_from_civil(year, 1, 1) + 1;
    let hour12 = (hour + 11) % 12 + 1;
    let name = |names: &[&'static str], index: i64| -> &'static str {
        usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
    };
    let short = |name: &'static str| name.get(..3).unwrap_or(name);

    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // glibc: `%-d` leaves the leading zero out.
        let unpadded = chars.next_if_eq(&'-').is_some();
        let two = |value: i64| {
            if unpadded { value.to_string() } else { format!("{value:02}") }
        };
        let Some(directive) = chars.next() else {
            out.push('%');
            break;
        };
        match directive {
            'Y' => out.push_str(&year.to_string()),
            'y' => out.push_str(&two(year.rem_euclid(100))),
            'm' => out.push_str(&two(month)),
            'd' => out.push_str(&two(day)),
            'e' => _ = write!(out, "{day:2}"),
            'j' if unpadded => out.push_str(&year_day.to_string()),
            'j' => _ = write!(out, "{year_day:03}"),
            'H' => out.push_str(&two(hour)),
            'I' => out.push_str(&two(hour12)),
            'M' => out.push_str(&two(minute)),
            'S' => out.push_str(&two(second % 60)),
            'f' => out.push_str("000000"),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'B' => out.push_str(name(&MONTHS, month - 1)),
            'b' | 'h' => out.push_str(short(name(&MONTHS, month - 1))),
            'A' => out.push_str(name(&DAYS, weekday)),
            'a' => out.push_str(short(name(&DAYS, weekday))),
            'w' => out.push_str(&weekday.to_string()),
            'u' => out.push_str(&(if weekday == 0 { 7 } else { weekday }).to_string()),
            'F' => _ = write!(out, "{year}-{month:02}-{day:02}"),
            'T' => _ = write!(out, "{hour:02}:{minute:02}:{:02}", second % 60),
            'R' => _ = write!(out, "{hour:02}:{minute:02}"),
            'D' => _ = write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            's' => out.push_str(&seconds.to_string()),
            // The clock is read as UTC without a zone of its own, as by Python's `datetime.now()`.
            'Z' | 'z' => {}
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            other => {
                out.push('%');
                out.push(other);
            }
        }
    }
    out
}

/// Year, month and day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_names() {
        assert_eq!(strftime(DEFAULT_TIME, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(strftime(DEFAULT_TIME, "%A, %B %-d, %j %H:%M %I%p %%q %q"), "Friday, July 26, 208 00:00 12AM %q %q");
        assert_eq!(strftime(951_782_400, "%F %a"), "2000-02-29 Tue");
        assert_eq!(strftime(-1, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(strftime(0, "100%"), "100%");
    }
}
