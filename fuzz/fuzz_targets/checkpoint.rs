//! Any file: what opens can be read to its last element.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use taskbasis::Mapping;
use taskbasis::checkpoint::Checkpoint;
use taskbasis::checkpoint::writer::ZipWriter;

/// A pickle finds its way into an archive by itself, so that the fuzzer need not learn checksums and offsets first.
fn archive(pickle: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut zip = ZipWriter::new(&mut bytes);
    zip.bytes("a/data.pkl", pickle).ok()?;
    zip.bytes("a/data/0", &[0; 64]).ok()?;
    zip.finish().ok()?;
    Some(bytes)
}

fn read(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::parse(Arc::new(Mapping::from_vec(bytes, "fuzz"))) else { return };
    for (_, tensor) in checkpoint.iter() {
        if let Ok(values) = tensor.to_f64() {
            assert_eq!(values.len(), tensor.numel());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.first() == Some(&0x80) {
        archive(bytes).into_iter().for_each(read);
    }
    read(bytes.to_vec());
});
