//! Lists of names and values.

use super::markup::{Node, el, text};

/// Facts as a list of names and values.
pub(super) fn list<N: AsRef<str>>(facts: &[(N, String)]) -> Node {
    el("dl").extend(facts.iter().map(|(name, value)| el("div").push(text("dt", name.as_ref())).push(text("dd", value))))
}

/// A word for yes and no.
pub(super) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
