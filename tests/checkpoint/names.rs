//! Checkpoints as training programs leave them: wrapped, in part, beside other things. What they hold of the model is
//! found whatever it is called; what they do not hold stays the base's; and nothing is taken in silence.
#![cfg(feature = "build")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::family::small;
use crate::support::program::{fail, json, run, succeed, text};
use taskbasis::build::{Family, Fit, WriteOptions};
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value};
use taskbasis::{
    Arch, ArchHints, Basis, Bundle, BundleUpdate, Checkpoint, DType, ErrorKind, Head, Method, NewTask, Packer,
    ReconstructOptions, Scope, TaskExpr, Weights,
};

/// Name, shape and values.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// What a tensor of this name holds in the base, or in a fine-tune of this number, which changes the image tower but
/// for its projection.
fn values(name: &str, numel: usize, tuned: usize) -> Vec<f32> {
    let noise = |seed: usize, i: usize| ((i * 7919 + seed * 104_729 + name.len() * 613) % 997) as f32 / 997.0 - 0.5;
    let changes = tuned > 0 && name.starts_with("visual.") && name != "visual.proj";
    (0..numel).map(|i| noise(1, i) + if changes { 0.02 * noise(tuned + 1, i) } else { 0.0 }).collect()
}

/// The base (0) or a fine-tune of it: the small family's image tower, and a text tower of two blocks.
fn model(tuned: usize) -> Tensors {
    let mut parameters = small(Method::Autoencoder, 3).parameters();
    for block in 0..2 {
        parameters.push((format!("transformer.resblocks.{block}.ln_1.weight"), vec![8]));
        parameters.push((format!("transformer.resblocks.{block}.attn.in_proj_weight"), vec![6, 2]));
    }
    let numel = |shape: &[usize]| shape.iter().product();
    let tensor =
        |(name, shape): (String, Vec<usize>)| (name.clone(), shape.clone(), values(&name, numel(&shape), tuned));
    parameters.into_iter().map(tensor).collect()
}

fn under(prefix: &str, tensors: Tensors) -> Tensors {
    tensors.into_iter().map(|(name, shape, values)| (format!("{prefix}{name}"), shape, values)).collect()
}

fn without(tensors: Tensors, is_lost: impl Fn(&str) -> bool) -> Tensors {
    tensors.into_iter().filter(|(name, ..)| !is_lost(name)).collect()
}

/// Writes what `wrap` makes of some state dicts.
fn save(path: &Path, dicts: &[Tensors], wrap: impl Fn(Vec<Value>) -> Value) -> PathBuf {
    let mut writer = TorchWriter::new("archive");
    let mut values: Vec<Vec<f32>> = Vec::new();
    let mut dict = |tensors: &Tensors| {
        let entries = tensors.iter().map(|(name, shape, of_it)| {
            values.push(of_it.clone());
            (name.clone(), writer.tensor(DType::F32, shape).unwrap())
        });
        Value::dict(entries.collect::<Vec<_>>())
    };
    let value = wrap(dicts.iter().map(&mut dict).collect());
    let fill = |StorageId(storage): StorageId, out: &mut dyn std::io::Write| {
        values[storage].iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    };
    writer.write_file(path, &value, fill).unwrap();
    path.to_owned()
}

fn save_plain(path: &Path, tensors: Tensors) -> PathBuf {
    save(path, &[tensors], |mut dicts| dicts.remove(0))
}

/// Writes safetensors; tensors of the names in `float8` as such, one byte per element.
fn save_float8(path: &Path, tensors: &Tensors, float8: &str) -> PathBuf {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        let dtype = if name.starts_with(float8) {
            data.extend(values.iter().map(|_| 0x38u8));
            "F8_E4M3"
        } else {
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            "F32"
        };
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
    path.to_owned()
}

/// Names and values of what a checkpoint holds.
fn content(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    checkpoint.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_f32().unwrap().into_owned())).collect()
}

fn expected(tensors: Tensors) -> BTreeMap<String, Vec<f32>> {
    tensors.into_iter().map(|(name, _, values)| (name, values)).collect()
}

fn hints() -> ArchHints {
    ArchHints { heads: Some(3), ..ArchHints::default() }
}

