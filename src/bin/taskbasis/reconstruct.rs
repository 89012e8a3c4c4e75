//! `taskbasis reconstruct`

use std::time::Instant;

use clap::Args;
use serde_json::json;
use taskbasis::{
    BasisFile, MapMode, ReconstructOptions, Result, Scope, TaskExpr, Visible, Weights, check_output, present,
};

use crate::args::threads;
use crate::expression::expression;
use crate::paths::{BasePath, InPath, OutFile};
use crate::{checkpoints, output, paths};

/// Write the weights of a task, or of any arithmetic of tasks, as safetensors.
#[derive(Args)]
pub struct Reconstruct {
    /// Basis folder or bundle.
    #[arg(long, value_name = "FOLDER|BUNDLE")]
    basis: InPath,

    /// Base checkpoint (the zero-shot weights); a bundle that holds its base needs none.
    #[arg(long, value_name = "FILE")]
    base: Option<BasePath>,

    /// Which weights: `MNIST`, `MNIST@0.3 + SVHN@0.3`, `-Cars@0.5`, `merged@0.4`, `all@0.3`, `base`,
    /// `MNIST@{attn: 0.4, *: 0.3}`; or `@FILE.json`, what `fit` wrote.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    weights: TaskExpr,

    /// The file to write.
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: OutFile,

    /// The combined task vector alone, without the base.
    #[arg(long, conflicts_with = "base")]
    vector: bool,

    /// The parameters of the image tower alone.
    #[arg(long)]
    image_tower: bool,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,
}

impl Reconstruct {
    pub fn run(self, as_json: bool) -> Result<()> {
        let scope = if self.image_tower { Scope::ImageTower } else { Scope::All };
        let options = ReconstructOptions { scope, threads: self.threads, ..ReconstructOptions::default() };
        let file = BasisFile::open(&self.basis, MapMode::Map)?;
        paths::protect([file.path()])?;
        check_output(&self.output, &[])?;

        let began = Instant::now();
        let weights = if self.vector {
            let basis = file.into_basis()?;
            Weights::task_vector(&basis, &basis.coefficients(&self.weights)?, &options)?
        } else {
            let base = self.base.as_deref().map(checkpoints::open).transpose()?;
            let (base, basis) = file.base_and_basis(base)?;
            Weights::reconstruct(&base, &basis, &self.weights, &options)?
        };
        let took = began.elapsed();

        let kind = if self.vector { "task_vector" } else { "weights" };
        let about = [("taskbasis.weights", self.weights.to_string()), ("taskbasis.kind", kind.to_owned())];
        weights.save(&self.output, &about, &[])?;

        let after = output::after_writing(&self.output);
        let bytes = present::file_bytes(&self.output).map_err(&after)?;
        let told = if as_json {
            output::json(&json!({
                "output": &*self.output, "weights": self.weights.to_string(), "kind": kind, "tensors": weights.len(),
                "bytes": bytes, "reconstruct_ms": took.as_secs_f64() * 1e3,
            }))
        } else {
            output::text(&format!(
                "{}: {} tensors of `{}`, {}, reconstructed in {:.1} ms\n",
                self.output.display(),
                weights.len(),
                Visible(&self.weights),
                output::bytes(bytes),
                took.as_secs_f64() * 1e3,
            ))
        };
        told.map_err(after)
    }
}
