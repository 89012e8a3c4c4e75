//! Classifiers inside the checkpoints of vision transformers, by the names of the transformers library, timm and
//! DINOv2: which tensors are a head, over what, and what its classes are called.

use std::path::Path;

use crate::support::forms::{Array, array, write};
use serde_json::{Value, json};
use taskbasis::{Head, Pooling, head_tasks};

const W: usize = 8;
const CLASSES: [&str; 3] = ["cat", "dog", "cow"];

/// As much of a tower as it takes to know one, under the transformers library's names.
fn vit(root: &str, patch_bias: bool) -> Vec<Array> {
    let mut all = vec![
        array(&format!("{root}.embeddings.cls_token"), &[1, 1, W], 1),
        array(&format!("{root}.embeddings.position_embeddings"), &[1, 5, W], 2),
        array(&format!("{root}.embeddings.patch_embeddings.projection.weight"), &[W, 3, 2, 2], 3),
        array(&format!("{root}.encoder.layer.0.output.dense.weight"), &[W, 2 * W], 5),
        array(&format!("{root}.layernorm.weight"), &[W], 6),
    ];
    if patch_bias {
        all.push(array(&format!("{root}.embeddings.patch_embeddings.projection.bias"), &[W], 4));
    }
    all
}

fn timm(tokens: &[&str]) -> Vec<Array> {
    let mut all = vec![
        array("pos_embed", &[1, 4 + tokens.len(), W], 2),
        array("patch_embed.proj.weight", &[W, 3, 2, 2], 3),
        array("patch_embed.proj.bias", &[W], 4),
        array("blocks.0.mlp.fc2.weight", &[W, 2 * W], 5),
        array("norm.weight", &[W], 6),
    ];
    all.extend(tokens.iter().map(|name| array(name, &[1, 1, W], 1)));
    all
}

fn linear(module: &str, width: usize, seed: u32) -> Vec<Array> {
    let name = |last: &str| format!("{module}.{last}");
    vec![array(&name("weight"), &[3, width], seed), array(&name("bias"), &[3], seed + 1)]
}

fn save(folder: &Path, parts: &[Vec<Array>], config: Option<Value>) {
    std::fs::create_dir_all(folder).unwrap();
    write(&folder.join("model.safetensors"), &parts.concat());
    if let Some(config) = config {
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }
}

fn transformers(architecture: &str) -> Option<Value> {
    let labels: serde_json::Map<_, _> = (0..).zip(CLASSES).map(|(i, c): (i32, _)| (i.to_string(), c.into())).collect();
    Some(json!({ "architectures": [architecture], "id2label": labels }))
}

/// W·x + b in the order of the classes.
fn logits(layer: &[Array], x: &[f32]) -> Vec<f32> {
    let (weight, bias) = (&layer[0].2, &layer[1].2);
    let dot = |row: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
    weight.chunks(x.len()).zip(bias).map(|(row, bias)| dot(row) + bias).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

fn classified(head: &Head, embedding: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; head.num_classes()];
    head.logits(embedding, &mut out).unwrap();
    out
}

