//! Targets whose files are well-formed but for what the fuzzer says about their structure: sizes, offsets and checksums
//! are right, so that what is behind them is reached. Each takes the fuzzer's bytes as choices.
//!
//! The crate's targets are run by cargo-fuzz; the suite replays their seeds (`tests/checkpoint/seeds.rs`).

mod bundles;
mod folders;
mod graphs;

pub use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value};

/// A target: its name, and what it does with the fuzzer's choices.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 5] = [
    ("bundle_edited", |choices| _ = bundles::edited(&mut Unstructured::new(choices))),
    ("graph_mapped", |choices| _ = graphs::mapped(&mut Unstructured::new(choices))),
    ("adapter", |choices| _ = folders::adapter(&mut Unstructured::new(choices))),
    ("shards", |choices| _ = folders::shards(&mut Unstructured::new(choices))),
    ("tower_config", |choices| _ = folders::tower_config(&mut Unstructured::new(choices))),
];

/// Runs the target of this name.
pub fn run(target: &str, choices: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    body(choices);
}

/// A word of these, now and then another text.
fn word(u: &mut Unstructured<'_>, words: &[&str]) -> Result<String> {
    Ok(if u.ratio(15, 16)? { (*u.choose(words)?).to_owned() } else { u.arbitrary::<String>()? })
}

/// A small number, now and then one at an edge.
fn number(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=7)? {
        0..=4 => u.int_in_range(0..=16u64)?.into(),
        5 => (*u.choose(&[0.0, 0.5, -1.0, 1e-5, 1e30, 1e300, -0.0, 0.9])?).into(),
        6 => (*u.choose(&[u64::MAX, 1 << 32, i64::MAX as u64, 4096, 65_536])?).into(),
        _ => u.arbitrary::<i64>()?.into(),
    })
}

/// Any JSON of these words.
fn json(u: &mut Unstructured<'_>, words: &[&str], depth: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=if depth == 0 { 4 } else { 6 })? {
        0 => Value::Null,
        1 => u.arbitrary::<bool>()?.into(),
        2 | 3 => number(u)?,
        4 => word(u, words)?.into(),
        5 => (0..u.int_in_range(0..=4)?).map(|_| json(u, words, depth - 1)).collect::<Result<_>>()?,
        _ => Value::Object(object(u, words, depth)?),
    })
}

fn object(u: &mut Unstructured<'_>, words: &[&str], depth: usize) -> Result<Map<String, Value>> {
    (0..u.int_in_range(0..=8)?).map(|_| Ok((word(u, words)?, json(u, words, depth.saturating_sub(1))?))).collect()
}

/// Changes one thing somewhere in `value`.
fn edit(u: &mut Unstructured<'_>, value: &mut Value, words: &[&str]) -> Result<()> {
    match value {
        Value::Object(entries) if !entries.is_empty() && u.ratio(7, 8)? => {
            let at = u.choose_index(entries.len())?;
            let key = entries.keys().nth(at).expect("an entry").clone();
            match u.int_in_range(0..=9)? {
                0 => drop(entries.shift_remove(&key)),
                1 => {
                    let copy = entries[&key].clone();
                    entries.insert(word(u, words)?, copy);
                }
                _ => edit(u, &mut entries[&key], words)?,
            }
        }
        Value::Array(items) if !items.is_empty() && u.ratio(7, 8)? => {
            let at = u.choose_index(items.len())?;
            match u.int_in_range(0..=9)? {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => edit(u, &mut items[at], words)?,
            }
        }
        // JSON within JSON, as a bundle's metadata is.
        Value::String(text) if text.starts_with(['{', '[']) && u.ratio(7, 8)? => {
            if let Ok(mut inner) = serde_json::from_str::<Value>(text) {
                edit(u, &mut inner, words)?;
                *text = inner.to_string();
            }
        }
        Value::Number(old) if u.arbitrary()? => {
            let old = old.as_u64().unwrap_or(0);
            let new = u.int_in_range(0..=128u64)?;
            *value = old.wrapping_add(new).wrapping_sub(64).into();
        }
        other => *other = json(u, words, 2)?,
    }
    Ok(())
}

/// A file of safetensors; the data of each tensor as long as its values are.
fn safetensors(tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A tensor of small numbers, of few elements.
fn tensor(
    u: &mut Unstructured<'_>,
    name: String,
    shape: Vec<usize>,
) -> Result<(String, &'static str, Vec<usize>, Vec<u8>)> {
    let count = shape.iter().product::<usize>();
    let (dtype, width) =
        *u.choose(&[("F32", 4), ("F32", 4), ("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I64", 8)])?;
    let first = u.arbitrary::<u8>()?;
    let bytes = (0..count * width).map(|i| (i as u8).wrapping_mul(first) % 64).collect();
    Ok((name, dtype, shape, bytes))
}
