//! From a command line to options that make sense together, with every path on this machine.

use std::ffi::OsString;
use std::io::ErrorKind;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};
use taskbasis::{Error, Result};

use super::conflicts::{Given, Refused};
use super::{checkpoints, conflicts, output, paths};

/// The options of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "Of every command")]
pub struct GlobalArgs {
    /// Print JSON for programs to read, instead of text.
    #[arg(long, global = true)]
    pub json: bool,

    /// Of several image towers in a checkpoint, take the one whose names, or whose model's, begin so: `teacher`,
    /// `ema.visual`.
    #[arg(long, global = true, value_name = "PREFIX")]
    pub prefix: Option<String>,

    /// Read files into memory instead of mapping them: for a disk that may fail, or files that others may shorten,
    /// which are then errors that name the place. It takes as much memory as they have bytes.
    #[arg(long, global = true)]
    pub read: bool,

    /// Tell the progress of long work on stderr, as JSON lines for programs to read.
    #[arg(long, global = true)]
    pub progress: bool,
}

/// A program's options.
pub trait Options: CommandFactory + FromArgMatches {
    fn global(&self) -> &GlobalArgs;

    /// The first option that could have no effect with what else is given.
    fn conflict(&self, given: &Given<'_>) -> Refused;

    /// What is to be known before anything is downloaded.
    ///
    /// # Errors
    /// What keeps the command from being run.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The options that `arguments` say; exits where they are not understood, or say something in vain. Paths of the Hub
/// are on this machine afterwards.
///
/// # Errors
/// As [`paths::settle`] and [`Options::check`].
pub fn read<P: Options>(arguments: impl Iterator<Item = OsString>) -> Result<P> {
    let mut command = P::command();
    let parsed = command.try_get_matches_from_mut(arguments);
    let parsed = parsed.and_then(|matches| Ok((P::from_arg_matches(&matches)?, matches)));
    let (program, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(text) if text.use_stderr() => text.exit(),
        // Help, or the version.
        Err(text) => {
            let printed = text.print().or_else(|e| match e.kind() {
                ErrorKind::BrokenPipe => Ok(()),
                _ => Err(Error::io("cannot write", "standard output", e)),
            });
            printed?;
            std::process::exit(0);
        }
    };
    refuse_conflicts(&program, &mut command, &matches);
    output::progress_for_programs(program.global().progress);
    if program.global().read {
        taskbasis::mmap::read_all_files();
    }
    program.check()?;
    if paths::settle()? {
        // Whether a file of the Hub is a bundle is known only now.
        refuse_conflicts(&program, &mut command, &matches);
    }
    checkpoints::prefer(program.global().prefix.clone());
    Ok(program)
}

/// Exits where an option could have no effect, with the usage of the command that has it.
fn refuse_conflicts<P: Options>(program: &P, command: &mut Command, matches: &ArgMatches) {
    let (name, matches) = matches.subcommand().map_or((None, matches), |(name, matches)| (Some(name), matches));
    let Some(refused) = program.conflict(&Given::of(matches)) else { return };
    command.build();
    let command = match name {
        Some(name) => command.find_subcommand_mut(name).expect("the command that was parsed"),
        None => command,
    };
    conflicts::error(command, refused).exit()
}
