//! Bundles over bases that hold no tower that is known, and every command over one: the graph that they carry is all
//! that runs them.

use std::path::Path;

use crate::support::bundle::{Parts, faults};
use crate::support::other::{IMAGE, OUT, Other, SIZE, WIDTH, features, prepared, weights};
use crate::support::program::{fail, json, run, succeed};
use crate::support::{Random, bits, data, relative_l2, runtime};
use serde_json::json;
use taskbasis::{Checkpoint, save_arrays};

/// Heads of the two tasks, with three classes each.
fn heads(other: &Other) -> String {
    let path = other.path("heads.safetensors");
    let mut random = Random(21);
    let all: Vec<(String, Vec<usize>, Vec<f32>)> = ["A", "B"]
        .iter()
        .flat_map(|task| [(format!("{task}/weight"), vec![3, OUT]), (format!("{task}/bias"), vec![3])])
        .map(|(name, shape)| (name, shape.clone(), random.many(shape.iter().product())))
        .collect();
    let arrays: Vec<_> = all.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice())).collect();
    save_arrays(Path::new(&path), &arrays, &[], &[]).unwrap();
    path
}

/// The class that the head of `task` finds in `embedding`.
fn class(heads: &str, task: &str, embedding: &[f32]) -> usize {
    let head = taskbasis::Head::open(heads, Some(task)).unwrap();
    head.classify(embedding, 1).unwrap()[0].class
}

fn pixels(other: &Other) -> (String, Vec<f32>) {
    let (path, values) = (other.path("pixels.safetensors"), Random(9).many(2 * IMAGE));
    save_arrays(Path::new(&path), &[("pixel_values", &[2, 3, SIZE, SIZE], &values)], &[], &[]).unwrap();
    (path, values)
}

fn embeds(other: &Other, model: &[&str], weights: &str, more: &[&str]) -> Vec<f32> {
    let (input, out) = (other.path("pixels.safetensors"), other.path("out.safetensors"));
    json(&[&["embed", "-i", &input, "--weights", weights, "-o", &out][..], model, more].concat());
    Checkpoint::open(&out).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned()
}

