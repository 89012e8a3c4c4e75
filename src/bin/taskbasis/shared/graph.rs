//! A user's graph: which one, and what it is told about its constants.

use std::path::Path;

use clap::Args;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{GraphChoice, Result};

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
    /// The graph at `path`, with these.
    pub fn choice(&self, path: &Path) -> GraphChoice {
        GraphChoice::File {
            path: path.to_path_buf(),
            map: self.map.as_deref().map(Into::into),
            options: BindOptions {
                pixels: None,
                output: self.graph_output.clone(),
                missing: self.allow_missing.clone(),
                repeated: self.allow_repeated.clone(),
            },
        }
    }
}

/// Says what a person should know of a graph that was given. From now on none of its files is written over.
///
/// # Errors
/// As [`paths::protect`].
pub fn tell(graph: &BoundGraph) -> Result<()> {
    // Weights of 2 GiB and more are in a file beside it.
    paths::protect(graph.file().files())?;
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
    Ok(())
}
