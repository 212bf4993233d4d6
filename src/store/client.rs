//! How buckets are reached: `spec.storage` over the `AWS_…` variables, the credentials of the cloud's chain, and bounded waits.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use super::error::{At, Fault, StoreError};
use super::{Location, Store};
use crate::api::bakejob::Storage;
use crate::api::wire::CA_FILE;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Until the next byte of an answer comes, and for an upload until its answer begins: 8 MiB pass in this time at 1.2 Mbit/s.
const ANSWER: Duration = Duration::from_mins(1);

/// For one request with all its retries; a Job that still fails is tried again as a whole.
const RETRIES: Duration = Duration::from_mins(1);

/// For an instance's own credentials. Outside a cloud nobody answers there.
const METADATA: Duration = Duration::from_secs(15);

/// The variable that names certificates to trust, as other S3 clients read it; the controller sets it to the mounted bundle.
const CA_VARIABLE: &str = "AWS_CA_BUNDLE";

/// The HTTP client takes the process's own choice, and there is one: ring.
pub(super) fn choose_tls() {
    // An error says that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Store {
    /// The client of a bucket, with credentials at hand.
    pub(super) async fn bucket(&self, at: &At, location: &Location) -> Result<Arc<AmazonS3>, StoreError> {
        let bucket = location.bucket();
        if let Some(open) = self.buckets.borrow().get(bucket) {
            return Ok(Arc::clone(open));
        }
        let variables = AmazonS3Builder::from_env();
        let chain = Chain::of(&variables);
        chain.whole(at)?;
        let certificates = certificates(self.storage.as_ref())?;
        let open = configured(variables, self.storage.as_ref(), bucket, certificates)
            .build()
            .map_err(|error| at.failed(error))?;
        chain.check(at, &open).await?;
        let open = Arc::new(open);
        self.buckets.borrow_mut().insert(bucket.to_owned(), Arc::clone(&open));
        Ok(open)
    }
}

fn configured(
    variables: AmazonS3Builder,
    storage: Option<&Storage>,
    bucket: &str,
    certificates: Vec<Certificate>,
) -> AmazonS3Builder {
    let variable = |key| variables.get_config_value(&key).filter(|value| !value.is_empty());
    let endpoint = storage
        .and_then(|s| s.endpoint.clone())
        .or_else(|| variable(AmazonS3ConfigKey::S3Endpoint))
        .or_else(|| variable(AmazonS3ConfigKey::Endpoint));
    // A bucket's own host name is what AWS prefers; its certificate does not cover a dot in the name. Other servers seldom have such names.
    let path_style = storage.and_then(|s| s.path_style).unwrap_or(endpoint.is_some() || bucket.contains('.'));
    let mut options = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(ANSWER)
        .with_allow_http(endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")));
    for certificate in certificates {
        options = options.with_root_certificate(certificate);
    }
    let mut builder = variables
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!path_style)
        // The plain request that every S3 has; there are few files.
        .with_disable_bulk_delete(true)
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(250), base: 3.0, ..BackoffConfig::default() },
            max_retries: 8,
            retry_timeout: RETRIES,
        });
    if let Some(region) = storage.and_then(|s| s.region.as_ref()) {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint {
        let address = if path_style { endpoint } else { hosted(&endpoint, bucket) };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, address);
    }
    builder
}

/// The address of a bucket that has a host name of its own.
fn hosted(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("{bucket}.{endpoint}"),
    }
}

/// The certificates to trust beside the system's.
fn certificates(storage: Option<&Storage>) -> Result<Vec<Certificate>, StoreError> {
    let named = std::env::var(CA_VARIABLE).ok().filter(|path| !path.is_empty());
    let mounted = storage.and_then(|s| s.ca_bundle.as_ref()).map(|_| CA_FILE.to_owned());
    let Some(path) = named.or(mounted) else { return Ok(Vec::new()) };
    let at = At::new("spec.storage.caBundle", &path);
    let pem = std::fs::read(&path).map_err(|error| at.fault(Fault::Certificates, error))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(list) if list.is_empty() => Err(at.fault(Fault::Certificates, "it holds no PEM certificate")),
        Ok(list) => Ok(list),
        Err(error) => Err(at.fault(Fault::Certificates, error)),
    }
}

