//! A user's graph: which one, and what it is told about its constants.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile};
use taskbasis::{Error, Model, Result};

/// How to bind a graph.
#[derive(Args)]
pub struct BindArgs {
    /// What the graph's constants are, as `taskbasis bind` wrote it, instead of finding out.
    #[arg(long, value_name = "M.json")]
    pub map: Option<PathBuf>,

    /// The graph's output that gives the embeddings, where that is not clear.
    #[arg(long, value_name = "NAME")]
    pub graph_output: Option<String>,

    /// A parameter that the graph may lack; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub allow_missing: Vec<String>,

    /// A parameter that the graph may hold more than once; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub allow_repeated: Vec<String>,
}

impl BindArgs {
    pub fn bind(&self, path: &PathBuf, model: &Model) -> Result<BoundGraph> {
        let file = Arc::new(OnnxFile::open(path)?);
        let Some(map) = &self.map else {
            let options = BindOptions {
                pixels: None,
                output: self.graph_output.clone(),
                missing: self.allow_missing.clone(),
                repeated: self.allow_repeated.clone(),
            };
            return BoundGraph::bind(file, model.base(), model.basis(), &options);
        };
        let mut read = GraphMap::open(map)?;
        if let Some(output) = &self.graph_output {
            read.output.clone_from(output);
        }
        read.missing.extend(self.allow_missing.iter().cloned());
        read.repeated.extend(self.allow_repeated.iter().cloned());
        BoundGraph::with_map(file, read, model.base(), model.basis()).map_err(|e: Error| e.at(map))
    }
}
