//! What a person sees while a bake runs: a line per stage on a terminal, nothing when piped.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::bake::{Progress, Stage};

/// A spinner with the stage and what is being tried.
pub(crate) struct Terminal {
    bar: ProgressBar,
    job: String,
}

impl Terminal {
    /// Shows progress of `job` on standard error when that is a terminal and nobody asked for quiet.
    pub(crate) fn new(job: &str, quiet: bool) -> Self {
        let bar =
            if quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_prefix(job.to_owned());
        Self { bar, job: job.to_owned() }
    }
}

impl Progress for Terminal {
    fn stage(&mut self, stage: Stage) {
        tracing::info!(job = self.job, stage = ?stage, "{}", stage.doing());
        self.bar.set_message(stage.doing());
    }

    fn detail(&mut self, text: &str) {
        tracing::debug!(job = self.job, "{text}");
        self.bar.set_message(format!("trying {text}"));
    }

    fn transfer(&mut self, text: &str) {
        tracing::debug!(job = self.job, "{text}");
        self.bar.set_message(text.to_owned());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Sends log lines to standard error: warnings, and more with each -v. `BAKEHOUSE_LOG` overrides.
pub(crate) fn logging(verbose: u8) {
    let level = ["warn", "info", "debug"].get(usize::from(verbose)).unwrap_or(&"trace");
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAKEHOUSE_LOG")
        .unwrap_or_else(|_| format!("bakehouse={level}").into());
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}
