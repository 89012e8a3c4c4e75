//! Checkpoints of the transformers library's `CLIPForImageClassification` run as that library runs them: logits are
//! W·m + b, where m is the mean of the last block's patch tokens, without norm and projection.
#![cfg(feature = "build")]

use std::path::{Path, PathBuf};

use crate::support::forms::{Array, SIZES, array, tower, write};
use crate::support::naive;
use crate::support::program::{fail, json, succeed, text};
use crate::support::tensors::Tensors;
use crate::support::{Random, relative_l2, runtime};
use serde_json::Value;
use taskbasis::build::{Family, Fit, WriteOptions};
use taskbasis::tower::{ConfigSource, Origin, Property};
use taskbasis::{
    Arch, ArchHints, BaseFormat, Basis, Bundle, Checkpoint, Encoder, EncoderOptions, Head, Method, ModelOptions,
    Packer, Pooling, Residency, Scope, TowerConfig, TowerOptions, head_tasks,
};

const CLASSES: [&str; 3] = ["cat", "dog", "cow"];

/// A tower with a classifier of `classes` classes in the place of its projection; `tuned` moves all weights.
fn classifier(classes: usize, tuned: u32) -> Vec<Array> {
    let mut all: Vec<Array> = tower().into_iter().filter(|(name, ..)| !name.contains("projection")).collect();
    for (index, (name, shape, values)) in all.iter_mut().enumerate() {
        let (_, _, moved) = array(name, shape, 1000 * tuned + index as u32);
        values.iter_mut().zip(moved).for_each(|(value, by)| *value += if tuned > 0 { 0.1 * by } else { 0.0 });
    }
    all.push(array("classifier.weight", &[classes, SIZES[0]], 500 + tuned));
    all.push(array("classifier.bias", &[classes], 600 + tuned));
    all
}

/// What the library writes beside it.
fn config(architecture: &str, classes: &[&str]) -> Value {
    let labels: serde_json::Map<_, _> =
        (0..).zip(classes).map(|(i, name): (i32, _)| (i.to_string(), (*name).into())).collect();
    let vision = serde_json::json!({
        "hidden_size": SIZES[0], "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3,
    });
    serde_json::json!({
        "model_type": "clip", "architectures": [architecture], "id2label": labels, "projection_dim": SIZES[2],
        "vision_config": vision,
    })
}

/// A folder with a model as the library saves it.
fn save(folder: &Path, model: &[Array], config: Option<Value>) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    write(&folder.join("model.safetensors"), model);
    if let Some(config) = config {
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }
    folder.to_owned()
}

const ARCHITECTURE: &str = "CLIPForImageClassification";

fn save_classifier(folder: &Path, tuned: u32) -> PathBuf {
    save(folder, &classifier(CLASSES.len(), tuned), Some(config(ARCHITECTURE, &CLASSES)))
}

/// The tower's weights by open_clip's names.
fn weights(path: &Path) -> Tensors {
    let file = Checkpoint::open(path).unwrap();
    let tensor = |(name, tensor): (&str, &taskbasis::Tensor)| {
        (name.to_owned(), (tensor.shape().to_vec(), tensor.to_f32().unwrap().into_owned()))
    };
    Tensors(file.image_tower().map(tensor).collect())
}

/// The logits of three images, as the library computes them, and the images.
fn logits(path: &Path, arch: &Arch, model: &[Array]) -> (Vec<f32>, Vec<f32>) {
    let pixels = Random(9).many(3 * arch.pixels());
    let means = naive::encode(arch, &weights(path), &pixels, 3);
    let of = |wanted: &str| &model.iter().find(|(name, ..)| name == wanted).unwrap().2;
    let rows = || of("classifier.weight").chunks(SIZES[0]).zip(of("classifier.bias"));
    let row = |mean: &[f32], row: &[f32]| mean.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
    let all = means.chunks(SIZES[0]).flat_map(|mean| rows().map(move |(weight, bias)| row(mean, weight) + bias));
    (all.collect(), pixels)
}

fn classified(head: &Head, embeds: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; embeds.len() / head.embedding_dim() * head.num_classes()];
    head.logits(embeds, &mut out).unwrap();
    out
}

fn basis(folder: &Path, base: &Path, tuned: &Path) -> Basis {
    let family = Family::new(
        Checkpoint::open(base).unwrap(),
        vec![("Pets".into(), Checkpoint::open(tuned).unwrap())],
        Scope::ImageTower,
    );
    let family = family.unwrap();
    let fit = Fit::of(Method::Autoencoder, &family.gram(1, &|_| {}).unwrap(), 1, 0).unwrap();
    family.write_basis(&fit, folder, &WriteOptions::default()).unwrap();
    Basis::open(folder).unwrap()
}