/// A basis of one vector over these checkpoints.
fn build(folder: &Path, base: &Path, tuned: &Path, scope: Scope) -> taskbasis::Result<(Family, Basis)> {
    let family = Family::new(Checkpoint::open(base)?, vec![("A".into(), Checkpoint::open(tuned)?)], scope)?;
    let fit = Fit::of(Method::Autoencoder, &family.gram(1, &|_| {})?, 1, 0)?;
    let out = folder.join(format!("basis-{}", tuned.file_stem().unwrap().to_string_lossy()));
    family.write_basis(&fit, &out, &WriteOptions::default())?;
    Ok((family, Basis::open(&out)?))
}

fn reconstruct(base: &Path, basis: &Basis, scope: Scope) -> taskbasis::Result<Weights> {
    let options = ReconstructOptions { scope, ..ReconstructOptions::default() };
    Weights::reconstruct(&Checkpoint::open(base)?, basis, &TaskExpr::task("A"), &options)
}

/// Checks that the weights are the fine-tuned ones, to f32's rounding.
#[track_caller]
fn are_tuned(weights: &Weights, of_tower: bool) {
    let mut seen = 0;
    for (name, _, values) in model(1).into_iter().filter(|(name, ..)| !of_tower || name.starts_with("visual.")) {
        let got = weights.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(got.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
        seen += 1;
    }
    assert_eq!(seen, weights.len());
}

#[test]
fn the_model_is_found_in_what_training_programs_save() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let one = |tensors: Tensors, wrap: &dyn Fn(Value, Value) -> Value| {
        let scalar = vec![("x".to_owned(), vec![], vec![71.5])];
        save(&path, &[tensors, scalar], |mut dicts| {
            let Some(Value::Dict(mut scalar)) = dicts.pop() else { unreachable!() };
            wrap(dicts.remove(0), scalar.remove(0).1)
        });
        let found = Checkpoint::open(&path).unwrap();
        assert_eq!(content(&found), expected(model(1)), "{:?}", found.naming());
        found
    };
    let optimizer = |scalar: Value| Value::dict([("state", Value::dict([("0", Value::dict([("exp_avg", scalar)]))]))]);
    let found = one(model(1), &|model, acc| {
        Value::dict([("state_dict", model), ("best_acc1", acc), ("optimizer", optimizer(Value::None))])
    });
    assert_eq!(found.naming().beside(), ["best_acc1"]);
    for key in ["net", "params", "weights", "ema", "model_state", "state_dict", "model"] {
        let found = one(model(1), &|model, acc| Value::dict([(key, model), ("optimizer", optimizer(acc))]));
        assert_eq!(found.naming().beside(), ["optimizer.state.0.exp_avg"]);
        assert_eq!(found.naming().prefix(), format!("{key}."));
    }
    one(model(1), &|model, _| Value::List(vec![model, Value::dict([("epoch", Value::Int(2))])]));
    let head = vec![("ff_head.weight".to_owned(), vec![2, 2], vec![0.0; 4])];
    let lightning = [under("clip_model.", model(1)), head].concat();
    let found = one(lightning, &|model, _| Value::dict([("state_dict", model), ("epoch", Value::Int(3))]));
    assert_eq!(found.naming().beside(), ["state_dict.ff_head.weight"]);
    // Without an image tower, the keys that training programs use are what there is to go by.
    let heads = vec![("weight".to_owned(), vec![2, 2], vec![1.0; 4])];
    save(&path, &[heads], |mut dicts| Value::dict([("state_dict", dicts.remove(0)), ("epoch", Value::Int(1))]));
    assert!(Checkpoint::open(&path).unwrap().get("weight").is_some());
}

#[test]
fn lightnings_average_is_taken_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder.path().join("a.ckpt"), &[model(2), model(1)], |mut dicts| {
        let average = dicts.pop().unwrap();
        Value::dict([("current_model_state", dicts.remove(0)), ("state_dict", average)])
    });
    assert_eq!(content(&Checkpoint::open(&path).unwrap()), expected(model(1)));
    let output = run(&["inspect", text(&path)]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("note: ") && told.contains("the average of the weights"), "{told}");
    let current = ["inspect", text(&path), "--prefix", "current_model_state"];
    assert_eq!(json(&current)["prefix"], "current_model_state.");
}

