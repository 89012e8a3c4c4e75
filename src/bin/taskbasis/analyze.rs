//! `taskbasis analyze`

mod choices;
mod report;
mod summary;

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};
use taskbasis::build::{Fit, Gram};
use taskbasis::fit::Products;
use taskbasis::{BasisFile, Error, MapMode, Method, Result, Selector, Source, TaskExpr};

use self::choices::{Choice, choices, knee};
use self::report::Page;
use self::summary::{OF_BLOCKS, blocks, kept};
use crate::args::threads;
use crate::build::percent;
use crate::conflicts::{Given, Refused, option};
use crate::expression::expression;
use crate::family::{FamilyArgs, METHODS, SEED_OF_PCA, methods};
use crate::output;
use crate::paths::{InPath, OutFile};

/// Tell how well fine-tuned checkpoints can be compressed: their spectrum, what they have in common, and what every
/// number of vectors leaves of each task. Or tell of a basis (--basis) how long its task vectors are, and what they
/// have in common. Nothing is written but the --report.
#[derive(Args)]
#[command(
    mut_arg("base", |base| base.required(false).required_unless_present("basis")),
    mut_arg("tasks", |tasks| tasks.required_unless_present_any(["tasks_dir", "basis"])),
    mut_group("finetuned checkpoints", |group| group.required(false).conflicts_with("basis")),
)]
pub struct Analyze {
    #[command(flatten)]
    family: Option<FamilyArgs>,

    /// A basis that is there already, a folder or a bundle, instead of checkpoints: the lengths of its recovered task
    /// vectors and what they have in common, from the products of its vectors. It needs no base.
    #[arg(long, value_name = "FOLDER|BUNDLE", conflicts_with_all = ["base", "image_tower", "method", "vectors", "seed"])]
    basis: Option<InPath>,

    /// With --basis, this expression too, beside the tasks; may be given several times.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true, requires = "basis")]
    weights: Vec<TaskExpr>,

    /// Only this method.
    #[arg(long, value_parser = methods())]
    method: Option<Method>,

    /// Only this many vectors.
    #[arg(long, value_name = "M")]
    vectors: Option<usize>,

    /// As for `build`.
    #[arg(long, default_value_t = 0)]
    seed: u32,

    /// Write the analysis as one HTML page too: the error of every method, number of vectors and format against the
    /// bytes that it takes, with the knee marked; spectrum; cosines, whole and by block.
    #[arg(long, value_name = "FILE")]
    report: Option<OutFile>,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,
}

impl Analyze {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        // Clap asks for nothing that conflicts with what was typed.
        let of_basis =
            self.basis.is_none().then(|| given.first([option!(Self, weights)], "is for '--basis'")).flatten();
        let is_pca = self.method == Some(Method::Pca);
        of_basis.or_else(|| is_pca.then(|| given.first([option!(Self, seed)], SEED_OF_PCA)).flatten())
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        if let Some(basis) = &self.basis {
            let gram = self.of_basis(basis)?;
            let json = report(&gram, &[], &[]);
            self.write_page(&gram, &[], &json)?;
            return match as_json {
                true => output::json(&json),
                false => output::text(&format!("{}\n{}", lengths_text(&gram), summary_text(&gram))),
            };
        }
        let Some(family) = &self.family else { return Err(Error::invalid("neither checkpoints nor --basis")) };
        let opened = family.open()?;
        let gram = family.gram(&opened, self.threads)?;
        let methods = self.method.map_or(METHODS.to_vec(), |method| vec![method]);
        let counts = self.vectors.map_or((1..=gram.tasks().len()).collect(), |vectors| vec![vectors]);
        let mut fits = Vec::new();
        for method in methods {
            for &vectors in &counts {
                fits.push(Fit::of(method, &gram, vectors, self.seed)?);
            }
        }
        let choices = match &self.report {
            Some(_) => choices(&opened, &gram, &fits, self.threads)?,
            None => Vec::new(),
        };
        let json = report(&gram, &fits, &choices);
        self.write_page(&gram, &choices, &json)?;
        if as_json {
            return output::json(&json);
        }
        let mut text = summary_text(&gram);
        for method in METHODS {
            let fits: Vec<&Fit> = fits.iter().filter(|fit| fit.method() == method).collect();
            if !fits.is_empty() {
                text += &format!("\n{method}: what is missing of each task\n{}", errors_text(&gram, &fits));
            }
        }
        if let [fit] = fits.as_slice() {
            text += &format!("\n{}: coefficients\n{}", fit.method(), coefficients_text(&gram, fit));
        }
        output::text(&text)
    }
}

