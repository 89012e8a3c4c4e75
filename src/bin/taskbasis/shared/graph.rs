//! A user's graph: which one, and what it is told about its constants.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile};
use taskbasis::{Basis, Checkpoint, Error, Result};

use super::paths::InPath;
use super::{output, paths};

/// How to bind a graph.
#[derive(Args)]
pub struct BindArgs {
    /// What the graph's constants are, as `taskbasis bind` wrote it, instead of finding out.
    #[arg(long, requires = "graph", value_name = "M.json")]
    pub map: Option<InPath>,

    /// The graph's output that gives the embeddings, where that is not clear.
    #[arg(long, requires = "graph", value_name = "NAME")]
    pub graph_output: Option<String>,

    /// A parameter that the graph may lack; may be given several times.
    #[arg(long, requires = "graph", value_name = "NAME")]
    pub allow_missing: Vec<String>,

    /// A parameter that the graph may hold more than once; may be given several times.
    #[arg(long, requires = "graph", value_name = "NAME")]
    pub allow_repeated: Vec<String>,
}

impl BindArgs {
    pub fn bind(&self, path: &Path, base: &Checkpoint, basis: Option<&Basis>) -> Result<BoundGraph> {
        let graph = self.bind_untold(path, base, basis)?;
        if !graph.beyond().is_empty() {
            let names = graph.beyond().join(", ");
            output::note(&format!("the graph ends before {names}: what tasks change there is not in its embeddings"));
        }
        if !graph.moved().is_empty() {
            let operators = graph.moved().join(", ");
            output::note(&format!(
                "the graph moves its pixels before the patch embedding ({operators}): if it exchanges red and blue, or \
                 mirrors or cuts the image, it embeds another image than it is given"
            ));
        }
        Ok(graph)
    }

    fn bind_untold(&self, path: &Path, base: &Checkpoint, basis: Option<&Basis>) -> Result<BoundGraph> {
        let file = Arc::new(OnnxFile::open(path)?);
        // Weights of 2 GiB and more are in a file beside it.
        paths::protect(file.files())?;
        let Some(map) = &self.map else {
            let options = BindOptions {
                pixels: None,
                output: self.graph_output.clone(),
                missing: self.allow_missing.clone(),
                repeated: self.allow_repeated.clone(),
            };
            return BoundGraph::bind(file, base, basis, &options);
        };
        let mut read = GraphMap::open(map)?;
        if let Some(output) = &self.graph_output {
            read.output.clone_from(output);
        }
        read.missing.extend(self.allow_missing.iter().cloned());
        read.repeated.extend(self.allow_repeated.iter().cloned());
        BoundGraph::with_map(file, read, base, basis).map_err(|e: Error| match e.source() {
            None => e.because(format!("the map is {}", map.display())),
            Some(_) => e,
        })
    }
}
