//! Credentials for a registry, from the files that Docker, Podman and Kubernetes keep them in. Nothing of them is ever shown: no type here can be printed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Reference, base64};
use crate::store::StoreError;
use crate::store::error::{At, Fault};

/// The variable that names the folder of the file, or the file itself.
const VARIABLE: &str = "DOCKER_CONFIG";

/// What the file is called: by Docker, and in a pull secret as it is mounted.
const NAMES: [&str; 2] = ["config.json", ".dockerconfigjson"];

/// What proves who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// Nothing.
    Nobody,
    /// A name and a password.
    Password(String, String),
    /// A token that the registry takes as it is.
    Token(String),
    /// Nothing that can be used, and why.
    Elsewhere(String),
}

impl Login {
    /// The one for a place, as the environment has it.
    pub(super) fn find(at: &At, reference: &Reference) -> Result<Self, StoreError> {
        let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(path) = named.clone().or_else(|| Some(std::env::home_dir()?.join(".docker"))) else {
            return Ok(Self::Nobody);
        };
        let files = if path.is_file() { vec![path.clone()] } else { NAMES.map(|name| path.join(name)).to_vec() };
        for file in files {
            let unread = |error: &dyn std::fmt::Display| {
                at.fault(Fault::NoCredentials, format!("{} cannot be used: {error}", file.display()))
            };
            match fs::read(&file) {
                Ok(text) => {
                    let config: Value = serde_json::from_slice(&text)
                        .map_err(|error| unread(&format!("line {}: it is no JSON", error.line())))?;
                    return Self::of(&config, reference).map_err(|why| unread(&why));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unread(&error)),
            }
        }
        // Only a registry that asks for a login hears of it.
        Ok(named.map_or(Self::Nobody, |path| Self::Elsewhere(nothing(&path))))
    }

    /// The entry that fits best: the longest whose name is the host, or the host and the begin of the repository.
    fn of(config: &Value, reference: &Reference) -> Result<Self, String> {
        let host = if reference.host == "docker.io" { "index.docker.io" } else { &reference.host };
        let place = format!("{host}/{}", reference.repository);
        let fits = |key: &str| {
            let key = plain(key);
            (place == key || place.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'))).then_some(key.len())
        };
        let entries = config["auths"].as_object().into_iter().flatten();
        let best = entries.filter_map(|(key, entry)| Some((fits(key)?, entry))).max_by_key(|(length, _)| *length);
        if let Some((_, entry)) = best
            && let Some(login) = Self::entry(entry)?
        {
            return Ok(login);
        }
        let helper = config["credHelpers"][host].as_str().or_else(|| config["credsStore"].as_str());
        Ok(helper.filter(|name| !name.is_empty()).map_or(Self::Nobody, |name| {
            Self::Elsewhere(format!("the login is kept by the helper docker-credential-{name}, which is not run here"))
        }))
    }

    fn entry(entry: &Value) -> Result<Option<Self>, String> {
        let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Self::Token(token.to_owned())));
        }
        if text("identitytoken").is_some() {
            return Ok(Some(Self::Elsewhere("the login is an identity token, which is not exchanged here".to_owned())));
        }
        if let (Some(name), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(Self::Password(name.to_owned(), password.to_owned())));
        }
        let Some(auth) = text("auth") else { return Ok(None) };
        let pair = base64::decoded(auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (name, password) = pair.ok_or("its entry for the registry is no name and password in base64")?;
        Ok(Some(Self::Password(name.to_owned(), password.to_owned())))
    }
}

fn nothing(path: &Path) -> String {
    format!("{VARIABLE} is {}, where neither {} nor {} lies", path.display(), NAMES[0], NAMES[1])
}

/// The name of an entry without what some tools write around it.
fn plain(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(config: &Value, uri: &str) -> Result<Login, String> {
        Login::of(config, &Reference::parse("f", uri).unwrap())
    }

    /// Compared without a word: a login cannot be printed.
    fn same(found: Result<Login, String>, expected: &Login) -> bool {
        found.is_ok_and(|found| found == *expected)
    }

    #[test]
    fn the_entry_that_fits_best_is_taken() {
        let password = |name: &str| Login::Password(name.to_owned(), "pass:word".to_owned());
        let entry = |name: &str| json!({"username": name, "password": "pass:word"});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": entry("hub"),
            "registry:5000": {"auth": "d2hvbGU6cGFzczp3b3Jk"},
            "registry:5000/team": entry("team"),
            "https://other/v2/": {"registrytoken": "t"},
            "az.example": {"auth": "MDA6", "identitytoken": "secret"},
            "broken": {"auth": "%%%"},
            "empty": {},
        }, "credHelpers": {"empty": "pass"}});
        assert!(same(of(&config, "oci://registry:5000/m"), &password("whole")));
        assert!(same(of(&config, "oci://registry:5000/team/m"), &password("team")));
        assert!(same(of(&config, "oci://registry:5000/teams/m"), &password("whole")));
        assert!(same(of(&config, "oci://docker.io/me/m"), &password("hub")));
        assert!(same(of(&config, "oci://other/m"), &Login::Token("t".to_owned())));
        assert!(same(of(&config, "oci://registry/m"), &Login::Nobody));
        assert!(matches!(of(&config, "oci://az.example/m"), Ok(Login::Elsewhere(why)) if !why.contains("secret")));
        assert!(matches!(of(&config, "oci://empty/m"), Ok(Login::Elsewhere(why)) if why.contains("credential-pass")));
        assert!(of(&config, "oci://broken/m").is_err_and(|why| why.contains("base64") && !why.contains('%')));
    }
}
