//! `taskbasis-bench`, which `taskbasis bench` starts: taskbasis beside what it is compared with.
#![allow(unreachable_pub)] // A program exports nothing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod device;
mod encode;
mod family;
mod frozen;
mod grouped;
mod growth;
mod html;
mod machine;
mod memcpy;
#[cfg(test)]
#[allow(dead_code, unreachable_pub)] // What every test program shares.
#[path = "../../tests/support/need.rs"]
mod need;
mod never_seen;
mod onnx_file;
mod open;
mod options;
mod packed;
mod peers;
mod reconstruct;
mod samples;
#[path = "../../src/bin/taskbasis/shared/mod.rs"]
#[allow(dead_code, unused_imports)] // The other program has uses for all of it.
mod shared;
mod soak;
mod switch;
mod synthetic;
mod tune;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use taskbasis::{
    Cuda, Encoder, EncoderOptions, Error, ErrorKind, Precision, PrecisionChoice, Promotion, Provider, Result, Runtime,
    check_output, replace_file,
};

use self::family::{About, Dice, Family};
use self::machine::Machine;
use self::never_seen::NeverSeen;
use self::options::{Bench, Part};
use self::shared::{args, checkpoints, command_line, conflicts, output, paths, provider, report};
use self::synthetic::Synthetic;
use crate::args::EncoderArgs;

