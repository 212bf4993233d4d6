//! Object storage behind URIs: files of a bake are fetched to this machine before it and published after it. Knows buckets, keys and digests, and
//! nothing of models. `docs/storage.md` is its manual, with the outcome of every fault.
//!
//! - **Reached** as `spec.storage` says (endpoint, region, path style, certificates); what it leaves open, the variables of the cloud say. Credentials are
//!   those of its chain: keys in the environment (in a pod: from the Secret), web identity, the pod's or the instance's own. TLS is rustls on ring.
//! - **Fetched** several objects at once and a large one in ranges, hashed as they come, once it is known that the disk holds them all. No more than
//!   the ranges under way is in memory. An object that is replaced meanwhile is noticed by its tag.
//! - **Published** in two steps. All files are sent before anything is seen of them: an upload in parts has no name until it is completed, so there
//!   is no temporary prefix, no copy, and nothing to clean up but what a lifecycle rule removes. Then the manifest of an earlier run goes, each file takes
//!   its name, and the new manifest is put last, on the condition that none is there. A single PUT, and the completion of an upload in parts, are
//!   atomic: under a name lies a whole file or none. Each file is hashed as it is sent, and what does not hash to what the manifest will claim
//!   never takes a name. Publishing again replaces objects by their like; so a run that was cut off is simply run again. Before the manifest of an
//!   earlier run goes, its result may be copied to another folder (`copy.rs`).
//! - **A registry** (`registry/`) is another thing: blobs under their digests, and tags. Blobs first, the manifest last.
//! - **Waits** are bounded (`patience.rs`): each request is tried again within its budget, with random pauses; a dead connection is given up well
//!   before that.

mod az;
mod client;
mod copy;
mod error;
mod fetch;
mod gs;
mod list;
mod meter;
mod once;
mod parts;
mod patience;
mod publish;
mod registry;
mod s3;
mod uri;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

use crate::api::bakejob::Storage;
pub use error::StoreError;
use error::{At, Failed, Fault};
pub use fetch::Fetch;
pub use list::Listed;
use patience::Patience;
pub use publish::Upload;
pub use registry::{Blob, Reference, Registry, in_registry, is_tag};
pub use uri::{Location, named};

/// Object storage as one job reaches it.
#[derive(Debug)]
pub struct Store {
    /// One thread: the work is waiting, and hashing what came.
    runtime: Runtime,
    storage: Option<Storage>,
    patience: Patience,
    /// By what a client is made for.
    buckets: RefCell<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

impl Store {
    /// A store that nothing was asked of yet.
    pub fn new(storage: Option<&Storage>) -> Result<Self, StoreError> {
        client::choose_tls();
        let patience = Patience::of_environment()?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| At::new("spec.storage", "s3://").fault(Fault::Here, error))?;
        Ok(Self { runtime, storage: storage.cloned(), patience, buckets: RefCell::default() })
    }

    /// The bytes of a file in a folder; `None` when there is none.
    pub fn read(&self, field: &str, folder: &Location, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.read_at_most(field, folder, name, u64::MAX)
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
            found(&at, read.await)
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
            Ok(found(&at, head.await)?.is_some())
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
                found(&at, delete.await)?;
            }
            Ok(())
        })
    }
}

/// What came of asking for an object; `None` when it is just not there.
fn found<T>(at: &At, asked: Result<T, Failed>) -> Result<Option<T>, StoreError> {
    match asked.map_err(|error| at.failed(error)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of a folder, and how messages call it.
fn entry(field: &str, folder: &Location, name: &str) -> (Location, At) {
    let object = folder.join(name);
    let at = At::new(field, object.to_string());
    (object, at)
}
