//! Numbers as people read them. Digits are cut where they stop meaning something, never so far that a difference disappears.

use crate::api::metric::Unit;
use crate::quality::Figure;

/// Between the groups of digits and before a unit: a space that does not break.
const NARROW: char = '\u{202f}';

/// A value with three significant digits; plain unless it is tiny.
pub(super) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    if value.abs() < 1e-4 {
        return format!("{value:.2e}");
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    // Rounding may carry into a further digit: 9.996 is 10.0 with three.
    let scale = 10_f64.powi(digits);
    let rounded = (value * scale).round() / scale;
    let digits = (2 - rounded.abs().log10().floor() as i32).clamp(0, 12);
    format!("{rounded:.*}", digits as usize)
}

/// A duration given in seconds.
pub(super) fn seconds(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        0.0 => (value, "s"),
        v if v < 0.999_5e-6 => (value * 1e9, "ns"),
        v if v < 0.999_5e-3 => (value * 1e6, "µs"),
        v if v < 0.999_5 => (value * 1e3, "ms"),
        _ => (value, "s"),
    };
    format!("{}{NARROW}{unit}", significant(scaled))
}

/// A number of bytes, decimal units.
pub(super) fn bytes(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v < 1e3 => return format!("{value:.0}{NARROW}B"),
        v if v < 999.5e3 => (value / 1e3, "kB"),
        v if v < 999.5e6 => (value / 1e6, "MB"),
        _ => (value / 1e9, "GB"),
    };
    format!("{}{NARROW}{unit}", significant(scaled))
}

/// A whole number, its digits in groups of three.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(NARROW);
        }
        out.push(c);
    }
    out
}

/// A change of a whole number, with its sign.
pub(super) fn change(before: usize, after: usize) -> String {
    match after as i64 - before as i64 {
        0 => "0".to_owned(),
        d => format!("{}{}", if d < 0 { '−' } else { '+' }, count(d.unsigned_abs())),
    }
}

/// A share near 1 or any other ratio without a unit: four decimals. What is not 1, or not 0, is never shown as if it were.
pub(super) fn share(value: f64) -> String {
    decimals(value, 4, 1.0)
}

/// A share as a percentage, with the same care.
pub(super) fn percent(value: f64) -> String {
    format!("{}{NARROW}%", decimals(value * 100.0, 2, 100.0))
}

/// `digits` decimals; `>0.9999` for what would be rounded to the `whole` without being it, `<0.0001` for what would be rounded to nothing.
fn decimals(value: f64, digits: usize, whole: f64) -> String {
    let step = 10_f64.powi(-(digits as i32));
    let shown = format!("{value:.digits$}");
    if value != whole && shown == format!("{whole:.digits$}") {
        return if value < whole {
            format!(">{:.digits$}", whole - step)
        } else {
            format!("<{:.digits$}", whole + step)
        };
    }
    if value > 0.0 && shown == format!("{:.digits$}", 0.0) {
        return format!("<{step:.digits$}");
    }
    shown
}

/// How many times.
pub(super) fn times(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}×") } else { format!("{value:.2}×") }
}

/// A small difference, in scientific notation.
pub(super) fn scientific(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") }
}

/// A plain value in its unit.
pub(super) fn in_unit(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        Unit::Bytes => bytes(value),
        Unit::PerSecond => format!("{}/s", significant_count(value)),
        Unit::Share => share(value),
        Unit::Ratio => format!("{value:.3}"),
    }
}

/// A rate: whole above a hundred.
pub(super) fn significant_count(value: f64) -> String {
    if value.abs() >= 100.0 { count(value.round().abs() as u64) } else { significant(value) }
}

/// `[lower, upper]` in a unit, or a word when there is no interval.
pub(super) fn interval(figure: &Figure, show: impl Fn(f64) -> String) -> String {
    match (figure.exact, figure.lower, figure.upper) {
        (true, ..) => "counted".to_owned(),
        (_, Some(lower), Some(upper)) => bounds(lower, upper, show),
        _ => "no interval".to_owned(),
    }
}

/// `[lower, upper]`.
pub(super) fn bounds(lower: f64, upper: f64, show: impl Fn(f64) -> String) -> String {
    format!("[{}, {}]", show(lower), show(upper))
}

/// A word and its number, with the plural where it is due.
pub(super) fn plural(n: usize, word: &str) -> String {
    plural_of(n, word, &format!("{word}s"))
}

/// A number and the word that goes with it.
pub(super) fn plural_of(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as u64), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_cut_where_they_stop_meaning_something() {
        for (value, shown) in [
            (0.0, "0"),
            (9.996, "10.0"),
            (1234.0, "1230"),
            (0.001_234, "0.00123"),
            (-2.5, "-2.50"),
            (999.7, "1000"),
            (1.68e-8, "1.68e-8"),
        ] {
            assert_eq!(significant(value), shown, "{value}");
        }
    }

    #[test]
    fn durations_and_bytes_carry_the_unit_that_fits() {
        let plain = |s: String| s.replace(NARROW, " ");
        for (value, shown) in [
            (0.0, "0 s"),
            (3.2e-8, "32.0 ns"),
            (1.234e-4, "123 µs"),
            (0.999_9e-3, "1.00 ms"),
            (0.25, "250 ms"),
            (1.5, "1.50 s"),
        ] {
            assert_eq!(plain(seconds(value)), shown, "{value}");
        }
        for (value, shown) in
            [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.00 kB"), (999_900.0, "1.00 MB"), (2.5e9, "2.50 GB")]
        {
            assert_eq!(plain(bytes(value)), shown, "{value}");
        }
        assert_eq!(plain(count(1_234_567)), "1 234 567");
        assert_eq!(plain(change(1200, 100)), "−1 100");
    }

    #[test]
    fn a_value_that_is_not_one_or_nothing_is_never_shown_as_if_it_were() {
        let cases = [
            (1.0, "1.0000"),
            (0.999_98, ">0.9999"),
            (1.0 + 3e-9, "<1.0001"),
            (0.0, "0.0000"),
            (4e-9, "<0.0001"),
            (0.99994, "0.9999"),
            (-0.5, "-0.5000"),
        ];
        for (value, shown) in cases {
            assert_eq!(share(value), shown, "{value}");
        }
        for (value, shown) in
            [(1.0, "100.00 %"), (0.999_999, ">99.99 %"), (0.9968, "99.68 %"), (1e-7, "<0.01 %"), (0.0, "0.00 %")]
        {
            assert_eq!(percent(value).replace(NARROW, " "), shown, "{value}");
        }
    }

    #[test]
    fn a_figure_without_an_interval_says_so() {
        assert_eq!(interval(&Figure::exact(3.0), share), "counted");
        assert_eq!(interval(&Figure::new(0.9, None, 4, "m"), share), "no interval");
        assert_eq!(bounds(0.5, 0.75, share), "[0.5000, 0.7500]");
    }
}
