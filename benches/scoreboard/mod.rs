//! The scoreboard's models, where `make scoreboard` has fetched them.

use std::path::{Path, PathBuf};

const NAMES: [&str; 6] = ["mlp_mnist", "ppocr_cls", "silero_seq", "magika", "opennsfw", "minilm"];

/// Calls `measure` with name, model and calibration data of each that is there, and says which are not.
pub(crate) fn each(mut measure: impl FnMut(&str, &Path, &Path)) {
    let folder = folder();
    for name in NAMES {
        let model = folder.join(format!("models/{name}.onnx"));
        let data = folder.join(format!("data/{name}.calibration.npz"));
        if model.is_file() && data.is_file() {
            measure(name, &model, &data);
        } else {
            println!("{name}: skipped, {} is not there. `make scoreboard` fetches it.", model.display());
        }
    }
}

/// Where `make scoreboard` keeps models and data.
fn folder() -> PathBuf {
    let given = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = || given("XDG_CACHE_HOME").unwrap_or_else(|| given("HOME").unwrap_or_default().join(".cache"));
    given("BAKEHOUSE_SCOREBOARD").unwrap_or_else(|| cache().join("bakehouse").join("scoreboard"))
}
