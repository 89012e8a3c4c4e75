//! What a command reads and what it writes, by its arguments: nothing that is read is ever written over.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::{ArgMatches, Command, ValueHint};
use taskbasis::{Result, check_output};

/// The arguments of what is written, the bundle that `add-task` lets grow among them. Whatever else takes a path reads
/// what is there.
const WRITTEN: [&str; 5] = ["output", "report", "keep_files", "tensorrt_cache", "grown"];

/// What this command writes; set once, before any work.
static OUTPUTS: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Whether `flag`, as in `--report`, takes the path of what is written.
pub fn is_written(flag: &str) -> bool {
    flag == "-o" || flag.strip_prefix("--").is_some_and(|long| WRITTEN.contains(&long.replace('-', "_").as_str()))
}

/// Refuses an output that is one of the files that the command line names to be read, or lies in a folder that it names
/// and is there already. Every argument that takes a path counts, also as in `TASK=PATH`.
pub fn check(program: &Command, arguments: &ArgMatches) -> Result<()> {
    let Some((name, given)) = arguments.subcommand() else { return Ok(()) };
    let command = program.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for argument in command.filter(|argument| argument.get_value_hint() != ValueHint::Unknown) {
        let id = argument.get_id().as_str();
        for value in given.get_raw(id).into_iter().flatten() {
            if WRITTEN.contains(&id) {
                outputs.push(PathBuf::from(value));
                continue;
            }
            inputs.push(PathBuf::from(value));
            let after_name = value.to_str().and_then(|value| value.split_once('='));
            inputs.extend(after_name.map(|(_, path)| path.into()));
            // FOLDER:SET, of data.
            let before_set = after_name.and_then(|(_, path)| path.rsplit_once(':'));
            inputs.extend(before_set.map(|(folder, _)| folder.into()));
        }
    }
    OUTPUTS.get_or_init(|| outputs);
    protect(inputs.iter().map(PathBuf::as_path))
}

/// Refuses an output that is one of `inputs`: files that the arguments do not name, but lead to.
pub fn protect<'a>(inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let inputs: Vec<&Path> = inputs.into_iter().collect();
    // What is not there yet overwrites nothing, and a folder is never replaced.
    let files = OUTPUTS.get().into_iter().flatten().filter(|output| output.is_file());
    files.into_iter().try_for_each(|output| check_output(output, &inputs))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_argument_that_names_a_file_is_seen() {
        let program = crate::Program::command();
        let mut written = Vec::new();
        for command in program.get_subcommands().filter(|command| command.get_name() != "pull") {
            for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
                let names = argument.get_value_names().unwrap_or_default();
                let is_file = |name: &str| {
                    name.contains('.') || ["FILE", "FOLDER", "DATA", "IMAGE"].iter().any(|n| name.contains(n))
                };
                let is_seen = argument.get_value_hint() != ValueHint::Unknown;
                assert!(is_seen || !names.iter().any(|name| is_file(name)), "{} {names:?}", command.get_name());
                written
                    .extend(is_seen.then(|| argument.get_id().to_string()).filter(|id| WRITTEN.contains(&id.as_str())));
            }
        }
        assert!(WRITTEN.iter().all(|id| written.iter().any(|w| w == id)), "{written:?}");
        assert!(is_written("-o") && is_written("--tensorrt-cache") && !is_written("--keep") && !is_written("--base"));
    }
}
