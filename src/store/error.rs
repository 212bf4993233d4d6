//! What can go wrong with object storage: which field, which URI, what to do, and last what the server said.

use std::error::Error;

use object_store::client::HttpError;

use super::registry;
use super::uri::Scheme;
use crate::api::Reason;
use crate::api::wire::cut;

/// The most that is repeated of a server's words.
const MOST_SAID: usize = 300;

/// Something that could not be done with object storage.
#[derive(Debug)]
pub struct StoreError(Box<Told>);

#[derive(Debug)]
struct Told {
    at: At,
    fault: Fault,
    said: String,
}

/// The field whose URI it is about.
#[derive(Debug, Clone)]
pub(super) struct At {
    field: String,
    uri: String,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The store refuses these credentials.
    Denied,
    /// There are none.
    NoCredentials,
    /// There is no such object.
    NoObject,
    /// There is no such bucket.
    NoBucket,
    /// Nothing answers, or only to say that it cannot now.
    Unreachable,
    /// What went over the wire did not arrive whole.
    Broken,
    /// The object became another one while it was read.
    Replaced,
    /// Another run published to the same place at the same time.
    Taken,
    /// The server's certificate is not signed by anybody who is trusted.
    Untrusted,
    /// The bucket is in another region.
    Region,
    /// The server refuses the request for a reason of its own.
    Refused,
    /// The URI is none.
    Malformed,
    /// The certificates to trust cannot be read.
    Certificates,
    /// A variable of the environment has no such value.
    Setting,
    /// The disk is too small for what is to be fetched: bytes needed, bytes free.
    Room(u64, u64),
    /// This machine's own files.
    Here,
    /// The object is larger than what it is read as may be: the most, its size.
    TooLarge(u64, u64),
    /// The object is another one than the job pins: expected, found.
    Digest(String, String),
    /// A file is not what the report says: expected, found.
    Changed(String, String),
}

impl At {
    pub(super) fn new(field: impl Into<String>, uri: impl Into<String>) -> Self {
        Self { field: field.into(), uri: uri.into() }
    }

    pub(super) fn fault(&self, fault: Fault, said: impl std::fmt::Display) -> StoreError {
        StoreError(Box::new(Told { at: self.clone(), fault, said: said.to_string() }))
    }

    /// An error of the client, told by what the server said.
    pub(super) fn failed(&self, error: impl Into<Failed>) -> StoreError {
        match error.into() {
            Failed::Known(error) => error,
            Failed::Client(error) => self.fault(classify(&error), said(&error)),
        }
    }

    /// The name was to be new, and is not.
    pub(super) fn taken(&self, error: &object_store::Error) -> StoreError {
        self.fault(Fault::Taken, said(error))
    }

    /// An error on the way to credentials: whoever gives them out refuses, or does not answer.
    pub(super) fn unidentified(&self, error: object_store::Error) -> StoreError {
        match classify(&error) {
            Fault::Unreachable | Fault::Untrusted => self.failed(error),
            _ => self.fault(Fault::NoCredentials, said(&error)),
        }
    }
}

/// An error on the way to an object: ours, or the client's.
#[derive(Debug)]
pub(super) enum Failed {
    Known(StoreError),
    Client(object_store::Error),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        Self::Client(error)
    }
}

impl StoreError {
    /// The reason, for the exit code and the status. What is not there ends as a file that is not there.
    pub fn reason(&self) -> Reason {
        match self.0.fault {
            Fault::Denied | Fault::NoCredentials => Reason::AccessDenied,
            Fault::NoObject | Fault::NoBucket | Fault::TooLarge(..) => match self.0.at.field.as_str() {
                "spec.source.uri" => Reason::InvalidModel,
                "spec.output.uri" => Reason::OutputUnwritable,
                field if field.starts_with("spec.data.") => Reason::InvalidData,
                _ => Reason::InvalidJob,
            },
            Fault::Unreachable | Fault::Broken | Fault::Replaced => Reason::StorageUnreachable,
            Fault::Room(..) | Fault::Here | Fault::Taken => Reason::OutputUnwritable,
            Fault::Changed(..) => Reason::Internal,
            Fault::Untrusted
            | Fault::Region
            | Fault::Refused
            | Fault::Malformed
            | Fault::Certificates
            | Fault::Setting
            | Fault::Digest(..) => Reason::InvalidJob,
        }
    }

