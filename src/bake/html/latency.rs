//! Time: the distribution of both models per batch size, percentiles, and the paired ratios that the speedup rests on.

use super::markup::{Node, el, text};
use super::plot::{Anchor, Scale, circle, drawing, extent, histogram, label, line, padded, rect, x_axis, y_axis};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::{bounds, count, percent, plural, seconds, significant_count, times};
use crate::bake::Report;
use crate::bake::report::{BatchLatency, BatchSpeedup, ModelFigures};

const WIDTH: f64 = 460.0;
const BINS: usize = 92;

/// The section of latency.
pub(super) fn section(report: &Report) -> Node {
    let lead = format!(
        "Seconds are {} on {}, {}. The speedup does not come from these two distributions but from paired rounds, input and artifact in turn, so that the machine's drift hits both alike.",
        report.clock,
        report.engine,
        plural(report.threads, "thread")
    );
    let section = super::section("latency", "Latency").push(text("p", &lead).class("lead"));
    if report.baseline.latency.is_empty() {
        return section.push(text("p", "Latency was not measured.").class("absent"));
    }
    let plots = report.baseline.latency.iter().flat_map(|before| {
        let after = baked_at(report, before.batch);
        let paired = report.speedup.iter().find(|s| s.batch == before.batch);
        [distribution(before, after)].into_iter().chain(paired.map(ratios))
    });
    let none = report.speedup.is_empty().then(|| {
        text("p", "There are no paired rounds: the artifact is the input, and no speedup is claimed.").class("note")
    });
    section.push(el("div").class("pair").extend(plots)).maybe(none).push(table(report))
}

fn baked_at(report: &Report, batch: usize) -> Option<&BatchLatency> {
    report.baked.as_ref()?.latency.iter().find(|l| l.batch == batch)
}

/// Two histograms over one axis: the input above, the artifact below.
fn distribution(before: &BatchLatency, after: Option<&BatchLatency>) -> Node {
    let sides: Vec<(&str, &str, &BatchLatency)> =
        [("input", "base", before)].into_iter().chain(after.map(|a| ("artifact", "baked", a))).collect();
    // Each side without its outermost hundredth, so that a lone outlier does not press everything else into one bin.
    let inner = sides.iter().flat_map(|(_, _, l)| inner(&l.samples.seconds)).filter(|s| *s > 0.0);
    let Some(domain) = extent(inner) else {
        return text("p", &format!("Batch {}: no samples.", before.batch)).class("absent");
    };
    let (left, right, top, tall, gap) = (4.0, WIDTH - 4.0, 22.0, 64.0, 26.0);
    let bottom = top + sides.len() as f64 * (tall + gap) - gap;
    let x = Scale::log([domain[0] / 1.03, domain[1] * 1.03], [left, right]);
    let title = format!(
        "Distribution of the latency at batch {}, {}",
        before.batch,
        if after.is_some() { "input above artifact" } else { "input" }
    );
    let mut plot =
        drawing(WIDTH, bottom + 40.0, &title).push(x_axis(&x, [top, bottom], "time per run (log axis)", seconds));
    for (i, (name, class, latency)) in sides.iter().enumerate() {
        let floor = top + i as f64 * (tall + gap) + tall;
        let counts = histogram(&latency.samples.seconds, &x, BINS);
        let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
        let step = (right - left) / BINS as f64;
        let bars = counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(bin, count)| {
            let from = left + bin as f64 * step;
            rect(class, [from, from + step - 0.4], [floor, floor - (tall * *count as f64 / most).max(1.0)])
        });
        plot = plot.extend(bars).push(line("axis", [left, floor], [right, floor]));
        let s = &latency.summary;
        for (value, height) in
            [(Some(s.p50), 1.0), (s.p95, 0.6), (s.p99, 0.35)].into_iter().filter_map(|(v, h)| Some((v?, h)))
        {
            plot = plot.push(line("quantile", [x.at(value), floor], [x.at(value), floor - tall * height]));
        }
        let words = format!("{name}: p50 {}, n = {}", seconds(s.p50), count(s.n as u64));
        plot = plot.push(label("tick strong", [left, floor - tall - 6.0], Anchor::Start, &words));
    }
    let outside = sides.iter().flat_map(|(_, _, l)| &l.samples.seconds).filter(|s| !x.holds(**s)).count();
    let caption =
        format!("Batch {}. Lines from tall to short: p50, p95, p99.{}", before.batch, beyond(outside, "sample"));
    el("figure").push(plot).push(text("figcaption", &caption))
}

