//! Options that could have no effect, with what else is given, are errors: nobody is to believe that they had one.
//!
//! Where it is enough to know which options are given, clap sees to it (`requires`, `conflicts_with`). Here is what
//! depends on their values, told as clap would. Defaults do not count, nor does what asks for just that which is had,
//! as `--weights-on host` with the CPU.

use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};

use taskbasis::Bundle;
use taskbasis::hub::HubPath;

use crate::bench::Bench;
use crate::pack::BundleArgs;
use crate::provider::{PlacementArgs, ProviderArgs};
use crate::tower::ImageArgs;

/// Refuses the first option that could have no effect.
///
/// # Errors
/// [`ErrorKind::ArgumentConflict`], naming it, and what else was given.
pub fn check(program: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    // With its usage.
    program.build();
    let Some(command) = program.find_subcommand_mut(name) else { return Ok(()) };
    let Some((id, why)) = (Given { name, matches }).without_effect() else { return Ok(()) };
    let argument = command.get_arguments().find(|argument| argument.get_id() == id.as_str());
    let argument = argument.map_or_else(|| id.clone(), ToString::to_string);
    Err(command.error(ErrorKind::ArgumentConflict, format!("the argument '{argument}' {why}")))
}

/// What was given to a command.
struct Given<'a> {
    name: &'a str,
    matches: &'a ArgMatches,
}

/// An option, and why it has no effect.
type Refused = Option<(String, String)>;