    /// Whether doing the same again may do better.
    pub(super) fn passes(&self) -> bool {
        self.reason().worth_a_retry()
    }

    /// Whether nobody vouches for the server.
    pub(super) fn is_untrusted(&self) -> bool {
        self.0.fault == Fault::Untrusted
    }

    /// Whether these credentials may not do it.
    pub fn is_denied(&self) -> bool {
        self.0.fault == Fault::Denied
    }

    /// Whether it is just not there.
    pub fn is_missing(&self) -> bool {
        matches!(self.0.fault, Fault::NoObject | Fault::NoBucket)
    }

    /// Whether asking again with GET would tell more: an answer to HEAD has no text, and some web servers and signed links know no HEAD.
    pub(super) fn is_mute(&self) -> bool {
        matches!(self.0.fault, Fault::NoObject | Fault::Denied | Fault::Refused | Fault::Region)
    }
}

impl Error for StoreError {}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Told { at: At { field, uri }, fault, said } = &*self.0;
        write!(f, "{field}: ")?;
        let of_registry = registry::told(fault, uri);
        match fault {
            _ if of_registry.is_some() => f.write_str(&of_registry.unwrap_or_default()),
            Fault::Denied if uri.starts_with("https://") => {
                write!(f, "access to {uri} is denied. A signed link may have expired; make a new one")
            }
            Fault::Denied => write!(
                f,
                "access to {uri} is denied, or it is not there and may not be listed. Check the keys in the Secret of spec.storage.credentials, or what the worker's identity may do"
            ),
            Fault::NoCredentials => write!(
                f,
                "there are no credentials for {uri}. Name a Secret with {} in spec.storage.credentials, give the worker's service account an identity, \
                 or set these variables in a shell",
                variables(uri)
            ),
            Fault::NoObject => write!(f, "{uri} is not there. Upload it, or correct the URI"),
            Fault::NoBucket => {
                write!(f, "the bucket of {uri} is not there. Create it, or correct the URI or spec.storage.endpoint")
            }
            Fault::Unreachable => write!(
                f,
                "object storage does not answer for {uri}. Check spec.storage.endpoint and the network; it may be worth another try"
            ),
            Fault::Broken => {
                write!(f, "what went to or came from {uri} did not arrive whole; it may be worth another try")
            }
            Fault::Replaced => write!(f, "{uri} was replaced while it was read; it may be worth another try"),
            Fault::Taken => write!(
                f,
                "another run published to {uri} at the same time, and its report stays. Give each job a folder of its own"
            ),
            Fault::Untrusted => write!(
                f,
                "the server of {uri} shows a certificate that is not trusted. Name its CA in spec.storage.caBundle, or in AWS_CA_BUNDLE in a shell"
            ),
            Fault::Region => write!(f, "the bucket of {uri} is in another region. Set spec.storage.region"),
            Fault::Refused => write!(f, "object storage refuses {uri}. Check the URI and spec.storage"),
            Fault::Malformed => write!(f, "{uri} is no location in object storage"),
            Fault::Certificates => {
                write!(f, "{uri} gives no certificates to trust. Put PEM text there, or leave it out")
            }
            Fault::Setting => write!(f, "{uri} cannot be used"),
            Fault::Room(needed, free) => write!(
                f,
                "{needed} bytes are to be fetched, but {uri} has {free} free. Give the worker more ephemeral storage"
            ),
            Fault::TooLarge(most, size) => {
                write!(
                    f,
                    "{uri} has {size} bytes, more than the {most} that it may have. It is another file than its name says"
                )
            }
            Fault::Here => write!(f, "what belongs to {uri} cannot be kept on this machine"),
            Fault::Digest(expected, found) => write!(
                f,
                "{uri} has sha256 {found}, the job pins {expected}. Upload the model again or correct the digest."
            ),
            Fault::Changed(expected, found) => write!(
                f,
                "what was to become {uri} has sha256 {found}, the report says {expected}. This is a fault of Bakehouse; please report it."
            ),
        }?;
        if said.is_empty() { Ok(()) } else { write!(f, ": {}", cut(said, MOST_SAID)) }
    }
}

