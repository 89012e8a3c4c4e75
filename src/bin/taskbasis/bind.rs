//! `taskbasis bind`

use clap::Args;
use serde_json::json;
use taskbasis::onnx::describe;
use taskbasis::tower::ConfigSource;
use taskbasis::{Encoder, EncoderOptions, Error, ErrorKind, Result, TowerOptions};

use crate::args::{EncoderArgs, ModelArgs, threads};
use crate::conflicts::{Given, Refused};
use crate::graph::{self, BindArgs};
use crate::output;
use crate::paths::{InPath, OutFile};
use crate::provider::{self, PlacementArgs, ProviderArgs};

/// Show what the constants of an .onnx file are, and save it as a map.
///
/// Constants are told by their values, compared with the base's, never by their names; equal values by where the graph
/// uses them. What the basis changes becomes an input of the graph.
#[derive(Args)]
pub struct Bind {
    /// The image encoder, exported with the base's weights.
    #[arg(value_name = "MODEL.onnx")]
    graph: InPath,

    #[command(flatten)]
    model: ModelArgs,

    /// Where to write the map.
    #[arg(short, long, value_name = "M.json")]
    output: Option<OutFile>,

    #[command(flatten)]
    binding: BindArgs,

    /// Run the graph as it is and as ONNX Runtime optimises it, and say which is faster.
    #[arg(long)]
    measure: bool,

    /// ONNX Runtime's shared library, for `--measure`.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<InPath>,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,

    #[command(flatten)]
    provider: ProviderArgs,

    #[command(flatten)]
    placement: PlacementArgs,
}

impl Bind {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        if !self.measure {
            return given.first(EncoderArgs::running(), "is for '--measure'");
        }
        self.placement.conflict(&self.provider, given)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = self.model.open(self.threads)?;
        let graph = session.graph(&self.binding.choice(&self.graph))?;
        let graph = graph.ok_or_else(|| Error::new(ErrorKind::Internal, "a graph that was given is not there"))?;
        graph::tell(&graph)?;
        let map = graph.map();
        let trials = if self.measure {
            // What shapes do not tell is in the graph; only extents are asked of the architecture.
            let extents = TowerOptions { config: ConfigSource::Ignored, ..TowerOptions::default() };
            let arch = session.tower(extents, &self.binding.choice(&self.graph))?.arch;
            let (threads, runtime) = (self.threads, self.onnxruntime.as_deref().map(Into::into));
            let options = EncoderOptions { threads, runtime, ..EncoderOptions::default() };
            let options = self.placement.applied_to(self.provider.applied_to(options));
            let (encoder, trials) = Encoder::with_fastest_graph(&arch, &graph, session.model(), &options)?;
            provider::tell(encoder.execution());
            trials
        } else {
            Vec::new()
        };
        if let Some(path) = &self.output {
            map.save(path, &[])?;
        }

        let (kept, kept_bytes) = graph.kept();
        if as_json {
            let trials: Vec<_> = trials
                .iter()
                .map(|t| json!({ "form": t.form, "ms": t.result.as_ref().ok(), "failed": t.result.as_ref().err(), "chosen": t.is_chosen }))
                .collect();
            return output::json(&json!({
                "graph": &*self.graph, "map": map, "inputs": graph.layout().tensors().len(),
                "kept": { "constants": kept, "bytes": kept_bytes }, "forms": trials,
            }));
        }
        let mut rows = Vec::new();
        for (name, mapped) in &map.tensors {
            let sum: Vec<_> = mapped.sum.iter().map(describe).collect();
            let folded = if mapped.is_folded() { "folded: " } else { "" };
            rows.push(vec![name.clone(), format!("{folded}{}", sum.join(" + "))]);
        }
        let mut text = output::table(&rows);
        text += &format!(
            "\n{}: {} → {}, {} constants found; {} become inputs, {kept} others stay ({})\n",
            self.graph.display(),
            map.pixels,
            map.output,
            map.tensors.len(),
            graph.layout().tensors().len(),
            output::bytes(kept_bytes),
        );
        for trial in &trials {
            let chosen = if trial.is_chosen { ", the fastest" } else { "" };
            text += &match &trial.result {
                Ok(ms) => format!("{}: {ms:.2} ms per image{chosen}\n", trial.form),
                Err(why) => format!("{}: not possible: {why}\n", trial.form),
            };
        }
        output::text(&text)
    }
}
