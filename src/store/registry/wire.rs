//! One request to a registry, and what its answer comes down to.

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::header::{AUTHORIZATION, HeaderMap, LINK, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::{PLAIN_HTTP, Registry};
use crate::store::StoreError;
use crate::store::error::{At, Fault};

/// The most that is read of an answer that says what is wrong.
const MOST_SAID: usize = 16 << 10;

/// Tries that a request has even when the first ones took all of the time that there is.
const LEAST_TRIES: usize = 3;

/// What is sent.
#[derive(Clone)]
pub(super) enum Body {
    None,
    Bytes(Bytes),
}

/// An answer that did not come whole.
pub(super) enum Cut {
    Client(reqwest::Error),
    TooLarge(usize),
}

impl Cut {
    pub(super) fn told(self, at: &At) -> StoreError {
        match self {
            Self::Client(error) => failed(at, &error),
            Self::TooLarge(most) => at.fault(Fault::Refused, format!("its answer has more than {most} bytes")),
        }
    }
}

impl Registry {
    /// Does something again while that may help and there is time.
    pub(super) async fn patiently<T>(&self, work: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (begun, retries) = (Instant::now(), self.patience.retries());
        let mut random = ChaCha8Rng::from_seed(seed());
        let mut pause = retries.backoff.init_backoff;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match work().await {
                Err(error) if error.passes() => error,
                ended => return ended,
            };
            let over = begun.elapsed() + pause > self.patience.budget() && tries >= LEAST_TRIES;
            if tries > retries.max_retries || over {
                return Err(error);
            }
            tracing::debug!(%error, tries, "asking the registry again");
            tokio::time::sleep(pause).await;
            let longest = pause.as_secs_f64() * retries.backoff.base;
            let next = random.random_range(retries.backoff.init_backoff.as_secs_f64()..longest.max(0.26));
            pause = std::time::Duration::from_secs_f64(next).min(retries.backoff.max_backoff);
        }
    }

    /// Asks something of the repository. `what` is a path in it, or an address that the registry gave.
    pub(super) async fn ask(
        &self,
        at: &At,
        method: &str,
        what: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response, StoreError> {
        let base = self.base(at).await?;
        let url = if what.contains("://") {
            what.to_owned()
        } else if what.starts_with('/') {
            format!("{base}{what}")
        } else {
            format!("{base}/v2/{}/{what}", self.reference.repository)
        };
        let url: Url = url.parse().map_err(|error| at.fault(Fault::Refused, error))?;
        let ours = url.origin() == base.parse::<Url>().map_err(|error| at.fault(Fault::Malformed, error))?.origin();
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| at.fault(Fault::Here, error))?;
        let request = || {
            let mut request = self.client.request(method.clone(), url.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            match &body {
                Body::None if matches!(method, Method::POST | Method::PUT) => request.body(Bytes::new()),
                Body::None => request,
                Body::Bytes(bytes) => request.body(bytes.clone()),
            }
        };
        let answer = self.send(at, request(), ours).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !ours {
            return Ok(answer);
        }
        // What was proved so far is not enough, or too old.
        let challenges = texts(answer.headers());
        *self.proof.borrow_mut() = None;
        let proof = self.prove(at, &base, &challenges).await?;
        *self.proof.borrow_mut() = Some(proof);
        self.send(at, request(), ours).await
    }

    async fn send(&self, at: &At, request: RequestBuilder, ours: bool) -> Result<Response, StoreError> {
        let proof = self.proof.borrow().clone().filter(|_| ours);
        let request = match proof {
            Some(proof) => request.header(AUTHORIZATION, proof),
            None => request,
        };
        request.send().await.map_err(|error| failed(at, &error))
    }

    /// How the registry is spoken to. This machine may do without TLS, and so may hosts that somebody named.
    async fn base(&self, at: &At) -> Result<String, StoreError> {
        if let Some(base) = &*self.base.borrow() {
            return Ok(base.clone());
        }
        let address = self.reference.address();
        let named = std::env::var(PLAIN_HTTP).unwrap_or_default();
        let schemes: &[&str] = if named.split(',').any(|host| host.trim() == self.reference.host) {
            &["http"]
        } else if self.reference.is_loopback() {
            &["https", "http"]
        } else {
            &["https"]
        };
        let mut last = None;
        for scheme in schemes {
            let base = format!("{scheme}://{address}");
            match self.client.get(format!("{base}/v2/")).send().await {
                // A server without TLS may answer in its own tongue; one with it says so to whoever comes without.
                Ok(answer) if *scheme == "http" && answer.status() == StatusCode::BAD_REQUEST => {}
                Ok(_) => {
                    *self.base.borrow_mut() = Some(base.clone());
                    return Ok(base);
                }
                Err(error) => {
                    let error = failed(at, &error);
                    let untrusted = error.is_untrusted();
                    last = last.or(Some(error));
                    if untrusted {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| at.fault(Fault::Unreachable, "it speaks neither HTTPS nor HTTP")))
    }

    /// An answer that says that something was done.
    pub(super) async fn done(&self, at: &At, answer: Response) -> Result<Response, StoreError> {
        if answer.status().is_success() { Ok(answer) } else { Err(refused(at, answer).await) }
    }

    /// An answer that holds something; `None` when it says that there is nothing.
    pub(super) async fn found(&self, at: &At, answer: Response) -> Result<Option<Response>, StoreError> {
        if answer.status() == StatusCode::NOT_FOUND { Ok(None) } else { self.done(at, answer).await.map(Some) }
    }
}

/// Others that failed at the same moment pause for other times.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    seed[..16].copy_from_slice(&time.as_nanos().to_le_bytes());
    seed[16..20].copy_from_slice(&std::process::id().to_le_bytes());
    seed
}

/// What a registry wants to see proved.
fn texts(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect()
}

/// An answer of a bounded size.
pub(super) async fn at_most(mut answer: Response, most: usize) -> Result<Vec<u8>, Cut> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(Cut::Client)? {
        if bytes.len() + chunk.len() > most {
            return Err(Cut::TooLarge(most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The address of the next page, from `<…>; rel="next"`.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let (address, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

/// An error of the client, told by its innermost cause: the outer ones hold the address, whose query may be a signature.
pub(super) fn failed(at: &At, error: &reqwest::Error) -> StoreError {
    let causes = || std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source());
    let fault = match () {
        () if causes().any(|cause| cause.to_string().contains("invalid peer certificate")) => Fault::Untrusted,
        () if error.is_builder() || error.is_redirect() => Fault::Refused,
        () if error.is_body() || error.is_decode() => Fault::Broken,
        () => Fault::Unreachable,
    };
    at.fault(fault, causes().last().map_or_else(String::new, ToString::to_string))
}

/// An answer that refuses.
pub(super) async fn refused(at: &At, answer: Response) -> StoreError {
    let status = answer.status();
    let body = at_most(answer, MOST_SAID).await.unwrap_or_default();
    let error = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default()["errors"][0].clone();
    let code = error["code"].as_str().unwrap_or_default();
    let said = match (code, error["message"].as_str()) {
        ("", _) => status.to_string(),
        (code, Some(message)) => format!("{code}: {message}"),
        (code, None) => code.to_owned(),
    };
    let fault = match status.as_u16() {
        401 | 403 => Fault::Denied,
        404 if code.starts_with("BLOB_UPLOAD") => Fault::Broken,
        404 => Fault::NoObject,
        408 | 429 | 500.. => Fault::Unreachable,
        // What was sent did not arrive as it was, or the upload has ended.
        _ if matches!(code, "DIGEST_INVALID" | "SIZE_INVALID" | "BLOB_UPLOAD_INVALID" | "BLOB_UPLOAD_UNKNOWN")
            || status == StatusCode::RANGE_NOT_SATISFIABLE =>
        {
            Fault::Broken
        }
        _ => Fault::Refused,
    };
    at.fault(fault, said)
}
