//! Fine-tuned checkpoints in the place of a basis, and their accuracies as the reference writes them.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use taskbasis::build::Family;
use taskbasis::{BasisFile, Error, ModelOptions, OpenModel, Result, Scope, Target, TaskExpr, check_output};

use super::measured::{Part, percent};
use super::options::Eval;
use super::workbench::Bench;
use crate::args::Session;
use crate::tasks_dir::TasksDir;
use crate::{checkpoints, output, paths};

/// The reference's file of the base's accuracies, and that of the fine-tuned models'.
const FILES: [&str; 2] = ["zeroshot_accuracies.json", "ft_accuracies.json"];

/// The base of `eval`, with the checkpoints in `folder`.
pub(super) fn open(eval: &Eval, folder: &Path) -> Result<Session> {
    let Some(base) = &eval.model.base else { return Err(Error::invalid("--tasks-dir needs --base")) };
    for expr in eval.weights.iter().chain(&eval.analogy) {
        check_terms(expr)?;
    }
    let scan = TasksDir::read(folder, Some(base))?;
    scan.tell();
    let base = checkpoints::open(base)?;
    let open = |file: crate::tasks_dir::NamedFile| Ok((file.name, checkpoints::open_tuned(file.path, &base)?));
    let tasks = scan.found.into_iter().map(open).collect::<Result<Vec<_>>>()?;
    let scope = if base.image_tower().next().is_some() { Scope::ImageTower } else { Scope::All };
    let (base, basis) = Family::new(base, tasks, scope)?.into_basis(folder);
    let options = ModelOptions { threads: eval.encoder.threads, ..ModelOptions::default() };
    let image_size = eval.model.image_size.map(|size| size as usize);
    let file = BasisFile::Folder(Box::new(basis));
    OpenModel::of_size(file, Some(base), image_size, &options).map(Session::new)
}

/// There are no basis vectors that an expression could name.
fn check_terms(expr: &TaskExpr) -> Result<()> {
    match expr.terms().iter().find(|(target, _)| !matches!(target, Target::Task(_) | Target::All)) {
        None => Ok(()),
        Some(_) => Err(Error::invalid("fine-tuned checkpoints have no basis vectors: their plain sum is `all`")
            .expected("tasks, or `all`")
            .got(format_args!("`{expr}`"))),
    }
}

/// Measures base and checkpoints on both parts of the data, and writes the two files.
pub(super) fn accuracies(eval: &Eval, bench: &Bench<'_>, folder: &Path, as_json: bool) -> Result<()> {
    let files = FILES.map(|name| folder.join(name));
    for file in &files {
        paths::lock_file(file)?;
        check_output(file, &[])?;
    }
    let (splits, parts) = ([&*eval.split, &*eval.val_split], [Part::Test, Part::Val]);
    let Some(basis) = bench.session.model().basis() else { return Err(Error::invalid("there are no tasks")) };
    // What was not fine-tuned, ImageNet in the reference, has its place in the base's file alone, behind the others.
    let mut tasks = bench.tasks(eval, &splits)?;
    tasks.sort_by_key(|task| basis.task_index(task).unwrap_or(usize::MAX));
    let base = bench.weights(&TaskExpr::base())?;
    let images = splits.map(|split| bench.images.labelled(&tasks, split));
    let images = images.into_iter().collect::<Result<Vec<_>>>()?;
    let own = |task: &String| basis.task_index(task).is_ok();
    let total = |of: &Vec<super::data::Labelled>| {
        of.iter().map(|labelled| labelled.len() * (1 + usize::from(own(&labelled.task)))).sum::<usize>()
    };
    let bar = output::progress(images.iter().map(total).sum(), "images");
    let mut measured: [Vec<(String, f64)>; 2] = [Vec::new(), Vec::new()];
    for (i, task) in tasks.iter().enumerate() {
        let tuned = if own(task) { Some(bench.own_weights(task)?) } else { None };
        for (weights, of) in [Some(&base), tuned.as_ref()].into_iter().zip(&mut measured) {
            let Some(weights) = weights else { continue };
            for (labelled, part) in images.iter().zip(parts) {
                of.push((part.name(task), bench.accuracy(weights, &labelled[i], &bar)?));
            }
        }
    }
    bar.finish_and_clear();
    for (file, accuracies) in files.iter().zip(&measured) {
        output::text_file(file, &python_json(accuracies)?)?;
    }
    let after = output::after_writing(folder);
    if as_json {
        let [zero_shot, tuned] = measured
            .each_ref()
            .map(|of| of.iter().map(|(name, share)| (name.clone(), json!(share))).collect::<serde_json::Map<_, _>>());
        return output::json(&json!({ "files": files, "zero_shot": zero_shot, "finetuned": tuned })).map_err(after);
    }
    let mut rows = vec![["task", "zero-shot", "fine-tuned"].map(String::from).to_vec()];
    let [zero_shot, tuned] = &measured;
    rows.extend(zero_shot.iter().map(|(name, share)| {
        let of_tuned = tuned.iter().find(|(other, _)| other == name);
        vec![name.clone(), percent(*share), of_tuned.map_or_else(|| "—".into(), |(_, share)| percent(*share))]
    }));
    let written = files.map(|file| file.display().to_string()).join(", ");
    output::text(&format!("{}\n{written}\n", output::table(&rows))).map_err(after)
}

/// One line, spaced as Python's `json.dump` spaces it.
fn python_json(accuracies: &[(String, f64)]) -> Result<String> {
    let mut text = String::from("{");
    for (i, (name, share)) in accuracies.iter().enumerate() {
        let name = serde_json::to_string(name).map_err(|e| Error::format("a task's name").because(e))?;
        let _ = write!(text, "{}{name}: {share:?}", if i == 0 { "" } else { ", " });
    }
    text.push('}');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_python() {
        // json.dumps({"MNIST": 0.975, "MNISTVal": 1.0})
        let text = python_json(&[("MNIST".into(), 0.975), ("MNISTVal".into(), 1.0)]).unwrap();
        assert_eq!(text, r#"{"MNIST": 0.975, "MNISTVal": 1.0}"#);
    }

    #[test]
    fn vectors_are_no_tasks() {
        assert!(check_terms(&"MNIST@0.5 + all@0.2 - \"A b\"".parse().unwrap()).is_ok());
        for wrong in ["merged@0.3", "MNIST + #0", "#mean"] {
            let error = check_terms(&wrong.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("their plain sum is `all`") && error.contains(wrong), "{error}");
        }
    }
}
