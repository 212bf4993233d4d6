//! The search: every candidate by size, latency and quality, and why it was or was not chosen.

use super::markup::{Node, el, text};
use super::plot::{Anchor, Scale, circle, drawing, extent, label, label_width, line, padded, rect, x_axis, y_axis};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::{bounds, bytes, count, percent, plural, seconds, share, times};
use crate::bake::Report;
use crate::bake::report::{CandidateFigures, SearchFigures};
use crate::optimizer::Score;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 330.0;

/// The section of the candidates.
pub(super) fn section(report: &Report) -> Node {
    let lead = "Every model that the search made. Quality here is a point estimate on the search split and decided only the order; \
        the gates above were decided on samples that the search never saw.";
    let section = super::section("candidates", "Candidates").push(text("p", lead).class("lead"));
    if report.candidates.is_empty() {
        return section
            .push(text("p", "There was no search: a recipe was replayed, or nothing could be tried.").class("absent"));
    }
    let unreachable = report.budget_unreachable.as_ref().map(|found| text("p", &found.message).class("note"));
    section
        .maybe(report.search.map(ran))
        .maybe(unreachable)
        .push(scatter(report))
        .push(super::front::figure(report))
        .push(table(report))
}

/// What the search ran.
fn ran(search: SearchFigures) -> Node {
    let SearchFigures { seconds: took, judged, glanced, timed } = search;
    let few = if glanced > 0 { format!(", {} on a few of its samples", count(glanced as u64)) } else { String::new() };
    let models = plural(judged + glanced, "model");
    text(
        "p",
        &format!(
            "In {} the search ran {models}: {} on the whole search split{few}; {} of them were timed against the input.",
            seconds(took),
            count(judged as u64),
            count(timed as u64)
        ),
    )
}

/// The least slack over the metrics: 1 unchanged, 0 at a gate's bound, negative beyond it. `None` without a metric.
fn slack(candidate: &CandidateFigures) -> Option<f64> {
    candidate.quality.iter().map(Score::slack).min_by(f64::total_cmp)
}

/// The colour class of a slack, worst first.
fn slack_class(slack: Option<f64>) -> &'static str {
    match slack {
        None => "s-none",
        Some(s) if s < 0.0 => "s0",
        Some(s) if s < 0.5 => "s1",
        Some(s) if s < 0.8 => "s2",
        Some(s) if s < 0.95 => "s3",
        Some(_) => "s4",
    }
}

/// A candidate that has a place in the drawing.
struct Dot<'a> {
    number: usize,
    candidate: &'a CandidateFigures,
    at: [f64; 2],
    whisker: [f64; 2],
}

