//! `taskbasis bench`

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use clap::Args;
use taskbasis::{Error, Result};

use crate::command_line::GlobalArgs;

/// Measure opening, reconstruction, switching, encoding, memory and storage, as ratios taken in one run.
///
/// A program of its own, `taskbasis-bench`, which has to be beside this one; `taskbasis bench --help` is its help.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Bench {
    /// What it takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    arguments: Vec<OsString>,
}

impl Bench {
    /// Replaces this process by the other program, where the system can.
    pub fn run(self, global: &GlobalArgs) -> Result<()> {
        let this = std::env::current_exe().map_err(|e| Error::io("cannot find this program", "taskbasis", e))?;
        let bench = this.with_file_name(format!("taskbasis-bench{}", std::env::consts::EXE_SUFFIX));
        let mut command = Command::new(&bench);
        let is_given = |option: &str| self.arguments.iter().any(|argument| argument == option);
        let flags = [("--json", global.json), ("--progress", global.progress), ("--read", global.read)];
        command.args(flags.iter().filter(|(flag, is_set)| *is_set && !is_given(flag)).map(|(flag, _)| flag));
        let prefix = global.prefix.iter().filter(|_| !is_given("--prefix"));
        command.args(prefix.flat_map(|prefix| ["--prefix", prefix])).args(&self.arguments);
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => missing(&bench),
            _ => Error::io("cannot start it", &bench, e),
        };
        #[cfg(unix)]
        return Err(failed(std::os::unix::process::CommandExt::exec(&mut command)));
        #[cfg(not(unix))]
        {
            let ended = command.status().map_err(failed)?;
            std::process::exit(ended.code().unwrap_or(1))
        }
    }
}

fn missing(bench: &Path) -> Error {
    Error::not_found("`taskbasis bench` is a program of its own, which is not beside this one").at(bench).hint(
        "`make install` and the Python package bring it; `cargo install --path bench`, in the sources, installs it alone",
    )
}
