//! Scaling coefficients found and tested: the reference's grid, its best λ and its test accuracies; datasets as they
//! are distributed.
#![cfg(feature = "cli")]

use crate::support::{Need, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{digits, whole_digits};
use serde_json::Value;
use taskbasis::{Dataset, ErrorKind, Preprocess};

fn run(arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments).arg("--json").output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What every evaluation of the digits family is given; `None` without its validation images.
fn arguments(method: &str) -> Option<Vec<String>> {
    let images = whole_digits("images.safetensors")?;
    if Dataset::open(&images).unwrap().tasks_with("val").is_err() {
        skip(Need::Digits, format_args!("{} has no validation images", images.display()));
        return None;
    }
    let paths = [
        ("--basis", digits(&format!("bases/ViT-D-8_{method}_M4_8task"))?),
        ("--base", digits("base/pickled_module.pt")?),
        ("--heads", digits("heads.safetensors")?),
        ("--classes", digits("classes.json")?),
        ("--data", images),
    ];
    let paths = paths.into_iter().flat_map(|(option, path)| [option.to_owned(), text(&path).to_owned()]);
    Some([&["eval".to_owned()][..], &paths.collect::<Vec<_>>(), &["--batch".into(), "100".into()]].concat())
}

#[test]
fn addition_gives_the_references_grid() {
    let golden =
        || -> Value { serde_json::from_slice(&fs::read(whole_digits("golden.json").unwrap()).unwrap()).unwrap() };
    let folder = tempfile::tempdir().unwrap();
    let finetuned = folder.path().join("finetuned.json");
    for method in ["AE", "PCA", "RandomSample"] {
        let Some(mut arguments) = arguments(method) else { return };
        let golden = golden();
        fs::write(&finetuned, golden["finetuned"].to_string()).unwrap();
        arguments.extend(["--sweep", "0:1:21", "--finetuned", text(&finetuned)].map(String::from));
        let result = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

        let expected = &golden["methods"][method]["addition"];
        let grid = expected["grid"].as_array().unwrap();
        assert_eq!(result["val"].as_object().unwrap().len(), grid.len());
        for (point, (lambda, measured)) in grid.iter().zip(result["val"].as_object().unwrap()) {
            assert!((point["coef"].as_f64().unwrap() - lambda.parse::<f64>().unwrap()).abs() < 1e-12, "{lambda}");
            for (task, accuracy) in point["val"].as_object().unwrap() {
                let (got, want) = (measured[format!("{task}Val:top1")].as_f64().unwrap(), accuracy.as_f64().unwrap());
                let one_image = if task == "OptDigits" { 1.0 / 300.0 } else { 1.0 / 500.0 };
                assert!((got - want).abs() <= one_image + 1e-6, "{method}, {lambda}, {task}: {got}, not {want}");
            }
            let mean = measured["avg_normalized_top1"].as_f64().unwrap();
            assert!((mean - point["avg_normalized"].as_f64().unwrap()).abs() < 2e-3, "{method}, {lambda}: {mean}");
        }
        let (best, expected_best) = (&result["optimal_coefficient"], &expected["optimal_coef"]);
        assert!((best.as_f64().unwrap() - expected_best.as_f64().unwrap()).abs() < 1e-12, "{method}: {best}");
        for (task, accuracy) in expected["test"].as_object().unwrap() {
            let got = result["test"][format!("{task}:top1")].as_f64().unwrap();
            assert!((got - accuracy.as_f64().unwrap()).abs() <= 1.0 / 400.0 + 1e-6, "{method}, {task}: {got}");
        }
        assert!(result["timing"]["total_time"].as_f64().is_some());
    }
}

/// [`arguments`] with the checkpoints themselves in the place of a basis.
fn without_basis() -> Option<Vec<String>> {
    let (mut arguments, tuned) = (arguments("AE")?, digits("finetuned")?);
    let basis = arguments.iter().position(|argument| argument == "--basis").unwrap();
    arguments[basis] = "--tasks-dir".into();
    arguments[basis + 1] = text(&tuned).to_owned();
    Some(arguments)
}

#[test]
fn checkpoints_without_a_basis_are_the_references_baseline() {
    let Some(arguments) = without_basis() else { return };
    let golden: Value = serde_json::from_slice(&fs::read(whole_digits("golden.json").unwrap()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let some = ["--task", "Rotated", "--task", "MNIST"];
    let base: Vec<&str> = arguments.iter().map(String::as_str).chain(some).collect();
    let near = |got: &Value, want: &Value| (got.as_f64().unwrap() - want.as_f64().unwrap()).abs() <= 1.0 / 400.0 + 1e-6;
    run(&[&base[..], &["--accuracies", text(folder.path())]].concat()).unwrap();
    for (file, key) in [("zeroshot_accuracies.json", "zeroshot"), ("ft_accuracies.json", "finetuned")] {
        let written = fs::read_to_string(folder.path().join(file)).unwrap();
        // In the order of the checkpoints, as Python spaces it.
        let places = ["{\"MNIST\": 0.", ", \"MNISTVal\": 0.", ", \"Rotated\": 0.", ", \"RotatedVal\": 0."];
        let places: Vec<_> = places.iter().map(|part| written.find(part).expect(part)).collect();
        assert!(places.is_sorted() && written.ends_with('}'), "{written}");
        let accuracies: Value = serde_json::from_str(&written).unwrap();
        for task in ["MNIST", "Rotated"] {
            assert!(near(&accuracies[task], &golden[key][task]), "{file}: {accuracies}");
        }
        let zero_shot = &golden["full_task_vectors"]["addition"]["grid"][0]["val"];
        assert!(key == "finetuned" || near(&accuracies["MNISTVal"], &zero_shot["MNIST"]), "{accuracies}");
    }
    // The sum of all task vectors, whatever is evaluated, normalised by what was written.
    let finetuned = folder.path().join("ft_accuracies.json");
    let result = run(&[&base[..], &["--sweep", "0:0.2:2", "--finetuned", text(&finetuned)]].concat()).unwrap();
    assert_eq!(result["weights"], "all");
    let point = &golden["full_task_vectors"]["addition"]["grid"][4];
    assert!((point["coef"].as_f64().unwrap() - 0.2).abs() < 1e-9);
    for task in ["MNIST", "Rotated"] {
        let at = &result["val"]["0.2"];
        assert!(near(&at[format!("{task}Val:top1")], &point["val"][task]), "{task}: {at}, {point}");
        assert!(at[format!("{task}Val:normalized_top1")].is_f64());
    }
    let error = run(&[&base[..], &["--weights", "merged@0.3"]].concat()).unwrap_err();
    assert!(error.contains("their plain sum is `all`"), "{error}");
}

#[test]
fn lambda_is_chosen_on_the_images_that_the_reference_takes() {
    let Some(arguments) = arguments("AE") else { return };
    let few = ["--task", "MNIST", "--task", "Parity", "--task", "Rotated", "--task", "Loops", "--sweep", "0:0.1:2"];
    let parts = ["--val-split", "val:reference", "--split", "val:reference"];
    let base: Vec<&str> = arguments.iter().map(String::as_str).chain(few).chain(parts).collect();
    let all = run(&base).unwrap();
    // A tenth of 500 images. Tested are the same ones.
    for task in ["MNIST", "Parity", "Rotated", "Loops"] {
        let top1 = all["val"]["0.0"][format!("{task}Val:top1")].as_f64().unwrap();
        assert!((top1 * 50.0 - (top1 * 50.0).round()).abs() < 1e-9, "{task}: {top1}");
        let best = all["optimal_coefficient"].as_f64().unwrap();
        assert_eq!(all["val"][format!("{best:?}")][format!("{task}Val:top1")], all["test"][format!("{task}:top1")]);
    }
    // M/T of those: 4 vectors for 6 tasks.
    let more = ["--task", "Colors", "--task", "Inverted", "--subsample", "7"];
    let sampled = run(&[&base[..], &more].concat()).unwrap();
    for task in ["MNIST", "Rotated"] {
        let top1 = sampled["val"]["0.0"][format!("{task}Val:top1")].as_f64().unwrap();
        assert!((top1 * 33.0 - (top1 * 33.0).round()).abs() < 1e-9, "{task}: {top1}");
    }
    let one = ["--task", "MNIST", "--sweep", "0:0.1:2", "--subsample", "--val-split", "val:reference"];
    let error = run(&arguments.iter().map(String::as_str).chain(one).collect::<Vec<_>>()).unwrap_err();
    assert!(error.contains("4 vectors, 1 tasks"), "{error}");
}

#[test]
fn fine_tuned_accuracies_are_measured_and_negation_keeps_the_control() {
    let (Some(arguments), Some(tuned)) = (arguments("AE"), digits("finetuned")) else { return };
    let golden: Value = serde_json::from_slice(&fs::read(whole_digits("golden.json").unwrap()).unwrap()).unwrap();
    let base: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let some = ["--task", "MNIST", "--task", "Rotated"];
    let result = run(&[&base[..], &some, &["--sweep", "0:0.1:2", "--finetuned-dir", text(&tuned)]].concat()).unwrap();
    for task in ["MNIST", "Rotated"] {
        let top1 = result["test"][format!("{task}:top1")].as_f64().unwrap();
        let finetuned = top1 / result["test"][format!("{task}:normalized_top1")].as_f64().unwrap();
        let want = golden["finetuned"][task].as_f64().unwrap();
        assert!((finetuned - want).abs() <= 1.0 / 400.0 + 1e-6, "{task}: {finetuned}, not {want}");
    }

    let negate = ["--negate", "--control", "OptDigits", "--sweep", "0:1:6"];
    let result = run(&[&base[..], &some, &negate].concat()).unwrap();
    for task in ["MNIST", "Rotated"] {
        let negated = &result[task];
        let grid = negated["val"].as_object().unwrap();
        let at = |key: &str, name: &str| grid[key][name].as_f64().unwrap();
        let own = format!("{task}Val:top1");
        let zero_shot = at("0.0", "OptDigitsVal:top1");
        let best = format!("{:?}", negated["optimal_coefficient"].as_f64().unwrap());
        assert!(at(&best, "OptDigitsVal:top1") >= 0.95 * zero_shot);
        for key in grid.keys().filter(|key| at(key, "OptDigitsVal:top1") >= 0.95 * zero_shot) {
            assert!(at(&best, &own) <= at(key, &own), "{task}: λ {best} forgets less than {key}");
        }
        assert!(negated["test"].as_f64().unwrap() < negated["test_zeroshot"].as_f64().unwrap());
        assert!(negated["test_control"].as_f64().unwrap() > 0.9);
    }
    let error = run(&[&base[..], &some, &["--negate", "--control", "OptDigits", "--sweep", "1:2:2"]].concat());
    assert!(error.is_err_and(|error| error.contains("no λ") && error.contains("--sweep begin at 0")));
    // Data of a task that the basis has not.
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("0");
    fs::create_dir(&class).unwrap();
    png(&class.join("a.png"), &[0; 32 * 32]);
    let new = format!("New={}", text(folder.path()));
    let negate = ["--negate", "--control", "MNIST", "--data", &new, "--val-split", "test"];
    let unknown = run(&[&base[..], &negate].concat()).unwrap_err();
    for part in [base[2], "no task `New`, which is in the data; known: MNIST, ", ". Choose tasks with --task"] {
        assert!(unknown.contains(part), "{unknown}");
    }
    let missing = run(&[&base[..], &["--sweep", "--finetuned", "/nonexistent.json"]].concat());
    assert!(missing.is_err_and(|error| error.contains("/nonexistent.json")));
}

#[test]
fn a_sweep_on_the_test_images_and_its_page() {
    let path = |relative: &str| digits(relative).unwrap();
    let (basis, base) = (path("bases/ViT-D-8_PCA_M4_8task"), path("base/pickled_module.pt"));
    let (heads, images) = (path("heads.safetensors"), path("images.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let arguments = ["eval", "--basis", text(&basis), "--base", text(&base), "--heads", text(&heads)];
    let sweep = ["--val-split", "test", "--task", "MNIST", "--task", "Parity", "--weights", "MNIST", "--batch", "100"];
    let data = ["--data", text(&images), "--sweep", "0:1:3", "--report", text(&page)];
    let result = run(&[&arguments[..], &sweep, &data].concat()).unwrap();
    let at = |lambda: &str| result["val"][lambda]["avg_top1"].as_f64().unwrap();
    let best = format!("{:?}", result["optimal_coefficient"].as_f64().unwrap());
    assert!(["0.0", "0.5", "1.0"].into_iter().all(|lambda| at(lambda) <= at(&best)), "{result}");
    assert_eq!(result["test"]["avg_top1"].as_f64().unwrap(), at(&best));
    assert!(result["test"]["avg_normalized_top1"].is_null(), "nothing to normalise by");
    let page = fs::read_to_string(page).unwrap();
    for part in ["<!doctype html>", "Accuracy over λ", "zero-shot", "Coefficients", "rgba(", "optimal_coefficient"] {
        assert!(page.contains(part), "`{part}` is not in the page");
    }
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("<link"), "it loads nothing");
    let over = ["--data", text(&images), "--sweep", "--report", text(&images)];
    let refused = run(&[&arguments[..], &sweep, &over].concat()).unwrap_err();
    assert!(refused.contains("would overwrite the input"), "{refused}");
}

/// The base with everything changed is the whole, so what all groups bring together lies between what is told of each.
#[test]
fn what_each_group_of_parameters_brings() {
    let path = |relative: &str| digits(relative).unwrap();
    let (basis, base) = (path("bases/ViT-D-8_AE_M4_8task"), path("base/pickled_module.pt"));
    let (heads, images) = (path("heads.safetensors"), path("images.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let files = ["eval", "--basis", text(&basis), "--base", text(&base), "--heads", text(&heads)];
    let data = ["--data", text(&images), "--task", "MNIST", "--task", "Parity", "--batch", "100"];
    let run = |more: &[&str]| run(&[&files[..], &data, more].concat());
    let alone = |weights: &str| run(&["--weights", weights]).unwrap();
    let of = |result: &Value, task: &str, field: &str| result["tasks"][task][field].clone();

    let swept = run(&["--sweep-layers", "--groups", "kind", "--report", text(&page)]).unwrap();
    assert_eq!(swept["groups"], serde_json::json!(["stem", "proj", "norm", "attn", "mlp"]));
    for task in ["MNIST", "Parity"] {
        assert_eq!(of(&swept, task, "base"), of(&alone("base"), task, "accuracy"));
        assert_eq!(of(&swept, task, "whole"), of(&alone(task), task, "accuracy"));
        let groups = swept["groups"].as_array().unwrap().iter().enumerate();
        for (g, group) in groups.map(|(g, group)| (g, group.as_str().unwrap())) {
            let only = alone(&format!("{task}@{{{group}: 1, *: 0}}"));
            let without = alone(&format!("{task}@{{{group}: 0, *: 1}}"));
            assert_eq!(of(&swept, task, "only")[g], of(&only, task, "accuracy"), "{task} {group}");
            assert_eq!(of(&swept, task, "without")[g], of(&without, task, "accuracy"), "{task} {group}");
        }
    }
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("rgba(") && page.contains("<th>attn</th>") && page.contains("<td>Parity</td>"));
    let blocks = run(&["--sweep-layers", "--weights", "merged@0.3", "--task", "MNIST"]).unwrap();
    assert!(blocks["groups"].as_array().unwrap().contains(&Value::from("blocks.0")), "{blocks}");
    for (wrong, part) in [
        (&["--sweep-layers", "--groups", "heads"][..], "whole, kind, block, layer, parameter"),
        (&["--sweep-layers", "--sweep"], "cannot be used with"),
        (&["--groups", "kind"], "--sweep-layers"),
        (&["--sweep-layers", "--weights", "MNIST@{attn: 1, *: 0}"], "has groups already"),
        (&["--report", "page.html"], "--sweep"),
    ] {
        let error = run(wrong).unwrap_err();
        assert!(error.contains(part), "{wrong:?}: {error}");
    }
}

#[test]
fn an_analogy_beside_the_base_and_the_task_itself() {
    let path = |relative: &str| digits(relative).unwrap();
    let (basis, base) = (path("bases/ViT-D-8_AE_M4_8task"), path("base/pickled_module.pt"));
    let (heads, images) = (path("heads.safetensors"), path("images.safetensors"));
    let files = ["eval", "--basis", text(&basis), "--base", text(&base), "--heads", text(&heads)];
    let data = ["--data", text(&images), "--batch", "100"];
    let run = |more: &[&str]| run(&[&files[..], &data, more].concat());
    let analogy = ["--analogy", "Inverted + Rotated - Quadrant", "--sweep", "0:1:5", "--val-split", "test"];
    let result = run(&[&analogy[..], &["--task", "MNIST"]].concat()).unwrap();
    let alone = |weights: &str| {
        let result = run(&["--task", "MNIST", "--weights", weights]).unwrap();
        result["tasks"]["MNIST"]["accuracy"].as_f64().unwrap()
    };
    let lambda = result["optimal_coefficient"].as_f64().unwrap();
    let at = |lambda: f64| alone(&format!("Inverted@{lambda} + Rotated@{lambda} - Quadrant@{lambda}"));
    assert_eq!(result["test"].as_f64().unwrap(), at(lambda));
    assert_eq!(result["test_zeroshot"].as_f64().unwrap(), alone("base"));
    assert_eq!(result["test_own"].as_f64().unwrap(), alone("MNIST"));
    let grid = result["val"].as_object().unwrap();
    assert!(grid.len() == 5 && grid.values().all(|share| share.as_f64().unwrap() <= at(lambda)), "{result}");
    for (tasks, part) in [(&[][..], "one --task"), (&["--task", "MNIST", "--task", "Parity"], "one --task")] {
        assert!(run(&[&analogy[..], tasks].concat()).unwrap_err().contains(part));
    }
}

/// The pixels of one digit, as PNG, IDX, CIFAR's binary file and tensor, must become the same floats.
#[test]
fn datasets_as_they_are_distributed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let images: Vec<Vec<u8>> =
        (0..3u8).map(|i| (0..=255u8).cycle().take(32 * 32).map(|p| p ^ (i * 40)).collect()).collect();
    let labels = [1u8, 0, 1];

    let idx = |dimensions: &[u32], bytes: &[u8]| {
        let mut file = vec![0, 0, 8, dimensions.len() as u8];
        dimensions.iter().for_each(|size| file.extend(size.to_be_bytes()));
        file.extend(bytes);
        file
    };
    let idx_folder = root.join("all/Idx");
    fs::create_dir_all(&idx_folder).unwrap();
    fs::write(idx_folder.join("t10k-images-idx3-ubyte"), idx(&[3, 32, 32], &images.concat())).unwrap();
    fs::write(idx_folder.join("t10k-labels-idx1-ubyte"), idx(&[3], &labels)).unwrap();

    let cifar_folder = root.join("all/Cifar");
    fs::create_dir_all(&cifar_folder).unwrap();
    let record = |i: usize, labels: &[u8]| [labels, &images[i], &images[i], &images[i]].concat();
    fs::write(cifar_folder.join("test_batch.bin"), (0..3).flat_map(|i| record(i, &[labels[i]])).collect::<Vec<_>>())
        .unwrap();
    let hundred = root.join("hundred");
    fs::create_dir(&hundred).unwrap();
    fs::write(hundred.join("train.bin"), (0..3).flat_map(|i| record(i, &[9, labels[i]])).collect::<Vec<_>>()).unwrap();

    let classes = root.join("all/Photos/val");
    for (i, (class, name)) in [("b", "1.png"), ("a", "2.png"), ("b", "3.png")].into_iter().enumerate() {
        fs::create_dir_all(classes.join(class)).unwrap();
        png(&classes.join(class).join(name), &images[i]);
    }

    let preprocess = Preprocess::new(16).unwrap();
    let data = Dataset::open(root.join("all")).unwrap();
    assert_eq!(data.tasks(), ["Cifar", "Idx", "Photos"]);
    assert_eq!((data.splits("Idx").unwrap(), data.splits("Photos").unwrap()), (vec!["test"], vec!["val"]));
    let pixels = |data: &Dataset, task: &str, split: &str| {
        let split = data.split(task, split).unwrap();
        let pixels = split.preprocess(&preprocess, 0..3, 2).unwrap();
        assert_eq!((split.len(), pixels.len()), (3, 3 * preprocess.len()));
        assert!(split.preprocess(&preprocess, 2..4, 1).is_err());
        (split.labels().to_vec(), split.classes().to_vec(), pixels)
    };
    let (labels_idx, names, of_idx) = pixels(&data, "Idx", "test");
    assert!(labels_idx == [1, 0, 1] && names.is_empty());
    let (labels_cifar, _, of_cifar) = pixels(&data, "Cifar", "test");
    assert!(labels_cifar == [1, 0, 1] && of_cifar == of_idx);
    // By class, then by name: the second image comes first.
    let (labels_photos, names, of_photos) = pixels(&data, "Photos", "val");
    assert!(labels_photos == [0, 1, 1] && names == ["a", "b"]);
    let length = preprocess.len();
    assert!(of_photos[..length] == of_idx[length..2 * length] && of_photos[length..2 * length] == of_idx[..length]);

    let hundred = Dataset::of_task("C100", &hundred).unwrap();
    assert_eq!(pixels(&hundred, "C100", "train").0, [1, 0, 1], "the fine labels count");
    let bare = Dataset::of_task("Bare", &classes).unwrap();
    assert_eq!(bare.splits("Bare").unwrap(), ["test"]);
    let joined = data.join(hundred).unwrap().join(bare).unwrap();
    assert_eq!(joined.tasks(), ["Bare", "C100", "Cifar", "Idx", "Photos"]);
    assert!(joined.join(Dataset::of_task("Bare", &classes).unwrap()).is_err());
}

#[test]
fn damaged_datasets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |files: &[(&str, &[u8])], split: &str, kind: ErrorKind, part: &str| {
        let path: PathBuf = folder.path().join(format!("{part}{}", files.len()));
        fs::create_dir_all(&path).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).unwrap());
        let error = Dataset::of_task("T", &path).and_then(|data| data.split("T", split)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    };
    let images = "train-images-idx3-ubyte";
    let header = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2];
    let whole = [&header[..], &[1, 2, 3, 4]].concat();
    let labels = "train-labels-idx1-ubyte";
    refused(&[(images, &header)], "train", ErrorKind::Format, "disagree");
    refused(&[(images, &[0, 0, 8])], "train", ErrorKind::Format, "to begin with");
    refused(&[(images, &whole)], "train", ErrorKind::Io, labels);
    refused(&[(images, &whole), (labels, &[0, 0, 8, 1, 0, 0, 0, 2, 0, 0])], "train", ErrorKind::Format, "in number");
    refused(&[("train-images-idx3-ubyte.gz", &whole)], "train", ErrorKind::Io, "train-labels-idx1-ubyte");
    refused(&[("test_batch.bin", &[0; 3072])], "test", ErrorKind::Format, "multiple of 3073");
    refused(&[("data_batch_2.bin", &[0; 3073])], "train", ErrorKind::NotFound, "data_batch_1.bin");
    refused(&[("notes.txt", b"nothing")], "test", ErrorKind::Format, "no labelled images");
    refused(&[(images, &whole), (labels, &[0, 0, 8, 1, 0, 0, 0, 1, 0])], "test", ErrorKind::NotFound, "train");
}

/// A grey PNG of 32 × 32 pixels.
fn png(path: &Path, pixels: &[u8]) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 32, 32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
}