#[test]
fn of_two_towers_the_one_that_prefix_names_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let base = save_plain(&folder.path().join("base.pt"), model(0));
    let two = [under("model.", model(1)), under("teacher.", model(2))].concat();
    let tuned = save_plain(&folder.path().join("two.pt"), two);
    let (out, task) = (folder.path().join("basis"), format!("A={}", text(&tuned)));
    let arguments = ["build", "--base", text(&base), "--task", &task, "--vectors", "1", "-o", text(&out)];
    fail(
        &arguments,
        &["two.pt", "several image towers", "`model.visual.`, `teacher.visual.`", "--prefix model.visual"],
    );
    fail(&[&arguments[..], &["--prefix", "student"]].concat(), &["two.pt", "no image tower under `student`"]);
    let output = run(&[&arguments[..], &["--prefix", "model"]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("base.pt: nothing under `model`, as its only model is by open_clip's names"), "{told}");
    are_tuned(&reconstruct(&base, &Basis::open(&out).unwrap(), Scope::All).unwrap(), false);
    let refused = run(&["pull", "o/r", "--prefix", "model"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_type_that_is_not_read_stops_only_those_who_ask() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (base, tuned) = (save_plain(&at("base.pt"), model(0)), save_plain(&at("tuned.pt"), model(1)));
    let (_, basis) = build(folder.path(), &base, &tuned, Scope::ImageTower).unwrap();
    let text8 = save_float8(&at("text8.safetensors"), &model(0), "token_embedding");
    are_tuned(&reconstruct(&text8, &basis, Scope::ImageTower).unwrap(), true);
    let checkpoint = Checkpoint::open(&text8).unwrap();
    assert!(Arch::of(&checkpoint, hints()).is_ok());
    assert_eq!(checkpoint.unread().map(|(name, _)| name).collect::<Vec<_>>(), ["token_embedding.weight"]);
    let inspected = json(&["inspect", text(&text8)]);
    assert_eq!(inspected["unread"]["token_embedding.weight"], "the elements' type is not supported: got F8_E4M3");
    let error = reconstruct(&text8, &basis, Scope::All).unwrap_err();
    let told = error.to_string();
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Unsupported, Some("token_embedding.weight")));
    assert!(told.contains("text8.safetensors") && told.contains("F8_E4M3") && told.contains("--image-tower"), "{told}");
    for refused in [
        build(folder.path(), &text8, &tuned, Scope::All).map(drop),
        build(folder.path(), &base, &text8, Scope::All).map(drop),
        reconstruct(&save_float8(&at("tower8.safetensors"), &model(0), "visual.proj"), &basis, Scope::ImageTower)
            .map(drop),
        Arch::of(&Checkpoint::open(at("tower8.safetensors")).unwrap(), hints()).map(drop),
    ] {
        assert!(refused.unwrap_err().to_string().contains("not supported: got F8_E4M3"));
    }
}

#[test]
fn what_the_basis_does_not_name_stays_the_bases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let is_block = |name: &str| name.starts_with("transformer.");
    // As the reference saves encoders: without the text tower's blocks.
    let base = save_plain(&at("base.pt"), without(model(0), is_block));
    let tuned = save_plain(&at("tuned.pt"), without(model(1), is_block));
    let (_, basis) = build(folder.path(), &base, &tuned, Scope::All).unwrap();
    let whole = save_plain(&at("whole.pt"), model(0));
    are_tuned(&reconstruct(&whole, &basis, Scope::All).unwrap(), false);
    let checkpoint = Checkpoint::open(&whole).unwrap();
    let packer = Packer::new(&checkpoint, &basis, hints()).unwrap();
    let bundle = at("whole.taskbasis");
    packer.write(&bundle, &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();
    assert!(Bundle::open(&bundle).unwrap().verify(1, &|_| {}).is_empty());
    // One of three blocks is another matter: then it is another model's base.
    let mut deeper = model(0);
    let norm =
        deeper.iter().find(|(name, ..)| name.ends_with("visual.transformer.resblocks.1.ln_1.bias")).unwrap().clone();
    deeper.push(("visual.transformer.resblocks.2.ln_1.bias".into(), norm.1, norm.2));
    let error = reconstruct(&save_plain(&at("deeper.pt"), deeper), &basis, Scope::ImageTower).unwrap_err().to_string();
    assert!(error.contains("resblocks.2.ln_1.bias") && error.contains("in other blocks"), "{error}");
}