impl Analyze {
    /// Writes the page, where one is asked for.
    fn write_page(&self, gram: &Gram, choices: &[Choice], json: &Value) -> Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        output::text_file(path, &Page { gram, choices, json }.html()?)
    }

    /// The Gram matrix of the task vectors that the basis gives back, and of the expressions.
    fn of_basis(&self, path: &Path) -> Result<Gram> {
        let basis = BasisFile::open(path, MapMode::Map)?.into_basis()?;
        let recoverable = |(t, task): (usize, &String)| {
            let is_there = basis.recovery().is_recoverable(t);
            if !is_there {
                output::note(&format!("task `{task}` is left out: a {} basis cannot give it back", basis.method()));
            }
            is_there.then(|| (task.clone(), TaskExpr::task(task)))
        };
        let mut of: Vec<(String, TaskExpr)> = basis.tasks().iter().enumerate().filter_map(recoverable).collect();
        of.extend(self.weights.iter().map(|expr| (expr.to_string(), expr.clone())));
        let bytes = basis.parameters().flat_map(|(_, parameter)| parameter.sources()).map(Source::nbytes).sum();
        let bar = output::progress(bytes, "reading the vectors");
        let products = Products::of(&basis, self.threads, &|done| bar.inc(done))?;
        bar.finish_and_clear();
        products.gram(&basis, &of)
    }
}

/// How long the vectors are.
fn lengths_text(gram: &Gram) -> String {
    let header = vec!["task".to_owned(), "length".into()];
    let row = |(t, task): (usize, &String)| vec![task.clone(), format!("{:.4}", gram.get(t, t).sqrt())];
    let rows: Vec<_> = std::iter::once(header).chain(gram.tasks().iter().enumerate().map(row)).collect();
    output::table(&rows)
}

fn summary_text(gram: &Gram) -> String {
    spectrum_text(gram) + "\n" + &cosines_text(gram) + "\n" + &groups_text(gram)
}

fn report(gram: &Gram, fits: &[Fit], choices: &[Choice]) -> Value {
    let t = gram.tasks().len();
    let square = |of: &dyn Fn(usize, usize) -> f64| -> Vec<Vec<f64>> {
        (0..t).map(|i| (0..t).map(|j| of(i, j)).collect()).collect()
    };
    let fits: Vec<Value> = fits
        .iter()
        .map(|fit| {
            let m = fit.vectors();
            let errors: Map<String, Value> =
                gram.tasks().iter().zip(fit.errors()).map(|(task, error)| (task.clone(), json!(error))).collect();
            let combine: Vec<Vec<f64>> = (0..t).map(|t| (0..m).map(|m| fit.combine(t, m)).collect()).collect();
            let recover: Vec<Vec<Option<f64>>> = (0..m).map(|m| (0..t).map(|t| fit.recover(m, t)).collect()).collect();
            json!({
                "method": fit.method().to_string(), "vectors": m, "relative_errors": errors, "combine": combine,
                "recover": recover, "loss": fit.loss(), "spectral_lower_bound": fit.bound(),
            })
        })
        .collect();
    json!({
        "tasks": gram.tasks(),
        "doubts": gram.doubts(),
        "relative_lengths": (0..t).map(|i| gram.relative_length(i)).collect::<Vec<_>>(),
        "norms": (0..t).map(|i| gram.get(i, i).sqrt()).collect::<Vec<_>>(),
        "gram": square(&|i, j| gram.get(i, j)),
        "cosines": square(&|i, j| gram.cosine(i, j)),
        "groups": gram.by_group(Selector::of_block).iter().map(|part| json!({
            "group": part.group.to_string(),
            "gram": square(&|i, j| part.get(i, j)),
            "cosines": square(&|i, j| part.cosine(i, j)),
        })).collect::<Vec<_>>(),
        "spectrum": gram.spectrum(false),
        "spectrum_centred": gram.spectrum(true),
        "fits": fits,
        "choices": choices,
        "knee": knee(choices).map(|at| &choices[at]),
    })
}

