//! A bake whose files lie in object storage: they are fetched into a private folder, baked there, and the result is published. The bake itself knows
//! nothing of it. The folder goes at the end, however that is.

use std::fs;
use std::path::{Path, PathBuf};

use super::retention::aside;
use super::{Baked, Failed, cache, clean, scratch};
use crate::api::digest::sha256_hex;
use crate::api::wire::Outcome;
use crate::api::{Reason, ResolvedJob};
use crate::bake::{self, Options, Progress, REPORT, Report, Stage};
use crate::model::external;
use crate::package::{self, Manifest, PackageError, Wanted, phase7};
use crate::signals::HeldFolder;
use crate::store::{Fetch, Location, Store, StoreError, Upload, named};

const SOURCE: &str = "spec.source.uri";
pub(super) const OUTPUT: &str = "spec.output.uri";

/// A job with local paths in place of its URIs, and what those stand for.
pub(super) struct Place {
    job: ResolvedJob,
    folder: HeldFolder,
    store: Store,
    inputs: Vec<Fetch>,
    package: Option<Prefix>,
    output: Option<Location>,
}

/// Whether files of a job are to be fetched before anything is known of them.
pub(super) fn fetches(job: &ResolvedJob) -> bool {
    let splits = [Some(&job.validation.path), job.calibration.as_ref().map(|c| &c.path), job.training.as_ref()];
    let others = [Some(&job.source.path), job.recipe.as_ref().map(|r| &r.path)];
    splits.into_iter().chain(others).flatten().any(|path| named(path).is_some())
}

/// A package in a bucket and the folder that it becomes.
struct Prefix {
    from: Location,
    to: PathBuf,
}

impl Place {
    /// Makes room for the job's files; `None` when all of them are on this machine already.
    pub(super) fn of(job: &ResolvedJob) -> Result<Option<Self>, Failed> {
        let mut job = job.clone();
        let folder = scratch()?;
        let package = named(&job.source.path)
            .filter(|uri| uri.ends_with('/'))
            .map(|uri| Location::folder(SOURCE, uri))
            .transpose()?;
        let package = package.map(|from| {
            // The folder may lend the model its name.
            let name = Some(from.file_name()).filter(|name| !name.is_empty()).unwrap_or("package");
            let to = folder.path().join(SOURCE).join(name);
            job.origins.insert(to.clone(), from.to_string().trim_end_matches('/').to_owned());
            job.source.path.clone_from(&to);
            Prefix { from, to }
        });
        let mut inputs = Vec::new();
        let mut input = |field: &str, path: &mut PathBuf, digest: Option<(&str, &str)>| -> Result<(), StoreError> {
            let Some(uri) = named(path) else { return Ok(()) };
            let from = Location::object(field, uri)?;
            let to = folder.path().join(field).join(from.file_name());
            job.origins.insert(to.clone(), from.to_string());
            let digest = digest.map(|(field, digest)| (field.to_owned(), digest.to_owned()));
            inputs.push(Fetch { field: field.to_owned(), from, to: to.clone(), digest });
            *path = to;
            Ok(())
        };
        let pinned = job.source.digest.clone();
        input(SOURCE, &mut job.source.path, pinned.as_deref().map(|digest| ("spec.source.digest", digest)))?;
        if let Some(calibration) = &mut job.calibration {
            input("spec.data.calibration.uri", &mut calibration.path, None)?;
        }
        if let Some(training) = &mut job.training {
            input("spec.data.training.uri", training, None)?;
        }
        input("spec.data.validation.uri", &mut job.validation.path, None)?;
        if let Some(recipe) = &mut job.recipe {
            let pinned = recipe.digest.clone();
            let digest = pinned.as_deref().map(|digest| ("spec.optimization.recipe.sha256", digest));
            input("spec.optimization.recipe.uri", &mut recipe.path, digest)?;
        }
        let output = named(&job.output).map(|uri| Location::folder(OUTPUT, uri)).transpose()?;
        if output.is_some() {
            job.output = folder.path().join("output");
        }
        if inputs.is_empty() && package.is_none() && output.is_none() {
            return Ok(None);
        }
        let store = Store::new(job.storage.as_ref())?;
        Ok(Some(Self { job, folder, store, inputs, package, output }))
    }

    /// Fetches, bakes, publishes.
    pub(super) fn bake(
        mut self,
        options: &Options,
        cache: Option<&Path>,
        progress: &mut dyn Progress,
    ) -> Result<Baked, Failed> {
        progress.stage(Stage::Load);
        self.fetch(progress)?;
        if let Some(output) = &self.output {
            // An hour of baking must not end with a bucket that cannot be written.
            self.store.check_writable(OUTPUT, output, REPORT)?;
        }
        let baked = cache::bake(&self.job, options, cache, progress);
        let mut summary = baked.map_err(|error| self.said(Failed::from(error)))?;
        if let Some(output) = &self.output {
            if let Some(said) = publish(&self.store, output, &self.job.output, progress)? {
                summary.message = format!("{} {said}", summary.message);
            }
            if let Some(figures) = &mut summary.result {
                figures.folder = PathBuf::from(output.to_string());
                figures.report = PathBuf::from(output.join("report.html").to_string());
            }
        }
        Ok(Baked { summary, folder: self.job.output, _held: Some(self.folder) })
    }

