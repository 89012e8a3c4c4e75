//! Nodes in an order in which they can be computed. The format demands it of files, and not every writer keeps to it:
//! converters to half floats put the casts that they add at the end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::node::Node;
use crate::error::{Error, Result};

/// The nodes' places in the file, each after those whose results it reads; the file's own order as far as that is one.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for nodes that need each other's results.
pub(super) fn order(nodes: &[Node]) -> Result<Vec<usize>> {
    let mut producers: HashMap<&str, usize> = HashMap::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)));
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for name in node.inputs.iter().chain(&node.captured) {
            if let Some(&producer) = producers.get(name.as_str()) {
                waiting[i] += 1;
                readers[producer].push(i);
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|i| waiting[*i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match waiting.iter().position(|count| *count > 0) {
        None => Ok(order),
        Some(i) => Err(Error::format("nodes of the graph need each other's results in a circle")
            .tensor(nodes[i].outputs.first().map_or("", String::as_str))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> Node {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Node { inputs: names(inputs), outputs: names(outputs), ..Node::default() }
    }

    #[test]
    fn every_node_comes_after_what_it_reads() {
        let sorted = [node(&["x"], &["a"]), node(&[], &["c"]), node(&["a", "c"], &["y"])];
        assert_eq!(order(&sorted).unwrap(), [0, 1, 2]);
        // The cast of a weight stands behind its reader, and a subgraph reads what is made later.
        let mut branch = node(&["b"], &["y"]);
        branch.captured.push("half".into());
        let unsorted = [branch, node(&["x", "half"], &["b"]), node(&["weight"], &["half"]), node(&[], &["z"])];
        assert_eq!(order(&unsorted).unwrap(), [2, 1, 0, 3]);
    }

    #[test]
    fn names_left_out_are_no_values() {
        let nodes = [node(&["x", "", ""], &["a"]), node(&["a"], &["b", "", ""]), node(&["b", ""], &["", "y"])];
        assert_eq!(order(&nodes).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_circle_is_an_error() {
        let error = order(&[node(&["b"], &["a"]), node(&["a"], &["b"])]).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (crate::ErrorKind::Format, Some("a")));
        assert!(order(&[node(&["a"], &["a"])]).is_err());
    }
}
