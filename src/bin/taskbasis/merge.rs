//! `taskbasis merge`

use std::time::Instant;

use clap::Args;
use serde_json::json;
use taskbasis::build::Merge;
use taskbasis::{Result, check_output};

use crate::args::threads;
use crate::family::FamilyArgs;
use crate::output;
use crate::paths::OutFile;

/// Merge fine-tuned checkpoints into one checkpoint: the base and λ times the merged vector, as safetensors.
///
/// `taskbasis merge --base zeroshot.pt --tasks-dir checkpoints --method ties:keep=0.2 -o merged.safetensors`. To keep
/// merged vectors beside the tasks, in a bundle: `taskbasis build --merge`.
#[derive(Args)]
pub struct MergeTasks {
    #[command(flatten)]
    family: FamilyArgs,

    /// magmax, ties, dare, stock, tall, consensus, tsv, iso-c, iso-cts or wudi, with options as in
    /// `dare:drop=0.9,seed=7`.
    #[arg(long, value_name = "METHOD[:KEY=VALUE,…]")]
    method: Merge,

    /// The scaling coefficient λ of the merged vector.
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true, default_value_t = 1.0)]
    lambda: f64,

    /// The file to write.
    #[arg(short, long, value_name = "merged.safetensors")]
    output: OutFile,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,
}

impl MergeTasks {
    pub fn run(self, as_json: bool) -> Result<()> {
        let files = self.family.files()?;
        self.method.check(&files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>())?;
        check_output(&self.output, &[])?;
        let began = Instant::now();
        let family = self.family.open()?;
        let gram = self.family.gram(&family, self.threads)?;
        let merged = family.merge(&gram, &self.method, self.threads)?;
        let bytes = merged.checkpoint_bytes();
        let bar = output::progress(bytes as usize, "merging");
        let inputs: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
        merged.write_checkpoint(self.lambda, &*self.output, &inputs, &|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let (seconds, tasks) = (began.elapsed().as_secs_f64(), family.tasks().collect::<Vec<_>>());
        let told = if as_json {
            output::json(&json!({
                "output": &*self.output, "method": self.method.to_string(), "lambda": self.lambda, "tasks": tasks,
                "left_out": self.family.left_out_json()?, "differences": family.differences(),
                "doubts": gram.doubts(), "bytes": bytes, "seconds": seconds,
            }))
        } else {
            output::text(&format!(
                "{}: {} of {}, λ = {}, {} in {seconds:.1} s\n",
                self.output.display(),
                self.method,
                output::counted(tasks.len(), "task"),
                self.lambda,
                output::bytes(bytes),
            ))
        };
        told.map_err(output::after_writing(&self.output))
    }
}