/// The variables that hold keys for a store.
fn variables(uri: &str) -> &'static str {
    match Scheme::split(uri) {
        Some((Scheme::Gs, _)) => "GOOGLE_SERVICE_ACCOUNT_KEY",
        Some((Scheme::Az, _)) => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        _ => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

/// What the client's error comes down to.
fn classify(error: &object_store::Error) -> Fault {
    let text = error.to_string();
    let code = element(&text, "Code").unwrap_or_default();
    let status = status(&text);
    match (code, error) {
        ("NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted", _) => Fault::NoBucket,
        // An upload in parts that is gone was ended by somebody else, or by the answer that never came.
        ("NoSuchUpload" | "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "Md5Mismatch", _) => {
            Fault::Broken
        }
        (_, object_store::Error::Precondition { .. }) => Fault::Replaced,
        // The last of these is what versitygw answers, with 404, to keys that it does not know.
        ("AccessDenied" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "XAdminUserNotFound", _)
        | (_, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
            Fault::Denied
        }
        ("NoSuchKey", _) | (_, object_store::Error::NotFound { .. }) => Fault::NoObject,
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) => {
            Fault::Region
        }
        (
            "SlowDown" | "RequestTimeout" | "ServiceUnavailable" | "InternalError" | "ServerBusy" | "OperationTimedOut",
            _,
        ) => Fault::Unreachable,
        // The client has no kind for what may not be listed.
        _ if matches!(status, Some(401 | 403)) => Fault::Denied,
        _ if text.contains("redirect without LOCATION") || matches!(status, Some(301 | 307 | 308)) => Fault::Region,
        _ if text.contains("invalid peer certificate")
            || causes(error).any(|c| c.to_string().contains("invalid peer certificate")) =>
        {
            Fault::Untrusted
        }
        _ if matches!(status, Some(408 | 429 | 500..)) || causes(error).any(<dyn Error>::is::<HttpError>) => {
            Fault::Unreachable
        }
        _ => Fault::Refused,
    }
}

/// Some stores that speak S3 do not know `If-None-Match` and say so.
pub(super) fn knows_no_condition(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })
        || error.to_string().contains("NotImplemented")
}

fn causes<'e>(error: &'e object_store::Error) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}

/// The server's code and message, or else the innermost cause. Never the whole answer: it may repeat what was signed.
fn said(error: &object_store::Error) -> String {
    let text = error.to_string();
    match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => {
            let innermost = causes(error).last().map_or(text, ToString::to_string);
            innermost.lines().next().unwrap_or_default().trim_end_matches([':', ' ']).to_owned()
        }
    }
}

/// The text of an XML element.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside)
}

