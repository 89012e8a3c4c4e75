//! `hf://` paths in the place of any other: exchanged for local ones before a command sees its arguments.

use std::cell::RefCell;
use std::ffi::OsString;

use indicatif::ProgressBar;
use taskbasis::hub::{Hub, HubEvent, HubOptions, HubPath, Wanted};
use taskbasis::{Error, Result};

use crate::{output, paths};

/// Flags whose folders on the Hub mean the checkpoint that is in them.
const CHECKPOINTS: [&str; 1] = ["--task"];
/// Those of which the configurations beside the checkpoint are read too.
const BASES: [&str; 2] = ["--base", "--text-model"];

/// The arguments of the program with every path of the Hub replaced by that of its local copy; `None` where there is
/// none. `pull` is about such paths, and keeps them.
pub fn localized(arguments: impl Iterator<Item = OsString>) -> Result<Option<Vec<OsString>>> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let is_pull =
        arguments.iter().skip(1).find(|a| !a.as_encoded_bytes().starts_with(b"-")).is_some_and(|a| a == "pull");
    if is_pull {
        return Ok(None);
    }
    let mut hub = None;
    for i in 1..arguments.len() {
        let Some((flag, before, address)) = split(&arguments[i], &arguments[i - 1]) else { continue };
        if paths::is_written(&flag) {
            return Err(Error::unsupported("nothing can be written to the Hub").at(&address));
        }
        // Only a task's `--task NAME=…` is a checkpoint; where it is a name alone, there is no address in it.
        let wanted = match flag.as_str() {
            flag if BASES.contains(&flag) => Wanted::Base,
            flag if CHECKPOINTS.contains(&flag) => Wanted::Checkpoint,
            _ => Wanted::Path,
        };
        if hub.is_none() {
            hub = Some(Hub::new(HubOptions::from_env()?)?);
        }
        let Some(hub) = &hub else { continue };
        let address: HubPath = address.parse()?;
        let watch = Watch::new();
        let local = hub.resolve(&address, wanted, &watch.listener())?;
        watch.finish();
        let mut argument = OsString::from(before);
        argument.push(local);
        arguments[i] = argument;
    }
    Ok(hub.map(|_| arguments))
}

/// Of `hf://…`, `--base=hf://…`, `NAME=hf://…` and `--task=NAME=hf://…`, after `previous`: the flag that it is for,
/// what stands before the address, and the address.
fn split(argument: &OsString, previous: &OsString) -> Option<(String, String, String)> {
    let text = argument.to_str()?;
    let at = text.find("hf://")?;
    let (before, address) = text.split_at(at);
    let flag = match before {
        _ if before.starts_with("--") => before.split_once('=')?.0,
        _ if before.is_empty() || before.ends_with('=') => previous.to_str()?,
        // In the middle of something else, it is no address.
        _ => return None,
    };
    Some((flag.to_owned(), before.to_owned(), address.to_owned()))
}

/// A bar for what is downloaded, and notes on what keeps it waiting.
pub struct Watch {
    bar: RefCell<Option<ProgressBar>>,
}

impl Watch {
    pub fn new() -> Self {
        Self { bar: RefCell::new(None) }
    }

    pub fn listener(&self) -> impl Fn(HubEvent<'_>) + '_ {
        |event| match event {
            HubEvent::Progress { done, total } => {
                let mut bar = self.bar.borrow_mut();
                bar.get_or_insert_with(|| output::transfer(total, "downloading")).set_position(done);
            }
            HubEvent::Waiting { path } => self.say(&format!("another process is downloading {path}; waiting for it")),
            HubEvent::Retry { pause, why } => {
                self.say(&format!("{why}; again in {} s", output::digits(pause.as_secs_f64())));
            }
            _ => {}
        }
    }

    fn say(&self, text: &str) {
        match &*self.bar.borrow() {
            // A line among the bar's would be torn by it.
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_found_where_paths_are() {
        let split = |argument: &str| super::split(&argument.into(), &"--basis".into());
        let of = |flag: &str, before: &str| Some((flag.into(), before.into(), "hf://o/r/a=b".into()));
        assert_eq!(split("hf://o/r/a=b"), of("--basis", ""));
        assert_eq!(split("MNIST=hf://o/r/a=b"), of("--basis", "MNIST="));
        assert_eq!(split("--base=hf://o/r/a=b"), of("--base", "--base="));
        assert_eq!(split("--task=MNIST=hf://o/r/a=b"), of("--task", "--task=MNIST="));
        assert_eq!(split("folder/hf://o/r"), None);
        assert_eq!(split("photo.png"), None);
    }
}
