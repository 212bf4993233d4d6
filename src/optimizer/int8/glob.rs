//! Names that a job leaves alone: patterns such as `/head/*`.

use std::collections::HashSet;

use crate::model::onnx::NodeProto;

/// Patterns over node names and output names. `*` stands for any characters (slashes too), `?` for one; everything else for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclude {
    patterns: Vec<Vec<char>>,
    /// Outputs of nodes that are left alone whatever they are called.
    outputs: HashSet<String>,
}

impl Exclude {
    /// Takes over a list of patterns.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        Self { patterns: patterns.iter().map(|p| p.as_ref().chars().collect()).collect(), outputs: HashSet::new() }
    }

    /// The same, and nodes with one of these outputs.
    #[must_use]
    pub fn and_outputs(self, outputs: &HashSet<String>) -> Self {
        Self { outputs: self.outputs.union(outputs).cloned().collect(), ..self }
    }

    /// Whether a pattern matches the whole of `name`.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.patterns.iter().any(|p| matches(p, &name))
    }

    /// Whether a pattern matches a node's name or one of its outputs, or one of them is listed.
    pub fn matches_node(&self, node: &NodeProto) -> bool {
        node.output.iter().any(|o| self.outputs.contains(o))
            || !self.patterns.is_empty()
                && std::iter::once(node.name())
                    .chain(node.output.iter().map(String::as_str))
                    .any(|n| !n.is_empty() && self.matches(n))
    }
}

/// Linear-time matching: on a mismatch only the last `*` takes one more character.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("/head/*", "/head/MatMul", true),
            ("/head/*", "/head/a/b", true),
            ("/head/*", "x/head/a", false),
            ("*norm*", "layer.norm.1", true),
            ("fc?", "fc1", true),
            ("fc?", "fc", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("*", "", true),
            ("fc", "fc1", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Exclude::new(&[pattern]).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_node_is_excluded_by_name_or_output() {
        let node = crate::model::edit::node("MatMul", "", &["x", "w"], &["head.out"], vec![]);
        assert!(Exclude::new(&["head.*"]).matches_node(&node));
        assert!(!Exclude::new(&["body.*"]).matches_node(&node) && !Exclude::default().matches_node(&node));
        for (output, expected) in [("head.out", true), ("head.*", false)] {
            let exclude = Exclude::default().and_outputs(&HashSet::from([output.to_owned()]));
            assert_eq!(exclude.matches_node(&node), expected, "{output}");
        }
    }
}
