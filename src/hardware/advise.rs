//! What the processor means for 8-bit arithmetic, as data that passes and reports read.

use serde::{Deserialize, Serialize};

use super::MachineFacts;

/// How products of 8-bit integers are summed on this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntegerPath {
    /// Tiles: `tdpbusd` and relatives, exact in 32 bits.
    Amx,
    /// `vpdpbusd`: four u8 x s8 products straight into 32 bits, exact.
    Vnni,
    /// `vpmaddubsw`: two u8 x s8 products into a *saturating* 16-bit sum, then widened.
    SaturatingPairs,
    /// `sdot`, `udot`, `smmla`: exact in 32 bits.
    DotProduct,
    /// NEON without dot products: widening multiplies, exact.
    Widening,
    /// No vector unit that matters.
    Scalar,
}

/// Advice for quantisation on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools)] // independent facts, each read on its own
pub struct Advice {
    /// How 8-bit products are summed.
    pub path: IntegerPath,
    /// Whether u8 x s8 kernels may silently saturate: 255 * 127 * 2 = 64,770 does not fit 16 bits (32,767).
    pub u8s8_saturates: bool,
    /// Bits of a signed weight beside u8 activations that are safe in every kernel: 7 where pairs saturate (255 * 64 * 2 = 32,640), else 8.
    pub safe_weight_bits: u8,
    /// Whether u8 weights beside u8 activations are the better 8-bit form: such kernels widen to 16 bits before they multiply, so they are exact.
    pub prefer_u8u8: bool,
    /// Whether int8 is likely to be faster than float32 in matrix products. A likelihood, never a figure: what counts is measured.
    pub int8_likely_faster: bool,
    /// Whether half-precision arithmetic has its own instructions.
    pub native_bf16: bool,
    /// The reason, for report and status.
    pub reason: String,
}

/// What the facts mean for int8.
pub fn advise(facts: &MachineFacts) -> Advice {
    let path = path(facts);
    let saturates = path == IntegerPath::SaturatingPairs;
    let reason = match path {
        IntegerPath::Amx => "AMX tiles sum 8-bit products exactly in 32 bits.",
        IntegerPath::Vnni => "VNNI sums four 8-bit products exactly in 32 bits.",
        IntegerPath::SaturatingPairs => {
            "No VNNI: kernels built on vpmaddubsw saturate sums of two u8 x s8 products at 16 bits. Weights of 7 bits, or u8 weights, stay exact."
        }
        IntegerPath::DotProduct => "Dot-product instructions sum 8-bit products exactly in 32 bits.",
        IntegerPath::Widening => "NEON without dot products: 8-bit products are exact, the gain over float32 is small.",
        IntegerPath::Scalar => "No vector instructions for 8-bit products: int8 saves memory, hardly time.",
    };
    Advice {
        path,
        u8s8_saturates: saturates,
        safe_weight_bits: if saturates { 7 } else { 8 },
        prefer_u8u8: saturates,
        int8_likely_faster: matches!(
            path,
            IntegerPath::Amx | IntegerPath::Vnni | IntegerPath::SaturatingPairs | IntegerPath::DotProduct
        ),
        native_bf16: facts.has("avx512_bf16"),
        reason: reason.to_owned(),
    }
}

fn path(facts: &MachineFacts) -> IntegerPath {
    let has = |feature| facts.has(feature);
    if has("amx_int8") {
        IntegerPath::Amx
    } else if has("avx512_vnni") || has("avx_vnni") {
        IntegerPath::Vnni
    } else if has("avx2") || has("avx512bw") || has("sse4_2") {
        IntegerPath::SaturatingPairs
    } else if has("dotprod") || has("i8mm") {
        IntegerPath::DotProduct
    } else if has("neon") {
        IntegerPath::Widening
    } else {
        IntegerPath::Scalar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_follows_the_best_instruction_set() {
        let cases: [(&[&str], IntegerPath, u8, bool); 7] = [
            (&["avx2", "fma"], IntegerPath::SaturatingPairs, 7, true),
            (&["avx2", "avx_vnni"], IntegerPath::Vnni, 8, false),
            (&["avx2", "avx512f", "avx512_vnni"], IntegerPath::Vnni, 8, false),
            (&["avx512_vnni", "amx_int8", "amx_tile"], IntegerPath::Amx, 8, false),
            (&["neon", "dotprod"], IntegerPath::DotProduct, 8, false),
            (&["neon"], IntegerPath::Widening, 8, false),
            (&[], IntegerPath::Scalar, 8, false),
        ];
        for (features, path, bits, u8u8) in cases {
            let mut facts = super::super::detect();
            facts.features = features.iter().map(|&f| f.to_owned()).collect();
            let advice = advise(&facts);
            assert_eq!((advice.path, advice.safe_weight_bits, advice.prefer_u8u8), (path, bits, u8u8), "{features:?}");
        }
    }

    #[test]
    fn weights_of_the_advised_width_cannot_saturate_a_pair_and_wider_ones_can() {
        let mut facts = super::super::detect();
        facts.features = ["avx2".to_owned()].into();
        let bits = u32::from(advise(&facts).safe_weight_bits);
        let largest_pair = |bits: u32| 2 * 255 * 2_i32.pow(bits - 1);
        assert!(largest_pair(bits) <= i32::from(i16::MAX) && largest_pair(bits + 1) > i32::from(i16::MAX));
    }
}
