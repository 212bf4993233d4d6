//! Tables. On a narrow screen each row becomes a block of labelled lines, so nothing has to be scrolled sideways.

use super::markup::{Node, el, text};

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Words, to the left.
    Words(&'static str),
    /// Numbers, to the right, digits below each other.
    Number(&'static str),
    /// A small drawing; has no label on a narrow screen.
    Plot(&'static str),
}

use Column::{Number, Plot, Words};

/// A table in the making.
#[derive(Debug, Clone)]
pub(super) struct Table {
    columns: Vec<Column>,
    caption: Option<String>,
    body: Node,
    rows: usize,
    compact: bool,
}

/// What stands in one cell.
pub(super) enum Cell {
    /// A text.
    Text(String),
    /// An element.
    Node(Box<Node>),
}

/// Texts up to this long are kept on one line in a column of numbers.
const SHORT: usize = 24;

impl Cell {
    fn is_short(&self) -> bool {
        matches!(self, Self::Text(content) if content.chars().count() <= SHORT)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Node> for Cell {
    fn from(value: Node) -> Self {
        Self::Node(Box::new(value))
    }
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), caption: None, body: el("tbody"), rows: 0, compact: false }
    }

    /// The table with a caption above it.
    pub(super) fn caption(self, caption: &str) -> Self {
        Self { caption: Some(caption.to_owned()), ..self }
    }

    /// The table as one that fits a narrow screen as it is: few columns, short words.
    pub(super) fn compact(self) -> Self {
        Self { compact: true, ..self }
    }

    /// The table with one more row: a cell per column. The first cell heads the row.
    pub(super) fn row<const N: usize>(self, cells: [Cell; N]) -> Self {
        self.marked_row("", cells)
    }

    /// A row with a class of its own.
    pub(super) fn marked_row<const N: usize>(mut self, class: &str, cells: [Cell; N]) -> Self {
        debug_assert_eq!(N, self.columns.len(), "a cell per column");
        let mut row = if class.is_empty() { el("tr") } else { el("tr").class(class) };
        for (position, (cell, column)) in cells.into_iter().zip(&self.columns).enumerate() {
            let (label, class) = match column {
                Words(label) => (*label, ""),
                Number(label) if cell.is_short() => (*label, "num short"),
                Number(label) => (*label, "num"),
                Plot(_) => ("", "plot"),
            };
            let mut td = if position == 0 { el("th").attr("scope", "row") } else { el("td") };
            if !class.is_empty() {
                td = td.class(class);
            }
            if position > 0 && !label.is_empty() {
                td = td.attr("data-label", label);
            }
            row = row.push(match cell {
                Cell::Text(content) => td.text(&content),
                Cell::Node(node) => td.push(node),
            });
        }
        self.body = self.body.push(row);
        self.rows += 1;
        self
    }

    /// Adds a row for each item.
    pub(super) fn rows<T, const N: usize>(
        self,
        items: impl IntoIterator<Item = T>,
        row: impl Fn(T) -> [Cell; N],
    ) -> Self {
        items.into_iter().fold(self, |table, item| table.row(row(item)))
    }

    /// Whether no row was added.
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The element.
    pub(super) fn node(self) -> Node {
        let head = self.columns.iter().map(|column| match column {
            Words(label) => text("th", label).attr("scope", "col"),
            Number(label) => text("th", label).attr("scope", "col").class("num"),
            Plot(label) => text("th", label).attr("scope", "col").class("plot"),
        });
        let caption = self.caption.map(|c| text("caption", &c));
        let table = if self.compact { el("table").class("compact") } else { el("table") };
        table.maybe(caption).push(el("thead").push(el("tr").extend(head))).push(self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_carries_the_label_of_its_column_for_narrow_screens() {
        let table = Table::new(&[Words("Pass"), Number("Nodes"), Plot("Bar")]).row([
            "a<b".into(),
            "3".into(),
            el("svg").into(),
        ]);
        assert!(!table.is_empty());
        let html = table.node().to_string();
        assert!(html.contains("<th scope=\"row\">a&lt;b</th>"), "{html}");
        assert!(html.contains("<td class=\"num short\" data-label=\"Nodes\">3</td>"), "{html}");
        assert!(html.contains("<td class=\"plot\"><svg></svg></td>"), "{html}");
    }
}
