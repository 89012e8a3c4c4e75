//! The `taskbasis` program: any task of a basis, from one command.
#![allow(unreachable_pub)] // A program exports nothing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod accuracy;
mod add_task;
mod analyze;
mod bench;
mod bind;
mod build;
mod classify;
mod classify_auto;
mod embed;
mod eval;
mod export;
mod expression;
mod extract;
mod family;
mod fit;
mod gate;
mod heads;
mod input;
mod inspect;
mod merge;
mod name;
mod pack;
mod pull;
mod reconstruct;
mod remove_task;
mod route;
#[cfg(feature = "serve")]
mod serve;
mod shared;
mod signals;
mod tasks_dir;
mod unreadable_images;
mod verify;

use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use taskbasis::Result;

use self::command_line::{GlobalArgs, Options};
use self::conflicts::{Given, Refused};
use self::shared::{
    args, checkpoints, choice, command_line, conflicts, graph, hub, output, paths, provider, report, tower,
};

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

    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Reconstruct(reconstruct::Reconstruct),
    Embed(embed::Embed),
    Classify(classify::Classify),
    Eval(Box<eval::Eval>),
    Fit(Box<fit::Fit>),
    Route(Box<route::Route>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    Heads(heads::Heads),
    Build(Box<build::Build>),
    Merge(merge::MergeTasks),
    Analyze(analyze::Analyze),
    Bind(bind::Bind),
    Export(export::Export),
    Extract(extract::Extract),
    Bench(bench::Bench),
    Pack(Box<pack::Pack>),
    Verify(verify::Verify),
    AddTask(add_task::AddTask),
    RemoveTask(remove_task::RemoveTask),
    Name(name::Name),
    Pull(pull::Pull),
}

impl Options for Program {
    fn global(&self) -> &GlobalArgs {
        &self.global
    }

    fn conflict(&self, given: &Given<'_>) -> Refused {
        match &self.command {
            Command::Inspect(_)
            | Command::Reconstruct(_)
            | Command::Extract(_)
            | Command::Bench(_)
            | Command::Merge(_)
            | Command::RemoveTask(_)
            | Command::Name(_) => None,
            Command::Embed(command) => command.conflict(given),
            Command::Classify(command) => command.conflict(given),
            Command::Eval(command) => command.conflict(given),
            Command::Fit(command) => command.conflict(given),
            Command::Route(command) => command.conflict(given),
            #[cfg(feature = "serve")]
            Command::Serve(command) => command.conflict(given),
            Command::Heads(command) => command.conflict(given),
            Command::Build(command) => command.conflict(given),
            Command::Analyze(command) => command.conflict(given),
            Command::Bind(command) => command.conflict(given),
            Command::Export(command) => command.conflict(given),
            Command::Pack(command) => command.conflict(given),
            Command::Verify(command) => command.conflict(given),
            Command::AddTask(command) => command.conflict(given),
            Command::Pull(command) => command.conflict(given),
        }
    }

    fn check(&self) -> Result<()> {
        match &self.command {
            Command::AddTask(command) => command.check_place(),
            Command::RemoveTask(command) => command.check_place(),
            Command::Name(command) => command.check_place(),
            Command::Route(command) => command.check_place(),
            _ => Ok(()),
        }
    }
}

/// 0: done; 1: failed, with one paragraph on stderr; 2: not understood (clap exits by itself).
fn main() -> ExitCode {
    output::keep_panics();
    // SAFETY: the program has no other thread yet.
    unsafe { taskbasis::Runtime::switch_off_telemetry() };
    signals::handle();
    let run = || taskbasis::mmap::end_on_lost_pages(signals::clean_up).and_then(|()| run());
    let done = catch_unwind(run);
    paths::release();
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            output::error(&error);
            ExitCode::FAILURE
        }
        Err(_) => {
            output::defect();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Program { command, global } = command_line::read(std::env::args_os())?;
    let json = global.json;
    match command {
        Command::Inspect(command) => command.run(json),
        Command::Reconstruct(command) => command.run(json),
        Command::Embed(command) => command.run(json),
        Command::Classify(command) => command.run(json),
        Command::Eval(command) => command.run(json),
        Command::Fit(command) => command.run(json),
        Command::Route(command) => command.run(json),
        #[cfg(feature = "serve")]
        Command::Serve(command) => command.run(json),
        Command::Heads(command) => command.run(json),
        Command::Build(command) => command.run(json),
        Command::Merge(command) => command.run(json),
        Command::Analyze(command) => command.run(json),
        Command::Bind(command) => command.run(json),
        Command::Export(command) => command.run(json),
        Command::Extract(command) => command.run(json),
        Command::Bench(command) => command.run(&global),
        Command::Pack(command) => command.run(json),
        Command::Verify(command) => command.run(json),
        Command::AddTask(command) => command.run(json),
        Command::RemoveTask(command) => command.run(json),
        Command::Name(command) => command.run(json),
        Command::Pull(command) => command.run(json),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// What clap is told of options by their names, it can find.
    #[test]
    fn every_option_that_another_names_is_there() {
        super::Program::command().debug_assert();
    }
}
