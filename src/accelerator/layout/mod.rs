//! Layout conversion: a Transpose is moved through operators that do not mind the order of the axes until it meets its inverse, as models converted between
//! channels-last and channels-first carry them in pairs.
//!
//! A *region* is a set of such operators behind Transposes of one permutation. Calculating it in the order before the Transposes removes those that only feed it
//! and the inverse ones behind it, and puts one at each other edge. It is rewritten only when the number of Transposes goes down.

mod adapt;

use std::collections::{BTreeMap, BTreeSet};

use self::adapt::{Plan, absorbs, data_inputs, plan};
use super::evaluate::movement::permutation;
use super::net::{self, Id, Net, input};
use crate::model::{Effect, Facts, Model, Pass, PassError, TensorFact, edit};

/// The pass `convert-layout`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvertLayout;

impl Pass for ConvertLayout {
    fn name(&self) -> &'static str {
        "convert-layout"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let rewrites = net::edit(model, facts, |net| {
            let mut rewrites = 0;
            for id in net.ids() {
                while let Some(region) = [false, true].into_iter().find_map(|foreign| Region::grow(net, id, foreign)) {
                    region.rewrite(net);
                    rewrites += 1;
                }
            }
            if rewrites > 0 {
                net.sweep();
            }
            rewrites
        });
        Ok(Effect::rewrites(rewrites, "no Transpose can be cancelled by moving it through its neighbours"))
    }
}

/// Operators that can be calculated in the order before the Transposes.
struct Region {
    /// Axis `a` of a transposed tensor is axis `perm[a]` of the one before.
    perm: Vec<usize>,
    nodes: BTreeMap<Id, Plan>,
    /// The Transposes in front, whose readers all are in the region or absorb it.
    removed: BTreeSet<Id>,
    /// Tensors that enter without a Transpose in front, each of which will need the inverse.
    foreign: BTreeSet<String>,
}

/// Permutation of the Transpose in a slot.
fn perm_of(net: &Net, id: Id) -> Option<Vec<usize>> {
    let node = net.op(id, "Transpose")?;
    let rank = edit::ints_attribute(node, "perm").map(<[_]>::len).or_else(|| net.facts().rank(input(node, 0)?))?;
    permutation(node, rank)
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    inverse
}

fn as_ints(perm: &[usize]) -> Vec<i64> {
    perm.iter().map(|&p| p as i64).collect()
}

impl Region {
    /// The region behind the Transpose in slot `start`, when it pays. With `foreign`, tensors without a Transpose may enter at the price of one.
    fn grow(net: &Net, start: Id, foreign: bool) -> Option<Self> {
        let perm = perm_of(net, start)?;
        let first = net.get(start)?.output.first()?;
        let mut region = Self { perm, nodes: BTreeMap::new(), removed: BTreeSet::new(), foreign: BTreeSet::new() };
        let mut inside: BTreeSet<String> = BTreeSet::new();
        let mut waiting: Vec<Id> = net.readers(first).to_vec();
        while let Some(id) = waiting.pop() {
            if region.nodes.contains_key(&id) {
                continue;
            }
            let Some((node, plan)) = net.get(id).and_then(|n| Some((n, plan(net, n, &region.perm)?))) else { continue };
            let mut entering = Vec::new();
            let mut fits = true;
            for name in data_inputs(node) {
                if inside.contains(name) || net.is_constant(name) || region.transposed(net, name) {
                    continue;
                }
                fits &= foreign && net.facts().rank(name) == Some(region.perm.len());
                entering.push(name.to_owned());
            }
            if !fits {
                continue;
            }
            region.foreign.extend(entering);
            inside.extend(node.output.iter().cloned());
            for output in &node.output {
                waiting.extend(net.readers(output));
            }
            region.nodes.insert(id, plan);
        }
        region.foreign.retain(|name| !inside.contains(name));
        region.pays(net).then_some(region)
    }

    /// Whether a tensor comes from a Transpose of this permutation.
    fn transposed(&self, net: &Net, name: &str) -> bool {
        net.producer(name).is_some_and(|(id, _)| perm_of(net, id).as_ref() == Some(&self.perm))
    }

