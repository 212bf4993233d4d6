//! From files to buckets.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Attributes, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};
use sha2::{Digest, Sha256};

use super::error::{At, Fault, StoreError, knows_no_condition};
use super::meter::Meter;
use super::parts::{MOST_PARTS, PART, attributes, give_up};
use super::uri::Scheme;
use super::{Location, Store, entry};
use crate::api::digest::{hex, sha256_hex};

/// Parts that are under way at once. So many are in memory.
const AT_ONCE: usize = 4;

/// Before the last step of an upload is tried again. Each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// A file of a folder and what it hashes to.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its name in the folder, here and there.
    pub name: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Whether it names others by their digests. What an earlier run left under its name goes before any of them is replaced.
    pub names_others: bool,
}

impl Store {
    /// Makes sure that files of a folder may be written, without a trace: an upload is begun under this name and given up.
    pub fn check_writable(&self, field: &str, folder: &Location, name: &str) -> Result<(), StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let (bucket, key) = (self.bucket(&at, &object).await?, object.path(&at)?);
            let begun = if object.scheme() == Scheme::Az {
                // Azure does not hear of an upload before its first part, and forgets a part that is never used. Until it has, the name counts as taken.
                let (beside, _) = entry(field, folder, &format!("{name}.check"));
                match bucket.put_multipart(&beside.path(&at)?).await {
                    Ok(mut upload) => upload.put_part(PutPayload::from_static(&[0])).await.map(|()| upload),
                    Err(error) => Err(error),
                }
            } else {
                bucket.put_multipart(&key).await
            };
            give_up(begun.map_err(|error| at.failed(error))?, &at).await;
            Ok(())
        })
    }

    /// Writes a small file of a folder, whole or not at all.
    pub fn write(&self, field: &str, folder: &Location, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let (bucket, key) = (self.bucket(&at, &object).await?, object.path(&at)?);
            let put = bucket.put(&key, PutPayload::from(bytes.to_vec()));
            put.await.map(|_| ()).map_err(|error| at.failed(error))
        })
    }

    /// Uploads files of a folder under the same names. The last one names the others. `tell` hears what is done. `aside` is called when all are sent and
    /// nothing is seen of them yet: what lies there may be moved out of the way.
    ///
    /// An upload in parts has no name until it is completed. After `aside`, what an earlier run left under the last name goes, and one file after the
    /// other takes its name. Whatever fails, and whenever: under a name lies a whole file or none, and a manifest names only files that lie there.
    pub fn publish(
        &self,
        field: &str,
        to: &Location,
        from: &Path,
        files: &[Upload],
        tell: &mut dyn FnMut(&str),
        aside: &mut dyn FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut sent = Vec::new();
        let mut ended = self.runtime.block_on(self.send_all(field, to, from, files, tell, &mut sent));
        if ended.is_ok() {
            ended = aside();
        }
        self.runtime.block_on(async {
            if ended.is_ok() {
                ended = self.name_all(files, &mut sent).await;
            }
            for file in sent {
                file.give_up().await;
            }
            ended
        })
    }

    /// Uploads one file of a folder, in place of whatever has its name.
    pub fn put(&self, field: &str, to: &Location, from: &Path, file: &Upload) -> Result<(), StoreError> {
        let (object, at) = entry(field, to, &file.name);
        self.runtime.block_on(async {
            let waiting = Waiting::open(at, object, &from.join(&file.name), file)?;
            let mut nobody = |_: &str| {};
            let mut meter = Meter::new("uploaded", waiting.size, &mut nobody);
            let sent = self.send(waiting, &mut meter).await?;
            self.name(sent, &PutMode::Overwrite).await
        })
    }

    async fn send_all(
        &self,
        field: &str,
        to: &Location,
        from: &Path,
        files: &[Upload],
        tell: &mut dyn FnMut(&str),
        sent: &mut Vec<Sent>,
    ) -> Result<(), StoreError> {
        let mut waiting = Vec::new();
        for file in files {
            let (object, at) = entry(field, to, &file.name);
            waiting.push(Waiting::open(at, object, &from.join(&file.name), file)?);
        }
        let mut meter = Meter::new("uploaded", waiting.iter().map(|file| file.size).sum(), tell);
        for file in waiting {
            meter.say(&format!("uploading {}", file.expected.name));
            sent.push(self.send(file, &mut meter).await?);
        }
        Ok(())
    }

    /// What is left in `sent` took no name.
    async fn name_all(&self, files: &[Upload], sent: &mut Vec<Sent>) -> Result<(), StoreError> {
        let Some(manifest) = sent.last() else { return Ok(()) };
        let mode = self.withdraw(manifest).await?;
        for (_, sent) in files.iter().zip(&*sent).filter(|(file, _)| file.names_others) {
            self.withdraw(sent).await?;
        }
        while !sent.is_empty() {
            let mode = if sent.len() == 1 { &mode } else { &PutMode::Overwrite };
            self.name(sent.remove(0), mode).await?;
        }
        Ok(())
    }

    /// Sends a file: a large one in parts that nobody sees yet. A small one goes with its name, in one request, so it only waits.
    async fn send(&self, mut file: Waiting<'_>, meter: &mut Meter<'_>) -> Result<Sent, StoreError> {
        let (bucket, key) = (self.bucket(&file.at, &file.object).await?, file.object.path(&file.at)?);
        let sent = |file: &Waiting<'_>, parts| Sent {
            bucket: Arc::clone(&bucket),
            key: key.clone(),
            at: file.at.clone(),
            sha256: file.expected.sha256.clone(),
            attributes: attributes(&file.expected.name),
            parts,
        };
        if file.size <= PART as u64 {
            let mut bytes = Vec::with_capacity(file.size as usize);
            file.file.read_to_end(&mut bytes).map_err(|error| file.here(&error))?;
            file.check(sha256_hex(&bytes))?;
            meter.add(bytes.len() as u64);
            return Ok(sent(&file, Parts::One(bytes.into())));
        }
        let options =
            PutMultipartOptions { attributes: attributes(&file.expected.name), ..PutMultipartOptions::default() };
        let mut upload = bucket.put_multipart_opts(&key, options).await.map_err(|error| file.at.failed(error))?;
        match send_parts(&mut file, &mut *upload, meter).await {
            Ok(()) => Ok(sent(&file, Parts::Many(upload))),
            Err(error) => {
                give_up(upload, &file.at).await;
                Err(error)
            }
        }
    }

    /// Takes away the manifest of an earlier run: until the new one is there, nothing says that this is a result. Returns how the new one is put.
    async fn withdraw(&self, manifest: &Sent) -> Result<PutMode, StoreError> {
        let Sent { bucket, key, at, .. } = manifest;
        match bucket.head(key).await.map_err(|error| at.failed(error)) {
            Ok(_) => {}
            Err(error) if error.is_missing() => return Ok(PutMode::Create),
            // Who may write need not be allowed to read; then nobody can tell.
            Err(error) if error.is_denied() => return Ok(PutMode::Overwrite),
            Err(error) => return Err(error),
        }
        match bucket.delete(key).await.map_err(|error| at.failed(error)) {
            Ok(()) => Ok(PutMode::Create),
            Err(error) if error.is_missing() => Ok(PutMode::Create),
            Err(error) if error.is_denied() => {
                tracing::warn!(
                    "the report of an earlier run may not be deleted, so it stays until the new one takes its place: {error}"
                );
                Ok(PutMode::Overwrite)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a file its name. What was done though nobody said so counts as done.
    async fn name(&self, mut file: Sent, mode: &PutMode) -> Result<(), StoreError> {
        let (begun, mut pause, mut mode) = (Instant::now(), PAUSE, mode.clone());
        let ended = loop {
            let Err(error) = file.done(&mode).await else { return Ok(()) };
            let taken = matches!(error, object_store::Error::AlreadyExists { .. });
            let unknown = mode == PutMode::Create && !taken && knows_no_condition(&error);
            let error = if taken { file.at.taken(&error) } else { file.at.failed(error) };
            if unknown {
                mode = PutMode::Overwrite;
                continue;
            }
            if !taken && !error.passes() {
                break error;
            }
            if file.is_there().await {
                tracing::info!(%error, "it is there all the same");
                file.give_up().await;
                return Ok(());
            }
            // An upload in parts can be completed once; the client itself has tried that again.
            let once = matches!(file.parts, Parts::Many(_));
            if taken || once || begun.elapsed() + pause > self.patience.budget() {
                break error;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        };
        file.give_up().await;
        Err(ended)
    }
}

/// A file before it is sent.
struct Waiting<'f> {
    at: At,
    object: Location,
    file: File,
    path: String,
    size: u64,
    expected: &'f Upload,
}

impl<'f> Waiting<'f> {
    fn open(at: At, object: Location, path: &Path, expected: &'f Upload) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(|error| at.fault(Fault::Here, format!("{shown}: {error}")))?;
        Ok(Self { at, object, file, path: shown, size, expected })
    }

    fn here(&self, error: &std::io::Error) -> StoreError {
        self.at.fault(Fault::Here, format!("{}: {error}", self.path))
    }

    /// What is sent is what the manifest will claim.
    fn check(&self, found: String) -> Result<(), StoreError> {
        if found == self.expected.sha256 {
            return Ok(());
        }
        Err(self.at.fault(Fault::Changed(self.expected.sha256.clone(), found), ""))
    }
}

/// A file that was sent and has no name yet.
struct Sent {
    bucket: Arc<dyn ObjectStore>,
    key: object_store::path::Path,
    at: At,
    sha256: String,
    attributes: Attributes,
    parts: Parts,
}

enum Parts {
    /// It goes with its name.
    One(Bytes),
    /// All of them lie in the store.
    Many(Box<dyn MultipartUpload>),
}

impl Sent {
    async fn done(&mut self, mode: &PutMode) -> object_store::Result<()> {
        match &mut self.parts {
            Parts::One(bytes) => {
                let options =
                    PutOptions { mode: mode.clone(), attributes: self.attributes.clone(), ..PutOptions::default() };
                self.bucket.put_opts(&self.key, PutPayload::from(bytes.clone()), options).await.map(|_| ())
            }
            Parts::Many(upload) => upload.complete().await.map(|_| ()),
        }
    }

    async fn give_up(self) {
        if let Parts::Many(upload) = self.parts {
            give_up(upload, &self.at).await;
        }
    }

    /// Reads back what lies under the name. An answer that was lost says nothing of what was done.
    async fn is_there(&self) -> bool {
        let read = async {
            let mut stream = self.bucket.get(&self.key).await?.into_stream();
            let mut hash = Sha256::new();
            while let Some(chunk) = stream.try_next().await? {
                hash.update(&chunk);
            }
            Ok::<_, object_store::Error>(hex(&hash.finalize()))
        };
        read.await.is_ok_and(|found| found == self.sha256)
    }
}

/// Sends all parts of a file, several at once.
async fn send_parts(
    file: &mut Waiting<'_>,
    upload: &mut dyn MultipartUpload,
    meter: &mut Meter<'_>,
) -> Result<(), StoreError> {
    let part = PART.max(file.size.div_ceil(MOST_PARTS) as usize);
    let mut hash = Sha256::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut bytes = Vec::with_capacity(part);
        let read = (&mut file.file).take(part as u64).read_to_end(&mut bytes);
        let read = read.map_err(|error| file.here(&error))?;
        if read == 0 {
            break;
        }
        hash.update(&bytes);
        let sending = upload.put_part(PutPayload::from(bytes));
        under_way.push(async move { sending.await.map(|()| read as u64) });
        if under_way.len() == AT_ONCE
            && let Some(done) = under_way.next().await
        {
            meter.add(done.map_err(|error| file.at.failed(error))?);
        }
    }
    while let Some(done) = under_way.next().await {
        meter.add(done.map_err(|error| file.at.failed(error))?);
    }
    file.check(hex(&hash.finalize()))
}
