//! Object storage behind URIs: files of a bake are fetched to this machine before it and published after it. Knows buckets, keys and digests, and
//! nothing of models.
//!
//! - **Reached** as `spec.storage` says (endpoint, region, path style, certificates); what it leaves open, the `AWS_…` variables say. Credentials are
//!   those of the cloud's chain: keys in the environment (in a pod: from the Secret), web identity, the pod's or the instance's own. TLS is rustls on ring.
//! - **Fetched** in a stream, several objects at once, hashed as they come, once it is known that the disk holds them all.
//! - **Published** one file after the other in the order that is given, so the manifest goes last. A single PUT, and the completion of a multipart
//!   upload, are atomic: under a name lies a whole object or none. Each file is hashed as it is sent, and an upload whose digest is not the one that the
//!   manifest will claim is never completed. Publishing again replaces objects by their like; so a run that was cut off is simply run again.
//! - **Waits** are bounded: ten seconds to connect, a minute for an answer, a minute of retries for each request.

mod client;
mod error;
mod fetch;
mod once;
mod publish;
mod uri;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3;
use tokio::runtime::{Builder, Runtime};

use crate::api::bakejob::Storage;
pub use error::StoreError;
use error::{At, Failed, Fault};
pub use fetch::Fetch;
pub use publish::Upload;
pub use uri::{Location, named};

/// Object storage as one job reaches it.
#[derive(Debug)]
pub struct Store {
    /// One thread: the work is waiting, and hashing what came.
    runtime: Runtime,
    storage: Option<Storage>,
    buckets: RefCell<BTreeMap<String, Arc<AmazonS3>>>,
}

impl Store {
    /// A store that nothing was asked of yet.
    pub fn new(storage: Option<&Storage>) -> Result<Self, StoreError> {
        client::choose_tls();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| At::new("spec.storage", "s3://").fault(Fault::Here, error))?;
        Ok(Self { runtime, storage: storage.cloned(), buckets: RefCell::default() })
    }

    /// The bytes of a file in a folder; `None` when there is none.
    pub fn read(&self, field: &str, folder: &Location, name: &str) -> Result<Option<Bytes>, StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let read = async {
                let bucket = self.bucket(&at, &object).await?;
                Ok::<_, Failed>(bucket.get(&object.path(&at)?).await?.bytes().await?)
            };
            match read.await.map_err(|error| at.failed(error)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// The bytes of a file in a folder, which may have `most` of them; `None` when there is none.
    pub fn read_at_most(
        &self,
        field: &str,
        folder: &Location,
        name: &str,
        most: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let read = async {
                let bucket = self.bucket(&at, &object).await?;
                let got = bucket.get(&object.path(&at)?).await?;
                if got.meta.size > most {
                    return Err(Failed::from(at.fault(Fault::TooLarge(most, got.meta.size), "")));
                }
                Ok(got.bytes().await?)
            };
            match read.await.map_err(|error| at.failed(error)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Whether a file is in a folder.
    pub fn has(&self, field: &str, folder: &Location, name: &str) -> Result<bool, StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let head = async {
                let bucket = self.bucket(&at, &object).await?;
                Ok::<_, Failed>(bucket.head(&object.path(&at)?).await?)
            };
            match head.await.map_err(|error| at.failed(error)) {
                Ok(_) => Ok(true),
                Err(error) if error.is_missing() => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Deletes files of a folder, one after the other. One that is not there counts as deleted: S3 does not tell.
    pub fn delete(&self, field: &str, folder: &Location, names: &[String]) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            for name in names {
                let (object, at) = entry(field, folder, name);
                let delete = async {
                    let bucket = self.bucket(&at, &object).await?;
                    Ok::<_, Failed>(bucket.delete(&object.path(&at)?).await?)
                };
                match delete.await.map_err(|error| at.failed(error)) {
                    Err(error) if !error.is_missing() => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
    }
}

/// A file of a folder, and how messages call it.
fn entry(field: &str, folder: &Location, name: &str) -> (Location, At) {
    let object = folder.join(name);
    let at = At::new(field, object.to_string());
    (object, at)
}