#[test]
fn what_a_fine_tune_does_not_hold_is_unchanged_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = save_plain(&at("base.pt"), model(0));
    let is_text = |name: &str| !name.starts_with("visual.");
    let bare = |tuned| without(model(tuned), |name| is_text(name) || name == "visual.proj");
    let tower = save_plain(&at("bare.pt"), bare(1));
    for scope in [Scope::ImageTower, Scope::All] {
        let (family, basis) = build(folder.path(), &base, &tower, scope).unwrap();
        let unchanged = &family.differences()[0].unchanged;
        assert!(unchanged.contains(&"visual.proj".to_owned()));
        assert_eq!(unchanged.len(), if scope == Scope::All { 7 } else { 1 }, "{unchanged:?}");
        assert!(!basis.parameter("visual.proj").unwrap().is_changed());
        are_tuned(&reconstruct(&base, &basis, scope).unwrap(), scope == Scope::ImageTower);
        std::fs::remove_dir_all(basis.path()).unwrap();
    }
    let (out, task) = (at("program"), format!("A={}", text(&tower)));
    let arguments = ["build", "--image-tower", "--base", text(&base), "--task", &task, "-o", text(&out)];
    let output = run(&arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("does not hold `visual.proj`: taken as unchanged"), "{told}");

    // A classifier is none of CLIP's, and is left out by name; unknown parts of the towers are not.
    let with = |name: &str| [bare(1), vec![(name.to_owned(), vec![2, 2], vec![0.5; 4])]].concat();
    let classifier = save_plain(&at("classifier.pt"), with("classifier.weight"));
    let (family, _) = build(folder.path(), &base, &classifier, Scope::All).unwrap();
    assert_eq!(family.differences()[0].left_out, ["classifier.weight"]);
    for (unknown, part) in [("visual.gate", "another model"), ("ln_final.weight", "--image-tower")] {
        let path = save_plain(&at("unknown.pt"), with(unknown));
        let error = build(folder.path(), &base, &path, Scope::All).unwrap_err().to_string();
        assert!(error.contains(unknown) && error.contains(part) && error.contains("unknown.pt"), "{error}");
    }
    // Nothing tells what this classifier takes.
    let error = Head::open(&classifier, None).unwrap_err().to_string();
    assert!(error.contains("classifier.weight") && error.contains("another model"), "{error}");
    assert!(taskbasis::head_tasks(&classifier).is_err());
}

#[test]
fn what_got_lost_is_no_frozen_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = save_plain(&at("base.pt"), model(0));
    let lost = |lost: &str| {
        let path = save_plain(&at("cut.pt"), without(model(1), |name| name.starts_with(lost)));
        let error = build(folder.path(), &base, &path, Scope::ImageTower).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("cut.pt") && error.to_string().contains("base.pt"), "{error}");
        error.tensor_name().unwrap().to_owned()
    };
    assert!(lost("visual.transformer.resblocks.1.").starts_with("visual.transformer.resblocks.1."));
    let norm = "visual.transformer.resblocks.0.ln_2.bias";
    assert_eq!(lost(norm), norm);
    // Kinds of parameters that training froze in every block are no loss.
    let is_mlp = |name: &str| name.contains(".mlp.");
    let path = save_plain(&at("attention.pt"), without(model(1), is_mlp));
    let (family, _) = build(folder.path(), &base, &path, Scope::ImageTower).unwrap();
    assert!(family.differences()[0].unchanged.iter().all(|name| is_mlp(name)));
    assert_eq!(family.differences()[0].unchanged.len(), 8);
    for (base, tuned) in [(model(0), vec![model(1).remove(0)]), (vec![model(0).remove(0)], model(1))] {
        let (base, tuned) = (save_plain(&at("b.pt"), base), save_plain(&at("t.pt"), tuned));
        let error = build(folder.path(), &base, &tuned, Scope::All).unwrap_err().to_string();
        assert!(error.contains("holds no image encoder") && error.contains("text tower alone"), "{error}");
    }
}