fn scatter(report: &Report) -> Node {
    let timed: Vec<(usize, &CandidateFigures, [f64; 3])> = report
        .candidates
        .iter()
        .enumerate()
        .filter_map(|(i, c)| {
            c.speed
                .filter(|s| s.lower > 0.0 && s.ratio > 0.0)
                .map(|s| (i + 1, c, [1.0 / s.ratio, 1.0 / s.upper, 1.0 / s.lower]))
        })
        .collect();
    let untimed = report.candidates.len() - timed.len();
    if timed.is_empty() {
        return text("p", "No candidate was timed, so none has a place in a plot of size against latency.")
            .class("absent");
    }
    let input = report.baseline.bytes as f64;
    let sizes = timed.iter().map(|(_, c, _)| c.bytes as f64).chain([input]);
    let ratios = timed.iter().flat_map(|(_, _, y)| *y).chain([1.0]);
    let (Some(x_domain), Some(y_domain)) = (extent(sizes), extent(ratios)) else { return el("p") };
    let (left, right, top, bottom) = (46.0, WIDTH - 14.0, 34.0, HEIGHT - 42.0);
    let x = Scale::linear(padded(x_domain, 0.12), [left, right]);
    let y = Scale::log([y_domain[0] / 1.08, y_domain[1] * 1.08], [bottom, top]);
    let dots: Vec<Dot> = timed
        .iter()
        .map(|&(number, candidate, [ratio, low, high])| Dot {
            number,
            candidate,
            at: [x.at(candidate.bytes as f64), y.at(ratio)],
            whisker: [y.at(low), y.at(high)],
        })
        .collect();
    let title = format!("{} by size and latency; the lower left is better", plural(timed.len(), "candidate"));
    let mut plot = drawing(WIDTH, HEIGHT, &title)
        .push(rect("better", [left, x.at(input)], [y.at(1.0), bottom]))
        .push(x_axis(&x, [top, bottom], "bytes of the file", bytes))
        .push(y_axis(&y, [left, right], "time / time of the input (log axis)", |v| format!("{v:.2}")))
        .push(line("unity", [left, y.at(1.0)], [right, y.at(1.0)]));
    let origin = [x.at(input), y.at(1.0)];
    plot = plot.push(line("input", [origin[0] - 5.0, origin[1] - 5.0], [origin[0] + 5.0, origin[1] + 5.0])).push(line(
        "input",
        [origin[0] - 5.0, origin[1] + 5.0],
        [origin[0] + 5.0, origin[1] - 5.0],
    ));
    let mut taken: Vec<[f64; 4]> = dots
        .iter()
        .map(|d| around(d.at, if d.candidate.chosen { 10.5 } else { 7.0 }))
        .chain([around(origin, 6.0), [left, right, y.at(1.0) - 1.0, y.at(1.0) + 1.0]])
        .collect();
    plot = plot.extend(
        place([left, right, top, bottom], origin, "input", &mut taken)
            .map(|(at, anchor)| label("tick", at, anchor, "input")),
    );
    // The chosen one last, on top of the others.
    let (chosen, others): (Vec<&Dot>, Vec<&Dot>) = dots.iter().partition(|d| d.candidate.chosen);
    for dot in others.iter().chain(&chosen) {
        plot = plot.push(mark(dot));
    }
    for dot in chosen.iter().chain(&others) {
        let long = format!("{} {}", dot.number, dot.candidate.name);
        let short = dot.number.to_string();
        let class = if dot.candidate.chosen { "tick strong" } else { "tick" };
        for shown in [long, short] {
            if let Some((at, anchor)) = place([left, right, top, bottom], dot.at, &shown, &mut taken) {
                plot = plot.push(label(class, at, anchor, &shown));
                break;
            }
        }
    }
    let mut caption = "Lower left is smaller and faster; whiskers are 95 % intervals. Filled: eligible. Hollow: refused. Ringed: chosen. Cross: the input.".to_owned();
    if untimed > 0 {
        caption.push(' ');
        let how_many = if untimed == 1 { "One was".to_owned() } else { format!("{untimed} were") };
        caption.push_str(&how_many);
        caption.push_str(" not timed and only in the table.");
    }
    el("figure").push(plot).push(legend()).push(text("figcaption", &caption))
}

fn around([x, y]: [f64; 2], r: f64) -> [f64; 4] {
    [x - r, x + r, y - r, y + r]
}

/// A free place for a label beside a point: right, left, above or below it, inside the drawing and on nothing that is there already.
fn place(
    [left, right, top, bottom]: [f64; 4],
    [x, y]: [f64; 2],
    shown: &str,
    taken: &mut Vec<[f64; 4]>,
) -> Option<([f64; 2], Anchor)> {
    let width = label_width(shown);
    let places = [
        ([x + 14.0, y + 4.0], Anchor::Start, [x + 13.0, x + 14.0 + width]),
        ([x - 14.0, y + 4.0], Anchor::End, [x - 14.0 - width, x - 13.0]),
        ([x, y - 15.0], Anchor::Middle, [x - width / 2.0, x + width / 2.0]),
        ([x, y + 23.0], Anchor::Middle, [x - width / 2.0, x + width / 2.0]),
    ];
    let free = places.into_iter().find_map(|(at, anchor, [x0, x1])| {
        let area = [x0, x1, at[1] - 10.0, at[1] + 3.0];
        let inside = x0 >= left && x1 <= right + 10.0 && area[2] >= top - 8.0 && area[3] <= bottom;
        let clear = taken.iter().all(|t| x0 > t[1] || x1 < t[0] || area[2] > t[3] || area[3] < t[2]);
        (inside && clear).then_some((at, anchor, area))
    });
    free.map(|(at, anchor, area)| {
        taken.push(area);
        (at, anchor)
    })
}

fn mark(dot: &Dot<'_>) -> Node {
    let candidate = dot.candidate;
    let class = slack_class(slack(candidate));
    let hollow = if candidate.refused.is_some() && !candidate.chosen { " hollow" } else { "" };
    let [x, y] = dot.at;
    let speed = candidate
        .speed
        .map_or_else(String::new, |s| format!(", {} {}", times(s.ratio), bounds(s.lower, s.upper, times)));
    let title = format!("{} {}: {}{speed}", dot.number, candidate.name, bytes(candidate.bytes as f64));
    let ring = candidate.chosen.then(|| circle("ring", dot.at, 10.5));
    el("g")
        .push(text("title", &title))
        .push(line("error", [x, dot.whisker[0]], [x, dot.whisker[1]]))
        .maybe(ring)
        .push(circle(&format!("point {class}{hollow}"), [x, y], 6.5))
}

