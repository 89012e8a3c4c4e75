//! The `taskbasis` program: any task of a basis, from one command.
#![allow(unreachable_pub)] // A program exports nothing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod accuracy;
mod add_task;
mod analyze;
mod args;
mod bench;
mod bind;
mod build;
mod checkpoints;
mod classify;
mod conflicts;
mod embed;
mod eval;
mod export;
mod family;
mod graph;
mod heads;
mod hub;
mod input;
mod inspect;
mod output;
mod pack;
mod paths;
mod provider;
mod pull;
mod reconstruct;
mod report;
mod skip;
mod tasks_dir;
mod tower;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use taskbasis::Result;

/// Many fine-tuned CLIP tasks from one compressed basis.
///
/// A task vector basis holds T fine-tuned models in the space of M < T vectors. taskbasis rebuilds the weights of any
/// task, or of any arithmetic of tasks, and runs them on ONNX Runtime. Every path that is read may be one on the
/// Hugging Face Hub, as hf://owner/repo[@revision]/path.
#[derive(Parser)]
#[command(version, about, long_about, max_term_width = 110)]
struct Program {
    #[command(subcommand)]
    command: Command,

    /// Print JSON for programs to read, instead of text.
    #[arg(long, global = true, help_heading = "Of every command")]
    json: bool,

    /// Of several image towers in a checkpoint, take the one whose names, or whose model's, begin so: `teacher`,
    /// `ema.visual`.
    #[arg(long, global = true, value_name = "PREFIX", help_heading = "Of every command")]
    prefix: Option<String>,

    /// Tell the progress of long work on stderr, as JSON lines for programs to read.
    #[arg(long, global = true, help_heading = "Of every command")]
    progress: bool,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Reconstruct(reconstruct::Reconstruct),
    Embed(embed::Embed),
    Classify(classify::Classify),
    Eval(eval::Eval),
    Heads(heads::Heads),
    Build(build::Build),
    Analyze(analyze::Analyze),
    Bind(bind::Bind),
    Export(export::Export),
    Bench(bench::Bench),
    Pack(Box<pack::Pack>),
    Verify(verify::Verify),
    AddTask(add_task::AddTask),
    Pull(pull::Pull),
}

impl Program {
    /// What the arguments say, and the arguments themselves, one by one; exits where they are not understood, or say
    /// something in vain.
    fn given(arguments: impl Iterator<Item = OsString>) -> (Self, ArgMatches) {
        let mut command = Self::command();
        let given = command.try_get_matches_from_mut(arguments).and_then(|matches| {
            conflicts::check(&mut command, &matches)?;
            Ok((Self::from_arg_matches(&matches)?, matches))
        });
        given.unwrap_or_else(|error| error.exit())
    }
}

/// 0: done; 1: failed, with one paragraph on stderr; 2: not understood (clap exits by itself).
fn main() -> ExitCode {
    // SAFETY: the program has no other thread yet.
    unsafe { taskbasis::Runtime::switch_off_telemetry() };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Understood before anything is downloaded.
    let (mut program, mut arguments) = Program::given(std::env::args_os());
    output::progress_for_programs(program.progress);
    if let Command::AddTask(command) = &program.command {
        command.check_place()?;
    }
    if let Some(local) = hub::localized(std::env::args_os())? {
        // The same arguments, now with local paths.
        (program, arguments) = Program::given(local.into_iter());
    }
    checkpoints::prefer(program.prefix.take());
    paths::check(&Program::command(), &arguments)?;
    let json = program.json;
    match program.command {
        Command::Inspect(command) => command.run(json),
        Command::Reconstruct(command) => command.run(json),
        Command::Embed(command) => command.run(json),
        Command::Classify(command) => command.run(json),
        Command::Eval(command) => command.run(json),
        Command::Heads(command) => command.run(json),
        Command::Build(command) => command.run(json),
        Command::Analyze(command) => command.run(json),
        Command::Bind(command) => command.run(json),
        Command::Export(command) => command.run(json),
        Command::Bench(command) => command.run(json),
        Command::Pack(command) => command.run(json),
        Command::Verify(command) => command.run(json),
        Command::AddTask(command) => command.run(json),
        Command::Pull(command) => command.run(json),
    }
}
