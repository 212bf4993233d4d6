//! Proving who asks: by name and password, or by a token that another server gives out for them.

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde_json::Value;

use super::login::Login;
use super::{Registry, base64, wire};
use crate::store::StoreError;
use crate::store::error::{At, Fault};

/// A token is no longer than this.
const MOST_TOKEN: usize = 1 << 20;

impl Registry {
    /// What to send as `Authorization`, by one of the ways that the registry names. `base` is how the registry itself is spoken to.
    pub(super) async fn prove(&self, at: &At, base: &str, challenges: &[String]) -> Result<HeaderValue, StoreError> {
        let login = Login::find(at, &self.reference)?;
        let nothing = |why: &str| at.fault(Fault::NoCredentials, why);
        if let Login::Elsewhere(why) = &login {
            return Err(nothing(why));
        }
        if let Login::Token(token) = &login {
            return header(at, &format!("Bearer {token}"));
        }
        let bearer = challenges.iter().find_map(|challenge| parameters(challenge, "bearer"));
        if let Some(parameters) = bearer {
            return self.token(at, base, &login, &parameters).await;
        }
        if challenges.iter().any(|challenge| parameters(challenge, "basic").is_some()) {
            return match &login {
                Login::Password(name, password) => header(at, &basic(name, password)),
                _ => Err(nothing("the registry asks for one")),
            };
        }
        Err(at.fault(
            Fault::Denied,
            format!("it asks for a proof of a kind that is not known: {}", challenges.join(", ")),
        ))
    }

    /// Asks the server of tokens. Without a login it may still give one that reads.
    async fn token(
        &self,
        at: &At,
        base: &str,
        login: &Login,
        parameters: &[(String, String)],
    ) -> Result<HeaderValue, StoreError> {
        let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let realm = value("realm").unwrap_or_default();
        let mut url: Url = realm.parse().map_err(|error| at.fault(Fault::Refused, format!("its realm: {error}")))?;
        // A password goes to no server that anybody on the way can read along with.
        if url.scheme() != "https" && !base.starts_with("http://") {
            return Err(at.fault(Fault::Denied, "its tokens are to be had without TLS only"));
        }
        let scope = value("scope")
            .map_or_else(|| format!("repository:{}:pull,push", self.reference.repository), ToOwned::to_owned);
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = value("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        let request = self.client.get(url);
        let request = match login {
            Login::Password(name, password) => request.header("authorization", header(at, &basic(name, password))?),
            _ => request,
        };
        let answer = request.send().await.map_err(|error| wire::failed(at, &error))?;
        if !answer.status().is_success() {
            return Err(wire::refused(at, answer).await);
        }
        let body = wire::at_most(answer, MOST_TOKEN).await.map_err(|cut| cut.told(at))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = body["token"].as_str().or_else(|| body["access_token"].as_str());
        let token = token.ok_or_else(|| at.fault(Fault::Refused, "the server of its tokens gave none"))?;
        header(at, &format!("Bearer {token}"))
    }
}

/// A header that is shown nowhere.
fn header(at: &At, text: &str) -> Result<HeaderValue, StoreError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| at.fault(Fault::NoCredentials, "the login holds what no header can"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `key="value"` pairs of a challenge of this kind; `None` when it is of another.
fn parameters(challenge: &str, kind: &str) -> Option<Vec<(String, String)>> {
    let (found, mut rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
    if !found.eq_ignore_ascii_case(kind) {
        return None;
    }
    let mut pairs = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        // A value may hold commas, where it stands in quotes.
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        pairs.push((key.trim_matches([',', ' ']).to_ascii_lowercase(), value.to_owned()));
        rest = after;
    }
    Some(pairs)
}

/// The header of RFC 7617.
fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64::encoded(format!("{name}:{password}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart_whatever_stands_in_its_quotes() {
        let challenge =
            r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        let pairs = parameters(challenge, "bearer").unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [("realm", "https://auth.example/token"), ("service", "registry"), ("scope", "repository:a/b:pull,push")]
        );
        assert_eq!(parameters(challenge, "basic"), None);
        assert_eq!(parameters("basic realm=x, charset=\"UTF-8\"", "basic").unwrap().len(), 2);
        assert_eq!(parameters("Basic", "basic"), Some(Vec::new()));
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
