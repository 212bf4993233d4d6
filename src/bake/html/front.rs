//! The Pareto front: speed against what is left of the quality budget, with the size of the file as the size of the disc.

use super::markup::{Node, el, text};
use super::plot::{Anchor, Scale, circle, drawing, extent, label, label_width, line, padded, x_axis, y_axis};
use super::text::{bytes, percent, plural, times};
use crate::bake::Report;
use crate::bake::front::FrontPoint;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 230.0;

/// Radii of a file of no bytes and of one as large as the input.
const RADII: [f64; 2] = [3.0, 11.0];

/// The front of the candidates, beside those that are beaten.
pub(super) fn figure(report: &Report) -> Node {
    let places = report.candidates.iter().enumerate().filter_map(|(at, c)| FrontPoint::of(at, c));
    let (on, beaten): (Vec<FrontPoint>, Vec<FrontPoint>) =
        places.partition(|point| report.front.iter().any(|front| front.candidate == point.candidate));
    let all = || on.iter().chain(&beaten);
    let domains = extent(all().map(|p| p.speed)).zip(extent(all().map(|p| p.slack)));
    let Some((speeds, slacks)) = domains.filter(|_| !on.is_empty()) else {
        return text("p", "No candidate was both timed and good enough, so there is no front.").class("absent");
    };
    let (left, right, top, bottom) = (46.0, WIDTH - 14.0, 34.0, HEIGHT - 42.0);
    let x = Scale::log([speeds[0] / 1.1, speeds[1] * 1.25], [left, right]);
    let y = Scale::linear(padded(slacks, 0.2), [bottom, top]);
    let at = |p: &FrontPoint| [x.at(p.speed), y.at(p.slack)];
    let input = report.baseline.bytes.max(1) as f64;
    let radius = |p: &FrontPoint| RADII[0] + (RADII[1] - RADII[0]) * (p.bytes as f64 / input).min(1.0).sqrt();
    let title = format!(
        "{} that no other one beats, by speed and quality; the upper right is better",
        plural(on.len(), "candidate")
    );
    let mut plot = drawing(WIDTH, HEIGHT, &title)
        .push(x_axis(&x, [top, bottom], "speedup against the input (log axis)", times))
        .push(y_axis(&y, [left, right], "room left to the quality gates", percent));
    for pair in on.windows(2) {
        plot = plot.push(line("unity", at(&pair[0]), at(&pair[1])));
    }
    let disc = |point: &FrontPoint, class: &str| {
        let words = format!(
            "{} {}: {}, {}, {} of the room left",
            point.candidate + 1,
            point.name,
            times(point.speed),
            bytes(point.bytes as f64),
            percent(point.slack)
        );
        el("g").push(text("title", &words)).push(circle(class, at(point), radius(point)))
    };
    plot =
        plot.extend(beaten.iter().map(|p| disc(p, "point s2 hollow"))).extend(on.iter().map(|p| disc(p, "point s4")));
    let mut taken: Vec<[f64; 2]> = Vec::new();
    for point in &on {
        let number = (point.candidate + 1).to_string();
        let [px, py] = at(point);
        let place = [px + radius(point) + 3.0, py + 4.0];
        let clear = taken
            .iter()
            .all(|t| (t[0] - place[0]).abs() > label_width(&number) + 2.0 || (t[1] - place[1]).abs() > 11.0);
        if clear {
            taken.push(place);
            plot = plot.push(label("tick", place, Anchor::Start, &number));
        }
    }
    let caption = "The Pareto front: no other candidate is as good as one of these in size, speed and quality together. Numbers are those of the table below; the \
        larger the disc, the larger the file. Hollow: beaten. What misses a gate of quality is not drawn.";
    el("figure").push(plot).push(text("figcaption", caption))
}