    /// All that the job or its package names, then the external data that the model names.
    fn fetch(&mut self, progress: &mut dyn Progress) -> Result<(), Failed> {
        let model = match &self.package {
            None => self.inputs.iter().find(|fetch| fetch.field == SOURCE).map(|fetch| fetch.to.clone()),
            Some(prefix) => {
                let (files, model) = self.of_package(prefix)?;
                let files = files.into_iter().map(|name| Fetch {
                    field: SOURCE.to_owned(),
                    from: prefix.from.join(&name),
                    to: prefix.to.join(&name),
                    digest: None,
                });
                let files: Vec<Fetch> = files.collect();
                self.job.origins.extend(files.iter().map(|file| (file.to.clone(), file.from.to_string())));
                // Its manifest came first, by itself; reports name it like the others.
                let manifest = (prefix.to.join(package::MANIFEST_FILE), prefix.from.join(package::MANIFEST_FILE));
                self.job.origins.insert(manifest.0, manifest.1.to_string());
                self.inputs.extend(files);
                model
            }
        };
        for fetch in &self.inputs {
            tracing::info!(field = fetch.field, uri = %fetch.from, "fetching");
            make_folder_of(&fetch.to)?;
        }
        self.store.fetch(&self.inputs, &mut |text| progress.transfer(text))?;
        let Some(model) = self.inputs.iter().find(|fetch| Some(&fetch.to) == model.as_ref()) else { return Ok(()) };
        let locations =
            external::locations(&model.to).map_err(|error| self.said(Failed::from(bake::BakeError::from(error))))?;
        let mut beside = Vec::new();
        for location in locations {
            let to = model.to.with_file_name(&location);
            // A model may name its own file.
            if to == model.to {
                continue;
            }
            make_folder_of(&to)?;
            // As a key, `./weights.bin` is another one than `weights.bin`.
            let name: PathBuf =
                Path::new(&location).components().filter(|c| *c != std::path::Component::CurDir).collect();
            let from = model.from.beside(&name.to_string_lossy());
            self.job.origins.insert(to.clone(), from.to_string());
            beside.push(Fetch { field: SOURCE.to_owned(), from, to, digest: None });
        }
        Ok(self.store.fetch(&beside, &mut |text| progress.transfer(text))?)
    }

    /// The names of a package's files that are used, and the model whose external data nobody lists. Its manifest is fetched on the way: what it names, and
    /// nothing else, is fetched then.
    fn of_package(&self, prefix: &Prefix) -> Result<(Vec<String>, Option<PathBuf>), Failed> {
        let Prefix { from, to } = prefix;
        let refused = |error: PackageError| self.said(Failed::from(bake::BakeError::from(error)));
        let wanted = Wanted::by(&self.job);
        let manifest = to.join(package::MANIFEST_FILE);
        if let Some(text) = self.store.read_at_most(SOURCE, from, package::MANIFEST_FILE, package::MOST_MANIFEST)? {
            let (parsed, _) = Manifest::parse(&text, &manifest).map_err(refused)?;
            make_folder_of(&manifest)?;
            fs::write(&manifest, &text)
                .map_err(|source| refused(PackageError::Output { path: manifest.clone(), source }))?;
            let used = parsed.files().into_iter().filter(|(field, _)| wanted.has(field));
            return Ok((used.map(|(_, file)| file.path.clone()).collect(), None));
        }
        let mut there = Vec::new();
        for (name, field, required) in package::trainer_files() {
            if !wanted.has(field) {
                continue;
            }
            if self.store.has(SOURCE, from, &name)? {
                there.push(name);
            } else if required && there.is_empty() {
                let detail = format!(
                    "it holds neither {} nor {name}. Upload one that `bakehouse package` made, or name the .onnx file of a bare model.",
                    package::MANIFEST_FILE
                );
                return Err(refused(PackageError::NoPackage { folder: to.clone(), detail }));
            }
        }
        let model = there.iter().find(|name| *name == package::TRAINER_GRAPH).map(|name| to.join(name));
        Ok((there, model))
    }

    /// The same failure, calling fetched files what the job calls them.
    fn said(&self, mut failed: Failed) -> Failed {
        for (path, uri) in &self.job.origins {
            failed.message = failed.message.replace(&*path.to_string_lossy(), uri);
        }
        failed
    }
}

fn make_folder_of(path: &Path) -> Result<(), Failed> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| Failed {
        reason: Reason::OutputUnwritable,
        message: format!(
            "cannot make {}: {error}. Free space there, or set TMPDIR to another folder.",
            folder.display()
        ),
    })
}