/// What the colours mean.
fn legend() -> Node {
    let steps =
        [("s4", "≥ 95 %"), ("s3", "80 to 95 %"), ("s2", "50 to 80 %"), ("s1", "0 to 50 %"), ("s0", "beyond a bound")];
    el("p").class("legend").text("Room left to the quality gates: ").extend(steps.map(|(class, words)| {
        el("span").push(el("i").class(&format!("swatch {class}")).attr("aria-hidden", "true")).text(words)
    }))
}

fn table(report: &Report) -> Node {
    let columns = [
        Words("Candidate"),
        Number("Size"),
        Number("Of the input"),
        Number("Nodes"),
        Number("Speedup"),
        Number("Room to the gates"),
        Words("Outcome"),
    ];
    let numbered = report.candidates.iter().enumerate();
    numbered
        .fold(Table::new(&columns), |table, (i, candidate)| {
            table.marked_row(if candidate.chosen { "chosen" } else { "" }, row(i + 1, candidate, report))
        })
        .node()
}

fn row(number: usize, candidate: &CandidateFigures, report: &Report) -> [Cell; 7] {
    let speed = match &candidate.speed {
        Some(s) => text("span", &times(s.ratio))
            .push(text("small", &format!("{}, n = {}", bounds(s.lower, s.upper, times), s.n)).class("short")),
        None => text("span", "not timed"),
    };
    let input = report.baseline.bytes.max(1) as f64;
    let scores = candidate
        .quality
        .iter()
        .map(|s| {
            format!(
                "{} {} (gate {}, to keep {} of the room)",
                s.metric,
                share(s.estimate),
                share(s.threshold),
                percent(s.needed)
            )
        })
        .collect::<Vec<_>>()
        .join("; ");
    let room = match slack(candidate) {
        Some(s) if s < 0.0 => text("span", "beyond a bound").attr("title", &scores),
        Some(s) if s.is_finite() => el("span").attr("title", &scores).text(&percent(s)),
        Some(_) => text("span", "undefined").attr("title", &scores),
        None => text("span", "not measured"),
    };
    let swatch = el("i").class(&format!("swatch {}", slack_class(slack(candidate)))).attr("aria-hidden", "true");
    let outcome = match (&candidate.refused, candidate.chosen) {
        (refused, true) => el("span").push(text("strong", "Chosen. ")).text(refused.as_deref().unwrap_or_default()),
        (Some(reason), false) => text("span", reason),
        (None, false) => text("span", "Eligible; a better one was chosen first."),
    };
    let outcome = outcome.maybe((!candidate.left_out.is_empty()).then(|| {
        el("details")
            .push(text("summary", &format!("{} left in float", plural(candidate.left_out.len(), "site"))))
            .push(el("ul").extend(candidate.left_out.iter().map(|site| text("li", site))))
    }));
    [
        format!("{number} {}", candidate.name).into(),
        bytes(candidate.bytes as f64).into(),
        percent(candidate.bytes as f64 / input).into(),
        count(candidate.nodes as u64).into(),
        speed.into(),
        el("span").push(swatch).push(room).into(),
        outcome.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_find_a_free_side_and_give_up_when_there_is_none() {
        let area = [0.0, 200.0, 0.0, 100.0];
        let mut taken = vec![around([100.0, 50.0], 7.0)];
        let (_, first) = place(area, [100.0, 50.0], "abcdef", &mut taken).unwrap();
        let (_, second) = place(area, [100.0, 50.0], "abcdef", &mut taken).unwrap();
        assert_eq!((first, second), (Anchor::Start, Anchor::End));
        assert!(place(area, [100.0, 50.0], &"x".repeat(60), &mut taken).is_none());
    }

    #[test]
    fn the_colour_follows_the_room_left() {
        let classes =
            [None, Some(f64::NEG_INFINITY), Some(-0.1), Some(0.1), Some(0.6), Some(0.9), Some(1.0)].map(slack_class);
        assert_eq!(classes, ["s-none", "s0", "s0", "s1", "s2", "s3", "s4"]);
    }
}
