//! Coefficients found: never worse than where they began, the same for the same seed, and the formulas by hand.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{digits, runtime};
use serde_json::Value;
use taskbasis::fit::{ClosedForm, FitImages, FitOptions, FitTask, Objective, closed_form, fit};
use taskbasis::{
    Basis, Checkpoint, Dataset, Encoder, EncoderOptions, ErrorKind, Grouping, Head, Model, ModelOptions, OpenModel,
    OpenOptions, Scale, Selector, TaskExpr,
};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn basis(method: &str) -> Option<PathBuf> {
    digits(&format!("bases/ViT-D-8_{method}_M4_8task"))
}

/// The command on the images that a clone carries, which are all of the split `test`; `None` without the family.
fn command(method: &str, more: &[&str]) -> Option<Command> {
    runtime().then_some(())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
    let paths = [
        ("--basis", basis(method)?),
        ("--base", digits("base/pickled_module.pt")?),
        ("--heads", digits("heads.safetensors")?),
        ("--classes", digits("classes.json")?),
        ("--data", digits("images.safetensors")?),
    ];
    command.arg("fit").args(paths.iter().flat_map(|(option, path)| [(*option).to_owned(), text(path)]));
    if !more.contains(&"--split") {
        command.args(["--split", "test"]);
    }
    command.arg("--json").args(more);
    Some(command)
}