impl Given<'_> {
    /// Whether the command has the option, and it was typed.
    fn has(&self, id: &str) -> bool {
        self.matches.try_contains_id(id).unwrap_or(false)
            && self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }

    /// The values of an option, or its defaults, as they were typed.
    fn values(&self, id: &str) -> Vec<String> {
        let raw = self.matches.try_get_raw(id).ok().flatten();
        raw.map(|values| values.map(|value| value.to_string_lossy().into_owned()).collect()).unwrap_or_default()
    }

    fn is(&self, id: &str, value: &str) -> bool {
        self.values(id).first().is_some_and(|first| first == value)
    }

    /// The first of these options that was typed.
    fn first<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>, why: &str) -> Refused {
        let id = ids.into_iter().find(|id| self.has(id.as_ref()))?;
        Some((id.as_ref().to_owned(), why.to_owned()))
    }

    fn without_effect(&self) -> Refused {
        let of_command = match self.name {
            "bench" if self.has("probe_memory") => return None,
            "build" => self.of_build(),
            "analyze" => self.of_methods(),
            "add-task" => self.of_classes(),
            "pack" => self.of_pack(),
            "bench" => self.of_bench(),
            "export" => self.of_export(),
            "pull" | "verify" => self.first(["prefix"], "is for commands that read checkpoints"),
            "bind" if !self.has("measure") => self.first(running(), "is for '--measure'"),
            _ => None,
        };
        of_command.or_else(|| self.of_self_test()).or_else(|| self.of_providers())
    }

    /// Compared is the first run over a bundle, where there is room for its base's weights.
    fn of_self_test(&self) -> Refused {
        let of_bundles = "is of runs over a bundle (embed, classify, eval)";
        let is_run = matches!(self.name, "embed" | "classify" | "eval");
        let basis = self.values("basis");
        // What is on the Hub is not known yet.
        let is_bundle = |path: &String| HubPath::is_meant(path) || Bundle::is_bundle(path);
        match basis.first() {
            Some(path) if is_run && is_bundle(path) => {}
            _ => return self.first(["self_test"], of_bundles),
        }
        if self.has("streamed") && self.is("self_test", "on") {
            return self.first(["self_test"], "cannot be used with '--streamed', which has no room for it");
        }
        None
    }

    fn of_providers(&self) -> Refused {
        let on_device = ["device_budget", "cuda_graphs"];
        if self.is("provider", "cpu") {
            let refused = self.first(on_device, "is of a GPU, and '--provider cpu' computes without one");
            if refused.is_some() {
                return refused;
            }
        }
        if self.is("weights_on", "host") {
            let refused = self.first(on_device, "is of weights on the device, where '--weights-on host' has none");
            if refused.is_some() {
                return refused;
            }
        }
        if self.is("provider", "tensorrt") {
            return self.first(["cuda_graphs"], "cannot be used with '--provider tensorrt'");
        }
        self.first(["tensorrt_cache", "tensorrt_fp16"], "needs '--provider tensorrt'")
    }

    fn of_build(&self) -> Refused {
        if !self.is("vectors", "auto") && self.has("keep") {
            return self.first(["keep"], "is for '--vectors auto'");
        }
        let refused = self.of_methods();
        if refused.is_some() {
            return refused;
        }
        let output = self.values("output");
        if output.first().is_some_and(|output| is_bundle(Path::new(output))) {
            let of_folders = "is for a folder's method_info.json, and the output is a bundle";
            return self.first(["model"], of_folders).or_else(|| self.of_pack());
        }
        // Of `--built-graph` `BundleArgs::check` has more to say.
        let of_both = ["threads", "built_graph"];
        let of_bundles = ids::<BundleArgs>().into_iter().filter(|id| !of_both.contains(&id.as_str()));
        self.first(of_bundles, "is of bundles, and the output is a folder: name it `model.taskbasis`")
    }

    fn of_methods(&self) -> Refused {
        let is_pca = self.is("method", "pca");
        let why = "cannot be used with '--method pca', which chooses nothing at random";
        if is_pca { self.first(["seed"], why) } else { None }
    }

    fn of_classes(&self) -> Refused {
        if self.has("heads") { None } else { self.first(["classes"], "needs '--heads'") }
    }

    /// Nothing is run but to measure.
    fn of_pack(&self) -> Refused {
        let measured = || if self.has("data") { None } else { self.first(["batch"], "needs '--data'") };
        let runs = self.has("data") || self.has("optimise_graph");
        // The golden embedding is the CPU's.
        let mut running = running();
        running.retain(|id| self.has("no_golden") || id != "onnxruntime");
        let run = || if runs { None } else { self.first(running, "needs '--data' or '--optimise-graph'") };
        self.of_classes().or_else(measured).or_else(run)
    }

    fn of_bench(&self) -> Refused {
        if self.has("growth") {
            let heard = ["growth", "threads", "quick", "keep_files", "report"];
            let others = ids::<Bench>().into_iter().filter(|id| !heard.contains(&id.as_str()));
            return self.first(others, "cannot be used with '--growth', which measures families of its own");
        }
        if self.has("soak") {
            let unheard = ["formats", "only", "batch", "quick", "built_graph", "optimise_graph"];
            return self.first(unheard, "cannot be used with '--soak'");
        }
        if !self.has("only") {
            return None;
        }
        let parts: Vec<String> = self.values("only").iter().flat_map(|one| one.split(',')).map(str::to_owned).collect();
        let lacks = |of: &[&str]| !parts.iter().any(|part| of.contains(&part.as_str()));
        let because = |of: &[&str]| format!("is for the parts {}, which '--only' leaves out", of.join(", "));
        let rules: [(&[&str], Vec<String>); 4] = [
            (&["reconstruct", "storage", "device"], vec!["formats".into()]),
            (&["encode"], ["graph", "built_graph", "optimise_graph"].map(String::from).to_vec()),
            (&["encode", "device"], vec!["batch".into()]),
            (&["open", "switch", "encode", "memory", "device"], running()),
        ];
        rules.into_iter().filter(|(of, _)| lacks(of)).find_map(|(of, options)| self.first(options, &because(of)))
    }

    fn of_export(&self) -> Refused {
        let run = || {
            let is_run = self.has("optimise_graph");
            if is_run { None } else { self.first(running(), "is for '--optimise-graph': nothing else is run") }
        };
        let of_images = std::iter::once("batch".to_owned()).chain(ids::<ImageArgs>());
        self.first(of_images, "cannot be used with 'export', which encodes no images").or_else(run)
    }
}

/// Whether `build` writes a bundle to this path.
pub fn is_bundle(output: &Path) -> bool {
    output.extension().is_some_and(|extension| extension == "taskbasis")
}

/// The options that say where and with what something is run.
fn running() -> Vec<String> {
    let mut all = vec!["onnxruntime".to_owned()];
    all.extend(ids::<ProviderArgs>());
    all.extend(ids::<PlacementArgs>());
    all
}

/// The options that a group adds to a command.
fn ids<A: Args>() -> Vec<String> {
    A::augment_args(Command::new("")).get_arguments().map(|argument| argument.get_id().to_string()).collect()
}