#[test]
fn a_classifier_gives_its_librarys_logits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (base, tuned) = (save_classifier(&at("base"), 0), save_classifier(&at("heads/Pets"), 1));
    let checkpoint = Checkpoint::open(&base).unwrap();
    let tower = TowerConfig::read(&checkpoint, &TowerOptions::default()).unwrap();
    assert_eq!((tower.arch.variant.pooling, tower.arch.embed_dim, tower.arch.heads), (Pooling::PatchMean, SIZES[0], 2));
    assert!(tower.assumed().is_none() && tower.notes.is_empty(), "{:?}", tower.notes);

    // The head is of whichever task is asked for, under the names that its configuration says.
    let heads = at("heads");
    assert_eq!((head_tasks(&heads).unwrap(), head_tasks(&tuned).unwrap()), (vec!["Pets".to_owned()], vec![]));
    let head = Head::open(&heads, Some("Pets")).unwrap();
    for path in [tuned.clone(), tuned.join("model.safetensors")] {
        assert_eq!(Head::open(path, Some("Any")).unwrap().weight(), head.weight());
    }
    assert!((head.classes() == CLASSES) && !head.normalises() && head.pooling() == Some(Pooling::PatchMean));
    head.check_tower("Pets", &tower.arch).unwrap();

    let basis = basis(&at("basis"), &base, &tuned);
    let mut packer = Packer::of_tower(&checkpoint, &basis, &tower).unwrap();
    packer.base_format(BaseFormat::F32).head("Pets", head.clone()).unwrap();
    packer.write(&at("a.taskbasis"), &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();
    let bundle = Bundle::open(at("a.taskbasis")).unwrap();
    assert_eq!(bundle.arch(), &tower.arch);
    let stored = bundle.head("Pets").unwrap();
    assert!(stored.classes() == CLASSES && !stored.normalises() && stored.pooling() == Some(Pooling::PatchMean));
    if !runtime() {
        return;
    }
    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    let encoder = Encoder::of_bundle(&bundle, &model, &EncoderOptions::default()).unwrap();
    let streamed =
        Encoder::new(bundle.arch(), &EncoderOptions { residency: Residency::Blockwise, ..EncoderOptions::default() });
    let streamed = streamed.unwrap();
    let (expected, pixels) = logits(&tuned, &tower.arch, &classifier(CLASSES.len(), 1));
    let weights = model.weights(&"Pets".parse().unwrap()).unwrap();
    for embeds in [
        encoder.encode(&*weights.get().unwrap(), &pixels, 3).unwrap(),
        streamed.encode_task(&weights, &pixels, 3).unwrap(),
    ] {
        assert!(relative_l2(&classified(&stored, &embeds), &expected) < 2e-5);
    }
    let (expected, pixels) = logits(&base, &tower.arch, &classifier(CLASSES.len(), 0));
    let embeds = encoder.encode(&self::weights(&base), &pixels, 3).unwrap();
    assert!(relative_l2(&classified(&Head::open(&base, None).unwrap(), &embeds), &expected) < 2e-5);
}

/// A base that is a whole CLIP keeps its own pooling, unless it is asked for another one.
#[test]
fn the_base_decides_which_tower_runs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = save(&at("base"), &tower(), Some(config("CLIPModel", &[])));
    let tuned = save_classifier(&at("Pets"), 1);
    let checkpoint = Checkpoint::open(&base).unwrap();
    let head = Head::open(&tuned, None).unwrap();
    let usual = TowerConfig::read(&checkpoint, &TowerOptions::default()).unwrap();
    assert_eq!((usual.arch.variant.pooling, usual.arch.embed_dim), (Pooling::ClassToken, SIZES[2]));
    let error = head.check_tower("Pets", &usual.arch).unwrap_err().to_string();
    assert!(error.contains("--pooling patch_mean") && error.contains("class token"), "{error}");
    // Were it as long, it would be as wrong.
    let square = Arch { embed_dim: SIZES[0], ..usual.arch.clone() };
    assert!(head.check_tower("Pets", &square).is_err());

    let hints = ArchHints { pooling: Some(Pooling::PatchMean), ..ArchHints::default() };
    let asked = TowerConfig::read(&checkpoint, &hints.into()).unwrap();
    assert_eq!((asked.arch.embed_dim, asked.origin(Property::Pooling)), (SIZES[0], Some(&Origin::Asked)));
    let out = at("basis");
    basis(&out, &base, &tuned);
    let arguments =
        ["pack", "--basis", text(&out), "--base", text(&base), "--heads", text(&tuned), "--format", "f32", "-o"];
    let (bundle, pooling) = (at("a.taskbasis"), ["--base-format", "f32", "--pooling", "patch_mean"]);
    fail(&[&arguments[..], &[text(&bundle)]].concat(), &["--pooling patch_mean"]);
    succeed(&[&arguments[..], &[text(&bundle)], &pooling].concat());
    // The one task's head, although nothing calls it so.
    assert_eq!(json(&["inspect", text(&bundle)])["heads"], serde_json::json!(["Pets"]));
    if !runtime() {
        return;
    }
    let bundle = Bundle::open(&bundle).unwrap();
    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    let encoder = Encoder::of_bundle(&bundle, &model, &EncoderOptions::default()).unwrap();
    let (expected, pixels) = logits(&tuned, &asked.arch, &classifier(CLASSES.len(), 1));
    let weights = model.weights(&"Pets".parse().unwrap()).unwrap();
    let embeds = encoder.encode(&*weights.get().unwrap(), &pixels, 3).unwrap();
    assert!(relative_l2(&classified(&bundle.head("Pets").unwrap(), &embeds), &expected) < 2e-5);
}

