//! `taskbasis extract`

use clap::Args;
use serde_json::json;
use taskbasis::onnx::{Extracted, ExtractedTensor, NameSource, OnnxFile, extract};
use taskbasis::{MapMode, Result, Visible, check_output, present};

use crate::paths::{InPath, OutFile};
use crate::{output, paths};

/// Write the weights that an .onnx file holds as a state dict, in safetensors.
///
/// Every constant of floats, also those in files beside the model, by its name in the graph. A matrix that an exporter
/// transposed and renamed gets the name beside the bias that is added behind it, and lies [out, in] as PyTorch keeps
/// it. What the graph tells no name of keeps the graph's, and is named.
#[derive(Args)]
pub struct Extract {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    model: InPath,

    /// The file to write.
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: OutFile,
}

impl Extract {
    pub fn run(self, as_json: bool) -> Result<()> {
        let file = OnnxFile::open_with(&self.model, MapMode::Map)?;
        paths::protect(file.files())?;
        check_output(&self.output, &[])?;
        let extracted = extract(&file)?;
        let bar = output::transfer(extracted.nbytes(), "writing");
        let inputs: Vec<_> = file.files().collect();
        extracted.save(&self.output, &inputs, &|written| bar.set_position(written))?;
        bar.finish_and_clear();

        let after = output::after_writing(&self.output);
        let bytes = present::file_bytes(&self.output).map_err(&after)?;
        self.tell(&extracted, bytes, as_json).map_err(after)
    }

    fn tell(&self, extracted: &Extracted, bytes: u64, as_json: bool) -> Result<()> {
        if as_json {
            let tensors: Vec<_> = extracted.tensors.iter().map(described).collect();
            return output::json(&json!({
                "model": &*self.model, "output": &*self.output, "bytes": bytes, "parameters": extracted.parameters(),
                "tensors": tensors, "left_out": extracted.left_out,
            }));
        }
        let unknown: Vec<&ExtractedTensor> = extracted.unknown().collect();
        if !unknown.is_empty() {
            output::note(&format!(
                "{}: the graph does not tell the state dict's name of {}: {}",
                self.model.display(),
                output::counted(unknown.len(), "tensor"),
                shortened(&unknown),
            ));
        }
        let renamed = extracted.tensors.iter().filter(|tensor| is_recovered(tensor)).count();
        output::text(&format!(
            "{}: {} ({renamed} by names that were found out), {} parameters, {}\n",
            self.output.display(),
            output::counted(extracted.tensors.len(), "tensor"),
            output::grouped(extracted.parameters()),
            output::bytes(bytes),
        ))
    }
}

fn is_recovered(tensor: &ExtractedTensor) -> bool {
    !matches!(tensor.source, NameSource::Graph | NameSource::Unknown)
}

fn described(tensor: &ExtractedTensor) -> serde_json::Value {
    let (named_by, evidence) = match &tensor.source {
        NameSource::Graph => ("graph", None),
        NameSource::Unknown => ("unknown", None),
        NameSource::Beside(name) => ("beside", Some(name)),
        NameSource::Module(value) => ("module", Some(value)),
        NameSource::Positions(name) => ("positions", Some(name)),
    };
    json!({
        "name": tensor.name, "shape": tensor.tensor.shape(), "dtype": tensor.tensor.dtype().to_string(),
        "constants": tensor.constants, "named_by": named_by, "evidence": evidence,
    })
}

/// The first few names.
fn shortened(tensors: &[&ExtractedTensor]) -> String {
    const MAX_SHOWN: usize = 8;
    let names = tensors.iter().take(MAX_SHOWN).map(|tensor| format!("`{}`", Visible(&tensor.name)));
    let more = (tensors.len() > MAX_SHOWN).then(|| "…".to_owned());
    names.chain(more).collect::<Vec<_>>().join(", ")
}