/// Where credentials come from. The order is that of `object_store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// None are sent: the bucket is public.
    Unsigned,
    /// Keys in the environment; false when one of the two is missing.
    Keys(bool),
    /// A token of the pod's identity is exchanged.
    Identity,
    /// The instance is asked; the last resort.
    Instance,
}

impl Chain {
    fn of(variables: &AmazonS3Builder) -> Self {
        let set = |key| variables.get_config_value(&key).is_some_and(|value| !value.is_empty());
        let keys = [set(AmazonS3ConfigKey::AccessKeyId), set(AmazonS3ConfigKey::SecretAccessKey)];
        let identity = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        if variables.get_config_value(&AmazonS3ConfigKey::SkipSignature).as_deref() == Some("true") {
            Self::Unsigned
        } else if keys.contains(&true) {
            Self::Keys(!keys.contains(&false))
        } else if identity.iter().any(|name| std::env::var_os(name).is_some()) {
            Self::Identity
        } else {
            Self::Instance
        }
    }

    fn whole(self, at: &At) -> Result<(), StoreError> {
        let half = "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set";
        if self == Self::Keys(false) { Err(at.fault(Fault::NoCredentials, half)) } else { Ok(()) }
    }

    /// Gets credentials once before anything is asked of the store: nobody at the instance's address means that there are none, and not that the
    /// store is unreachable.
    async fn check(self, at: &At, store: &AmazonS3) -> Result<(), StoreError> {
        match self {
            Self::Unsigned | Self::Keys(_) => Ok(()),
            Self::Identity => store.credentials().get_credential().await.map(|_| ()).map_err(|error| at.failed(error)),
            Self::Instance => match tokio::time::timeout(METADATA, store.credentials().get_credential()).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    Err(at.fault(Fault::NoCredentials, "the environment names none, and no instance metadata answers"))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(endpoint: Option<&str>, path_style: Option<bool>) -> Storage {
        Storage {
            endpoint: endpoint.map(Into::into),
            region: Some("eu-north-1".into()),
            path_style,
            ca_bundle: None,
            credentials: None,
        }
    }

    /// Endpoint and virtual hosting that a bucket is asked with.
    fn asked(storage: &Storage, bucket: &str) -> (Option<String>, bool) {
        let builder = configured(AmazonS3Builder::new(), Some(storage), bucket, Vec::new());
        let value = |key| builder.get_config_value(&key);
        assert_eq!(value(AmazonS3ConfigKey::Region).as_deref(), Some("eu-north-1"));
        let hosted = value(AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref() == Some("true");
        (value(AmazonS3ConfigKey::S3Endpoint), hosted)
    }

    #[test]
    fn a_bucket_is_in_the_path_of_a_server_of_ones_own_and_in_the_host_name_of_aws() {
        let minio = Some("http://minio:9000");
        assert_eq!(asked(&storage(minio, None), "data"), (Some("http://minio:9000".into()), false));
        assert_eq!(asked(&storage(minio, Some(true)), "data"), (Some("http://minio:9000".into()), false));
        assert_eq!(asked(&storage(minio, Some(false)), "data"), (Some("http://data.minio:9000".into()), true));
        assert_eq!(asked(&storage(None, None), "data"), (None, true));
        assert_eq!(asked(&storage(None, None), "data.v2"), (None, false));
        assert_eq!(asked(&storage(None, Some(true)), "data"), (None, false));
    }

    #[test]
    fn an_endpoint_of_the_job_goes_before_that_of_the_environment() {
        let variables = AmazonS3Builder::new().with_config(AmazonS3ConfigKey::S3Endpoint, "https://other");
        let endpoint = |storage: Option<&Storage>| {
            configured(variables.clone(), storage, "data", Vec::new()).get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        };
        assert_eq!(endpoint(Some(&storage(Some("https://s3"), None))).as_deref(), Some("https://s3"));
        assert_eq!(endpoint(None).as_deref(), Some("https://other"));
    }

    #[test]
    fn half_a_key_is_none() {
        let half = AmazonS3Builder::new().with_access_key_id("id");
        assert_eq!(Chain::of(&half), Chain::Keys(false));
        assert_eq!(Chain::of(&half.with_secret_access_key("secret")), Chain::Keys(true));
        assert_eq!(Chain::of(&AmazonS3Builder::new().with_skip_signature(true)), Chain::Unsigned);
    }
}
