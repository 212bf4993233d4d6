//! Elements of HTML and SVG. Whatever comes from a user's model reaches the page only through [`Node::text`] and [`Node::attr`], which escape it; names of
//! elements and attributes are literals.

use std::fmt::{self, Display, Write};

/// One element and what is in it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    name: &'static str,
    attributes: String,
    inner: String,
}

/// An empty element.
pub(super) fn el(name: &'static str) -> Node {
    Node { name, attributes: String::new(), inner: String::new() }
}

/// An element that holds a text.
pub(super) fn text(name: &'static str, content: &str) -> Node {
    el(name).text(content)
}

impl Node {
    /// The element with a class.
    pub(super) fn class(self, class: &str) -> Self {
        self.attr("class", class)
    }

    /// The element with an attribute.
    pub(super) fn attr(mut self, name: &'static str, value: &str) -> Self {
        let _ = write!(self.attributes, " {name}=\"{}\"", escaped(value));
        self
    }

    /// The element with a coordinate or a length, in the units of the drawing. What is not finite is drawn at 0: a plot never holds `NaN`.
    pub(super) fn num(self, name: &'static str, value: f64) -> Self {
        let value = if value.is_finite() { (value * 100.0).round() / 100.0 } else { 0.0 };
        self.attr(name, &format!("{value}"))
    }

    /// The element with more text in it.
    pub(super) fn text(mut self, content: &str) -> Self {
        self.inner.push_str(&escaped(content));
        self
    }

    /// The element with a child behind what it holds.
    pub(super) fn push(mut self, child: impl Display) -> Self {
        let _ = write!(self.inner, "{child}");
        self
    }

    /// The element with children behind what it holds.
    pub(super) fn extend<T: Display>(self, children: impl IntoIterator<Item = T>) -> Self {
        children.into_iter().fold(self, Self::push)
    }

    /// The element with a child, where there is one.
    pub(super) fn maybe(self, child: Option<impl Display>) -> Self {
        self.extend(child)
    }

    /// A style sheet of our own.
    pub(super) fn style(css: &'static str) -> Self {
        Self { inner: css.to_owned(), ..el("style") }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attributes, inner } = self;
        if matches!(*name, "meta" | "br") {
            return write!(f, "<{name}{attributes}>");
        }
        write!(f, "<{name}{attributes}>{inner}</{name}>")
    }
}

/// `content` with the characters that mean something to a browser written out. Control characters and those that turn the direction of writing, with which a
/// name could pose as another, become the replacement character.
fn escaped(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    for c in content.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_or_an_attribute_becomes_markup() {
        let node = el("td").attr("title", "\"><script>").text("</td><script>alert('x')</script>&amp;");
        assert_eq!(
            node.to_string(),
            "<td title=\"&quot;&gt;&lt;script&gt;\">&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;</td>"
        );
    }

    #[test]
    fn a_name_cannot_turn_the_direction_of_writing() {
        assert_eq!(text("p", "a\u{202e}b\u{7}c\nd").to_string(), "<p>a\u{fffd}b\u{fffd}c\nd</p>");
    }

    #[test]
    fn a_coordinate_is_always_a_number() {
        assert_eq!(el("g").num("x", f64::NAN).num("y", 1.005_f64).to_string(), "<g x=\"0\" y=\"1\"></g>");
    }

    #[test]
    fn children_are_written_inside_and_void_elements_are_not_closed() {
        let list = el("ul").extend(["a", "b"].map(|t| text("li", t))).maybe(None::<Node>);
        assert_eq!(list.to_string(), "<ul><li>a</li><li>b</li></ul>");
        assert_eq!(el("meta").attr("charset", "utf-8").to_string(), "<meta charset=\"utf-8\">");
    }
}
