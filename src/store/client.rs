//! How stores are reached: `spec.storage` over the variables of the cloud, the credentials of its chain, and bounded waits.

use std::sync::Arc;
use std::time::Duration;

use object_store::http::HttpBuilder;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::error::{At, Fault, StoreError};
use super::patience::Patience;
use super::uri::Scheme;
use super::{Location, Store, az, gs, s3};
use crate::api::bakejob::Storage;
use crate::api::wire::CA_FILE;

/// For an instance's own credentials. Outside a cloud nobody answers there.
const METADATA: Duration = Duration::from_secs(15);

/// The variable that names certificates to trust, as S3 clients read it; the controller sets it to the mounted bundle, for all stores.
const CA_VARIABLE: &str = "AWS_CA_BUNDLE";

/// The HTTP client takes the process's own choice, and there is one: ring.
pub(super) fn choose_tls() {
    // An error says that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Store {
    /// The client of a bucket, with credentials at hand; of `https`, that of the page.
    pub(super) async fn bucket(&self, at: &At, location: &Location) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let client = location.client();
        if let Some(open) = self.buckets.borrow().get(&client) {
            return Ok(Arc::clone(open));
        }
        let reach = Reach::of(self.storage.as_ref(), self.patience)?;
        let open = match location.scheme() {
            Scheme::S3 => s3::open(&reach, at, location.bucket()).await?,
            Scheme::Gs => gs::open(&reach, at, location.bucket()).await?,
            Scheme::Az => az::open(&reach, at, location.bucket()).await?,
            Scheme::Https => page(&reach, at, &client)?,
        };
        self.buckets.borrow_mut().insert(client, Arc::clone(&open));
        Ok(open)
    }
}

/// A page of a web server. No credentials are sent; a link may be signed.
fn page(reach: &Reach<'_>, at: &At, address: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let builder = HttpBuilder::new().with_url(address).with_client_options(reach.options(None));
    let open = builder.with_retry(reach.retries()).build().map_err(|error| at.failed(error))?;
    Ok(Arc::new(open))
}

/// What holds for every store.
#[derive(Debug)]
pub(super) struct Reach<'s> {
    storage: Option<&'s Storage>,
    patience: Patience,
    certificates: Vec<Certificate>,
}

impl<'s> Reach<'s> {
    fn of(storage: Option<&'s Storage>, patience: Patience) -> Result<Self, StoreError> {
        Ok(Self { storage, patience, certificates: certificates(storage)? })
    }

    /// As a job says, without the environment.
    #[cfg(test)]
    pub(super) fn plain(storage: Option<&'s Storage>) -> Self {
        Self { storage, patience: Patience::default(), certificates: Vec::new() }
    }

    pub(super) fn storage(&self) -> Option<&'s Storage> {
        self.storage
    }

    /// The job's endpoint.
    pub(super) fn endpoint(&self) -> Option<&'s str> {
        self.storage?.endpoint.as_deref()
    }

    /// Waits and trust for the client of an endpoint. Plain HTTP is for those alone who name it.
    pub(super) fn options(&self, endpoint: Option<&str>) -> ClientOptions {
        let options = ClientOptions::new()
            .with_connect_timeout(self.patience.connect())
            .with_timeout_disabled()
            .with_read_timeout(self.patience.silence())
            .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
        self.certificates.iter().cloned().fold(options, ClientOptions::with_root_certificate)
    }

    pub(super) fn retries(&self) -> RetryConfig {
        self.patience.retries()
    }
}

/// The file of certificates to trust beside the system's, and what it holds.
pub(super) fn bundle(storage: Option<&Storage>) -> Result<Option<(At, Vec<u8>)>, StoreError> {
    let named = std::env::var(CA_VARIABLE).ok().filter(|path| !path.is_empty());
    let mounted = storage.and_then(|s| s.ca_bundle.as_ref()).map(|_| CA_FILE.to_owned());
    let Some(path) = named.or(mounted) else { return Ok(None) };
    let at = At::new("spec.storage.caBundle", &path);
    let pem = std::fs::read(&path).map_err(|error| at.fault(Fault::Certificates, error))?;
    Ok(Some((at, pem)))
}

/// The certificates to trust beside the system's.
fn certificates(storage: Option<&Storage>) -> Result<Vec<Certificate>, StoreError> {
    let Some((at, pem)) = bundle(storage)? else { return Ok(Vec::new()) };
    match Certificate::from_pem_bundle(&pem) {
        Ok(list) if list.is_empty() => Err(at.fault(Fault::Certificates, "it holds no PEM certificate")),
        Ok(list) => Ok(list),
        Err(error) => Err(at.fault(Fault::Certificates, error)),
    }
}

/// Where credentials come from. The order is that of `object_store`: what somebody named goes before what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// None are sent: the bucket is public.
    Unsigned,
    /// The environment holds them.
    Keys,
    /// A token of the pod's identity is exchanged.
    Identity,
    /// The instance is asked; the last resort.
    Instance,
}

impl Chain {
    /// Gets credentials once before anything is asked of the store: nobody at the instance's address means that there are none, and not that the
    /// store is unreachable.
    pub(super) async fn check<T>(
        self,
        at: &At,
        credential: impl Future<Output = object_store::Result<T>>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Unsigned | Self::Keys => Ok(()),
            Self::Identity => credential.await.map(|_| ()).map_err(|error| at.unidentified(error)),
            Self::Instance => match tokio::time::timeout(METADATA, credential).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    Err(at.fault(Fault::NoCredentials, "the environment names none, and no instance metadata answers"))
                }
            },
        }
    }
}
