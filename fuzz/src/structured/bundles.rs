//! A bundle whose header and values were changed and whose checksums are right all the same.

use std::sync::Arc;

use serde_json::Value;
use taskbasis::checkpoint::safetensors;
use taskbasis::{Bundle, Mapping, ModelOptions, TaskExpr};
use twox_hash::XxHash3_64;

use super::{Result, Unstructured, edit};

const BUNDLES: [&[u8]; 2] = [
    include_bytes!("../../../tests/data/golden_v1.taskbasis"),
    include_bytes!("../../../tests/data/golden_v1_graph.taskbasis"),
];
/// The data begin at a multiple of this.
const ALIGNMENT: usize = 4096;
const WORDS: [&str; 20] = [
    "F32",
    "F16",
    "BF16",
    "U8",
    "U64",
    "q8",
    "q6",
    "q4",
    "q3",
    "q2",
    "checksums",
    "merged",
    "base",
    "all",
    "padding/0",
    "visual.proj",
    "gelu",
    "quick_gelu",
    "1",
    "2",
];

pub(super) fn edited(u: &mut Unstructured<'_>) -> Result<()> {
    let whole = *u.choose(&BUNDLES)?;
    let (length, rest) = whole.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("a length"));
    let mut header: Value = serde_json::from_slice(header).expect("a header");
    let mut data = data.to_vec();
    for _ in 0..u.int_in_range(1..=4)? {
        match u.int_in_range(0..=7)? {
            0..=3 => edit(u, header.get_mut("__metadata__").unwrap_or(&mut Value::Null), &WORDS)?,
            4 | 5 => edit(u, &mut header, &WORDS)?,
            6 => {
                let at = u.choose_index(data.len().max(1))?;
                data.iter_mut().skip(at).take(8).for_each(|byte| *byte = u.arbitrary().unwrap_or(0xff));
            }
            _ => data.truncate(data.len() - u.choose_index(data.len().max(1))?.min(4096)),
        }
    }
    check(mended(header.to_string(), &data));
    Ok(())
}

/// Header and data with every checksum put right, as far as what is in them can be found.
fn mended(mut header: String, data: &[u8]) -> Vec<u8> {
    while !(8 + header.len()).is_multiple_of(ALIGNMENT) {
        header.push(' ');
    }
    let mut bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
    let Ok(contents) = safetensors::read(&Arc::new(Mapping::from_vec(bytes.clone(), "fuzz"))) else { return bytes };
    let named = |wanted: &str| contents.tensors.iter().find(|(name, _)| name == wanted);
    let Some((_, Ok(checksums))) = named("checksums") else { return bytes };
    let place = checksums.offset()..checksums.offset() + checksums.nbytes();
    let others = contents.tensors.iter().filter(|(name, _)| name != "checksums" && !name.starts_with("padding/"));
    let sums = others.map(|(_, tensor)| match tensor {
        Ok(tensor) => XxHash3_64::oneshot(&bytes[tensor.offset()..][..tensor.nbytes()]),
        Err(_) => 0,
    });
    let sums: Vec<u64> = std::iter::once(XxHash3_64::oneshot(&bytes[..8 + header.len()])).chain(sums).collect();
    for (slot, sum) in bytes[place].chunks_exact_mut(8).zip(sums) {
        slot.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// What opens can be verified, and reconstructed from to its last element; a graph in it is bound or refused.
fn check(bytes: Vec<u8>) {
    let Ok(bundle) = Bundle::parse(Arc::new(Mapping::from_vec(bytes, "fuzz"))) else { return };
    let is_sound = bundle.verify(1, &|_| {}).is_empty();
    for task in bundle.head_tasks() {
        assert!(bundle.head(task).is_ok() || !is_sound);
    }
    bundle.preprocess().expect("its preparation of images was read when it was opened");
    let options = ModelOptions { threads: 1, cache_bytes: Some(0), ..ModelOptions::default() };
    let Ok(model) = bundle.model(None, &options) else { return };
    assert!(bundle.bound_graph(model.base(), model.basis()).is_ok() || !is_sound);
    let tasks = bundle.tasks().iter().map(TaskExpr::task);
    for expr in tasks.chain(["merged".parse(), "all".parse(), "base".parse()].into_iter().flatten()) {
        let Ok(weights) = model.weights(&expr) else { continue };
        // Numbers that are not finite are an error that says so, and `verify` has found them.
        match weights.get() {
            Ok(weights) => assert_eq!(weights.len(), bundle.arch().parameters().len()),
            Err(error) => assert!(!is_sound || error.to_string().contains("finite"), "{error}"),
        }
    }
}
