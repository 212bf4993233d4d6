//! An OCI image layout of everything that the bake writes, for any tool that copies one to a registry. The report is not in it: it lists the layout's files.

use std::collections::BTreeMap;

use super::{Artifact, Handoff, artifact};
use crate::api::digest::sha256_hex;
use crate::bake::publish::Staging;
use crate::bake::{BakeError, pretty, probe};
use crate::package::oci::{self, Content, Facts, File, Manifest};

/// Format of the layout's index in report and status; with its blobs it is the layout.
const INDEX_FORMAT: &str = "OCI";

/// Format of the other files.
pub(super) const FILE_FORMAT: &str = "OCIFile";

impl Handoff<'_> {
    /// Writes the layout of the artifact and of `others`, which are staged. A fresh process must find every file in it.
    pub(super) fn image(&self, staging: &mut Staging, others: &[Artifact]) -> Result<Vec<Artifact>, BakeError> {
        let folder = staging.folder(oci::FOLDER)?;
        let recipe = pretty(self.recipe)?;
        let (mut files, mut contents) = (Vec::new(), Vec::new());
        for written in self.files.iter().chain(others) {
            let path = super::package::plain(&written.file);
            files.push(File { path, sha256: written.sha256.clone(), bytes: written.bytes });
            contents.push(Content::File(staging.path(&written.file)));
        }
        let path = "recipe.json".to_owned();
        files.push(File { path, sha256: sha256_hex(recipe.as_bytes()), bytes: recipe.len() as u64 });
        contents.push(Content::Bytes(recipe.as_bytes()));
        let facts = Facts::of(&self.job.name, &files[0].sha256, &self.chosen.figures.stats);
        let built = Manifest::build(&facts, &files, BTreeMap::new());
        let failed = |source| BakeError::Output { path: folder.clone(), source };
        let names = oci::write(&folder, &self.job.name, &built, &contents).map_err(failed)?;
        if probe::spawn_layout(&self.options.program, &folder)? != files {
            return Err(BakeError::Reload("the OCI image layout holds other files than were put there".to_owned()));
        }
        let index = names.len() - 1;
        let listed = names.iter().enumerate().map(|(place, name)| {
            let format = if place == index { INDEX_FORMAT } else { FILE_FORMAT };
            artifact(format, &format!("{}/{name}", oci::FOLDER), &folder.join(name))
        });
        listed.collect()
    }
}