#[test]
fn a_bundle_over_another_encoder_runs_it() {
    let other = Other::new(WIDTH);
    let heads = heads(&other);
    let bundle = other.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32", "--heads", &heads]);
    let told = json(&["inspect", &bundle]);
    assert_eq!(told["architecture"], json!({ "image_size": SIZE, "embedding": OUT }));
    assert_eq!(told["graph"]["source"], "carried");
    assert_eq!(told["preprocess"]["interpolation"], "bilinear");
    assert_eq!(told["preprocess"]["mean"], json!([0.25, 0.5, 0.75]));
    assert!(succeed(&["inspect", &bundle]).contains("a user's graph: 4×4 px, embedding 5"));
    assert!(succeed(&["verify", &bundle]).contains("all as they were written"));
    assert!(faults(std::fs::read(&bundle).unwrap()).is_empty());
    // Not a tensor of the base is in it twice, and all are there under the names that the base has.
    let parts = Parts::of(&std::fs::read(&bundle).unwrap());
    let record = parts.metadata("taskbasis.encoder");
    assert_eq!((&record["embedding"], record["parameters"].as_array().unwrap().len()), (&json!(OUT), 9));
    let missing = &parts.metadata("taskbasis.graph")["missing"];
    assert_eq!(*missing, json!(["classifier.bias", "classifier.weight"]), "what the graph certainly lacks is listed");

    // Reconstructed it is what the folder gives, the classifier too.
    let of_folder = other.of_folder();
    let of_folder: Vec<&str> = of_folder.iter().map(String::as_str).collect();
    let reconstructed = |model: &[&str], name: &str| {
        let out = other.path(name);
        json(&[&["reconstruct", "--weights", "A@0.3 + B@0.4", "-o", &out][..], model].concat());
        let all = Checkpoint::open(&out).unwrap();
        let mut all: Vec<_> = all.iter().map(|(n, t)| (n.to_owned(), bits(&t.to_f32().unwrap()))).collect();
        all.sort();
        all
    };
    let (of_bundle, from_folder) =
        (reconstructed(&["--basis", &bundle], "b.safetensors"), reconstructed(&of_folder, "f.safetensors"));
    assert_eq!((of_bundle.len(), &of_bundle), (9, &from_folder));
    if !runtime() {
        return;
    }
    let ((_, values), graph) = (pixels(&other), other.path("model.onnx"));
    for (expression, factors) in
        [("base", [0.0, 0.0]), ("A", [1.0, 0.0]), ("-B", [0.0, -1.0]), ("A@0.3 + B@0.4", [0.3, 0.4])]
    {
        let found = embeds(&other, &["--basis", &bundle], expression, &[]);
        let expected = other.features(factors, &values);
        assert!(relative_l2(&found, &expected) <= 2e-5, "{expression}: {found:?} {expected:?}");
        let beside = embeds(&other, &of_folder, expression, &["--graph", &graph]);
        assert_eq!(bits(&found), bits(&beside), "{expression}: the bits of the folder's");
        // The bundle with another graph of the same base, which is this one.
        assert_eq!(bits(&embeds(&other, &["--basis", &bundle], expression, &["--graph", &graph])), bits(&found));
    }
    let verified = json(&["verify", &bundle]);
    assert_eq!(verified["golden"]["compared"], true);
    embeds(&other, &["--basis", &bundle], "A", &["--self-test", "on"]);

    // Labelled images: what the heads find in the features that are computed plainly.
    let (mut random, mut right) = (Random(5), [0, 0]);
    for i in 0..8usize {
        let image: Vec<u8> = (0..SIZE * SIZE).map(|_| random.below(256) as u8).collect();
        let path = other.path(&format!("images/test/{}/{i}.png", i % 3));
        data::png(&path, SIZE as u32, SIZE as u32, &image);
        let rgb: Vec<u8> = image.iter().flat_map(|value| [*value; 3]).collect();
        let found = class(&heads, "A", &other.features([1.0, 0.0], &prepared(&rgb)));
        right[0] += usize::from(found == i % 3);
        right[1] += 1;
        for (model, more) in
            [(&["--basis", bundle.as_str()][..], &[][..]), (&of_folder, &["--graph", &graph, "--heads", &heads])]
        {
            let told = json(&[&["classify", "--task", "A", &path][..], model, more].concat());
            assert_eq!(told["images"][0]["top"][0]["index"], found);
        }
    }
    let images = format!("A={}", other.path("images"));
    for (model, more) in
        [(&["--basis", bundle.as_str()][..], &[][..]), (&of_folder, &["--graph", &graph, "--heads", &heads])]
    {
        let told = json(&[&["eval", "--data", &images, "--alphabetical"][..], model, more].concat());
        let text = told.to_string();
        let share = right[0] as f64 / right[1] as f64;
        assert_eq!(told["tasks"]["A"]["accuracy"].as_f64(), Some(share), "{text}");
    }
    // Packed with labelled images, and built into a bundle at once.
    let told = ["--format", "q8", "--heads", &heads, "--data", &other.path("images"), "--alphabetical"];
    std::fs::create_dir(other.path("images/A")).unwrap();
    std::fs::rename(other.path("images/test"), other.path("images/A/test")).unwrap();
    other.pack("measured.taskbasis", &told);
    let (tasks, at_once) = (other.path("tasks"), other.path("at_once.taskbasis"));
    let of_base = ["build", "--base", of_folder[3], "--tasks-dir", &tasks, "--vectors", "2", "-o", &at_once];
    json(&[&of_base[..], &["--graph", &graph, "--format", "f32", "--base-format", "f32"]].concat());
    let found = embeds(&other, &["--basis", &at_once], "A", &[]);
    assert!(relative_l2(&found, &other.features([1.0, 0.0], &values)) <= 2e-5);
    // Exported it is the task's graph.
    let exported = other.path("a.onnx");
    json(&["export", "--basis", &bundle, "--weights", "A", "-o", &exported]);
    let session =
        crate::support::onnx_file::OnnxFileEncoder::open(&exported, &taskbasis::EncoderOptions::default()).unwrap();
    assert!(relative_l2(&session.encode(&values, 2).unwrap(), &other.features([1.0, 0.0], &values)) <= 2e-5);
}

