//! From one folder of a bucket to another, by the store itself where the files are large.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    CopyMode, CopyOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    PutPayload,
};

use super::error::{At, Failed, Fault, StoreError, knows_no_condition};
use super::parts::{MOST_PARTS, PART, attributes, give_up};
use super::publish::Upload;
use super::uri::Scheme;
use super::{Location, Store, entry, found};
use crate::api::digest::sha256_hex;

/// Files that are copied at once.
const AT_ONCE: usize = 4;

/// S3 copies no larger object in one request.
const MOST_COPIED: u64 = 5 << 30;

impl Store {
    /// Copies files of a folder, given with their sizes, to another one of its bucket, unless they lie there already. The name of one that is not there, or not as it is said to be,
    /// is returned, and then not all are copied. Small files are checked by their digest, large ones by their size.
    ///
    /// Nothing that lies there is replaced where the store can be told so: another process may do the same, and be a step ahead.
    pub fn copy(
        &self,
        field: &str,
        from: &Location,
        to: &Location,
        files: &[(Upload, u64)],
    ) -> Result<Option<String>, StoreError> {
        self.runtime.block_on(async {
            let sizes = stream::iter(files).map(|(file, _)| self.size(field, from, &file.name));
            let sizes: Vec<Option<u64>> = sizes.buffered(AT_ONCE).try_collect().await?;
            if let Some(((file, _), _)) = files.iter().zip(sizes).find(|((_, bytes), found)| *found != Some(*bytes)) {
                return Ok(Some(file.name.clone()));
            }
            let copied = stream::iter(files).map(|file| self.copy_one(field, from, to, file)).buffered(AT_ONCE);
            let mut copied = std::pin::pin!(copied);
            while let Some(other) = copied.try_next().await? {
                if other.is_some() {
                    return Ok(other);
                }
            }
            Ok(None)
        })
    }

    /// The names of the folders in a folder. This needs the right to list.
    pub fn folders(&self, field: &str, folder: &Location) -> Result<Vec<String>, StoreError> {
        let at = At::new(field, format!("{folder}/"));
        self.runtime.block_on(async {
            let list = async {
                let bucket = self.bucket(&at, folder).await?;
                Ok::<_, Failed>(bucket.list_with_delimiter(Some(&folder.path(&at)?)).await?)
            };
            let listed = found(&at, list.await)?;
            let folders = listed.map(|listed| listed.common_prefixes).unwrap_or_default();
            Ok(folders.iter().filter_map(|folder| folder.filename().map(ToOwned::to_owned)).collect())
        })
    }

    /// Where a writer may not list, what is not there is denied.
    async fn size(&self, field: &str, folder: &Location, name: &str) -> Result<Option<u64>, StoreError> {
        let (object, at) = entry(field, folder, name);
        let head = async {
            let bucket = self.bucket(&at, &object).await?;
            Ok::<_, Failed>(bucket.head(&object.path(&at)?).await?.size)
        };
        match found(&at, head.await) {
            Err(error) if error.is_denied() => Ok(None),
            size => size,
        }
    }

    async fn copy_one(
        &self,
        field: &str,
        from: &Location,
        to: &Location,
        (file, bytes): &(Upload, u64),
    ) -> Result<Option<String>, StoreError> {
        let (source, source_at) = entry(field, from, &file.name);
        let (target, at) = entry(field, to, &file.name);
        let bucket = self.bucket(&at, &target).await?;
        let (source_key, key) = (source.path(&source_at)?, target.path(&at)?);
        if *bytes <= PART as u64 {
            let got = async { Ok::<_, Failed>(bucket.get(&source_key).await?.bytes().await?) };
            return match found(&source_at, got.await)? {
                Some(text) if sha256_hex(&text) == file.sha256 => {
                    put_new(&*bucket, &key, &file.name, text).await.map_err(|error| at.failed(error)).map(|()| None)
                }
                _ => Ok(Some(file.name.clone())),
            };
        }
        let there = async || bucket.head(&key).await.is_ok_and(|there| there.size == *bytes);
        // Somebody copied it before.
        if there().await {
            return Ok(None);
        }
        let ended = if source.scheme() == Scheme::S3 && *bytes > MOST_COPIED {
            streamed(&*bucket, &source_key, &key, *bytes, &at).await
        } else {
            by_the_store(&*bucket, &source_key, &key).await
        };
        // What was done though nobody said so counts as done, and what was not done though somebody said so does not.
        if there().await {
            return Ok(None);
        }
        let fault = ended.map_or_else(
            |error| source_at.failed(error),
            |()| at.fault(Fault::Broken, format!("it was copied from {source}, and has not its {bytes} bytes")),
        );
        Err(fault)
    }
}

