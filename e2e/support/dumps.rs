//! What a cluster really answers, for tests that have none: with `BAKEHOUSE_E2E_DUMPS=FOLDER` the cases of Argo CD leave their objects there,
//! as `kubectl get -o yaml` prints them, and what Argo CD made of each.

use std::io::Write;
use std::path::PathBuf;

use super::{Case, shell};

/// What differs from run to run, and what stands in its place.
const NEUTRAL: [(&str, &str); 2] =
    [("uid: ", "00000000-0000-4000-8000-000000000000"), ("resourceVersion: ", "\"1000\"")];

/// Saves a `BakeJob` under the reason that its message begins with.
pub(crate) fn save(case: &Case, name: &str, health: &str, message: &str) {
    let Some(folder) = std::env::var_os("BAKEHOUSE_E2E_DUMPS").map(PathBuf::from) else { return };
    let reason = if health == "Suspended" { health } else { message.split(':').next().unwrap() };
    let path = folder.join(format!("{reason}.yaml"));
    if path.exists() {
        return;
    }
    let text = shell::run("kubectl", &["-n", &case.namespace, "get", "bakejob", name, "-o", "yaml"]);
    let mut neutral = String::new();
    for line in text.lines() {
        let value = NEUTRAL.iter().find(|(field, _)| line.trim_start().starts_with(field));
        match value {
            Some((field, value)) => {
                neutral += &format!("{}{field}{value}\n", &line[..line.len() - line.trim_start().len()]);
            }
            None => neutral += &format!("{}\n", line.replace(&case.namespace, "ml")),
        }
    }
    std::fs::write(path, neutral).unwrap();
    let shown = serde_json::json!({"status": health, "message": message});
    let mut index = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("tests.yaml")).unwrap();
    writeln!(index, "- healthStatus: {shown}\n  inputPath: testdata/cluster/{reason}.yaml").unwrap();
}
