//! `split: "train[:5%]+validation[10:20]"`, as `datasets.ReadInstruction` reads it.

use std::ops::Range;

/// One summand of a split: which files, and which of their records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitPart {
    pub(crate) split: String,
    from: Option<Bound>,
    to: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// Records from the start, or from the end where negative.
    Record(i64),
    /// The same in hundredths of all records.
    Percent(i64),
}

impl SplitPart {
    /// The records that are taken of `total`.
    pub(crate) fn range(&self, total: usize) -> Range<usize> {
        let from = self.from.map_or(0, |bound| bound.place(total));
        let to = self.to.map_or(total, |bound| bound.place(total));
        from..to.max(from)
    }

    /// The records that are taken, where that does not depend on how many there are.
    pub(crate) fn fixed_range(&self) -> Option<Range<usize>> {
        let place = |bound: Option<Bound>, open: usize| match bound {
            None => Some(open),
            Some(Bound::Record(at)) => usize::try_from(at).ok(),
            Some(Bound::Percent(_)) => None,
        };
        let (from, to) = (place(self.from, 0)?, place(self.to, usize::MAX)?);
        Some(from..to.max(from))
    }
}

impl Bound {
    fn place(self, total: usize) -> usize {
        let total = i128::try_from(total).unwrap_or(i128::MAX);
        let at = match self {
            Self::Record(at) => i128::from(at),
            Self::Percent(percent) => rounded_hundredths(i128::from(percent) * total),
        };
        let at = if at < 0 { (total + at).max(0) } else { at };
        usize::try_from(at.min(total)).unwrap_or_default()
    }
}

/// Python's `round(x / 100)`: to the nearest, halves to the even one.
fn rounded_hundredths(hundredths: i128) -> i128 {
    let (whole, rest) = (hundredths.div_euclid(100), hundredths.rem_euclid(100));
    match rest {
        0..50 => whole,
        50 => whole + (whole & 1),
        _ => whole + 1,
    }
}

/// The parts of a split's text, in order.
pub(crate) fn parse(text: &str) -> Result<Vec<SplitPart>, String> {
    text.split('+').map(|part| parse_part(part.trim()).map_err(|fault| format!("`split: {text}`: {fault}"))).collect()
}

fn parse_part(part: &str) -> Result<SplitPart, String> {
    const FORM: &str = "expected a name like `train`, or one with a range like `train[:5%]`, `train[100:200]` or \
                        `train[-10%:]`";
    let Some((split, slice)) = part.split_once('[') else {
        return match part.is_empty() || part.contains([']', ':', '%']) {
            true => Err(FORM.to_owned()),
            false => Ok(SplitPart { split: part.to_owned(), from: None, to: None }),
        };
    };
    let inner = slice.strip_suffix(']').and_then(|inner| inner.split_once(':'));
    let (Some((from, to)), false) = (inner, split.trim().is_empty()) else {
        return Err(format!("`{part}`: {FORM}"));
    };
    let (from, to) = (bound(from.trim())?, bound(to.trim())?);
    // As in datasets, a slice is in one unit: `train[10:50%]` is in hundredths.
    let percent = [from, to].iter().flatten().any(|bound| matches!(bound, Bound::Percent(_)));
    let unit = |bound: Option<Bound>| match bound {
        Some(Bound::Record(at)) if percent => Some(Bound::Percent(at)),
        bound => bound,
    };
    let (from, to) = (unit(from), unit(to));
    for bound in [from, to].into_iter().flatten() {
        if let Bound::Percent(percent) = bound
            && percent.unsigned_abs() > 100
        {
            return Err(format!("{percent}% is more than all of it: expected -100% to 100%"));
        }
    }
    Ok(SplitPart { split: split.trim().to_owned(), from, to })
}

fn bound(text: &str) -> Result<Option<Bound>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.replace('_', "");
    let (number, percent) = match digits.strip_suffix('%') {
        Some(number) => (number.trim(), true),
        None => (digits.as_str(), false),
    };
    let at: i64 = number.parse().map_err(|_| format!("`{text}` is not a whole number or a percentage"))?;
    Ok(Some(if percent { Bound::Percent(at) } else { Bound::Record(at) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, total: usize) -> Range<usize> {
        let parts = parse(text).unwrap();
        assert_eq!(parts.len(), 1);
        parts[0].range(total)
    }

    /// Figures of `datasets.ReadInstruction.from_spec(..).to_absolute(..)`, datasets 5.2.
    #[test]
    fn ranges_are_those_of_datasets() {
        for (text, total, expected) in [
            ("train", 9, 0..9),
            ("train[:5%]", 1000, 0..50),
            ("train[:5%]", 30, 0..2),
            ("train[:5%]", 50, 0..2),
            ("train[:5%]", 70, 0..4),
            ("train[5%:]", 30, 2..30),
            ("train[-10%:]", 95, 85..95),
            ("train[-10%:]", 105, 95..105),
            ("train[:-10%]", 105, 0..95),
            ("train[33%:66%]", 10, 3..7),
            ("train[10:20]", 15, 10..15),
            ("train[10:20]", 5, 5..5),
            ("train[-3:]", 5, 2..5),
            ("train[-30:]", 5, 0..5),
            ("train[1:-1]", 5, 1..4),
            ("train[4:2]", 5, 4..4),
            ("train[10:50%]", 200, 20..100),
            ("train[:1_000]", 2000, 0..1000),
            ("train[:]", 7, 0..7),
        ] {
            assert_eq!(range(text, total), expected, "{text} of {total}");
        }
    }

    #[test]
    fn parts_are_added_and_faults_are_named() {
        let parts = parse("train[:80%] + validation").unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part.split.as_str()).collect();
        assert_eq!(names, ["train", "validation"]);
        assert_eq!((parts[0].range(10), parts[1].range(10)), (0..8, 0..10));
        assert_eq!(parse("a[5:]").unwrap()[0].fixed_range(), Some(5..usize::MAX));
        assert_eq!(parse("a[-5:]").unwrap()[0].fixed_range(), None);
        for (wrong, expected) in [
            ("", "expected a name"),
            ("train[", "expected a name"),
            ("train[5]", "expected a name"),
            ("[:5]", "expected a name"),
            ("train[:5%]x", "expected a name"),
            ("train[a:]", "not a whole number"),
            ("train[:101%]", "more than all"),
            ("train+", "expected a name"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }
}
