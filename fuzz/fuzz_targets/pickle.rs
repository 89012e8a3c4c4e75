//! A pickle, alone: whatever it does, every node's children exist.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskbasis::checkpoint::pickle::{NodeId, Pickle, Value};

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
            Value::Dict(entries) => pairs(entries),
            Value::Tuple(items) | Value::List(items) | Value::Set(items) => left.extend(items),
            Value::Persistent(id) => left.push(*id),
            Value::Object(object) => {
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
