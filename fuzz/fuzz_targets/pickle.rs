//! A pickle, alone: whatever it does, every node's children exist.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskbasis::checkpoint::pickle::{NodeId, Pickle, PickleNode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(pickle) = Pickle::parse(bytes) else { return };
    let mut seen = std::collections::HashSet::new();
    let mut left = vec![pickle.root()];
    while let Some(id) = left.pop() {
        if !seen.insert(id) {
            continue;
        }
        let _ = (pickle.text(id), pickle.global(id));
        let mut pairs = |pairs: &[(NodeId, NodeId)]| left.extend(pairs.iter().flat_map(|&(key, value)| [key, value]));
        match pickle.value(id) {
            PickleNode::Dict(entries) => pairs(entries),
            PickleNode::Tuple(items) | PickleNode::List(items) | PickleNode::Set(items) => left.extend(items),
            PickleNode::Persistent(id) => left.push(*id),
            PickleNode::Object(object) => {
                pairs(&object.entries);
                left.extend(&object.items);
                left.extend(object.state);
                left.extend([object.class, object.args]);
            }
            _ => {}
        }
    }
    assert!(seen.len() <= pickle.len());
});