/// Uploads what the report names, then the report; the result that lies there is set aside. A sentence where it could not be kept.
fn publish(store: &Store, to: &Location, from: &Path, progress: &mut dyn Progress) -> Result<Option<String>, Failed> {
    let lost = |error: &dyn std::fmt::Display| Failed {
        reason: Reason::Internal,
        message: format!("the bake ended, but its {REPORT} cannot be read back: {error}"),
    };
    let text = fs::read(from.join(REPORT)).map_err(|error| lost(&error))?;
    let report: Report = serde_json::from_slice(&text).map_err(|error| lost(&error))?;
    let manifest = format!("{}/{}", phase7::FOLDER, phase7::MANIFEST_FILE);
    let artifacts = report.artifacts.into_iter().map(|a| Upload {
        names_others: a.file == manifest,
        name: a.file,
        sha256: a.sha256,
    });
    let files: Vec<Upload> =
        artifacts.chain([Upload { name: REPORT.to_owned(), sha256: sha256_hex(&text), names_others: false }]).collect();
    let mut said = None;
    let mut aside = || aside::set_aside(store, to).map(|set_aside| said = set_aside);
    store.publish(OUTPUT, to, from, &files, &mut |text| progress.transfer(text), &mut aside)?;
    tracing::info!(uri = %to, files = files.len(), "published");
    Ok(said)
}

/// Deletes what the report in a bucket names, and the report.
pub(super) fn clean(job: &ResolvedJob, uri: &str) -> Outcome {
    let delete = || -> Result<usize, Failed> {
        let store = Store::new(job.storage.as_ref())?;
        let folder = Location::folder(OUTPUT, uri)?;
        let Some(text) = store.read(OUTPUT, &folder, REPORT)? else { return Ok(0) };
        let mut names = clean::named_by(&text).map_err(|error| Failed {
            reason: Reason::OutputUnwritable,
            message: format!("cannot delete the files of {uri}: {REPORT}: {error}"),
        })?;
        // The report last: without it a second try would not know the files.
        names.push(REPORT.to_owned());
        store.delete(OUTPUT, &folder, &names)?;
        Ok(names.len())
    };
    match delete() {
        Ok(count) => Outcome::bare(Reason::Baked, format!("Deleted {count} files of {uri}")),
        Err(failed) => Outcome::bare(failed.reason, failed.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::{Calibration, RecipeRef};
    use crate::api::{BakeJob, BakeJobSpec};

    fn job(source: &str, validation: &str, output: &str) -> ResolvedJob {
        let mut spec = BakeJobSpec::new(source, validation, output);
        spec.data.calibration = Some(Calibration { uri: "s3://data/v.npz".into(), samples: None });
        spec.optimization.recipe = Some(RecipeRef { uri: "/recipes/r.json".into(), sha256: None });
        ResolvedJob::resolve(&BakeJob::new("m", spec), Path::new("jobs/m.yaml")).unwrap()
    }

    #[test]
    fn only_what_lies_in_a_bucket_gets_another_place() {
        let place = Place::of(&job("s3://models/m.onnx", "s3://data/v.npz", "/out")).unwrap().unwrap();
        let fetched: Vec<_> = place.inputs.iter().map(|f| (f.field.as_str(), f.from.to_string())).collect();
        assert_eq!(
            fetched,
            [
                (SOURCE, "s3://models/m.onnx".to_owned()),
                ("spec.data.calibration.uri", "s3://data/v.npz".to_owned()),
                ("spec.data.validation.uri", "s3://data/v.npz".to_owned())
            ]
        );
        assert!(place.job.source.path.starts_with(place.folder.path()));
        assert_ne!(place.job.calibration.as_ref().unwrap().path, place.job.validation.path);
        assert_eq!(place.job.output, Path::new("/out"));
        assert_eq!(place.job.recipe.as_ref().unwrap().path, Path::new("/recipes/r.json"));

        let mut local = job("m.onnx", "v.npz", "/out");
        local.calibration = None;
        assert!(Place::of(&local).unwrap().is_none());
        assert_eq!(Place::of(&job("m.onnx", "s3://data/v/", "/out")).err().unwrap().reason, Reason::InvalidJob);
    }

    #[test]
    fn a_folder_of_a_bucket_is_a_package_whose_folder_keeps_its_name() {
        let place = Place::of(&job("s3://models/digits/", "v.npz", "/out")).unwrap().unwrap();
        let prefix = place.package.as_ref().unwrap();
        assert_eq!((prefix.from.to_string().as_str(), &prefix.to), ("s3://models/digits", &place.job.source.path));
        assert!(prefix.to.ends_with("digits") && prefix.to.starts_with(place.folder.path()));
        let message = format!("{}: identity.name: is empty", prefix.to.join("manifest.json").display());
        let failed = place.said(Failed { reason: Reason::InvalidModel, message });
        assert_eq!(failed.message, "s3://models/digits/manifest.json: identity.name: is empty");
        assert!(
            Place::of(&job("s3://models/", "v.npz", "/out")).unwrap().unwrap().job.source.path.ends_with("package")
        );
    }

    #[test]
    fn a_failure_calls_files_what_the_job_calls_them() {
        let place = Place::of(&job("s3://models/m.onnx", "v.npz", "s3://baked/m/")).unwrap().unwrap();
        let message = format!("cannot read {}: gone", place.job.source.path.display());
        let failed = place.said(Failed { reason: Reason::InvalidModel, message });
        assert_eq!(failed.message, "cannot read s3://models/m.onnx: gone");
    }
}
