//! What can be wrong with a package, by name.

/// A kind of defect. The names are what `verify` says and what the conformance suite asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Defect {
    /// The manifest is missing, truncated or no JSON.
    ManifestUnreadable,
    /// The manifest or the deployment config is of a version that this build does not read.
    UnknownVersion,
    /// A file does not keep the schema of its version.
    SchemaBroken,
    /// A listed path leaves the package, or is no plain file.
    UnsafePath,
    /// The same path is listed twice.
    ListedTwice,
    /// A part that every package has is not listed.
    PartMissing,
    /// A listed file is not there.
    FileMissing,
    /// A file lies in the package that the manifest does not list.
    ExtraFile,
    /// A file has another digest or size than the manifest says.
    DigestMismatch,
    /// The deployment config speaks of another model than the package holds.
    ModelMismatch,
    /// The model cannot be loaded.
    ModelUnreadable,
    /// Inputs, outputs or operators are not those of the model.
    SignatureMismatch,
    /// The model is not the one that the recipe ends in.
    RecipeMismatch,
    /// Something is claimed, and nothing was measured that could show it.
    ClaimWithoutEvidence,
    /// A claim says something else than the evidence beside it.
    ClaimContradictsEvidence,
    /// A limit is not the contract's, or its verdict does not follow from the figure.
    LimitMisstated,
    /// A gate's verdict does not follow from its figure.
    GateMisstated,
    /// What is said of the training does not fit the files that the bake read, or contradicts itself.
    TrainingMisstated,
    /// The model gives other outputs than those in the package.
    OutputsDiffer,
    /// Outputs differ between runs, threads or processes, against the claim.
    NotDeterministic,
    /// Rows of a batch differ from single runs, against the claim.
    BatchRowsDiffer,
    /// A range or a bound is not what the samples give.
    BoundNotReproduced,
    /// The model is slower than claimed, or misses a limit that it is said to keep.
    LatencyNotReproduced,
    /// The model needs more memory than claimed.
    MemoryNotReproduced,
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A defect that was found, with a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub defect: Defect,
    /// What exactly, naming file and field.
    pub detail: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(defect: Defect, detail: impl Into<String>) -> Self {
        Self { defect, detail: detail.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.defect, self.detail)
    }
}