#[test]
fn a_bundle_that_leaves_the_base_out_and_one_that_grows() {
    let other = Other::new(WIDTH);
    let bundle = other.pack("out.taskbasis", &["--format", "q8", "--base-format", "none", "--no-golden"]);
    // Shapes are all that is looked at.
    assert!(succeed(&["verify", &bundle]).contains("all as they were written"));
    let base = other.path("model/base.safetensors");
    fail(&["reconstruct", "--basis", &bundle, "--weights", "A", "-o", &other.path("x.safetensors")], &["--base"]);
    let another = other.path("another.safetensors");
    crate::support::other::save(Path::new(&another), &weights(WIDTH, 77, None));
    let wrong = ["reconstruct", "--basis", &bundle, "--base", &another, "--weights", "A", "-o", &other.path("x")];
    fail(&wrong, &["not the base that the bundle", "another.safetensors"]);

    // A task within the span of the vectors, and one that has a residual.
    let grown = other.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32"]);
    let mixed = crate::support::other::mixed(&other.base, &[(0.5, &other.tasks[0]), (-0.25, &other.tasks[1])]);
    let (mixed_path, new_path) = (other.path("mixed.safetensors"), other.path("new.safetensors"));
    crate::support::other::save(Path::new(&mixed_path), &mixed);
    let new = weights(WIDTH, 40, Some(&other.base));
    crate::support::other::save(Path::new(&new_path), &new);
    succeed(&["add-task", &grown, "--task", &format!("Mixed={mixed_path}")]);
    succeed(&["add-task", &grown, "--task", &format!("New={new_path}"), "--residual", "q8"]);
    assert!(succeed(&["verify", &grown]).contains("all as they were written"));
    let wide = other.path("wide.safetensors");
    crate::support::other::save(Path::new(&wide), &weights(WIDTH + 1, 5, None));
    fail(
        &["add-task", &grown, "--task", &format!("Wide={wide}")],
        &["of another model", "wide.safetensors", "expected [6], got [7]"],
    );
    if !runtime() {
        return;
    }
    let (_, values) = pixels(&other);
    let found = embeds(&other, &["--basis", &grown], "Mixed", &[]);
    assert!(relative_l2(&found, &features(&mixed, &values)) <= 1e-4);
    let found = embeds(&other, &["--basis", &grown], "New", &[]);
    assert!(relative_l2(&found, &features(&new, &values)) <= 2e-2);
    let found = embeds(&other, &["--basis", &bundle, "--base", &base], "A", &[]);
    assert!(relative_l2(&found, &other.features([1.0, 0.0], &values)) <= 2e-2);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let other = Other::new(WIDTH);
    let (graph, of_folder, out) = (other.path("model.onnx"), other.of_folder(), other.path("x.taskbasis"));
    let of_folder: Vec<&str> = of_folder.iter().map(String::as_str).collect();
    let pack = |more: &[&str], parts: &[&str]| fail(&[&["pack", "-o", &out][..], &of_folder, more].concat(), parts);
    pack(&[], &["holds no image encoder"]);
    pack(&["--graph", &graph, "--image-size", "8"], &["an image size is for a tower", "exported for"]);
    // Without a configuration nothing says how images are prepared, and a bundle says it for good.
    pack(
        &["--graph", &graph, "--config", "none"],
        &["nothing says how images are prepared", "--mean", "--interpolation"],
    );
    pack(&["--graph", &graph, "--config", "none", "--mean", "0.5"], &["--std, --resize, --interpolation say"]);
    let told = ["--mean", "0.5", "--std", "0.25", "--resize", "squash", "--interpolation", "nearest"];
    let bundle = other.pack("m.taskbasis", &[&["--config", "none"][..], &told].concat());
    let preprocess = &json(&["inspect", &bundle])["preprocess"];
    assert_eq!((&preprocess["std"], &preprocess["resize"]), (&json!([0.25, 0.25, 0.25]), &json!("squash")));
    let gate = run(&[&["pack", "--graph", &graph, "--precision", "auto", "-o", &out][..], &of_folder].concat());
    assert!(String::from_utf8_lossy(&gate.stderr).contains("which is the built graph"));
    fail(&["inspect", &other.path("model.onnx")], &[]);
    if !runtime() {
        return;
    }
    let (input, _) = pixels(&other);
    let embed = |more: &[&str], parts: &[&str]| {
        let out = other.path("e.safetensors");
        fail(&[&["embed", "--basis", &bundle, "--weights", "A", "-i", &input, "-o", &out][..], more].concat(), parts);
    };
    embed(&["--built-graph"], &["no built graph of this bundle's encoder"]);
    embed(&["--residency", "blockwise"], &["only the built graph can be streamed"]);
    embed(&["--image-size", "8"], &["a bundle has its own image size"]);
    embed(&["--precision", "qkv=int8"], &["a precision per kind of layer"]);
    let new = other.path("tasks/A.safetensors");
    let new = ["add-task", &bundle, "--task", &format!("New={new}"), "--precision", "auto"];
    fail(&new, &["precisions are measured with the built graph"]);
}