/// A tower whose only way out is its classifier runs without a configuration too, and that is said.
#[test]
fn the_weights_tell_a_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder.path().join("bare"), &classifier(3, 0), None);
    let arch = ArchHints { heads: Some(2), ..ArchHints::default() };
    let options = TowerOptions { arch, config: ConfigSource::Ignored, ..TowerOptions::default() };
    let read = |options: &TowerOptions| TowerConfig::read(&Checkpoint::open(&path).unwrap(), options);
    let tower = read(&options).unwrap();
    assert_eq!(
        (tower.arch.variant.pooling, tower.origin(Property::Pooling)),
        (Pooling::PatchMean, Some(&Origin::Classifier))
    );
    assert!(tower.notes[0].contains("classifier.weight") && tower.notes[0].contains("--pooling"), "{:?}", tower.notes);
    // A configuration of the plain model does not make it one.
    save(&path, &classifier(3, 0), Some(config("CLIPModel", &[])));
    let tower = read(&TowerOptions::default()).unwrap();
    assert!(tower.arch.variant.pooling == Pooling::PatchMean && tower.notes.len() == 2, "{:?}", tower.notes);
    let class_token = ArchHints { pooling: Some(Pooling::ClassToken), ..ArchHints::default() };
    assert!(read(&class_token.into()).unwrap_err().to_string().contains("lacks"));
    assert_eq!(Head::open(&path, None).unwrap().classes(), [""; 0]);
}

#[test]
fn what_is_no_such_classifier_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let with = |model: Vec<Array>, more: Array| [model, vec![more]].concat();
    let bare = || tower().into_iter().filter(|(name, ..)| !name.contains("projection")).collect::<Vec<_>>();
    for (case, model) in [
        ("beside-projection", with(tower(), array("classifier.weight", &[3, SIZES[0]], 1))),
        ("other-width", with(bare(), array("classifier.weight", &[3, SIZES[2]], 1))),
        ("alone", vec![array("classifier.weight", &[3, SIZES[0]], 1)]),
    ] {
        let path = save(&at(case), &model, None);
        let error = Head::open(&path, Some("Pets")).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains("model.safetensors"), "{case}: {error}");
    }
    // Class names that do not fit name nothing; damaged ones are an error.
    let path = save(&at("labels"), &classifier(3, 0), Some(config(ARCHITECTURE, &CLASSES[..2])));
    assert_eq!(Head::open(&path, None).unwrap().classes(), [""; 0]);
    std::fs::write(path.join("config.json"), "{").unwrap();
    assert!(Head::open(&path, None).unwrap_err().to_string().contains("config.json"));
    // A model without a classifier has no head.
    let path = save(&at("tower"), &tower(), None);
    assert!(Head::open(&path, Some("Pets")).is_err());
}

/// A task has classes of its own: their number may differ from the base's.
#[test]
fn classifiers_of_other_classes_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (base, tuned) = (save(&at("base"), &classifier(3, 0), None), save(&at("tuned"), &classifier(5, 1), None));
    let open = |path: &Path| Checkpoint::open(path).unwrap();
    let family = Family::new(open(&base), vec![("Pets".into(), open(&tuned))], Scope::All).unwrap();
    let difference = &family.differences()[0];
    assert!(difference.unchanged.is_empty());
    assert_eq!(difference.left_out, ["classifier.bias", "classifier.weight"]);
}
