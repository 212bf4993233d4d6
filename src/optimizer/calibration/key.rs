//! What decides the spreads of a calibration: two with the same key saw the same, to the bit.

use sha2::{Digest, Sha256};

use super::{Watch, looked_at};
use crate::api::digest::hex;
use crate::engine::dataset::sample_hash;
use crate::engine::{EngineId, Feed};
use crate::model::Model;

/// Changes when spreads are made or written in another way.
const FORMAT: &str = "bakehouse.dev/spreads/v2";

/// SHA-256, in hexadecimal, over the format, the engine, the model as it is run, the watched tensors with their weights, and the samples that are looked at
/// in their order.
pub fn key(engine: &EngineId, model: &Model, watched: &[Watch], feeds: &[Feed]) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(FORMAT.as_bytes());
    part(engine.to_string().as_bytes());
    part(model.sha256().as_bytes());
    for watch in watched {
        part(watch.tensor.as_bytes());
        let Some(channels) = &watch.channels else {
            part(b"alike");
            continue;
        };
        part(if channels.last { b"last" } else { b"second" });
        part(bytemuck::cast_slice(channels.weights.as_slice()));
    }
    for feed in looked_at(feeds) {
        part(&sample_hash(feed));
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};
    use crate::optimizer::calibration::Channels;

    fn model(op: &str) -> Model {
        let model = Builder::new(17).input("x", DType::F32, &["N"]).node(op, &["x"], "y", vec![]);
        model.output("y", DType::F32, &["N"]).build()
    }

    #[test]
    fn whatever_decides_what_is_seen_changes_the_key_and_nothing_else_does() {
        let engine = |name: &str| EngineId { name: name.into(), version: "1".into() };
        let feeds = |values: &[f32]| -> Vec<Feed> {
            values.iter().map(|v| Feed::new(vec![("x".into(), Tensor::new(&[1], &[*v]))])).collect()
        };
        let watch = |tensor: &str, channels| vec![Watch { tensor: tensor.into(), channels }];
        let channels = |last, weight| Some(Channels { last, weights: vec![weight] });
        let (relu, abs, plain) = (model("Relu"), model("Abs"), watch("y", None));
        let of = |engine_name, model: &Model, watched: &[Watch], values: &[f32]| {
            key(&engine(engine_name), model, watched, &feeds(values))
        };
        let first = of("a", &relu, &plain, &[1.0, 2.0]);
        assert_eq!(first, of("a", &relu.clone(), &plain, &[1.0, 2.0]));
        let others = [
            of("b", &relu, &plain, &[1.0, 2.0]),
            of("a", &abs, &plain, &[1.0, 2.0]),
            of("a", &relu, &watch("x", None), &[1.0, 2.0]),
            of("a", &relu, &watch("y", channels(false, 1.0)), &[1.0, 2.0]),
            of("a", &relu, &watch("y", channels(true, 1.0)), &[1.0, 2.0]),
            of("a", &relu, &watch("y", channels(true, 2.0)), &[1.0, 2.0]),
            of("a", &relu, &plain, &[1.0]),
            of("a", &relu, &plain, &[2.0, 1.0]),
            of("a", &relu, &plain, &[1.0, 2.0 + f32::EPSILON * 2.0]),
            first,
        ];
        assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), others.len(), "{others:?}");
    }
}