fn run(method: &str, more: &[&str]) -> Option<Result<Value, String>> {
    let output = command(method, more)?.output().unwrap();
    Some(match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn what_is_found_is_never_worse_than_the_start() {
    for (method, groups) in [("AE", "block"), ("PCA", "whole")] {
        let options = ["--groups", groups, "--shots", "8", "--rounds", "2", "--seed", "3"];
        let Some(found) = run(method, &options) else { return };
        let found = found.unwrap();
        let (start, best) = (&found["single"], &found["found"]);
        let accuracy = |of: &Value| number(&of["validation"]["accuracy"]);
        let loss = |of: &Value, part: &str| number(&of[part]["loss"]);
        assert!(accuracy(best) >= accuracy(start), "{method}");
        assert!(loss(best, "validation") < loss(start, "validation"), "{method}");
        // One group leaves the search a coefficient per vector, and cross-validation stops where images of one part
        // say what the others do not.
        let enough = if groups == "whole" { 1.0 } else { 0.97 };
        assert!(loss(best, "training") < enough * loss(start, "training"), "{method}: {best}");
        // The best of the sweep, by accuracy and then by loss.
        for point in found["sweep"].as_array().unwrap() {
            let (own, of) = (accuracy(start), accuracy(point));
            assert!(of < own || (of == own && loss(point, "validation") >= loss(start, "validation")), "{point}");
        }
        // The expression is what was measured, and reads back.
        let expr: TaskExpr = found["expression"].as_str().unwrap().parse().unwrap();
        assert_eq!(expr.to_string(), found["expression"].as_str().unwrap());
        assert_eq!(expr.terms().len(), 8);
        // Whatever the number of threads, the images and what they say are the same.
        let again = run(method, &[&options[..], &["--threads", "1"]].concat()).unwrap().unwrap();
        for same in ["expression", "curve", "images"] {
            assert_eq!(again[same], found[same], "{method}");
        }
        let other = run(method, &[&options[..6], &["--seed", "4"]].concat()).unwrap().unwrap();
        assert_ne!(other["images"]["chosen"], found["images"]["chosen"]);
    }
}

#[test]
fn a_result_is_a_file_that_other_commands_take() {
    let folder = tempfile::tempdir().unwrap();
    let (file, page) = (folder.path().join("found.json"), folder.path().join("found.html"));
    let (to_file, to_page) = (text(&file), text(&page));
    let more: Vec<&str> =
        "--groups kind --shots 4 --rounds 1 --task MNIST --task Parity --test test".split(' ').collect();
    let more = [more, vec!["-o", to_file.as_str(), "--report", to_page.as_str()]].concat();
    let Some(found) = run("AE", &more) else { return };
    let found = found.unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, found);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("attn") && html.ends_with("</html>\n"));

    let eval = |weights: &str| -> Value {
        let mut command = command("AE", &[]).unwrap();
        let arguments: Vec<_> = command.get_args().skip(1).map(ToOwned::to_owned).collect();
        command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        let output = command.arg("eval").args(arguments).args(["--task", "MNIST", "--weights", weights]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let by_file = eval(&format!("@{}", file.display()));
    assert_eq!(by_file["weights"], found["expression"]);
    assert_eq!(by_file["tasks"]["MNIST"]["accuracy"], found["test"]["found"]["tasks"]["MNIST"]);
    // What was tested beside it is what its names say.
    let single = format!("MNIST@{0} + Parity@{0}", number(&found["single"]["lambda"]));
    assert_eq!(eval(&single)["tasks"]["MNIST"]["accuracy"], found["test"]["single"]["tasks"]["MNIST"]);
    assert_eq!(eval("MNIST")["tasks"]["MNIST"]["accuracy"], found["test"]["own"]["tasks"]["MNIST"]);
    assert_eq!(eval("base")["tasks"]["MNIST"]["accuracy"], found["test"]["base"]["tasks"]["MNIST"]);
}

#[test]
fn images_without_labels_make_predictions_decided() {
    let options = ["--unlabelled", "--groups", "block", "--shots", "6", "--rounds", "2"];
    let Some(found) = run("AE", &options) else { return };
    let found = found.unwrap();
    assert_eq!(found["objective"], "entropy");
    assert_eq!(found["found"]["validation"]["accuracy"], Value::Null);
    let loss = |of: &Value| number(&of["validation"]["loss"]);
    assert!(loss(&found["found"]) < loss(&found["single"]));
}

#[test]
fn what_is_wrong_is_told() {
    let error = |more: &[&str]| run("AE", more).map(Result::unwrap_err);
    let Some(few) = error(&["--shots", "100"]) else { return };
    assert!(few.contains("class `") && few.contains("too few images") && few.contains("expected 100"), "{few}");
    assert!(
        error(&["--groups", "layers"]).unwrap().contains("[possible values: whole, kind, block, layer, parameter]")
    );
    assert!(error(&["--shots", "1"]).unwrap().contains("at least 2"));
    assert!(error(&["--split", "train"]).unwrap().contains("no split `train`"));
    assert!(error(&["--task", "MNSIT"]).unwrap().contains("MNIST"));
    assert!(error(&["--pull", "nan"]).unwrap().contains("out of range"));
    assert!(error(&["--method", "metagpt"]).unwrap().contains("this method looks at none"));
    let mut alone = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
    let (basis, base) = (text(&basis("AE").unwrap()), text(&digits("base/pickled_module.pt").unwrap()));
    let output = alone.args(["fit", "--basis", basis.as_str(), "--base", base.as_str()]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no images"));
    let sample = |words: &str| {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, words).unwrap();
        let weights = format!("@{}", path.path().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        let to = tempfile::tempdir().unwrap();
        let out = text(&to.path().join("w.safetensors"));
        command.args(["reconstruct", "--basis", basis.as_str(), "--base", base.as_str()]);
        let output = command.args(["--weights", weights.as_str(), "-o", out.as_str()]).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(sample("[]").contains("no task expression in it"));
    assert!(sample(r#"{"expression": "MNIST@"}"#).contains("expected a number"));
    assert_eq!(sample(r#"{"expression": "MNIST@{attn: 0.5, *: 0.25}"}"#), "");
}

/// The squared length of every task's vector over the parameters that `belongs`, from the vectors' own values.
fn squares(basis: &Basis, belongs: impl Fn(&str) -> bool) -> Vec<f64> {
    let table = basis.recovery();
    let of_task = |t: usize| {
        let mut square = 0.0;
        for (_, parameter) in basis.parameters().filter(|(name, _)| belongs(name)) {
            let sources: Vec<_> = parameter.sources().iter().map(|source| source.to_f32().unwrap()).collect();
            let value = |i: usize| {
                let sum: f64 = (0..basis.vectors()).map(|m| table.get(m, t).unwrap() * f64::from(sources[m][i])).sum();
                if basis.has_mean() { sum + f64::from(sources[basis.vectors()][i]) } else { sum }
            };
            square += (0..parameter.numel()).map(|i| value(i).powi(2)).sum::<f64>();
        }
        square
    };
    (0..basis.tasks().len()).map(of_task).collect()
}

#[test]
fn formulas_give_what_the_vectors_say() {
    for method in ["AE", "PCA"] {
        let Some(path) = basis(method) else { return };
        let basis = Basis::open(path).unwrap();
        let tasks = basis.tasks();
        let whole = squares(&basis, |_| true);
        let sum: f64 = whole.iter().sum();
        let inverse: f64 = whole.iter().map(|square| square.sqrt().recip()).sum();
        for (form, of) in [
            (ClosedForm::MetaGpt, (|square, sum, _| square / sum) as fn(f64, f64, f64) -> f64),
            (ClosedForm::InverseNorm, |square, _, inverse| square.sqrt().recip() / inverse),
        ] {
            let expr = closed_form(&basis, tasks, &Grouping::whole(&basis), form, 2).unwrap();
            for (t, (_, scale)) in expr.terms().iter().enumerate() {
                let (found, expected) = (scale.whole().unwrap(), of(whole[t], sum, inverse));
                assert!((found - expected).abs() <= 0.5001e-4, "{method} {form:?} {}: {found}, {expected}", tasks[t]);
            }
        }
        // In each group for itself; all of them sum to 1.
        let grouped = closed_form(&basis, tasks, &Grouping::per_kind(&basis), ClosedForm::MetaGpt, 1).unwrap();
        let mlp = squares(&basis, |name| name.contains(".mlp."));
        let selector: Selector = "mlp".parse().unwrap();
        for (t, (_, scale)) in grouped.terms().iter().enumerate() {
            let Scale::Groups(groups) = scale else { panic!("{grouped}") };
            let found = groups.iter().find(|(group, _)| *group == selector).unwrap().1;
            assert!((found - mlp[t] / mlp.iter().sum::<f64>()).abs() <= 0.5001e-4, "{found}");
        }
        let one = |n: usize| tasks[..n].to_vec();
        assert!(closed_form(&basis, &[], &Grouping::whole(&basis), ClosedForm::MetaGpt, 0).is_err());
        let twice = [one(1), one(1)].concat();
        assert!(closed_form(&basis, &twice, &Grouping::whole(&basis), ClosedForm::MetaGpt, 0).is_err());
    }
}

/// The digits family and two tasks' images, as a program gives them to the library.
fn opened() -> Option<(OpenModel, Encoder, impl Fn() -> Vec<FitTask>)> {
    runtime().then_some(())?;
    let options = OpenOptions { base: Some(digits("base/pickled_module.pt")?), ..OpenOptions::default() };
    let opened = OpenModel::open(basis("AE")?, &options).unwrap();
    let encoder = opened.encoder(&EncoderOptions::default()).unwrap();
    let tower = opened.tower(Default::default(), &Default::default()).unwrap();
    let data = Dataset::open(digits("images.safetensors")?).unwrap();
    let heads = digits("heads.safetensors")?;
    let tasks = move || {
        let of = |task: &str| {
            let split = data.split(task, "test").unwrap();
            let images = |range: std::ops::Range<usize>| FitImages {
                pixels: split.preprocess(&tower.preprocess, range.clone(), 1).unwrap(),
                labels: Some(split.labels()[range].to_vec()),
            };
            let head = Head::open(&heads, Some(task)).unwrap();
            FitTask { task: task.to_owned(), head, images: images(0..90) }
        };
        vec![of("MNIST"), of("Colors")]
    };
    Some((opened, encoder, tasks))
}

#[test]
fn with_a_given_pull_the_objective_falls_to_the_end() {
    let Some((opened, encoder, tasks)) = opened() else { return };
    let basis = opened.model().basis().unwrap();
    let grouping = Grouping::per_block(basis);
    for objective in [Objective::CrossEntropy, Objective::Entropy] {
        let options = FitOptions { objective, pull: Some(0.01), rounds: 6, ..FitOptions::default() };
        let found = fit(opened.model(), &encoder, tasks(), &grouping, &options, &|_| {}).unwrap();
        // The least of each round: what a round tries and gives up is above that.
        let value = |round: usize| {
            let of = found.curve.iter().filter(|candidate| candidate.round == round);
            of.map(|candidate| candidate.training.loss + candidate.penalty).reduce(f64::min)
        };
        let values: Vec<f64> = (0..).map_while(value).collect();
        assert!(values.len() > 2 && values[1] < values[0], "{objective:?}: {values:?}");
        // Changes that are measured anew lead to an end: the last round gains next to nothing.
        let last = values.len() - 1;
        assert!(values[last - 1] - values[last] < 0.02 * values[0], "{objective:?}: {values:?}");
    }
}

#[test]
fn the_library_refuses_what_cannot_be_fitted() {
    let Some((opened, encoder, tasks)) = opened() else { return };
    let basis = opened.model().basis().unwrap();
    let grouping = Grouping::whole(basis);
    let quiet = |_: usize| {};
    let error = |tasks: Vec<FitTask>, options: &FitOptions| {
        fit(opened.model(), &encoder, tasks, &grouping, options, &quiet).unwrap_err()
    };
    let default = FitOptions::default();
    assert!(error(Vec::new(), &default).to_string().contains("no tasks"));
    let twice = || {
        let mut all = tasks();
        all.extend(tasks());
        all
    };
    assert!(error(twice(), &default).to_string().contains("given twice"));
    let unlabelled = || {
        let mut tasks = tasks();
        tasks[0].images.labels = None;
        tasks
    };
    assert!(error(unlabelled(), &default).to_string().contains("no labels"));
    let mut unknown = tasks();
    unknown[0].task = "MNSIT".into();
    assert_eq!(error(unknown, &default).kind(), ErrorKind::NotFound);
    let other = FitOptions { sweep: Vec::new(), ..FitOptions::default() };
    assert!(error(tasks(), &other).to_string().contains("a sweep"));
    let whole = FitOptions { folds: 1, ..FitOptions::default() };
    assert!(error(tasks(), &whole).to_string().contains("too few parts to hold one out"));
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let alone = Model::new(base, None, &ModelOptions::default()).unwrap();
    assert!(fit(&alone, &encoder, tasks(), &grouping, &default, &quiet).unwrap_err().to_string().contains("no basis"));
}