    /// Counts the Transposes that would go and come. Fills `removed`.
    fn pays(&mut self, net: &Net) -> bool {
        let mut sources: BTreeSet<Id> = BTreeSet::new();
        let mut saved = 0_usize;
        let mut added = self.foreign.len();
        for &id in self.nodes.keys() {
            let Some(node) = net.get(id) else { return false };
            for name in data_inputs(node).filter(|name| self.transposed(net, name)) {
                sources.extend(net.producer(name).map(|p| p.0));
            }
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                let mut needed = net.is_output(output);
                for &reader in net.readers(output).iter().filter(|r| !self.nodes.contains_key(r)) {
                    match self.composed(net, reader) {
                        Some(perm) => saved += usize::from(perm.is_sorted()),
                        None => needed |= absorbs(net, reader, &self.perm).is_none(),
                    }
                }
                added += usize::from(needed);
            }
        }
        for id in sources {
            let Some(output) = net.get(id).and_then(|n| n.output.first()) else { return false };
            let inside = |r: &Id| self.nodes.contains_key(r) || absorbs(net, *r, &self.perm).is_some();
            if !net.is_output(output) && net.readers(output).iter().all(inside) {
                self.removed.insert(id);
            }
        }
        saved + self.removed.len() > added
    }

    /// What a Transpose behind the region becomes when it reads the region's own order; `None` for another node.
    fn composed(&self, net: &Net, reader: Id) -> Option<Vec<usize>> {
        let behind = perm_of(net, reader).filter(|p| p.len() == self.perm.len())?;
        Some(behind.iter().map(|&b| self.perm[b]).collect())
    }

    fn rewrite(&self, net: &mut Net) {
        let back = as_ints(&inverse(&self.perm));
        // Every tensor under the name of its untransposed form.
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut outputs: Vec<String> = Vec::new();
        for &id in self.nodes.keys() {
            let Some(node) = net.get(id) else { continue };
            let entering: Vec<String> = data_inputs(node).map(str::to_owned).collect();
            let own: Vec<String> = node.output.iter().filter(|o| !o.is_empty()).cloned().collect();
            for name in entering.iter().filter(|name| self.transposed(net, name)) {
                let source = net.producer(name).and_then(|(_, n)| input(n, 0)).map(str::to_owned);
                names.extend(source.map(|s| (name.clone(), s)));
            }
            for name in own {
                let moved = net.fresh_name(&format!("{name}_moved"));
                self.move_fact(net, &name, &moved);
                names.insert(name.clone(), moved);
                outputs.push(name);
            }
        }
        let anchor = self.nodes.keys().next().copied().unwrap_or_default();
        for name in &self.foreign {
            let moved = net.fresh_name(&format!("{name}_moved"));
            self.move_fact(net, name, &moved);
            let node = edit::node("Transpose", &moved, &[name], &[&moved], vec![edit::ints("perm", &back)]);
            net.insert(anchor, node);
            names.insert(name.clone(), moved);
        }
        for (&id, plan) in &self.nodes {
            plan.apply(net, id, &self.perm, &names);
        }
        for name in outputs {
            self.reconnect(net, &name, &names[&name]);
        }
        for &id in &self.removed {
            let Some((output, source)) =
                net.get(id).and_then(|n| Some((n.output.first()?.clone(), input(n, 0)?.to_owned())))
            else {
                continue;
            };
            for reader in net.readers(&output).to_vec() {
                if let Some(absorbed) = absorbs(net, reader, &self.perm) {
                    absorbed.apply(net, reader, &source);
                }
            }
            net.remove_unused(id);
        }
    }

    fn move_fact(&self, net: &mut Net, from: &str, to: &str) {
        let Some(fact) = net.facts().get(from).filter(|f| f.shape.len() == self.perm.len()) else { return };
        let mut shape = fact.shape.clone();
        for (axis, &before) in self.perm.iter().enumerate() {
            shape[before] = fact.shape[axis];
        }
        let fact = TensorFact { dtype: fact.dtype, shape };
        net.add_fact(to, fact);
    }

    /// Serves the readers of `name` outside of the region from `moved`.
    fn reconnect(&self, net: &mut Net, name: &str, moved: &str) {
        let mut needed = net.is_output(name);
        let mut cancelled = Vec::new();
        for reader in net.readers(name).to_vec() {
            if let Some(perm) = self.composed(net, reader) {
                net.change(reader, |node| {
                    moved.clone_into(&mut node.input[0]);
                    node.attribute = vec![edit::ints("perm", &as_ints(&perm))];
                });
                if perm.is_sorted() {
                    cancelled.push(reader);
                }
            } else if let Some(absorbed) = absorbs(net, reader, &self.perm) {
                absorbed.apply(net, reader, moved);
            } else {
                needed = true;
            }
        }
        if needed && let Some((anchor, _)) = net.producer(moved) {
            let perm = vec![edit::ints("perm", &as_ints(&self.perm))];
            net.insert(anchor, edit::node("Transpose", &format!("{moved}_back"), &[moved], &[name], perm));
        }
        for id in cancelled {
            // One that has to stay, because its result is a graph output with another producer, is an identity: harmless.
            let Some(to) = net.get(id).and_then(|n| input(n, 0)).map(str::to_owned) else { continue };
            net.bypass(id, &to);
        }
    }
}

#[cfg(test)]
mod tests;