/// The status of the answer; the client keeps it in its text only.
fn status(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::client::HttpErrorKind;

    fn answer(status: &str, body: &str) -> object_store::Error {
        let source = format!(
            "Error performing GET http://s3/b/k in 3ms - Server returned non-2xx status code: {status}: {body}"
        );
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    fn xml(code: &str, message: &str) -> String {
        format!(
            "<?xml?><Error><Code>{code}</Code><Message>{message}</Message><StringToSign>SECRET</StringToSign></Error>"
        )
    }

    #[test]
    fn each_answer_has_its_reason_and_the_servers_words_come_last() {
        let http = object_store::Error::Generic {
            store: "S3",
            source: Box::new(HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("operation timed out"))),
        };
        let denied =
            object_store::Error::PermissionDenied { path: "k".into(), source: xml("AccessDenied", "No.").into() };
        let absent = object_store::Error::NotFound { path: "k".into(), source: xml("NoSuchKey", "None.").into() };
        let absent_bucket =
            object_store::Error::NotFound { path: "k".into(), source: xml("NoSuchBucket", "None.").into() };
        for (error, reason, said) in [
            (denied, Reason::AccessDenied, "AccessDenied: No."),
            (absent, Reason::InvalidModel, "NoSuchKey: None."),
            (absent_bucket, Reason::InvalidModel, "NoSuchBucket: None."),
            (http, Reason::StorageUnreachable, "operation timed out"),
            (
                answer("503 Service Unavailable", &xml("SlowDown", "Later.")),
                Reason::StorageUnreachable,
                "SlowDown: Later.",
            ),
            (answer("502 Bad Gateway", "<html>\nlong"), Reason::StorageUnreachable, "502 Bad Gateway"),
            (answer("429 Too Many Requests", ""), Reason::StorageUnreachable, "429"),
            (answer("400 Bad Request", &xml("ExpiredToken", "Old.")), Reason::AccessDenied, "ExpiredToken: Old."),
            (answer("403 Forbidden", &xml("AccessDenied", "Never.")), Reason::AccessDenied, "AccessDenied: Never."),
            (answer("403 Forbidden", ""), Reason::AccessDenied, "403 Forbidden"),
            (answer("400 Bad Request", &xml("AuthorizationHeaderMalformed", "Region.")), Reason::InvalidJob, "Region."),
            (answer("400 Bad Request", &xml("InvalidArgument", "What?")), Reason::InvalidJob, "InvalidArgument: What?"),
            (answer("400 Bad Request", &xml("XAmzContentSHA256Mismatch", "Bad.")), Reason::StorageUnreachable, "Bad."),
            (answer("404 Not Found", &xml("NoSuchUpload", "Gone.")), Reason::StorageUnreachable, "NoSuchUpload: Gone."),
            (answer("404 Not Found", &xml("ContainerNotFound", "None.")), Reason::InvalidModel, "ContainerNotFound"),
        ] {
            let error = At::new("spec.source.uri", "s3://b/k").failed(error);
            let text = error.to_string();
            assert_eq!(error.reason(), reason, "{text}");
            assert!(text.starts_with("spec.source.uri: ") && text.contains("s3://b/k"), "{text}");
            assert!(text.split_once(": ").unwrap().1.contains(said), "{text}");
            assert!(!text.contains("SECRET"), "{text}");
        }
    }

    #[test]
    fn credentials_that_are_missing_are_named_as_their_store_knows_them() {
        for (uri, variable) in [
            ("s3://b/k", "AWS_SECRET_ACCESS_KEY"),
            ("gs://b/k", "GOOGLE_SERVICE_ACCOUNT_KEY"),
            ("az://b/k", "AZURE_STORAGE_ACCOUNT_KEY"),
        ] {
            let text = At::new("spec.source.uri", uri).fault(Fault::NoCredentials, "").to_string();
            assert!(text.contains(variable), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_ends_as_a_file_that_is_not_there() {
        for (field, reason) in [
            ("spec.source.uri", Reason::InvalidModel),
            ("spec.data.training.uri", Reason::InvalidData),
            ("spec.optimization.recipe.uri", Reason::InvalidJob),
            ("spec.output.uri", Reason::OutputUnwritable),
        ] {
            assert_eq!(At::new(field, "s3://b/k").fault(Fault::NoObject, "").reason(), reason, "{field}");
        }
    }
}
