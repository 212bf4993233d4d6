//! What may be typed. Each doc comment is the help text a person reads.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::cache::CacheArgs;

/// Bakes trained ONNX models before deployment: smaller, faster, proven to keep their quality.
#[derive(Debug, Parser)]
#[command(name = "bakehouse", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 baked, gates passed · 2 usage or invalid BakeJob · 3 a gate failed · 4 a gate is inconclusive · 10 invalid model · \
11 unsupported operator · 12 invalid data · 13 access denied · 14 output unwritable · 22 memory limit too small · 70 internal · 130 and 143 ended by SIGINT or SIGTERM, nothing written\n\n\
Environment: BAKEHOUSE_ORT_LIB is ONNX Runtime's library, or none · BAKEHOUSE_MEMORY_LIMIT is the bytes that a bake may use, where the control group does \
not tell · BAKEHOUSE_CACHE is where results are kept for later bakes · BAKEHOUSE_LOG is a filter for log lines"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say more: -v for what each stage decides, -vv for every candidate.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // parsed once per process
pub(crate) enum Command {
    /// Bake models: BakeJob files, or one model and its data.
    Bake(BakeArgs),
    /// Write a commented BakeJob for a model.
    Init(InitArgs),
    /// Show what a model holds: inputs, outputs, operators, parameters, bytes.
    Inspect(InspectArgs),
    /// Compare two models: graph, weights, and with --data their outputs.
    Compare(CompareArgs),
    /// Make a phase 5 package of loose files: model, data splits, weights, what is known of the training.
    Package(PackageArgs),
    /// Show what is kept of earlier bakes, or delete what is old.
    Cache(CacheArgs),
    /// Check a finished bake or a package again: digests, outputs, recipe and every claim.
    Verify(VerifyArgs),
    /// Copy a finished bake that passed its gates to spec.promotion.uri, with its evidence; or go back to the version before.
    Promote(PromoteArgs),
    /// Run the controller of BakeJobs in a cluster.
    #[cfg(feature = "operator")]
    Operator(crate::operator::OperatorArgs),
    /// Bake what the environment assigns: the command of a worker's pod.
    Worker(WorkerArgs),
    /// Print the BakeJob CustomResourceDefinition.
    Crd,
    /// Print the JSON Schema of report.json.
    ReportSchema,
    /// Print the JSON Schema of a file of a package.
    PackageSchema {
        /// Which file.
        #[arg(value_enum)]
        file: PackageFile,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Load a model in this fresh process, run one sample and print what was seen. Used by `bake` for reload, memory and determinism.
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// A file of the package with a schema of its own.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PackageFile {
    /// manifest.json of phase 5
    Phase5,
    /// manifest.json of phase 7
    Manifest,
    /// deployment_config.json of phase 7
    Deployment,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // each is a switch that a person types
pub(crate) struct BakeArgs {
    /// BakeJob files (.yaml), one model (.onnx) with --data, or the folder of one package.
    #[arg(value_name = "FILE", required_unless_present = "file")]
    pub(crate) inputs: Vec<PathBuf>,
    /// BakeJob file, as in `kubectl apply -f`. May be given more than once.
    #[arg(short, long, value_name = "BAKEJOB")]
    pub(crate) file: Vec<PathBuf>,
    /// Validation data (.npz or .safetensors) for a bare model: one array per input, axis 0 the sample, plus `labels` where known.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Calibration data for a bare model. Without it, the search's third of --data serves.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    /// Metric of the labels: Top1, TopK, F1, R2, Cosine or ArgmaxSequence. Inferred when not given.
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// How far to go: conservative (lossless), light (8-bit weights) or medium (and static int8 on calibrated ranges, in mixed precision).
    #[arg(long, ignore_case = true)]
    pub(crate) level: Option<String>,
    /// What to optimise for: latency, size or balanced.
    #[arg(long, ignore_case = true)]
    pub(crate) goal: Option<String>,
    /// Largest accepted loss of accuracy, relative: 1% means retention of at least 0.99.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(crate) max_drop: Option<f64>,
    /// Where the results go. Default: the BakeJob's spec.output.uri, or `<model>-baked` beside a bare model.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Engine to measure on: onnxruntime or bakehouse (the embedded one). Default: onnxruntime where its library is found.
    #[arg(long, ignore_case = true)]
    pub(crate) runtime: Option<String>,
    /// ONNX Runtime's shared library. Default: `BAKEHOUSE_ORT_LIB`, then the usual places.
    #[arg(long, value_name = "FILE", env = "BAKEHOUSE_ORT_LIB")]
    pub(crate) ort_lib: Option<PathBuf>,
    /// Replay this recipe instead of searching.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Nodes or weights to leave alone, as glob patterns.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Where results are kept for later bakes of the same inputs: a folder, or s3://, gs://, az://. Named here, it is used by jobs whose spec.cache is not
    /// set, too. Default: `BAKEHOUSE_CACHE`, then ~/.cache/bakehouse/bakes.
    #[arg(long, value_name = "URI")]
    pub(crate) cache: Option<String>,
    /// What to do with it, in place of spec.cache: use, refresh (bake anew and replace what is kept) or off.
    #[arg(long, value_name = "POLICY", ignore_case = true)]
    pub(crate) cache_policy: Option<String>,
    /// How many bakes of a batch run at a time. Timing runs never overlap.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress, only the result.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Take less memory: compare every second internal tensor only.
    #[arg(long)]
    pub(crate) low_memory: bool,
    /// Only this document of the file, counted from 0. Used by a batch for its own processes.
    #[arg(long, hide = true)]
    pub(crate) document: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The BakeJob file that was baked.
    #[arg(short, long, value_name = "BAKEJOB")]
    pub(crate) file: PathBuf,
    /// The artifact that you approve, as its digest: what policy Manual asks for. Default: spec.promotion.approvedDigest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) approve: Option<String>,
    /// Promote the version before the one that is promoted now.
    #[arg(long, conflicts_with_all = ["approve", "history"])]
    pub(crate) rollback: bool,
    /// Show what was promoted when, and promote nothing.
    #[arg(long)]
    pub(crate) history: bool,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Preset {
    /// Quick look: light, few iterations, gates as they are.
    Development,
    /// Strict gates, latency first.
    Production,
    /// Smallest file first.
    Edge,
    /// Every figure, wide profile.
    Research,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The model to bake.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Which starting point.
    #[arg(long, value_enum, default_value = "development")]
    pub(crate) preset: Preset,
    /// Validation data.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Calibration data.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    /// Write here instead of printing. An existing file is not overwritten.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Shapes to count multiplications for, e.g. `x=1x3x224x224`.
    #[arg(long, value_name = "INPUT=SHAPE")]
    pub(crate) shapes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The model to compare with.
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// The other model.
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,
    /// Run both on this data and compare the outputs.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// ONNX Runtime's shared library.
    #[arg(long, value_name = "FILE", env = "BAKEHOUSE_ORT_LIB")]
    pub(crate) ort_lib: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// The ONNX graph. Its external data comes along.
    #[arg(long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// Validation split (.npz or .safetensors).
    #[arg(long, value_name = "FILE")]
    pub(crate) validation: PathBuf,
    /// Calibration split.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    /// Training split.
    #[arg(long, value_name = "FILE")]
    pub(crate) training: Option<PathBuf>,
    /// Trained weights (.safetensors, or .pt as torch.save writes it) that go onto the graph, each to the initializer of its name.
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// What is known of the training, as JSON: a trainer's phase5_metadata.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata: Option<PathBuf>,
    /// Name of the model. Default: that of the metadata, or of the model's file.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Version of the model. The long name of the flag keeps `--version` for the program.
    #[arg(long, value_name = "VERSION")]
    pub(crate) model_version: Option<String>,
    /// Metric of the labels: Top1, Top5 (any number), F1, R2, Cosine or ArgmaxSequence. Inferred when not given.
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// A figure that the training ended with, on the validation split: Top1=0.979. May be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_figure)]
    pub(crate) figure: Vec<(String, f64)>,
    /// The folder to make. One that is there already is left alone.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Folder that a bake wrote, a package of phase 7, or current.json of a promotion; a local one or s3://bucket/folder/.
    #[arg(value_name = "URI")]
    pub(crate) target: PathBuf,
    /// The validation data of a package, to check its ranges and bounds on all samples. A package brings a few of its own.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// ONNX Runtime's shared library.
    #[arg(long, value_name = "FILE", env = "BAKEHOUSE_ORT_LIB")]
    pub(crate) ort_lib: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// ONNX Runtime's shared library.
    #[arg(long, value_name = "FILE", env = "BAKEHOUSE_ORT_LIB")]
    pub(crate) ort_lib: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// Data in one of the accepted formats; its first samples are run.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// A file that should hold the model's weights. Compares them, and runs nothing.
    #[arg(long, conflicts_with = "data")]
    pub(crate) weights: Option<PathBuf>,
    /// An archive of NNEF that should compute what the model does. Runs both on tract.
    #[arg(long, requires = "data", conflicts_with = "weights")]
    pub(crate) nnef: Option<PathBuf>,
    /// The model is the folder of an OCI image layout. Checks its blobs, and runs nothing.
    #[arg(long, conflicts_with_all = ["data", "weights"])]
    pub(crate) layout: bool,
    /// How many samples.
    #[arg(long, default_value_t = 4)]
    pub(crate) samples: usize,
    /// Engine: onnxruntime or bakehouse.
    #[arg(long, default_value = "bakehouse")]
    pub(crate) runtime: String,
    /// ONNX Runtime's shared library.
    #[arg(long)]
    pub(crate) ort_lib: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
}

fn parse_figure(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("give a name and a number, e.g. Top1=0.979")?;
    match value.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && !name.trim().is_empty() => Ok((name.trim().to_owned(), value)),
        _ => Err("give a name and a number, e.g. Top1=0.979".to_owned()),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("give a percentage, e.g. 1%")?;
    match number.trim().parse::<f64>() {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("give a percentage from 0% to below 100%, e.g. 1%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_figure_is_a_name_and_a_number() {
        assert_eq!(parse_figure("Top1=0.979"), Ok(("Top1".to_owned(), 0.979)));
        assert!(parse_figure("Top1").is_err() && parse_figure("=1").is_err() && parse_figure("Top1=nan").is_err());
    }

    #[test]
    fn a_drop_is_a_percentage() {
        assert_eq!(parse_percent("1%"), Ok(0.01));
        assert!(parse_percent("0.01").is_err() && parse_percent("100%").is_err() && parse_percent("x%").is_err());
    }
}
