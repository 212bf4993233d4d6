//! Stage records as they come about, behind those of earlier processes of the run.

use std::time::Instant;

use super::progress::{Progress, Stage, StageRecord};
use crate::model::mapped;

/// The stages of a bake until now.
pub(super) struct Stages<'p> {
    pub(super) progress: &'p mut dyn Progress,
    /// Stages of earlier processes.
    earlier: Vec<StageRecord>,
    /// Those of them that are not repeated.
    taken: Vec<Stage>,
    records: Vec<StageRecord>,
    open: Option<(Stage, String, Instant)>,
}

impl<'p> Stages<'p> {
    pub(super) fn new(progress: &'p mut dyn Progress) -> Self {
        Self { progress, earlier: Vec::new(), taken: Vec::new(), records: Vec::new(), open: None }
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.close();
        // What a stage leaves unused is not held beside what the next one needs.
        mapped::release();
        self.progress.stage(stage);
        self.open = Some((stage, now(), Instant::now()));
    }

    /// Takes `stage` over from an earlier process, whose stages until then had these times.
    pub(super) fn take_over(&mut self, stage: Stage, times: Vec<StageRecord>) {
        tracing::info!(?stage, "taken from an earlier process of this run");
        self.progress.resumed(stage);
        self.earlier = times;
        self.taken.push(stage);
    }

    /// A sentence on what was not repeated.
    pub(super) fn remark(&self) -> Option<String> {
        let names: Vec<String> = self.taken.iter().map(|stage| format!("{stage:?}")).collect();
        let were = if names.len() == 1 { "was" } else { "were" };
        (!names.is_empty()).then(|| format!("{} {were} taken from an earlier pod of this run.", names.join(" and ")))
    }

    /// Ends the stage that is open; all records until now.
    pub(super) fn ended(&mut self) -> Vec<StageRecord> {
        self.close();
        self.earlier.iter().chain(&self.records).cloned().collect()
    }

    fn close(&mut self) {
        if let Some((name, start_time, since)) = self.open.take() {
            self.records.push(StageRecord {
                name,
                start_time,
                completion_time: now(),
                seconds: since.elapsed().as_secs_f64(),
            });
        }
    }
}

/// The time now, RFC 3339, UTC.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bake::progress::Quiet;

    #[test]
    fn stages_of_earlier_processes_stand_first_with_their_own_times_and_are_said() {
        let mut quiet = Quiet;
        let mut first = Stages::new(&mut quiet);
        assert_eq!(first.remark(), None);
        first.enter(Stage::Load);
        first.enter(Stage::Baseline);
        let kept = first.ended();
        let mut quiet = Quiet;
        let mut second = Stages::new(&mut quiet);
        second.enter(Stage::Load);
        second.take_over(Stage::Baseline, kept.clone());
        assert_eq!(second.remark().unwrap(), "Baseline was taken from an earlier pod of this run.");
        second.enter(Stage::Optimize);
        let all = second.ended();
        let names: Vec<Stage> = all.iter().map(|record| record.name).collect();
        assert_eq!(names, [Stage::Load, Stage::Baseline, Stage::Load, Stage::Optimize]);
        assert_eq!(all[..2], kept);
    }
}
