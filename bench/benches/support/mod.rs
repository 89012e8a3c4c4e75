//! The support of the criterion benches: the digits family, and ViT-B-32 at full size with random weights.
//!
//! They watch for regressions; figures to quote, as ratios taken in one run, are `taskbasis bench`'s.
#![allow(dead_code, unreachable_pub, missing_docs)] // Every bench uses a part.

pub mod full_size;
#[path = "../../src/synthetic.rs"]
pub mod synthetic;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use synthetic::Synthetic;
use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions, Promotion, Runtime};

pub struct Family {
    pub name: &'static str,
    pub base: PathBuf,
    pub basis: PathBuf,
    /// Two tasks of it.
    pub tasks: [&'static str; 2],
    _folder: Option<tempfile::TempDir>,
}

/// The digits where they are, and ViT-B-32 (T = 8, M = 4, 2.3 GB in the temporary folder) unless everything is only to
/// be tried once (`cargo test --benches`).
pub fn families() -> Vec<Family> {
    let mut families = Vec::new();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    if digits.exists() {
        families.push(Family {
            name: "digits",
            base: digits.join("base/pickled_module.pt"),
            basis: digits.join("bases/ViT-D-8_AE_M4_8task"),
            tasks: ["MNIST", "Parity"],
            _folder: None,
        });
    }
    if std::env::args().any(|argument| argument == "--bench") && !cfg!(debug_assertions) {
        let folder = tempfile::tempdir().unwrap();
        let (base, basis) = (folder.path().join("base.pt"), folder.path().join("basis"));
        let synthetic = Synthetic::named("ViT-B-32", 8, 4).unwrap();
        synthetic.write_base(&base).unwrap();
        synthetic.write_basis(&basis).unwrap();
        families.push(Family { name: "ViT-B-32", base, basis, tasks: ["Task1", "Task2"], _folder: Some(folder) });
    }
    families
}

impl Family {
    /// A model with room for this many tasks.
    pub fn model(&self, threads: usize, room: usize) -> Arc<Model> {
        let open = |bytes| {
            let options = ModelOptions { threads, cache_bytes: Some(bytes), ..ModelOptions::default() };
            let basis = Basis::open(&self.basis).unwrap();
            Model::new(Checkpoint::open(&self.base).unwrap(), Some(basis), &options).unwrap()
        };
        let weights = open(0).weights(&self.tasks[0].parse().unwrap()).unwrap().get().unwrap().nbytes();
        open(room * weights)
    }

    /// `None`, said aloud, where there is no ONNX Runtime.
    pub fn encoder(&self, promotion: Promotion) -> Option<Encoder> {
        if Runtime::probe(None).is_err() {
            eprintln!("skipped: no ONNX Runtime (`make onnxruntime` fetches it)");
            return None;
        }
        let arch = Arch::of(&Checkpoint::open(&self.base).unwrap(), ArchHints::default()).unwrap();
        Some(Encoder::new(&arch, &EncoderOptions { promotion, ..EncoderOptions::default() }).unwrap())
    }
}

/// Few samples: enough to see a change of some per cents, and done in a minute or two.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}
