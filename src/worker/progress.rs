//! Progress as log lines, which the controller reads.

use std::io::Write;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::wire::ProgressLine;
use crate::bake::{Progress, Stage};

/// Percent at which a stage begins, and the most that its details may add: shares of the time that stages usually take.
fn share(stage: Stage) -> (u32, u32) {
    match stage {
        Stage::Load => (0, 4),
        Stage::Baseline => (5, 9),
        Stage::Optimize => (15, 54),
        Stage::Validate => (70, 14),
        Stage::Profile => (85, 9),
        Stage::Gate => (95, 1),
        Stage::Export => (97, 2),
    }
}

/// Writes one line per stage, and one for each percent gained within it.
pub(super) struct Lines<W: Write> {
    out: W,
    stage: Stage,
    details: u32,
    percent: u32,
    memory: Option<u64>,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, stage: Stage::Load, details: 0, percent: 0, memory: None }
    }

    fn line(&mut self, percent: u32) {
        self.percent = percent;
        let now = Timestamp::now();
        let line = ProgressLine {
            bakehouse: ProgressLine::MARK.to_owned(),
            stage: format!("{:?}", self.stage),
            percent,
            time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            memory: self.memory,
        };
        // Nobody may be reading; the bake goes on.
        if let Ok(text) = serde_json::to_string(&line) {
            let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        }
    }
}

impl<W: Write> Progress for Lines<W> {
    fn resumed(&mut self, stage: Stage) {
        self.stage = stage;
        self.details = 0;
        let (begin, most) = share(stage);
        self.line((begin + most).max(self.percent));
    }

    fn stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.details = 0;
        self.line(share(stage).0.max(self.percent));
    }

    fn memory(&mut self, bytes: u64) {
        // In every line from here on: of a worker that is killed, only the last ones are read.
        self.memory = Some(bytes);
        self.line(self.percent);
    }

    fn detail(&mut self, text: &str) {
        tracing::debug!("{text}");
        self.details += 1;
        let (begin, most) = share(self.stage);
        // How many details come is not known: each takes a tenth of what is left.
        let gained = f64::from(most) * (1.0 - 0.9f64.powi(self.details.min(1000) as i32));
        let percent = begin + gained as u32;
        if percent > self.percent {
            self.line(percent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_are_not_repeated_are_told_as_finished() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        lines.stage(Stage::Load);
        lines.memory(7);
        lines.resumed(Stage::Baseline);
        lines.resumed(Stage::Optimize);
        lines.stage(Stage::Validate);
        let text = String::from_utf8(out).unwrap();
        let told: Vec<_> = text.lines().map(|l| ProgressLine::parse(l).unwrap()).collect();
        let memory: Vec<_> = told.iter().map(|line| line.memory).collect();
        assert_eq!(memory, [None, Some(7), Some(7), Some(7), Some(7)]);
        let told: Vec<_> = told.iter().map(|line| (line.stage.as_str(), line.percent)).collect();
        assert_eq!(told, [("Load", 0), ("Load", 0), ("Baseline", 14), ("Optimize", 69), ("Validate", 70)]);
    }

    #[test]
    fn lines_are_what_the_controller_reads_and_never_go_back() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        for stage in Stage::ALL {
            lines.stage(stage);
            (0..50).for_each(|i| lines.detail(&format!("candidate {i}")));
        }
        let read: Vec<ProgressLine> =
            String::from_utf8(out).unwrap().lines().map(|l| ProgressLine::parse(l).unwrap()).collect();
        assert!(read.windows(2).all(|pair| pair[0].percent <= pair[1].percent));
        assert!(read.last().unwrap().percent < 100, "only the controller says that it is done");
        let mut stages: Vec<&str> = read.iter().map(|line| line.stage.as_str()).collect();
        stages.dedup();
        assert_eq!(stages, ["Load", "Baseline", "Optimize", "Validate", "Profile", "Gate", "Export"]);
    }
}
