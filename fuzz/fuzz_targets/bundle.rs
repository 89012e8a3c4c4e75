//! Any file: a bundle that opens can be verified, and reconstructed from to its last element; a graph in it is bound or
//! refused.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use taskbasis::checkpoint::safetensors;
use taskbasis::{Bundle, Mapping, ModelOptions, TaskExpr, Weights};
use twox_hash::XxHash3_64;

/// With the header's checksum put right, which the fuzzer cannot guess.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)).saturating_add(8);
    let sum = usize::try_from(header).ok().and_then(|end| bytes.get(..end)).map(XxHash3_64::oneshot);
    let contents = safetensors::read(&Arc::new(Mapping::from_vec(bytes.clone(), "fuzz")));
    if let (Some(sum), Ok(contents)) = (sum, contents)
        && let Some((_, Ok(checksums))) = contents.tensors.iter().find(|(name, _)| name == "checksums")
        && checksums.nbytes() >= 8
    {
        bytes[checksums.offset()..][..8].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(bundle) = Bundle::parse(Arc::new(Mapping::from_vec(mended(bytes), "fuzz"))) else { return };
    let sound = bundle.verify(1, &|_| {}).is_empty();
    for task in bundle.head_tasks() {
        assert!(bundle.head(task).is_ok() || !sound);
    }
    bundle.preprocess().unwrap();
    let options = ModelOptions { threads: 1, cache_bytes: Some(0), ..ModelOptions::default() };
    let Ok(model) = bundle.model(None, &options) else { return };
    assert!(bundle.bound_graph(model.base(), model.basis()).is_ok() || !sound);
    for expr in bundle
        .tasks()
        .iter()
        .map(|task| TaskExpr::task(task))
        .chain(["merged".parse(), "all".parse()].into_iter().flatten())
    {
        let Ok(weights) = model.weights(&expr) else { continue };
        let weights: Arc<Weights> = weights.get().unwrap();
        assert_eq!(weights.len(), bundle.arch().parameters().len());
    }
});
