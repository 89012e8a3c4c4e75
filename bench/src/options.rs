//! The parts that are to be measured, as the command line says it.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use taskbasis::StoredFormat;

use crate::args::EncoderArgs;
use crate::command_line::{GlobalArgs, Options};
use crate::conflicts::{Given, Refused, option, options};
use crate::paths::{BasePath, InPath, OutPath};

/// Measure opening, reconstruction, switching, encoding, memory and storage, as ratios taken in one run.
///
/// Every comparison is made with its variants taking turns, in every precision unless --precision asks for one. Files
/// of a synthetic family need 4 GB in the temporary folder (or where they are kept) by default, 14 GB for ViT-L-14 with
/// ten vectors. With --provider cuda or tensorrt also weights in the GPU's memory, and what encodes with them.
/// docs/performance.md tells what each figure is.
#[derive(Parser)]
#[command(name = "taskbasis bench", bin_name = "taskbasis bench", version, max_term_width = 110)]
pub struct Bench {
    /// Basis to measure: a folder or a bundle.
    #[arg(long, value_name = "FOLDER|BUNDLE")]
    pub basis: Option<InPath>,

    /// The base of that basis; a bundle that holds its base needs none.
    #[arg(long, value_name = "FILE", requires = "basis")]
    pub base: Option<BasePath>,

    /// Make a family with random values instead: ViT-B-32, ViT-B-16 or ViT-L-14.
    #[arg(long, value_name = "MODEL", default_value = "ViT-B-32", conflicts_with = "basis")]
    pub synthetic: String,

    /// T, the tasks of a synthetic family.
    #[arg(long, value_name = "T", default_value_t = 8, conflicts_with = "basis")]
    pub tasks: usize,

    /// M, the vectors of a synthetic family.
    #[arg(long, value_name = "M", default_value_t = 4, conflicts_with = "basis")]
    pub vectors: usize,

    /// Reconstruct from vectors in these formats too.
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', num_args = 0.., default_value = "f16,bf16,q8,q4")]
    pub formats: Vec<StoredFormat>,

    /// Keep the synthetic family's files in this folder, and use those that are there.
    #[arg(long, value_name = "FOLDER", conflicts_with = "basis")]
    pub keep_files: Option<OutPath>,

    /// Measure OpenVINO in f32 and bf16, ONNX Runtime's dynamic int8 and PyTorch in bf16, too, in turns with taskbasis
    /// on the same weights, images and threads: a Python, or the folder of an environment, with the packages openvino,
    /// onnxruntime, onnx, torch and numpy, or some of them.
    #[arg(long, value_name = "PYTHON", value_hint = clap::ValueHint::ExecutablePath)]
    pub peers: Option<PathBuf>,

    /// Measure these alone.
    #[arg(long, value_name = "PART", value_delimiter = ',', value_enum)]
    pub only: Vec<Part>,

    /// Fewer repetitions: to see that it works, not to quote.
    #[arg(long)]
    pub quick: bool,

    /// Write a report with plots, too: one HTML file that needs nothing else.
    #[arg(long, value_name = "OUT.html")]
    pub report: Option<OutPath>,

    /// Measure instead how time grows with vectors, parameters, threads and tasks, on synthetic families.
    #[arg(long, conflicts_with_all = ["basis", "soak", "graph"])]
    pub growth: bool,

    /// Measure instead which hints for the caches help this processor, from vectors of all --formats: the value of
    /// TASKBASIS_HINTS that makes reconstruction fastest here.
    #[arg(long, conflicts_with_all = ["growth", "soak", "graph"])]
    pub tune: bool,

    /// For this many seconds, run instead random tasks and expressions on four threads with a budget of three weights,
    /// from vectors in all --formats: as inputs, promoted, and block by block. Every result must be its first's, and
    /// neither memory nor open files may grow. Exits with 1 otherwise.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, conflicts_with = "graph")]
    pub soak: Option<f64>,

    /// What `bench` starts to measure a process's memory.
    #[arg(long, hide = true)]
    pub probe_memory: bool,

    #[command(flatten)]
    pub encoder: EncoderArgs,

    #[command(flatten)]
    pub global: GlobalArgs,
}

/// A part that is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Open,
    Reconstruct,
    Switch,
    Encode,
    Memory,
    Storage,
    // Without the provider's libraries all of it but encoding.
    Device,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("a number of seconds, more than 0".into()),
    }
}

impl Options for Bench {
    fn global(&self) -> &GlobalArgs {
        &self.global
    }

    fn conflict(&self, given: &Given<'_>) -> Refused {
        if self.probe_memory {
            return None;
        }
        let measured = if self.growth {
            let mut heard = vec![
                option!(Self, growth),
                option!(Self, quick),
                option!(Self, keep_files),
                option!(Self, report),
                option!(EncoderArgs, threads),
            ];
            heard.extend(options::<GlobalArgs>());
            let others = options::<Self>().into_iter().filter(|id| !heard.contains(id));
            given.first(others, "cannot be used with '--growth', which measures families of its own")
        } else if self.tune {
            let mut unheard = vec![option!(Self, only), option!(Self, peers), option!(EncoderArgs, batch)];
            unheard.extend([option!(EncoderArgs, built_graph), option!(EncoderArgs, optimise_graph)]);
            unheard.extend(EncoderArgs::running());
            given.first(unheard, "cannot be used with '--tune'")
        } else if self.soak.is_some() {
            let unheard = [
                option!(Self, only),
                option!(Self, quick),
                option!(Self, peers),
                option!(EncoderArgs, batch),
                option!(EncoderArgs, built_graph),
                option!(EncoderArgs, optimise_graph),
            ];
            given.first(unheard, "cannot be used with '--soak'")
        } else {
            self.left_out(given)
        };
        measured.or_else(|| self.encoder.conflict(None, given))
    }
}

impl Bench {
    /// An option of parts that `--only` leaves out.
    fn left_out(&self, given: &Given<'_>) -> Refused {
        if self.only.is_empty() {
            return None;
        }
        let graph =
            [option!(EncoderArgs, graph), option!(EncoderArgs, built_graph), option!(EncoderArgs, optimise_graph)];
        let rules: [(&[Part], Vec<clap::Id>); 5] = [
            (&[Part::Reconstruct, Part::Switch, Part::Storage, Part::Device], vec![option!(Self, formats)]),
            (&[Part::Encode], graph.to_vec()),
            (&[Part::Encode], vec![option!(Self, peers)]),
            (&[Part::Encode, Part::Device], vec![option!(EncoderArgs, batch)]),
            (&[Part::Open, Part::Switch, Part::Encode, Part::Memory, Part::Device], EncoderArgs::running()),
        ];
        rules.into_iter().filter(|(of, _)| !of.iter().any(|part| self.only.contains(part))).find_map(|(of, options)| {
            let names: Vec<String> =
                of.iter().filter_map(Part::to_possible_value).map(|v| v.get_name().into()).collect();
            given.first(options, &format!("is for the parts {}, which '--only' leaves out", names.join(", ")))
        })
    }
}