async fn by_the_store(
    bucket: &dyn ObjectStore,
    from: &object_store::path::Path,
    to: &object_store::path::Path,
) -> object_store::Result<()> {
    let only_new = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
    match bucket.copy_opts(from, to, only_new).await {
        Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) if knows_no_condition(&error) => bucket.copy(from, to).await,
        ended => ended,
    }
}

async fn put_new(
    bucket: &dyn ObjectStore,
    key: &object_store::path::Path,
    name: &str,
    text: Bytes,
) -> object_store::Result<()> {
    let options = |mode| PutOptions { mode, attributes: attributes(name), ..PutOptions::default() };
    let put = |mode| bucket.put_opts(key, PutPayload::from(text.clone()), options(mode));
    match put(PutMode::Create).await {
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
        Err(error) if knows_no_condition(&error) => put(PutMode::Overwrite).await.map(drop),
        ended => ended.map(drop),
    }
}

/// Through this machine, in parts.
async fn streamed(
    bucket: &dyn ObjectStore,
    from: &object_store::path::Path,
    to: &object_store::path::Path,
    bytes: u64,
    at: &At,
) -> object_store::Result<()> {
    let mut coming = bucket.get(from).await?.into_stream();
    let mut upload = bucket.put_multipart_opts(to, PutMultipartOptions::default()).await?;
    let most = PART.max(bytes.div_ceil(MOST_PARTS) as usize);
    let sent = send(&mut coming, &mut *upload, most).await;
    if sent.is_err() {
        give_up(upload, at).await;
    }
    sent
}

async fn send(
    coming: &mut (impl stream::Stream<Item = object_store::Result<Bytes>> + Unpin),
    upload: &mut dyn MultipartUpload,
    most: usize,
) -> object_store::Result<()> {
    let mut part = Vec::with_capacity(most);
    while let Some(chunk) = coming.try_next().await? {
        part.extend_from_slice(&chunk);
        // All parts but the last have one size; some servers ask for that.
        while part.len() >= most {
            let rest = part.split_off(most);
            upload.put_part(PutPayload::from(std::mem::replace(&mut part, rest))).await?;
        }
    }
    if !part.is_empty() {
        upload.put_part(PutPayload::from(part)).await?;
    }
    upload.complete().await.map(drop)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    #[test]
    fn what_no_request_copies_goes_through_this_machine_in_parts_of_one_size() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bucket = InMemory::new();
            let [from, to] = ["a", "b"].map(Path::from);
            let bytes: Vec<u8> = (0..2 * PART + 5).map(|i| (i * 7 % 251) as u8).collect();
            bucket.put(&from, bytes.clone().into()).await.unwrap();
            streamed(&bucket, &from, &to, bytes.len() as u64, &At::new("f", "s3://b/b")).await.unwrap();
            assert!(bucket.get(&to).await.unwrap().bytes().await.unwrap() == bytes);
        });
    }

    #[test]
    fn nothing_that_lies_there_is_replaced() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bucket = InMemory::new();
            let [from, to] = ["a", "b"].map(Path::from);
            bucket.put(&from, "new".into()).await.unwrap();
            bucket.put(&to, "old".into()).await.unwrap();
            by_the_store(&bucket, &from, &to).await.unwrap();
            put_new(&bucket, &to, "b", Bytes::from_static(b"new")).await.unwrap();
            assert_eq!(bucket.get(&to).await.unwrap().bytes().await.unwrap(), "old");
        });
    }
}
