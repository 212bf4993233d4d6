//! The written forms of numbers: decimals, durations and quantities of bytes. Percent signs and exponents are refused: `95%` and `0.95` side
//! by side in one fleet is how a gate comes to mean something else than its author thought.

/// A decimal number such as `0.95` or `12`, as its value.
///
/// # Errors
/// A sentence that says what is expected.
pub fn decimal(text: &str) -> Result<f64, String> {
    number(text).ok_or_else(|| format!("{text:?} is not a decimal number such as \"0.95\" (no percent sign, no exponent)"))
}

/// A duration such as `50ms`, `1.5s` or `200us`, in seconds.
///
/// # Errors
/// A sentence that says what is expected.
pub fn seconds(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 3] = [("us", 1e6), ("ms", 1e3), ("s", 1.0)];
    UNITS
        .iter()
        // Divided, because 1e3 is exact and 1e-3 is not: "50ms" is then the same double as the literal 0.05.
        .find_map(|(unit, per_second)| text.strip_suffix(unit).and_then(number).map(|n| n / per_second))
        .ok_or_else(|| format!("{text:?} is not a duration with its unit, such as 50ms, 1.5s or 200us"))
}

/// A quantity of bytes such as `100Mi`, `2G` or `1048576`, in bytes.
///
/// # Errors
/// A sentence that says what is expected.
pub fn bytes(text: &str) -> Result<f64, String> {
    const SUFFIXES: [(&str, f64); 8] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
    ];
    SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).and_then(number).map(|n| n * factor))
        .or_else(|| number(text))
        .ok_or_else(|| format!("{text:?} is not a number of bytes, such as 100Mi, 2G or 1048576"))
}

/// Digits, and a point with more digits: nothing that Rust's own parser takes beyond that (`inf`, `1e3`, `+1`, `.5`).
fn number(text: &str) -> Option<f64> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let plain = match text.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(text),
    };
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_digits_and_one_point() {
        for (text, value) in [("0.95", 0.95), ("1", 1.0), ("12.50", 12.5), ("0", 0.0)] {
            assert_eq!(decimal(text).unwrap(), value);
        }
        for text in ["", "95%", "1e3", ".5", "5.", "-1", "+1", "inf", "NaN", "0.9.5", " 1", "１"] {
            assert!(decimal(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_come_out_in_seconds() {
        for (text, value) in [("50ms", 0.05), ("1.5s", 1.5), ("200us", 2e-4), ("0s", 0.0)] {
            assert_eq!(seconds(text).unwrap(), value);
        }
        for text in ["50", "50 ms", "5m", "1h", "50msec", "ms", "-1s"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn quantities_come_out_in_bytes() {
        for (text, value) in [("100Mi", 104_857_600.0), ("2G", 2e9), ("1048576", 1_048_576.0), ("1.5Ki", 1536.0), ("3k", 3000.0), ("1T", 1e12)] {
            assert_eq!(bytes(text).unwrap(), value);
        }
        for text in ["100MB", "1Ei", "Mi", "100 Mi", "100mi", "5K"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }
}
