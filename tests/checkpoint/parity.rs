//! Embeddings and recovered tensors equal what the reference computes, for every method and every key of the goldens.

use crate::support;
use crate::support::{digits, relative_l2, whole_digits};
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, ReconstructOptions, Scope, TaskExpr, Weights,
};

const METHODS: [&str; 4] = ["AE", "PCA", "Random", "RandomSample"];

fn encoder(base: &Checkpoint) -> Encoder {
    Encoder::new(&Arch::of(base, ArchHints::default()).unwrap(), &EncoderOptions::default()).unwrap()
}

/// `{Method}/task/MNIST@1.0/embeds` → `MNIST@1.0`, `{Method}/negated/MNIST@0.5/embeds` → `-MNIST@0.5`, ….
fn expression(key: &str) -> Option<TaskExpr> {
    let expr = match *key.split('/').collect::<Vec<_>>() {
        ["zeroshot", "embeds"] => "base".to_owned(),
        [_, "task", task, "embeds"] => task.to_owned(),
        [_, "negated", task, "embeds"] => format!("-{task}"),
        [_, merged, "embeds"] if merged.starts_with("merged@") => merged.to_owned(),
        _ => return None,
    };
    Some(expr.parse().unwrap())
}

#[test]
fn embeddings_equal_the_reference() {
    let golden = Checkpoint::open(whole_digits("golden.safetensors").unwrap()).unwrap();
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let encoder = encoder(&base);
    let pixels = golden.require("pixel_values").unwrap().to_f32().unwrap();
    let mut compared = 0;
    for method in METHODS {
        let Some(folder) = digits(&format!("bases/ViT-D-8_{method}_M4_8task")) else { continue };
        let basis = Basis::open(folder).unwrap();
        for (key, tensor) in golden.iter() {
            let Some(expr) =
                expression(key).filter(|_| key.starts_with(&format!("{method}/")) || key == "zeroshot/embeds")
            else {
                continue;
            };
            let weights = Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default()).unwrap();
            let embeds = encoder.encode(&weights, &pixels, 32).unwrap();
            let error = relative_l2(&embeds, &tensor.to_f32().unwrap());
            assert!(error <= 2e-5, "{method}, {key}: relative error {error:e}");
            compared += 1;
        }
    }
    assert!(compared >= 2 + 2 * 9, "only {compared} goldens were found");
}

#[test]
fn recovered_tensors_equal_the_reference() {
    let golden = Checkpoint::open(whole_digits("golden.safetensors").unwrap()).unwrap();
    let mut compared = 0;
    for method in METHODS {
        let Some(folder) = digits(&format!("bases/ViT-D-8_{method}_M4_8task")) else { continue };
        let basis = Basis::open(folder).unwrap();
        for (key, tensor) in golden.iter() {
            let [of, "task", task, "vector", name] = *key.split('/').collect::<Vec<_>>() else { continue };
            if of != method {
                continue;
            }
            let coefficients = basis.coefficients(&TaskExpr::task(task)).unwrap();
            let vector = Weights::task_vector(&basis, &coefficients, &ReconstructOptions::default()).unwrap();
            let recovered = vector.get(name.strip_prefix("model.").unwrap()).unwrap();
            let error = relative_l2(recovered, &tensor.to_f32().unwrap());
            assert!(error <= 2e-5, "{key}: relative error {error:e}");
            compared += 1;
        }
    }
    assert!(compared >= 4, "only {compared} recovered tensors were found");
}

#[test]
fn every_form_of_the_base_gives_the_same() {
    let golden = Checkpoint::open(whole_digits("golden.safetensors").unwrap()).unwrap();
    let pixels = golden.require("pixel_values").unwrap().to_f32().unwrap();
    for (file, tolerance) in [
        ("pickled_module.pt", 2e-5),
        ("state_dict.pt", 2e-5),
        ("training_checkpoint.pt", 2e-5),
        ("open_clip_names.safetensors", 2e-5),
        ("transformers_names.safetensors", 2e-5),
        ("torchscript_f16.pt", 2e-3),
    ] {
        let Some(path) = digits(&format!("base/{file}")) else { continue };
        let base = Checkpoint::open(path).unwrap();
        let encoder = encoder(&base);
        for method in METHODS {
            let Some(folder) = digits(&format!("bases/ViT-D-8_{method}_M4_8task")) else { continue };
            let basis = Basis::open(folder).unwrap();
            let keys = golden.iter().filter(|(key, _)| key.starts_with(&format!("{method}/")));
            for (key, tensor) in keys.chain([("zeroshot/embeds", golden.require("zeroshot/embeds").unwrap())]) {
                let Some(expr) = expression(key) else { continue };
                let weights = Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default()).unwrap();
                let embeds = encoder.encode(&weights, &pixels, 32).unwrap();
                let error = relative_l2(&embeds, &tensor.to_f32().unwrap());
                assert!(error <= tolerance, "{file}, {method}, {key}: relative error {error:e}");
            }
        }
    }
}

#[test]
fn there_and_back_is_where_one_was() {
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let basis = Basis::open(digits("bases/ViT-D-8_PCA_M4_8task").unwrap()).unwrap();
    let options = ReconstructOptions { scope: Scope::All, ..ReconstructOptions::default() };
    let weights = |expr: &str| Weights::reconstruct(&base, &basis, &expr.parse().unwrap(), &options).unwrap();
    let (first, _, again) = (weights("MNIST"), weights("Colors - Parity@0.3"), weights("MNIST"));
    for (name, _, _) in first.iter() {
        assert_eq!(support::bits(first.get(name).unwrap()), support::bits(again.get(name).unwrap()), "{name}");
    }
}