/// 0: done; 1: failed, with one paragraph on stderr; 2: not understood (clap exits by itself).
fn main() -> ExitCode {
    // SAFETY: the program has no other thread yet.
    unsafe { Runtime::switch_off_telemetry() };
    let run = || command_line::read(std::env::args_os()).and_then(Bench::run);
    match taskbasis::mmap::end_on_lost_pages(|| ()).and_then(|()| run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Everything that was measured, as `--json` prints it.
#[derive(Default, Serialize)]
struct Report {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<About>,
    quick: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<open::Open>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconstruct: Option<reconstruct::Reconstruct>,
    #[serde(skip_serializing_if = "Option::is_none")]
    switch: Option<switch::Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encode: Option<encode::Encode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<open::Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<open::Storage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<device::Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<growth::Growth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tune: Option<tune::Tune>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soak: Option<soak::Soak>,
}

/// The set-up that every measurement needs.
struct Setup<'a> {
    family: &'a Family,
    about: &'a About,
    /// Threads for reconstruction and for encoding; never 0.
    threads: usize,
    quick: bool,
    /// The options of what is measured in one precision: the first of `precisions`.
    encoder: EncoderOptions,
    /// Never none.
    precisions: Vec<PrecisionChoice>,
    /// The Python that has the peers.
    peers: Option<&'a Path>,
    /// The user's graph, and how it is bound.
    args: &'a EncoderArgs,
    batches: Vec<usize>,
}

impl Bench {
    fn run(self) -> Result<()> {
        let as_json = self.global.json;
        let threads = if self.encoder.threads == 0 { machine::processors() } else { self.encoder.threads };
        if let Some(report) = &self.report {
            check_output(report, &[])?;
        }
        let options = self.settled(EncoderOptions { threads, ..self.encoder.options() })?;
        // What cannot be had is said before minutes are spent on the rest.
        let gpu = self.gpu(&options)?;
        if self.encodes() && device::is_asked_for(&options) {
            Runtime::load(options.runtime.as_deref())?.check_provider(options.provider, options.device)?;
        }
        if let Some(python) = self.peers.as_deref().filter(|_| !self.probe_memory) {
            if options.provider != Provider::Cpu {
                return Err(Error::unsupported("the peers run on the CPU").got(options.provider));
            }
            peers::check(python)?;
        }
        let mut report = Report {
            machine: Machine::look(threads, &options, self.encodes())?,
            quick: self.quick,
            ..Report::default()
        };
        if self.growth {
            report.growth = Some(growth::measure(threads, self.quick, self.keep_files.as_deref())?);
        } else {
            let mut family = self.family()?;
            let about = family.about(&self.encoder)?;
            let parts = [Part::Reconstruct, Part::Switch, Part::Storage].into_iter().any(|part| self.wants(part));
            let parts = parts || gpu.is_some();
            if (parts || self.soak.is_some() || self.tune) && !self.probe_memory {
                family.add_formats(&self.formats, about.arch.hints())?;
            }
            let setup = Setup {
                family: &family,
                about: &about,
                threads,
                quick: self.quick,
                batches: batches(self.encoder.batch as usize, device::is_asked_for(&options)),
                precisions: precisions(self.encoder.precision, &options),
                peers: self.peers.as_deref(),
                encoder: options,
                args: &self.encoder,
            };
            // What is wrong with a graph is said before minutes are spent on the rest. Nothing of it stays mapped.
            if self.encoder.graph.is_some() && !self.probe_memory {
                encode::graph(&setup, &family.session(family.basis(), threads, 0)?)?;
            }
            if self.probe_memory {
                return output::json(&open::probe(&setup)?);
            }
            match self.soak {
                Some(seconds) => report.soak = Some(soak::run(&setup, seconds)?),
                None if self.tune => report.tune = Some(tune::measure(&setup)?),
                None => self.measure(&setup, gpu.as_ref(), &mut report)?,
            }
            report.family = Some(about);
        }
        if as_json {
            let value = serde_json::to_value(&report);
            output::json(&value.map_err(|e| Error::new(ErrorKind::Internal, "cannot write JSON").because(e))?)?;
        } else {
            output::text(&report.text())?;
        }
        if let Some(path) = &self.report {
            let page = html::page(&report)?;
            replace_file(path, &[], |sibling| {
                std::fs::write(sibling, &page).map_err(|e| Error::io("cannot write", path, e))
            })?;
        }
        match &report.soak {
            Some(soak) if !soak.passed => Err(Error::new(ErrorKind::Internal, "the soak failed")
                .expected("no error, every result its first's, memory that does not grow")),
            _ => Ok(()),
        }
    }

    fn family(&self) -> Result<Family> {
        if let Some(basis) = &self.basis {
            return Family::given(basis, self.base.as_deref());
        }
        let wanted = Synthetic::named(&self.synthetic, self.tasks, self.vectors)?;
        Family::synthetic(&wanted, &self.synthetic, self.keep_files.as_deref())
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether anything that is measured needs ONNX Runtime, and the provider.
    fn encodes(&self) -> bool {
        let parts = [Part::Open, Part::Switch, Part::Encode, Part::Memory];
        !self.growth
            && !self.tune
            && (self.soak.is_some() || self.probe_memory || parts.into_iter().any(|part| self.wants(part)))
    }

    /// The options with a provider in the place of `auto`, so that everything runs on the same.
    fn settled(&self, options: EncoderOptions) -> Result<EncoderOptions> {
        if options.provider != Provider::Auto {
            return Ok(options);
        }
        // There may be nothing that the CPU could do instead.
        let checked = match self.only == [Part::Device] {
            true => Ok(()),
            false => Runtime::load(options.runtime.as_deref())?.check_provider(Provider::Cuda, options.device),
        };
        match checked {
            Ok(()) => Ok(EncoderOptions { provider: Provider::Cuda, ..options }),
            Err(why) => {
                provider::tell_fallback(&why.to_string());
                Ok(EncoderOptions { provider: Provider::Cpu, device: 0, ..options })
            }
        }
    }

    /// The GPU, where it is to be measured.
    fn gpu(&self, options: &EncoderOptions) -> Result<Option<Cuda>> {
        if self.growth || self.tune || self.soak.is_some() || self.probe_memory || !self.wants(Part::Device) {
            return Ok(None);
        }
        if !device::is_asked_for(options) {
            // By itself it is not measured without a GPU.
            return if self.only.is_empty() { Ok(None) } else { Err(no_gpu(options.provider)) };
        }
        match Cuda::open(options.device as usize) {
            Err(error) if self.only.is_empty() && self.encoder.options().provider == Provider::Auto => {
                output::note(&format!("weights in the GPU's memory are not measured: {error}"));
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    fn measure(&self, setup: &Setup<'_>, gpu: Option<&Cuda>, report: &mut Report) -> Result<()> {
        let parts = if self.only.is_empty() { 6 + usize::from(gpu.is_some()) } else { self.only.len() };
        let bar = output::progress(parts, "measuring");
        // Memory first: what this process maps and allocates later is not its child's, but the machine's.
        if self.wants(Part::Memory) {
            report.memory = Some(open::memory(setup)?);
            bar.inc(1);
        }
        if self.wants(Part::Storage) {
            report.storage = Some(open::storage(setup)?);
            bar.inc(1);
        }
        if self.wants(Part::Open) {
            report.open = Some(open::measure(setup)?);
            bar.inc(1);
        }
        if self.wants(Part::Reconstruct) {
            report.reconstruct = Some(reconstruct::measure(setup)?);
            bar.inc(1);
        }
        if self.wants(Part::Switch) {
            report.switch = Some(switch::measure(setup)?);
            bar.inc(1);
        }
        if self.wants(Part::Encode) {
            report.encode = Some(encode::measure(setup)?);
            bar.inc(1);
        }
        if let Some(cuda) = gpu {
            report.device = Some(device::measure(setup, cuda)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }
}

fn no_gpu(provider: Provider) -> Error {
    let error = Error::invalid("the part `device` is measured on a GPU").got(format_args!("--provider {provider}"));
    error.hint("Ask for one with --provider cuda or tensorrt")
}

/// 1, 2, 8 and 32, on a GPU 64, 128 and 256 too, as far as `most` allows, and `most`.
fn batches(most: usize, on_gpu: bool) -> Vec<usize> {
    let usual: &[usize] = if on_gpu { &[1, 2, 8, 32, 64, 128, 256] } else { &[1, 2, 8, 32] };
    let mut batches: Vec<usize> = usual.iter().copied().filter(|&batch| batch < most).collect();
    batches.push(most);
    batches
}

/// The one that is asked for, else all that the provider has.
fn precisions(asked: Option<PrecisionChoice>, options: &EncoderOptions) -> Vec<PrecisionChoice> {
    match asked {
        Some(precision) => vec![precision],
        None if device::is_asked_for(options) => vec![PrecisionChoice::default()],
        None => Precision::ALL.map(Into::into).to_vec(),
    }
}

impl Setup<'_> {
    /// An encoder in a precision, which never promotes.
    fn encoder_in(&self, precision: PrecisionChoice) -> Result<Encoder> {
        let options = EncoderOptions { promotion: Promotion::Off, precision, ..self.encoder.clone() };
        Encoder::new(&self.about.arch, &options)
    }

    /// An encoder that promotes as it is told, for one call at a time.
    fn encoder(&self, promotion: Promotion) -> Result<Encoder> {
        let mut options = EncoderOptions { promotion, ..self.encoder.clone() };
        if promotion != Promotion::Off {
            // Packed weights are not promoted.
            options.precision = Precision::F32.into();
        }
        Encoder::new(&self.about.arch, &options)
    }

    /// Preprocessed images, the same every time.
    fn pixels(&self, n: usize) -> Vec<f32> {
        Dice::new(2).pixels(n * self.about.arch.pixels())
    }

    /// Numbers of vectors that are worth a measurement: all of a few, some of many.
    fn vector_counts(&self) -> Vec<usize> {
        let all = self.about.vectors;
        (1..=all).filter(|&m| m <= 4 || m == all || (m.is_power_of_two() && m < all)).collect()
    }

    /// One thread, and all of them.
    fn thread_counts(&self) -> Vec<usize> {
        std::iter::once(1).chain((self.threads > 1).then_some(self.threads)).collect()
    }

    /// What of the architecture shapes do not tell, as another `taskbasis bench` takes it.
    fn arch_arguments(&self) -> Result<Vec<String>> {
        let arch = &self.about.arch;
        // Files call them as options do.
        let name = |value| serde_json::from_value::<String>(value).map_err(|e| Error::invalid("no name").because(e));
        let activation = name(serde_json::json!(arch.activation))?;
        let pooling = name(serde_json::json!(arch.variant.pooling))?;
        let all = [
            ("--activation", activation),
            ("--heads-count", arch.heads.to_string()),
            ("--norm-eps", arch.variant.norm_epsilon.to_string()),
            ("--pooling", pooling),
        ];
        Ok(all.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
    }
}

impl Report {
    fn text(&self) -> String {
        let pairs = |rows: Vec<[String; 2]>| {
            rows.iter().fold(String::new(), |text, [name, value]| text + &format!("{name:<46}  {value}\n"))
        };
        let mut parts = vec![self.machine.text() + "\n" + &self.family.as_ref().map_or(String::new(), About::text)];
        if self.quick {
            parts[0] += "--quick: few repetitions, not to be quoted\n";
        }
        parts.extend(self.open.as_ref().map(|open| pairs(open.rows())));
        let table = |rows: &[Vec<String>]| if rows.len() > 1 { output::table(rows) + "\n" } else { String::new() };
        if let Some(reconstruct) = &self.reconstruct {
            let packed = table(&packed::rows(&reconstruct.packed));
            parts.push(table(&reconstruct.rows()) + &packed + &pairs(reconstruct.other_rows()));
        }
        if let Some(switch) = &self.switch {
            parts.push(pairs(switch.rows()) + "\n" + &output::table(&NeverSeen::rows(&switch.never_seen)));
        }
        if let Some(encode) = &self.encode {
            let of_graph = encode.graph_rows().map_or_else(String::new, |rows| table(&rows));
            parts.push(table(&encode.rows()) + &table(&encode.peer_rows()) + &of_graph + &pairs(encode.other_rows()));
        }
        parts.extend(self.memory.as_ref().map(|memory| pairs(memory.rows())));
        parts.extend(self.storage.as_ref().map(|storage| pairs(storage.rows(self.tasks()))));
        if let Some(device) = &self.device {
            parts.extend(device.tables().iter().map(|table| output::table(table)));
            parts.push(pairs(device.rows()));
        }
        parts.extend(self.growth.iter().flat_map(growth::Growth::tables).map(|table| output::table(&table)));
        parts.extend(self.tune.as_ref().map(|tune| output::table(&tune.table()) + "\n" + &pairs(tune.rows())));
        parts.extend(self.soak.as_ref().map(|soak| output::table(&soak.rows())));
        parts.join("\n")
    }

    fn tasks(&self) -> usize {
        self.family.as_ref().map_or(0, |family| family.tasks)
    }
}
