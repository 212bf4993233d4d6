//! What lies in a folder of a bucket.

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::ObjectStore;

use super::error::{At, Failed, StoreError};
use super::{Location, Store};

/// An object of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the folder; names of objects in folders of it have slashes.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified: Timestamp,
}

impl Store {
    /// Everything in a folder, folders of it included; nothing where there is none. Unlike reading and writing, this needs the right to list.
    pub fn list(&self, field: &str, folder: &Location) -> Result<Vec<Listed>, StoreError> {
        let at = At::new(field, folder.to_string());
        self.runtime.block_on(async {
            let list = async {
                let bucket = self.bucket(&at, folder).await?;
                let prefix = folder.path(&at)?;
                let objects: Vec<_> = bucket.list(Some(&prefix)).try_collect().await?;
                let listed = objects.into_iter().filter_map(|object| {
                    let name = object.location.as_ref().strip_prefix(prefix.as_ref())?.trim_start_matches('/');
                    let modified = Timestamp::from_second(object.last_modified.timestamp()).ok()?;
                    (!name.is_empty()).then(|| Listed { name: name.to_owned(), bytes: object.size, modified })
                });
                Ok::<_, Failed>(listed.collect())
            };
            list.await.map_err(|error| at.failed(error))
        })
    }
}
