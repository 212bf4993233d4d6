//! Quantiles with distribution-free intervals from order statistics.
//!
//! The number of samples below the true q-quantile is binomial(n, q), whatever the distribution; two order statistics therefore bracket the quantile with
//! a probability that is known exactly (David and Nagaraja, Order Statistics, 2003, section 7.1). The samples must be independent of each other.

use super::Interval;

/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// The samples in ascending order.
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The q-quantile of ascending samples, interpolated linearly between neighbours (Hyndman and Fan 1996, type 7). `None` without samples.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let position = q * (sorted.len().checked_sub(1)?) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

/// The 95 % interval of the q-quantile; `None` when there are too few samples for one (median: 6, 95th percentile: 72, 99th: 368).
pub fn interval(sorted: &[f64], q: f64) -> Option<Interval> {
    let (low, high) = ranks(sorted.len(), q)?;
    Some(Interval { low: sorted[low], high: sorted[high] })
}

/// Positions (from 0) of the order statistics that leave at most 2.5 % on either side. With B samples below the quantile, the one at position `low` lies
/// above it when B <= low, and the one at position `high` lies below it when B > high.
fn ranks(n: usize, q: f64) -> Option<(usize, usize)> {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let mut low = None;
    let mut cumulative = 0.0;
    for (k, p) in binomial(n, q).take(n).enumerate() {
        cumulative += p;
        if cumulative <= tail {
            low = Some(k);
        }
        if cumulative >= 1.0 - tail {
            return Some((low?, k));
        }
    }
    None
}

/// P(B = 0), P(B = 1), ..., P(B = n), by the ratio of neighbours in logarithms, so that large n does not underflow to nothing.
fn binomial(n: usize, q: f64) -> impl Iterator<Item = f64> {
    let mut log_p = n as f64 * (1.0 - q).ln();
    (0..=n).map(move |k| {
        let p = log_p.exp();
        log_p += ((n - k) as f64 / (k as f64 + 1.0)).ln() + (q / (1.0 - q)).ln();
        p
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_like_numpy() {
        let samples = sorted(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(quantile(&samples, 0.5), Some(2.5));
        assert_eq!(quantile(&samples, 1.0), Some(4.0));
        assert!((quantile(&samples, 0.95).unwrap() - 3.85).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn interval_ranks_match_the_tables() {
        // Conover, Practical Nonparametric Statistics, binomial tables; positions from 0.
        for (n, q, want) in [
            (5, 0.5, None),
            (6, 0.5, Some((0, 5))),
            (10, 0.5, Some((1, 8))),
            (20, 0.5, Some((5, 14))),
            (100, 0.5, Some((39, 60))),
        ] {
            assert_eq!(ranks(n, q), want, "n = {n}");
        }
        assert_eq!((ranks(367, 0.99).is_some(), ranks(368, 0.99).is_some()), (false, true));
    }

    /// The chance that the interval holds the quantile, from its definition.
    fn coverage(n: usize, q: f64) -> f64 {
        let (low, high) = ranks(n, q).unwrap();
        binomial(n, q).skip(low + 1).take(high - low).sum()
    }

    #[test]
    fn every_interval_covers_at_least_95_percent() {
        for (n, q) in [
            (6, 0.5),
            (7, 0.5),
            (13, 0.5),
            (50, 0.5),
            (333, 0.5),
            (5000, 0.5),
            (80, 0.95),
            (400, 0.99),
            (3000, 0.99),
            (100_000, 0.99),
        ] {
            let c = coverage(n, q);
            assert!((0.95..1.0).contains(&c), "n = {n}, q = {q}: {c}");
        }
    }
}
