//! Scales, axes and marks of the page's drawings. Colours come from the style sheet by class, so that they follow light and dark.

use super::markup::{Node, el, text};

/// From values to places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    domain: [f64; 2],
    range: [f64; 2],
    log: bool,
}

impl Scale {
    /// Even steps. A domain of no width is widened around its value.
    pub(super) fn linear(domain: [f64; 2], range: [f64; 2]) -> Self {
        let [low, high] = domain;
        let domain =
            if high > low { domain } else { [low - 0.5 * low.abs().max(1e-9), low + 0.5 * low.abs().max(1e-9)] };
        Self { domain, range, log: false }
    }

    /// Even ratios; for positive values.
    pub(super) fn log(domain: [f64; 2], range: [f64; 2]) -> Self {
        let low = domain[0].max(f64::MIN_POSITIVE);
        let high = if domain[1] > low { domain[1] } else { low };
        // Less than a tenth between the ends would be a picture of noise without a tick.
        let domain = if high / low < 1.1 { [low / 1.05, high * 1.05] } else { [low, high] };
        Self { domain, range, log: true }
    }

    /// Where a value lies; values outside lie at the edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let turn = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (turn(self.domain[0]), turn(self.domain[1]));
        let share = ((turn(value) - low) / (high - low)).clamp(0.0, 1.0);
        let share = if share.is_nan() { 0.0 } else { share };
        self.range[0] + share * (self.range[1] - self.range[0])
    }

    /// Whether a value lies inside the domain.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.domain[0]..=self.domain[1]).contains(&value)
    }

    /// Round values inside the domain, about `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<f64> {
        let [low, high] = self.domain;
        if self.log && high / low > 4.0 {
            let all: Vec<f64> = (low.log10().floor() as i32..=high.log10().ceil() as i32)
                .flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(power)))
                .filter(|v| self.holds(*v))
                .collect();
            let step = all.len().div_ceil(wanted.max(1)).max(1);
            return all.into_iter().step_by(step).collect();
        }
        let rough = (high - low) / wanted.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        // Of the round steps the one nearest to the wished, as a ratio.
        let off = |step: &f64| (step / rough).ln().abs();
        let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
        let step = steps.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(rough);
        let first = (low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= high * (1.0 + 1e-12)).take(wanted * 3).collect()
    }
}

/// Smallest and largest of the finite values; `None` without one.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |found, v| match found {
        None => Some([v, v]),
        Some([low, high]) => Some([low.min(v), high.max(v)]),
    })
}

/// A domain with a margin on both sides, a share of its width.
pub(super) fn padded([low, high]: [f64; 2], share: f64) -> [f64; 2] {
    let margin = (high - low).max(low.abs() * 1e-3).max(1e-12) * share;
    [low - margin, high + margin]
}

/// A drawing of this size in its own units, scaled to the width of the page. `title` is what a screen reader says.
pub(super) fn drawing(width: f64, height: f64, title: &str) -> Node {
    el("svg").attr("viewBox", &format!("0 0 {width} {height}")).attr("role", "img").push(text("title", title))
}

/// A drawing that is stretched to its cell: only for bars, which do not mind.
pub(super) fn stretched(class: &str, title: &str) -> Node {
    drawing(100.0, 10.0, title).attr("preserveAspectRatio", "none").class(class)
}

/// A rectangle, whichever way round its ends are given.
pub(super) fn rect(class: &str, [x0, x1]: [f64; 2], [y0, y1]: [f64; 2]) -> Node {
    el("rect")
        .class(class)
        .num("x", x0.min(x1))
        .num("y", y0.min(y1))
        .num("width", (x1 - x0).abs())
        .num("height", (y1 - y0).abs())
}

