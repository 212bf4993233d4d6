//! No bytes, however wrong, may take the loader down: they give a model or an error. What loads must also survive being checked, prepared for a bake,
//! upgraded and written.
#![no_main]

use std::path::Path;

use bakehouse::model::{Facts, IntakeOptions, Model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(model) = Model::from_bytes(data.to_vec().into(), Path::new("fuzz")) else { return };
    assert_eq!(model.to_bytes(), data);
    let _ = model.check();
    let Ok((mut model, _)) = model.prepare(&IntakeOptions::default()) else { return };
    model.check().expect("a prepared model is sound");
    if model.upgrade(&Facts::default(), 17).is_ok() {
        model.check().expect("an upgraded model is sound");
    }
    // Bits, not values: a NaN in an attribute equals itself here.
    let again = Model::from_bytes(model.to_bytes().into(), Path::new("again")).expect("what was written can be read");
    assert_eq!(again.proto().graph.as_ref().map(|g| g.node.len()), Some(model.graph().node.len()));
});
