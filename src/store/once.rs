//! What a promotion needs beside files: to be the only one that writes a name, and to know what lies under one.

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};

use super::error::{Failed, StoreError};
use super::{Location, Store, entry, found};
use crate::api::digest::hex;

impl Store {
    /// Writes a small file of a folder unless there is one of that name, and says whether it did.
    pub fn create(&self, field: &str, folder: &Location, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let (bucket, key) = (self.bucket(&at, &object).await?, object.path(&at)?);
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match bucket.put_opts(&key, PutPayload::from(bytes.to_vec()), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(at.failed(error)),
            }
        })
    }

    /// The SHA-256 of a file in a folder, in hexadecimal, read in a stream; `None` when there is none.
    pub fn sha256(&self, field: &str, folder: &Location, name: &str) -> Result<Option<String>, StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let hashed = async {
                let bucket = self.bucket(&at, &object).await?;
                let mut stream = bucket.get(&object.path(&at)?).await?.into_stream();
                let mut hash = Sha256::new();
                while let Some(chunk) = stream.try_next().await? {
                    hash.update(&chunk);
                }
                Ok::<_, Failed>(hex(&hash.finalize()))
            };
            found(&at, hashed.await)
        })
    }
}