/// A line.
pub(super) fn line(class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> Node {
    el("line").class(class).num("x1", x1).num("y1", y1).num("x2", x2).num("y2", y2)
}

/// A disc.
pub(super) fn circle(class: &str, [x, y]: [f64; 2], radius: f64) -> Node {
    el("circle").class(class).num("cx", x).num("cy", y).num("r", radius)
}

/// Where a label ends or begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A label.
pub(super) fn label(class: &str, [x, y]: [f64; 2], anchor: Anchor, content: &str) -> Node {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    text("text", content).class(class).num("x", x).num("y", y).attr("text-anchor", anchor)
}

/// Width of a label of the size that the style sheet gives them, roughly.
pub(super) fn label_width(content: &str) -> f64 {
    6.6 * content.chars().count() as f64
}

/// A horizontal axis below `y`, with the ticks' grid lines up to `top` and the name of what it shows.
pub(super) fn x_axis(scale: &Scale, [top, y]: [f64; 2], name: &str, show: impl Fn(f64) -> String) -> Node {
    let [left, right] = scale.range;
    let mut axis = el("g").push(line("axis", [left, y], [right, y]));
    let mut free = f64::NEG_INFINITY;
    for tick in scale.ticks(5) {
        let (x, shown) = (scale.at(tick), show(tick));
        axis = axis.push(line("grid", [x, top], [x, y]));
        let half = label_width(&shown) / 2.0;
        if x - half > free {
            axis = axis.push(label("tick", [x, y + 15.0], Anchor::Middle, &shown));
            free = x + half + 6.0;
        }
    }
    axis.push(label("name", [f64::midpoint(left, right), y + 32.0], Anchor::Middle, name))
}

/// A vertical axis left of `x`, with grid lines to `right`. Its name stands above it, where it needs no turning.
pub(super) fn y_axis(scale: &Scale, [x, right]: [f64; 2], name: &str, show: impl Fn(f64) -> String) -> Node {
    let [bottom, top] = scale.range;
    let mut axis = el("g").push(line("axis", [x, bottom], [x, top]));
    for tick in scale.ticks(5) {
        let y = scale.at(tick);
        axis = axis.push(line("grid", [x, y], [right, y])).push(label(
            "tick",
            [x - 6.0, y + 4.0],
            Anchor::End,
            &show(tick),
        ));
    }
    axis.push(label("name", [0.0, top - 10.0], Anchor::Start, name))
}

/// Counts of `values` in `bins` even bins of the scale's range.
pub(super) fn histogram(values: &[f64], scale: &Scale, bins: usize) -> Vec<usize> {
    let mut counts = vec![0; bins];
    let [left, right] = scale.range;
    for value in values.iter().filter(|v| v.is_finite()) {
        let share = (scale.at(*value) - left) / (right - left);
        counts[((share * bins as f64) as usize).min(bins - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_maps_its_ends_and_keeps_everything_inside() {
        let linear = Scale::linear([0.0, 2.0], [10.0, 110.0]);
        assert_eq!([linear.at(0.0), linear.at(1.0), linear.at(2.0), linear.at(9.0)], [10.0, 60.0, 110.0, 110.0]);
        let log = Scale::log([1.0, 100.0], [0.0, 2.0]);
        assert!((log.at(10.0) - 1.0).abs() < 1e-12);
        assert_eq!(log.at(f64::NAN), 0.0);
        let flat = Scale::linear([5.0, 5.0], [0.0, 1.0]);
        assert_eq!(flat.at(5.0), 0.5);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear([0.0, 1.0], [0.0, 1.0]).ticks(5), [0.0, 0.2, 0.4, 0.600_000_000_000_000_1, 0.8, 1.0]);
        assert_eq!(Scale::log([1e-4, 1.2e-3], [0.0, 1.0]).ticks(5), [1e-4, 2e-4, 5e-4, 1e-3]);
        let narrow = Scale::log([100.0, 103.0], [0.0, 1.0]);
        assert!(narrow.ticks(5).len() >= 3);
        assert!(narrow.ticks(5).iter().all(|t| narrow.holds(*t)));
        assert!(Scale::linear([f64::MAX / 4.0, f64::MAX / 2.0], [0.0, 1.0]).ticks(5).len() < 20);
    }

    #[test]
    fn a_histogram_counts_every_finite_value_once() {
        let scale = Scale::linear([0.0, 10.0], [0.0, 100.0]);
        assert_eq!(histogram(&[0.0, 1.0, 9.9, 10.0, f64::NAN, 50.0], &scale, 5), [2, 0, 0, 0, 3]);
    }

    #[test]
    fn an_extent_ignores_what_is_not_finite() {
        assert_eq!(extent([f64::NAN, 2.0, 1.0, f64::INFINITY]), Some([1.0, 2.0]));
        assert_eq!(extent([]), None);
    }
}
