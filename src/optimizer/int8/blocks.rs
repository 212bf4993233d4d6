//! 4-bit codes with one scale per block: each run of `size` weights of an output channel shares a scale, so that an outlier costs its own block alone.
//!
//! The weight of largest magnitude of a block gets code -8, so all sixteen codes are used: `scale = largest / -8`, codes from -8 to 7. No zero point is stored;
//! 8 is what the operator takes where there is none.

use rayon::prelude::*;

use super::scheme::Quantised;

/// Sizes of blocks that are tried. ONNX Runtime knows powers of two from 16 on; from 32 on a scale costs a bit per weight or less.
const SIZES: [usize; 3] = [32, 64, 128];

/// The code of the weight that sets a block's scale.
pub(super) const LOWEST: f32 = -8.0;
const HIGHEST: f32 = 7.0;

/// Quantises `rows`, one output channel of `depth` weights each; the last block of a row may be shorter. One scale per block, row by row.
/// `None` when a weight is infinite or no number.
pub(super) fn quantise(rows: &[f32], depth: usize, size: usize) -> Option<Quantised> {
    let per_row = depth.div_ceil(size.max(1));
    let mut codes = vec![0_i8; rows.len()];
    let mut scales = vec![1.0_f32; rows.len() / depth.max(1) * per_row];
    let whole =
        codes.par_chunks_mut(depth.max(1)).zip(rows.par_chunks(depth.max(1))).zip(scales.par_chunks_mut(per_row));
    let finite = whole
        .map(|((codes, row), scales)| {
            let blocks = codes.chunks_mut(size).zip(row.chunks(size)).zip(scales);
            blocks.fold(true, |finite, ((codes, block), scale)| finite & quantise_block(codes, block, scale))
        })
        .reduce(|| true, |a, b| a & b);
    finite.then_some(Quantised { codes, scales })
}

/// Whether all of the block is finite. A block of zeros, or as good as, keeps scale 1 and codes 0.
fn quantise_block(codes: &mut [i8], block: &[f32], scale: &mut f32) -> bool {
    // The first of equals, so that their signs are told apart in the same way every time.
    let largest = block.iter().fold(0.0_f32, |m, v| if v.abs() > m.abs() || v.is_nan() { *v } else { m });
    if !largest.is_finite() {
        return false;
    }
    if (largest / LOWEST).abs() >= f32::MIN_POSITIVE {
        *scale = largest / LOWEST;
        codes.iter_mut().zip(block).for_each(|(q, v)| *q = code(*v, *scale));
    }
    true
}

fn code(value: f32, scale: f32) -> i8 {
    (value / scale).round_ties_even().clamp(LOWEST, HIGHEST) as i8
}

/// Relative RMS error of `rows` in blocks of `size`; infinite where they have none.
pub(super) fn error(rows: &[f32], depth: usize, size: usize) -> f64 {
    let Some(Quantised { codes, scales }) = quantise(rows, depth, size) else { return f64::INFINITY };
    let per_row = depth.div_ceil(size);
    let (mut error, mut energy) = (0.0, 0.0);
    for (at, (&v, &q)) in rows.iter().zip(&codes).enumerate() {
        let scale = scales[at / depth * per_row + at % depth / size];
        error += f64::from(f32::from(q) * scale - v).powi(2);
        energy += f64::from(v).powi(2);
    }
    if energy > 0.0 { (error / energy).sqrt() } else { 0.0 }
}

/// Bytes of `channels` rows of `depth` weights: packed codes and scales.
pub(super) fn bytes(channels: usize, depth: usize, size: usize) -> usize {
    channels * depth.div_ceil(size) * (size / 2 + size_of::<f32>())
}

/// The size whose error is least for what it takes, with its error. A bit per weight halves the error of a uniform quantiser, so errors of different sizes
/// compare as `error * 2^bits` (Gray & Neuhoff 1998, "Quantization", the 6 dB rule).
pub(super) fn best_size(rows: &[f32], depth: usize) -> (usize, f64) {
    let channels = rows.len() / depth.max(1);
    let cost =
        |size: usize, error: f64| error * (bytes(channels, depth, size) as f64 * 8.0 / rows.len().max(1) as f64).exp2();
    let tried = SIZES.map(|size| (size, error(rows, depth, size)));
    // The first of equals, the smallest, is the most exact.
    tried
        .into_iter()
        .reduce(|a, b| if cost(b.0, b.1) < cost(a.0, a.1) { b } else { a })
        .unwrap_or((SIZES[0], f64::INFINITY))
}

/// Codes as the operator has them: unsigned around 8, two to a byte, the first in the low half, each row filled up to whole blocks.
pub(super) fn packed(codes: &[i8], depth: usize, size: usize) -> Vec<u8> {
    let per_row = depth.div_ceil(size) * size / 2;
    let nibble = |code: Option<&i8>| (code.copied().unwrap_or(0) - LOWEST as i8) as u8;
    codes
        .chunks(depth.max(1))
        .flat_map(|row| (0..per_row).map(move |at| nibble(row.get(2 * at)) | nibble(row.get(2 * at + 1)) << 4))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013 * (1.0 + (i % 7) as f32)).collect()
    }

    #[test]
    fn no_weight_is_off_by_more_than_half_a_scale_but_what_lies_beyond_the_highest_code() {
        for (depth, size) in [(32, 32), (33, 32), (70, 32), (100, 64), (5, 32), (1, 32), (128, 128)] {
            let rows = wave(depth * 3);
            let Quantised { codes, scales } = quantise(&rows, depth, size).unwrap();
            let per_row = depth.div_ceil(size);
            assert_eq!(scales.len(), 3 * per_row);
            for (at, (&v, &q)) in rows.iter().zip(&codes).enumerate() {
                let scale = scales[at / depth * per_row + at % depth / size];
                let most = if v / scale > 7.5 { 1.0 } else { 0.500_01 };
                assert!((f32::from(q) * scale - v).abs() <= scale.abs() * most, "{depth} {size} element {at}");
            }
        }
    }

    #[test]
    fn zeros_and_denormals_keep_scale_one_and_what_is_not_finite_is_refused() {
        let q = quantise(&[0.0, 1e-39, 0.0, 2.0], 2, 32).unwrap();
        assert_eq!((q.scales, q.codes), (vec![1.0, -0.25], vec![0, 0, 0, -8]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for values in [[1.0, bad, 0.5], [bad, 1.0, 0.5], [0.5, 1.0, bad]] {
                assert_eq!(quantise(&values, 3, 32), None, "{values:?}");
            }
        }
    }

    #[test]
    fn codes_are_packed_low_half_first_and_rows_filled_with_zeros() {
        let bytes = packed(&[-8, 7, 1, 2, 3, -1], 3, 4);
        assert_eq!(bytes, [0xf0, 0x89, 0xba, 0x87]);
    }

    #[test]
    fn smooth_weights_take_large_blocks_and_outliers_small_ones() {
        let mut rows: Vec<f32> =
            (0..512).map(|i| if i % 2 == 0 { 0.5 } else { -0.45 } + (i % 5) as f32 * 0.01).collect();
        assert_eq!(best_size(&rows, 256).0, 128);
        rows.iter_mut().step_by(128).for_each(|v| *v = 40.0);
        assert_eq!(best_size(&rows, 256).0, 32);
    }
}