/// Every paired round, the median and its interval.
fn ratios(speedup: &BatchSpeedup) -> Node {
    let paired = &speedup.paired;
    let n = paired.ratios.len();
    let Some(domain) = extent(inner(&paired.ratios).into_iter().chain([1.0, paired.lower, paired.upper])) else {
        return text("p", &format!("Batch {}: no paired rounds.", speedup.batch)).class("absent");
    };
    let (left, right, top, bottom) = (40.0, WIDTH - 10.0, 34.0, 210.0);
    let y = Scale::linear(padded(domain, 0.06), [bottom, top]);
    let x = Scale::linear([0.0, n as f64 + 1.0], [left, right]);
    let outside = paired.ratios.iter().filter(|r| !y.holds(**r)).count();
    let title = format!(
        "Ratios of {} at batch {}: median {} {}",
        plural(n, "paired round"),
        speedup.batch,
        times(paired.ratio),
        bounds(paired.lower, paired.upper, times)
    );
    let plot = drawing(WIDTH, bottom + 40.0, &title)
        .push(x_axis(&x, [bottom, bottom], "round", |v| format!("{v:.0}")))
        .push(y_axis(&y, [left, right], "time of the input / time of the artifact", |v| format!("{v:.2}")))
        .push(rect("band", [left, right], [y.at(paired.lower), y.at(paired.upper)]))
        .push(line("unity", [left, y.at(1.0)], [right, y.at(1.0)]))
        .extend(paired.ratios.iter().enumerate().map(|(i, r)| circle("round", [x.at(i as f64 + 1.0), y.at(*r)], 2.2)))
        .push(line("median", [left, y.at(paired.ratio)], [right, y.at(paired.ratio)]));
    let caption = format!(
        "Batch {}: {} {}, n = {}. Dashed: as fast as the input.{}",
        speedup.batch,
        times(paired.ratio),
        bounds(paired.lower, paired.upper, times),
        count(n as u64),
        beyond(outside, "round")
    );
    el("figure").push(plot).push(text("figcaption", &caption))
}

/// The finite values in order, without the outermost hundredth on each side.
fn inner(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let out = sorted.len() / 100;
    sorted[out..sorted.len() - out].to_vec()
}

/// What lies outside an axis, in words; nothing is left out silently.
fn beyond(outside: usize, what: &str) -> String {
    if outside == 0 { String::new() } else { format!(" {} beyond the axis, drawn at its edge.", plural(outside, what)) }
}

fn table(report: &Report) -> Node {
    let columns = [
        Words("Model"),
        Number("Batch"),
        Number("p50"),
        Number("95 % interval of p50"),
        Number("p95"),
        Number("p99"),
        Number("CV"),
        Number("Rows per second"),
        Number("Samples"),
    ];
    let models = [("Input", Some(&report.baseline)), ("Artifact", report.baked.as_ref())];
    let rows = models.into_iter().filter_map(|(name, model)| Some((name, model?)));
    let lines: Vec<(&str, &BatchLatency)> =
        rows.flat_map(|(name, model): (&str, &ModelFigures)| model.latency.iter().map(move |l| (name, l))).collect();
    let mut lines = lines;
    lines.sort_by_key(|(_, l)| report.baseline.latency.iter().position(|b| b.batch == l.batch));
    Table::new(&columns)
        .rows(lines, |(name, latency)| -> [Cell; 9] {
            let s = &latency.summary;
            let few = |least: usize| format!("needs {least} samples");
            let runs = latency.samples.runs_per_sample;
            let samples = if runs > 1 { format!("{} × {runs} runs", count(s.n as u64)) } else { count(s.n as u64) };
            [
                name.into(),
                count(latency.batch as u64).into(),
                seconds(s.p50).into(),
                bounds(s.p50_interval[0], s.p50_interval[1], seconds).into(),
                s.p95.map_or_else(|| few(20), seconds).into(),
                s.p99.map_or_else(|| few(100), seconds).into(),
                percent(s.cv).into(),
                significant_count(latency.throughput).into(),
                samples.into(),
            ]
        })
        .node()
}
