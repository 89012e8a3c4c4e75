//! The places where a graph uses its constants, and which uses come before which: what the structure says about equal
//! values.

use std::collections::{HashMap, HashSet};

use super::super::file::{Node, OnnxFile, is_onnx};
use super::super::rewrite::{Needed, Use};
use crate::error::{Error, Result};

/// The relation of two uses in the flow of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The first one's result is needed for the second one.
    Before,
    After,
    /// Neither.
    Beside,
    /// Two uses in branches of which each has the encoder to itself, an image and its mirror image: neither, which says
    /// nothing.
    Apart,
}

/// One use of a constant that takes part in what is computed from the images.
#[derive(Debug)]
pub(super) struct Site {
    /// Which constant.
    pub(super) constant: usize,
    /// The use that reads the constant.
    pub(super) at: Use,
    /// The places where the constant meets the data: itself, or further on where a constant goes through nodes of its
    /// own first (a transposition, a cast, a look-up). As node and rank among the inputs of that node.
    meets: Vec<(usize, u8)>,
}

impl Site {
    /// The nodes where the constant meets the data.
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> {
        self.meets.iter().map(|(node, _)| *node)
    }
}

/// All sites of a graph, and the flow between them.
pub(super) struct Sites {
    pub(super) sites: Vec<Site>,
    /// A number for every node with a site.
    numbers: HashMap<usize, usize>,
    /// The numbers that come before each number.
    before: Vec<Vec<u64>>,
    /// Pairs of sites in different branches, the smaller number first.
    apart: HashSet<(usize, usize)>,
}

/// The bits to note which use comes before which, at most: a graph with more wants to waste memory.
const MAX_BITS: usize = 1 << 31;

impl Sites {
    /// The uses of the constants for which `of_interest` says so.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a graph of absurd size.
    pub(super) fn find(file: &OnnxFile, needed: &Needed, of_interest: impl Fn(usize) -> bool) -> Result<Self> {
        let constants: HashMap<&str, usize> =
            file.constants.iter().enumerate().map(|(i, constant)| (constant.name.as_str(), i)).collect();
        let flow = Flow::of(file, needed);
        let mut sites = Vec::new();
        for (i, node) in file.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
            for (k, name) in node.inputs.iter().enumerate() {
                let Some(&constant) = constants.get(name.as_str()).filter(|c| of_interest(**c)) else { continue };
                let meets = flow.meets(file, (i, k));
                if !meets.is_empty() {
                    sites.push(Site { constant, at: (i, k), meets });
                }
            }
        }
        let mut numbers = HashMap::new();
        for &(node, _) in sites.iter().flat_map(|site| &site.meets) {
            let next = numbers.len();
            numbers.entry(node).or_insert(next);
        }
        let words = numbers.len().div_ceil(64);
        if words.saturating_mul(64).saturating_mul(file.nodes.len()) > MAX_BITS {
            return Err(Error::unsupported("the graph uses too many constants that could be weights"));
        }
        let before = flow.ancestors(file, &numbers, words);
        Ok(Self { sites, numbers, before, apart: HashSet::new() })
    }

    /// Finds the branches of a graph that runs the encoder several times side by side with the same weights. `certain`
    /// are groups of sites, each of one parameter that an encoder uses once; those beside each other tell the branches
    /// apart, and what belongs to one of them belongs to its branch.
    pub(super) fn find_branches(&mut self, certain: &[Vec<usize>]) {
        /// The branches, or groups, at most: more tell nothing new.
        const MAX_BRANCHES: usize = 64;

        let are_beside = |group: &&Vec<usize>| {
            let mut pairs = group.iter().enumerate().flat_map(|(i, a)| group[i + 1..].iter().map(move |b| (*a, *b)));
            (2..=MAX_BRANCHES).contains(&group.len()) && pairs.all(|(a, b)| self.relation(a, b) == Relation::Beside)
        };
        let branching: Vec<&Vec<usize>> = certain.iter().filter(are_beside).collect();
        // A layer or two beside each other are no encoder.
        if branching.len() * 2 < certain.len() {
            return;
        }
        let mut apart = HashSet::new();
        for group in branching.into_iter().take(MAX_BRANCHES) {
            // For every site those of the group that it comes before or after.
            let related = |site: usize| {
                let one = |of: usize| site == of || self.relation(site, of) != Relation::Beside;
                group.iter().enumerate().filter(|(_, of)| one(**of)).fold(0u64, |bits, (i, _)| bits | 1 << i)
            };
            let related: Vec<u64> = (0..self.sites.len()).map(related).collect();
            for (a, mine) in related.iter().enumerate() {
                let of_others = related.iter().enumerate().skip(a + 1);
                let others = of_others.filter(|(_, theirs)| mine & !**theirs != 0 && **theirs & !mine != 0);
                apart.extend(others.map(|(b, _)| (a, b)));
            }
        }
        self.apart = apart;
    }

    /// The relation of the site `a` to `b`.
    pub(super) fn relation(&self, a: usize, b: usize) -> Relation {
        if self.apart.contains(&(a.min(b), a.max(b))) {
            return Relation::Apart;
        }
        let (a, b) = (&self.sites[a].meets, &self.sites[b].meets);
        let any = |first: &[(usize, u8)], then: &[(usize, u8)]| {
            first.iter().any(|from| then.iter().any(|to| self.comes_before(*from, *to)))
        };
        match (any(a, b), any(b, a)) {
            (true, false) => Relation::Before,
            (false, true) => Relation::After,
            // Both: used in several places, which says nothing.
            _ => Relation::Beside,
        }
    }

    fn comes_before(&self, from: (usize, u8), to: (usize, u8)) -> bool {
        if from.0 == to.0 {
            return from.1 < to.1;
        }
        match (self.numbers.get(&from.0), self.numbers.get(&to.0)) {
            (Some(from), Some(to)) => self.before[*to][from / 64] >> (from % 64) & 1 == 1,
            _ => false,
        }
    }
}