#[test]
fn a_classifier_is_the_head_over_what_its_tower_pools() {
    let folder = tempfile::tempdir().unwrap();
    let of_timm = || Some(json!({ "architecture": "vit_x", "num_classes": 3, "label_names": CLASSES }));
    type Case = (&'static str, Vec<Array>, &'static str, usize, Option<Value>, Option<Pooling>);
    let cases: [Case; 6] = [
        (
            "vit",
            vit("vit", true),
            "classifier",
            W,
            transformers("ViTForImageClassification"),
            Some(Pooling::ClassToken),
        ),
        (
            "deit",
            vit("deit", true),
            "classifier",
            W,
            transformers("DeiTForImageClassification"),
            Some(Pooling::ClassToken),
        ),
        (
            "dinov2",
            vit("dinov2", true),
            "classifier",
            2 * W,
            transformers("Dinov2ForImageClassification"),
            Some(Pooling::ClassAndMean),
        ),
        (
            "registers",
            vit("dinov2_with_registers", true),
            "classifier",
            2 * W,
            transformers("Dinov2WithRegistersForImageClassification"),
            Some(Pooling::ClassAndMean),
        ),
        ("timm", timm(&["cls_token"]), "head", W, of_timm(), None),
        ("without", timm(&[]), "head", W, of_timm(), None),
    ];
    for (name, tower, module, width, config, pooling) in cases {
        let layer = linear(module, width, 90);
        let place = folder.path().join(name);
        save(&place, &[tower, layer.clone()], config);
        let head = Head::open(&place, Some("Pets")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((head.embedding_dim(), head.pooling(), head.normalises()), (width, pooling, false), "{name}");
        assert_eq!(head.classes(), CLASSES, "{name}");
        let (_, _, x) = array("x", &[width], 7);
        assert!(close(&classified(&head, &x), &logits(&layer, &x)), "{name}");
    }
    // A folder of such models is a folder of heads.
    let tasks = head_tasks(folder.path()).unwrap();
    assert_eq!(tasks, ["deit", "dinov2", "registers", "timm", "vit", "without"]);
    assert_eq!(Head::open(folder.path(), Some("dinov2")).unwrap().embedding_dim(), 2 * W);
}

/// A distilled DeiT has two classifiers, each over a token of its own; its logits are their mean.
#[test]
fn two_classifiers_are_one_head() {
    let folder = tempfile::tempdir().unwrap();
    let token = array("deit.embeddings.distillation_token", &[1, 1, W], 8);
    let of_transformers = [vit("deit", true), vec![token]].concat();
    for (case, tower, names) in [
        ("transformers", of_transformers, ["cls_classifier", "distillation_classifier"]),
        ("timm", timm(&["cls_token", "dist_token"]), ["head", "head_dist"]),
    ] {
        let [a, b] = [linear(names[0], W, 90), linear(names[1], W, 70)];
        let place = folder.path().join(case);
        save(&place, &[tower.clone(), a.clone(), b.clone()], transformers("DeiTForImageClassificationWithTeacher"));
        let head = Head::open(&place, None).unwrap();
        assert_eq!((head.embedding_dim(), head.pooling()), (2 * W, Some(Pooling::ClassAndDistillation)), "{case}");
        assert!(head.classes() == CLASSES && !head.normalises());
        let (_, _, x) = array("x", &[2 * W], 7);
        let [of_a, of_b] = [logits(&a, &x[..W]), logits(&b, &x[W..])];
        let mean: Vec<f32> = of_a.iter().zip(of_b).map(|(a, b)| 0.5 * (a + b)).collect();
        assert!(close(&classified(&head, &x), &mean), "{case}");
        // Two that do not go together are none.
        let other = [array(&format!("{}.weight", names[1]), &[2, W], 1)].to_vec();
        save(&place, &[tower, a, other], None);
        assert!(Head::open(&place, None).unwrap_err().to_string().contains("another model"), "{case}");
    }
}

/// DINOv2's evaluation saves the linear layer alone; it takes [cls] or [cls, mean], whichever the encoder gives.
#[test]
fn a_linear_head_of_its_own_takes_embeddings_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, x) = array("x", &[2 * W], 7);
    let layer = linear("linear", 2 * W, 90);
    let bare: Vec<Array> = [("weight", &layer[0]), ("bias", &layer[1])]
        .map(|(name, (_, shape, values))| (name.to_owned(), shape.clone(), values.clone()))
        .to_vec();
    for (file, tensors, normalises) in [
        ("Pets.safetensors", &layer, false),
        ("dinov2_vits14_linear_head.safetensors", &bare, false),
        ("Cars.safetensors", &bare, true),
    ] {
        let path = folder.path().join(file);
        write(&path, tensors);
        let head = Head::open(&path, None).unwrap();
        assert_eq!((head.normalises(), head.embedding_dim()), (normalises, 2 * W), "{file}");
        assert_eq!(close(&classified(&head, &x), &logits(&layer, &x)), !normalises, "{file}");
    }
    // In a larger file it is part of something else.
    let path = folder.path().join("more.safetensors");
    write(&path, &[layer, vec![array("other", &[2], 1)]].concat());
    assert!(Head::open(&path, None).unwrap_err().to_string().contains("another model"));
}

#[test]
fn a_classifier_over_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (case, parts) in [
        ("too-long", [vit("dinov2", true), linear("classifier", 3 * W, 90)]),
        ("other-width", [timm(&["cls_token"]), linear("head", 2 * W, 90)]),
        ("no-tower", [vec![array("x", &[2], 1)], linear("head", W, 90)]),
    ] {
        let place = folder.path().join(case);
        save(&place, &parts, None);
        let error = Head::open(&place, None).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains("model.safetensors"), "{case}: {error}");
    }
    // A projection is no classifier: timm's towers of CLIP have it where others have their classifier.
    let head = vec![array("head.weight", &[3, W], 90)];
    let place = folder.path().join("projection");
    save(&place, &[timm(&["cls_token"]), head], None);
    assert!(Head::open(&place, None).unwrap_err().to_string().contains("no head"));
}
