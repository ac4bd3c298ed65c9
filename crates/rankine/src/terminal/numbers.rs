//! Numbers as people read them.

use std::time::Duration;

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 record`, `2 records`.
pub(crate) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `45s`, `3m 20s`, `2h 05m`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A share in percent, with the digits that tell it from 0 and from 100.
pub(crate) fn percent(part: usize, whole: usize) -> String {
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    match percent {
        _ if part == 0 => "0%".to_owned(),
        _ if part == whole => "100%".to_owned(),
        p if p >= 10.0 => format!("{p:.1}%"),
        p if p >= 0.1 => format!("{p:.2}%"),
        p => format!("{p:.4}%"),
    }
}

/// A number in the shortest form that says the same: `2e-4`, `0.05`, `32`.
pub(crate) fn float(number: f64) -> String {
    if number != 0.0 && !(1e-3..1e6).contains(&number.abs()) { format!("{number:e}") } else { format!("{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (count(0), count(999), count(1000), count(1_234_567)),
            ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!((bytes(12), bytes(1536), bytes(5 << 30)), ("12 B".into(), "1.5 KiB".into(), "5.0 GiB".into()));
        assert_eq!(duration(Duration::from_secs(3725)), "1h 02m");
        assert_eq!(
            (float(2e-4), float(0.05), float(32.0), float(0.0)),
            ("2e-4".into(), "0.05".into(), "32".into(), "0".into())
        );
        assert_eq!(
            (percent(1, 3), percent(3, 3), percent(1, 100_000)),
            ("33.3%".into(), "100%".into(), "0.0010%".into())
        );
    }
}