/// Which values come from the images, and who reads what.
struct Flow<'a> {
    /// Values that depend on the elements of the graph's inputs; their shape alone does not count.
    data: HashSet<&'a str>,
    /// The uses that read each value.
    readers: HashMap<&'a str, Vec<Use>>,
    producers: HashMap<&'a str, usize>,
}

impl<'a> Flow<'a> {
    fn of(file: &'a OnnxFile, needed: &Needed) -> Self {
        let constants: HashSet<&str> = file.constants.iter().map(|constant| constant.name.as_str()).collect();
        let inputs = file.inputs.iter().map(|port| port.name.as_str());
        let mut data: HashSet<&str> = inputs.filter(|name| !constants.contains(name)).collect();
        let (mut readers, mut producers) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        for (i, node) in file.sorted().filter(|(i, _)| needed.nodes[*i]) {
            for (k, name) in node.inputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                readers.entry(name.as_str()).or_default().push((i, k));
            }
            let is_shape = is_onnx(&node.domain) && matches!(node.op.as_str(), "Shape" | "Size");
            let reads = |name: &String| data.contains(name.as_str());
            if !is_shape && node.inputs.iter().chain(&node.captured).any(reads) {
                data.extend(made(node));
            }
            producers.extend(made(node).map(|name| (name, i)));
        }
        Self { data, readers, producers }
    }

    /// The places where a constant that is read at `start` meets the data.
    fn meets(&self, file: &OnnxFile, start: Use) -> Vec<(usize, u8)> {
        /// A constant that goes further than this before it meets anything is no weight.
        const MAX_STEPS: usize = 64;

        let (mut found, mut seen, mut open) = (Vec::new(), HashSet::new(), vec![start]);
        while let Some((i, k)) = open.pop() {
            if !seen.insert((i, k)) || seen.len() > MAX_STEPS {
                continue;
            }
            let node = &file.nodes[i];
            if is_onnx(&node.domain) && matches!(node.op.as_str(), "Shape" | "Size") {
                continue;
            }
            if node.outputs.iter().any(|name| self.data.contains(name.as_str())) {
                found.push((i, rank(&node.op, k)));
                continue;
            }
            let next = node.outputs.iter().filter_map(|name| self.readers.get(name.as_str()));
            open.extend(next.flatten().copied());
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The numbers, for every numbered node, of those that its data comes from.
    fn ancestors(&self, file: &OnnxFile, numbers: &HashMap<usize, usize>, words: usize) -> Vec<Vec<u64>> {
        let mut of_node: HashMap<usize, Vec<u64>> = HashMap::new();
        let mut result = vec![vec![0; words]; numbers.len()];
        for (i, node) in file.sorted() {
            if !node.outputs.iter().any(|name| self.data.contains(name.as_str())) {
                continue;
            }
            let mut bits = vec![0u64; words];
            for name in node.inputs.iter().chain(&node.captured).filter(|name| self.data.contains(name.as_str())) {
                let Some(above) = self.producers.get(name.as_str()) else { continue };
                if let Some(theirs) = of_node.get(above) {
                    bits.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
                }
                if let Some(number) = numbers.get(above) {
                    bits[number / 64] |= 1 << (number % 64);
                }
            }
            if let Some(number) = numbers.get(&i) {
                result[*number].clone_from(&bits);
            }
            of_node.insert(i, bits);
        }
        result
    }
}

/// The values that a node makes. An output that is left out has an empty name, and so has an input: the two have
/// nothing to do with each other.
fn made(node: &Node) -> impl Iterator<Item = &str> {
    node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// The order in which a node applies its inputs. It is that in which they stand, but for the bias of the linear layer
/// before, which the fused residual normalisation adds first.
fn rank(op: &str, input: usize) -> u8 {
    match (op, input) {
        ("SkipLayerNormalization", 4) => 0,
        _ => u8::try_from(input + 1).unwrap_or(u8::MAX),
    }
}