#[test]
fn a_base_without_its_projection_says_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let is_outside = |name: &str| name == "visual.proj" || !name.starts_with("visual.");
    let bare_base = save_plain(&at("bare_base.pt"), without(model(0), is_outside));
    let bare = save_plain(&at("bare.pt"), without(model(1), is_outside));
    let full = save_plain(&at("full.pt"), without(model(1), |name| !name.starts_with("visual.")));
    let error = build(folder.path(), &bare_base, &full, Scope::ImageTower).unwrap_err().to_string();
    assert!(error.contains("`visual.proj`") && error.contains("CLIPVisionModelWithProjection"), "{error}");
    let error = Arch::of(&Checkpoint::open(&bare_base).unwrap(), hints()).unwrap_err().to_string();
    assert!(error.contains("`visual.proj`") && error.contains("CLIPVisionModelWithProjection"), "{error}");
    // A basis of what is before the projection serves over a base that has one, and `build` says so.
    let out = at("basis");
    let task = format!("A={}", text(&bare));
    let output = run(&["build", "--base", text(&bare_base), "--task", &task, "--vectors", "1", "-o", text(&out)]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("has no projection (`visual.proj`)"), "{told}");
    let base = save_plain(&at("base.pt"), model(0));
    are_tuned(&reconstruct(&base, &Basis::open(&out).unwrap(), Scope::ImageTower).unwrap(), true);
}

#[test]
fn bundles_grow_by_fine_tunes_without_projection() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (base, tuned) = (save_plain(&at("base.pt"), model(0)), save_plain(&at("tuned.pt"), model(1)));
    let (_, basis) = build(folder.path(), &base, &tuned, Scope::ImageTower).unwrap();
    let (base, bundle) = (Checkpoint::open(&base).unwrap(), at("a.taskbasis"));
    let mut packer = Packer::new(&base, &basis, hints()).unwrap();
    packer.base_format(taskbasis::BaseFormat::F32);
    packer.write(&bundle, &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();
    let is_outside = |name: &str| name == "visual.proj" || !name.starts_with("visual.");
    let bare = Checkpoint::open(save_plain(&at("bare.pt"), without(model(1), is_outside))).unwrap();
    let bundle = Bundle::open(&bundle).unwrap();
    let mut update = BundleUpdate::new(&bundle, None).unwrap();
    let fitted = update.task(NewTask { name: "B", finetuned: &bare, head: None, residual: None }).unwrap();
    assert_eq!(fitted.unchanged, ["visual.proj"]);
    assert!((fitted.coefficients[0] - 1.0).abs() < 1e-4 && fitted.lacking < 1e-3, "{fitted:?}");
    let cut = without(model(1), |name| name.starts_with("visual.transformer.resblocks.1."));
    let cut = Checkpoint::open(save_plain(&at("cut.pt"), cut)).unwrap();
    let mut update = BundleUpdate::new(&bundle, None).unwrap();
    let error =
        update.task(NewTask { name: "C", finetuned: &cut, head: None, residual: None }).unwrap_err().to_string();
    assert!(error.contains("cut.pt") && error.contains("resblocks.1."), "{error}");
    // As whole checkpoints, for those who run them.
    let (whole, unchanged) = bare.completed_from(&base).unwrap();
    assert_eq!((unchanged, Arch::of(&whole, hints()).is_ok()), (vec!["visual.proj".to_owned()], true));
}

#[test]
fn inspect_says_how_names_were_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder.path().join("a.pt"), &[under("_orig_mod.clip.", model(1))], |mut dicts| {
        Value::dict([("net", dicts.remove(0)), ("epoch", Value::Int(1))])
    });
    let told = succeed(&["inspect", text(&path)]);
    assert!(told.contains("names         under `net._orig_mod.clip.`"), "{told}");
    let dino = [("cls_token", 3), ("pos_embed", 3), ("blocks.0.ls1.gamma", 1)];
    let dino = dino.map(|(name, rank)| (name.to_owned(), vec![1; rank], vec![0.5])).to_vec();
    let path = save_plain(&folder.path().join("dino.pt"), dino);
    assert!(succeed(&["inspect", text(&path)]).contains("no image tower, but a part of a DINOv2 tower"));
    let task = format!("A={}", text(&path));
    let out = folder.path().join("basis");
    fail(&["build", "--base", text(&path), "--task", &task, "-o", text(&out)], &["dino.pt", "a DINOv2 tower"]);
}