#[test]
fn its_linear_layers_are_packed_where_they_are_most_of_it() {
    if !runtime() {
        return;
    }
    let other = Other::new(480);
    let bundle = other.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32"]);
    let (_, values) = pixels(&other);
    let expected = other.features([1.0, 0.0], &values);
    for (precision, most) in [("f32", 2e-5), ("bf16", 0.02), ("int8", 0.05)] {
        let found = embeds(&other, &["--basis", &bundle], "A", &["--precision", precision]);
        let off = relative_l2(&found, &expected);
        assert!(off <= most && (off > 1e-4) == (precision != "f32"), "{precision}: {off}");
    }
    let model = taskbasis::OpenModel::open(&bundle, &taskbasis::OpenOptions::default()).unwrap();
    for precision in ["f32", "int8"] {
        let options = taskbasis::EncoderOptions { precision: precision.parse().unwrap(), ..Default::default() };
        let encoder = model.encoder(&options).unwrap();
        let task = model.model().weights(&"A".parse().unwrap()).unwrap();
        assert_eq!(encoder.precisions().to_string(), precision);
        assert_eq!(encoder.promotion(&task), taskbasis::PromotionState::Unneeded);
        assert!(encoder.weight_bytes() > 480 * 480);
    }
}

#[test]
fn a_narrow_one_is_promoted() {
    if !runtime() {
        return;
    }
    let other = Other::new(WIDTH);
    let bundle = other.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32"]);
    let (_, values) = pixels(&other);
    let model = taskbasis::OpenModel::open(&bundle, &taskbasis::OpenOptions::default()).unwrap();
    let encoder = model.encoder(&taskbasis::EncoderOptions::default()).unwrap();
    let task = model.model().weights(&"A".parse().unwrap()).unwrap();
    let before = encoder.encode_task(&task, &values, 2).unwrap();
    assert!(relative_l2(&before, &other.features([1.0, 0.0], &values)) <= 2e-5);
    encoder.promote(&task).unwrap();
    assert!(relative_l2(&encoder.encode_task(&task, &values, 2).unwrap(), &before) <= 1e-5);
}

#[test]
fn a_record_that_is_wrong_is_refused() {
    let other = Other::new(WIDTH);
    let bundle = std::fs::read(other.pack("m.taskbasis", &["--format", "q4", "--no-golden"])).unwrap();
    assert!(faults(bundle.clone()).is_empty());
    let broken = |what: &str, change: &dyn Fn(&mut Parts), part: &str| {
        let mut taken = Parts::of(&bundle);
        change(&mut taken);
        let errors = faults(taken.join(true));
        let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains(part), "{what}: `{part}` is not in: {text}");
    };
    let key = "taskbasis.encoder";
    let set = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut record = Parts::of(&bundle).metadata(key);
        change(&mut record);
        move |parts: &mut Parts| parts.set_metadata(key, &record)
    };
    broken("no parameter", &set(&|r| r["parameters"] = json!([])), "must name the base's parameters");
    broken("twice", &set(&|r| r["parameters"][1] = r["parameters"][0].clone()), "named twice");
    broken("fewer", &set(&|r| drop(r["parameters"].as_array_mut().unwrap().pop())), "no such parameter");
    broken("overflow", &set(&|r| r["parameters"][0][1] = json!([u64::MAX, 8])), "more than there can be");
    broken("nothing", &set(&|r| r["parameters"][0][1] = json!([0])), "without elements");
    broken("another shape", &set(&|r| r["parameters"][0][1] = json!([7])), "another shape than it must have");
    broken("no length", &set(&|r| r["embedding"] = json!(0)), "out of range: the encoder's embedding length");
    broken("unknown field", &set(&|r| r["more"] = json!(1)), "is broken");
    let arch = |parts: &mut Parts| parts.set_metadata("taskbasis.arch", &json!({}));
    broken("an architecture too", &arch, "both `taskbasis.encoder` and `taskbasis.arch`");
    let drop_key = |key: &'static str| {
        move |parts: &mut Parts| drop(parts.header["__metadata__"].as_object_mut().unwrap().shift_remove(key))
    };
    broken("no graph", &drop_key("taskbasis.graph"), "lack `taskbasis.graph`");
    broken("neither", &drop_key(key), "lack `taskbasis.arch`");
    let missing = |parts: &mut Parts| {
        let mut map = parts.metadata("taskbasis.graph");
        map["missing"] = json!([]);
        parts.set_metadata("taskbasis.graph", &map);
    };
    broken("not listed", &missing, "the graph lacks this parameter");
    let size = |parts: &mut Parts| {
        let mut images = parts.metadata("taskbasis.preprocess");
        images["image_size"] = json!(8);
        parts.set_metadata("taskbasis.preprocess", &images);
    };
    broken("another size", &size, "the graph takes images of another size");
}