/// The eigenvalues' shares, one by one and summed, with a bar of the sum.
fn spectrum_text(gram: &Gram) -> String {
    const WIDTH: f64 = 30.0;
    let header = ["vectors", "share", "kept", "", "kept, PCA"].map(String::from).to_vec();
    let (of_all, centred) = (kept(&gram.spectrum(false)), kept(&gram.spectrum(true)));
    let row = |m: usize| {
        let before = if m == 0 { 0.0 } else { of_all[m - 1] };
        let bar = "█".repeat((WIDTH * of_all[m]).round() as usize);
        vec![
            (m + 1).to_string(),
            format!("{:.2} %", 100.0 * (of_all[m] - before)),
            format!("{:.2} %", 100.0 * of_all[m]),
            format!("{bar:<30}"),
            format!("{:.2} %", 100.0 * centred[m]),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain((0..of_all.len()).map(row)).collect();
    format!("spectrum of the task vectors\n{}", output::table(&rows))
}

fn cosines_text(gram: &Gram) -> String {
    let tasks = gram.tasks();
    let header = std::iter::once(String::new()).chain(tasks.iter().cloned()).collect();
    let row = |i: usize| {
        let cells = (0..tasks.len()).map(|j| format!("{:.3}", gram.cosine(i, j)));
        std::iter::once(tasks[i].clone()).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain((0..tasks.len()).map(row)).collect();
    format!("cosine similarities\n{}", output::table(&rows))
}

/// How long the task vectors are in each block, and how much they have in common there.
fn groups_text(gram: &Gram) -> String {
    let header = std::iter::once("group").chain(OF_BLOCKS).map(String::from).collect();
    let row = |(block, [share, cosines @ ..]): (String, [Option<f64>; 4])| {
        let share = share.map(|share| format!("{:.2} %", 100.0 * share));
        let cosines = cosines.into_iter().flatten().map(|cosine| format!("{cosine:.3}"));
        std::iter::once(block).chain(share).chain(cosines).collect()
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(blocks(gram).map(row)).collect();
    format!("by block\n{}", output::table(&rows))
}

fn errors_text(gram: &Gram, fits: &[&Fit]) -> String {
    let header = std::iter::once("vectors".to_owned()).chain(fits.iter().map(|fit| fit.vectors().to_string()));
    let mut rows: Vec<Vec<String>> = vec![header.collect()];
    for (t, task) in gram.tasks().iter().enumerate() {
        let cells = fits.iter().map(|fit| percent(fit.errors()[t]));
        rows.push(std::iter::once(task.clone()).chain(cells).collect());
    }
    if fits.iter().any(|fit| fit.method() == Method::Autoencoder) {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3e}"));
        for (name, of) in [("loss", Fit::loss as fn(&Fit) -> Option<f64>), ("at least", Fit::bound)] {
            let cells = fits.iter().map(|fit| number(of(fit)));
            rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        }
    }
    output::table(&rows)
}

/// B (or U) beside W (or C): a row a task.
fn coefficients_text(gram: &Gram, fit: &Fit) -> String {
    let vectors = 0..fit.vectors();
    let header = ["combine", "recover"].iter().flat_map(|what| vectors.clone().map(move |m| format!("{what} s{m}")));
    let mut rows: Vec<Vec<String>> = vec![std::iter::once("task".to_owned()).chain(header).collect()];
    for (t, task) in gram.tasks().iter().enumerate() {
        let combine = vectors.clone().map(|m| format!("{:.4}", fit.combine(t, m)));
        let recover = vectors.clone().map(|m| fit.recover(m, t).map_or_else(|| "—".into(), |a| format!("{a:.4}")));
        rows.push(std::iter::once(task.clone()).chain(combine).chain(recover).collect());
    }
    output::table(&rows)
}
