//! Options that could have no effect, with what else is given, are errors: an option that is accepted has one.
//!
//! Where it is enough to know which options are given, clap sees to it (`requires`, `conflicts_with`). What depends on
//! their values each command tells in a method `conflict`, and here is what it asks. Defaults do not count, nor does
//! what asks for just that which is had, as `--weights-on host` with the CPU.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Id};

/// An option, by the field that holds it: a field that there is not does not compile.
macro_rules! option {
    ($args:ty, $field:ident) => {{
        let _ = std::mem::offset_of!($args, $field);
        clap::Id::from(stringify!($field))
    }};
}
pub(crate) use option;

/// An option that has no effect, and why: what follows "the argument '--option'".
pub type Refused = Option<(Id, String)>;

/// The options of a command that were typed.
pub struct Given<'a>(&'a ArgMatches);

impl<'a> Given<'a> {
    pub fn of(matches: &'a ArgMatches) -> Self {
        Self(matches)
    }

    /// Whether the option, which the command must have, was typed.
    pub fn has(&self, option: &Id) -> bool {
        self.0.value_source(option.as_str()) == Some(ValueSource::CommandLine)
    }

    /// The first of these options that was typed.
    pub fn first(&self, options: impl IntoIterator<Item = Id>, why: &str) -> Refused {
        options.into_iter().find(|option| self.has(option)).map(|option| (option, why.to_owned()))
    }
}

/// The options that a group adds to a command.
pub fn options<A: Args>() -> Vec<Id> {
    A::augment_args(Command::new("")).get_arguments().map(|argument| argument.get_id().clone()).collect()
}

/// The refusal as clap words its own, with the usage of `command`.
pub fn error(command: &mut Command, (option, why): (Id, String)) -> clap::Error {
    let argument = command.get_arguments().find(|argument| *argument.get_id() == option);
    let argument = argument.map_or_else(|| option.to_string(), ToString::to_string);
    command.error(ErrorKind::ArgumentConflict, format!("the argument '{argument}' {why}"))
}
