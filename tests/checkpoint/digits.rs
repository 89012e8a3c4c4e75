//! One model in all the forms that others save it in: each opens as the same model.

use crate::support::digits;
use taskbasis::checkpoint::torch::Archive;
use taskbasis::checkpoint::{Checkpoint, Format};
use taskbasis::{DType, MapMode};

/// The checkpoint; `None`, counted as a skip, where the test data is not there.
fn open(relative: &str) -> Option<Checkpoint> {
    Some(Checkpoint::open(digits(relative)?).unwrap())
}

const TASKS: [&str; 8] = ["Colors", "Inverted", "Loops", "MNIST", "OptDigits", "Parity", "Quadrant", "Rotated"];
/// Parameters of the image tower: patches, class and positions, three blocks, norms, projection.
const TOWER: usize = 7 + 1 + 3 * 12;

#[test]
fn six_forms_are_one_model() {
    let Some(reference) = open("base/open_clip_names.safetensors") else { return };
    assert_eq!(reference.format(), Format::Safetensors);
    assert_eq!((reference.len(), reference.image_tower().count()), (50, TOWER));
    for (relative, format, tensors) in [
        ("base/pickled_module.pt", Format::TorchZip, 50),
        ("base/state_dict.pt", Format::TorchZip, 50),
        ("base/training_checkpoint.pt", Format::TorchZip, 50),
        ("base/transformers_names.safetensors", Format::Safetensors, TOWER),
        ("base/torchscript_f16.pt", Format::TorchScript, TOWER + 1),
    ] {
        let Some(other) = open(relative) else { continue };
        assert_eq!((other.format(), other.len()), (format, tensors), "{relative}");
        assert_eq!(other.image_tower().count(), TOWER, "{relative}");
        for (name, tensor) in other.iter() {
            // The archive holds the image tower; the logit scale beside it is not the model's.
            if format == Format::TorchScript && name == "logit_scale" {
                continue;
            }
            let wanted = reference.require(name).unwrap();
            assert_eq!(tensor.shape(), wanted.shape(), "{relative} {name}");
            let (tensor, half) = (tensor.to_f32().unwrap(), tensor.dtype() == DType::F16);
            for (&got, &want) in tensor.iter().zip(wanted.to_f32().unwrap().iter()) {
                let want = if half { half::f16::from_f32(want).to_f32() } else { want };
                assert_eq!(got.to_bits(), want.to_bits(), "{relative} {name}");
            }
        }
    }
}

#[test]
fn reading_and_mapping_give_the_same() {
    let Some(path) = digits("base/state_dict.pt") else { return };
    let (mapped, read) = (Checkpoint::open(&path).unwrap(), Checkpoint::open_with(&path, MapMode::Read).unwrap());
    assert_eq!(mapped.file_bytes(), std::fs::metadata(&path).unwrap().len());
    for ((name, a), (other, b)) in mapped.iter().zip(read.iter()) {
        assert_eq!((name, a.bytes()), (other, b.bytes()));
    }
    assert_eq!(mapped.parameters(), 193_281);
    let error = mapped.require("visual.projj").unwrap_err().to_string();
    assert!(
        error.ends_with("tensor `visual.projj`: the file has no such tensor. Did you mean `visual.proj`?"),
        "{error}"
    );
}

#[test]
fn heads_and_finetuned_models_open() {
    for task in TASKS {
        if let Some(model) = open(&format!("finetuned/{task}.pt")) {
            assert_eq!((model.len(), model.image_tower().count()), (50, TOWER), "{task}");
        }
        let (Some(head), Some(all)) = (open(&format!("heads/head_{task}Val.pt")), open("heads.safetensors")) else {
            continue;
        };
        assert_eq!(head.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["weight", "bias"]);
        for kind in ["weight", "bias"] {
            let (ours, theirs) = (head.require(kind).unwrap(), all.require(&format!("{task}/{kind}")).unwrap());
            assert_eq!(ours.shape(), theirs.shape());
            assert_eq!(ours.to_f32().unwrap(), theirs.to_f32().unwrap(), "{task} {kind}");
        }
    }
}

#[test]
fn bases_are_walked_by_cursor() {
    for method in ["AE", "PCA", "Random", "RandomSample"] {
        let Some(path) = digits(&format!("bases/ViT-D-8_{method}_M4_8task/basis_vectors.pt")) else { continue };
        let archive = Archive::open(path, MapMode::Map).unwrap();
        let root = archive.root();
        assert_eq!(root.get("num_basis").and_then(|n| n.as_i64()), Some(4), "{method}");
        let vectors: Vec<_> = root.get("basis_vectors").unwrap().items().collect();
        assert_eq!(vectors.len(), 4);
        for vector in vectors {
            let tensors: Vec<_> = vector.entries().map(|(_, value)| value.tensor().unwrap().unwrap()).collect();
            assert_eq!(tensors.iter().map(|tensor| tensor.numel()).sum::<usize>(), 193_281, "{method}");
        }
        assert_eq!(archive.tensors().unwrap().len(), 4 * 50);
        assert!(archive.tensors().unwrap()[0].0.starts_with("basis_vectors.0.model."));
    }
}

#[test]
fn side_files_are_read_by_cursor() {
    if let Some(path) = digits("bases/ViT-D-8_AE_M4_8task/AWB.pt") {
        let archive = Archive::open(path, MapMode::Map).unwrap();
        let shapes =
            ["A", "W", "B"].map(|key| archive.root().get(key).unwrap().tensor().unwrap().unwrap().shape().to_vec());
        assert_eq!(shapes, [[8, 4], [4, 8], [8, 4]]);
        assert_eq!(
            archive.root().get("metadata").unwrap().get("softmax_w").and_then(|node| node.as_bool()),
            Some(false)
        );
    }
    if let Some(path) = digits("bases/ViT-D-8_PCA_M4_8task/pca_components.pt") {
        let archive = Archive::open(path, MapMode::Map).unwrap();
        let root = archive.root();
        assert_eq!(root.get("keys_order").unwrap().items().count(), 50);
        let shapes = root.get("param_shapes").unwrap();
        let shape: Vec<_> = shapes.get("model.visual.proj").unwrap().items().map(|n| n.as_i64().unwrap()).collect();
        assert_eq!(shape, [64, 64]);
        assert_eq!(root.get("mean_vector").unwrap().tensor().unwrap().unwrap().shape(), [193_281]);
    }
}
