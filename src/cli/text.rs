//! Numbers as people read them.

/// `1.2 MB`, `340 kB`, `12 B`.
pub(crate) fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.0} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// `340 kB (-74 %)`.
pub(crate) fn size_change([before, after]: [u64; 2]) -> String {
    let change = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
    format!("{} ({change:+.0} %)", bytes(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_like_sizes() {
        assert_eq!((bytes(12), bytes(340_400), bytes(1_234_567)), ("12 B".into(), "340 kB".into(), "1.2 MB".into()));
        assert_eq!(size_change([1_000_000, 260_000]), "260 kB (-74 %)");
    }
}
