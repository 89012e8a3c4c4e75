//! `taskbasis fit`

mod images;
mod options;
mod report;
mod result;
mod search;
mod tested;

use serde_json::json;
use taskbasis::fit::closed_form;
use taskbasis::{Basis, BasisFile, Error, Grouping, MapMode, Result};

pub use self::options::Fit;
use self::options::Method;
use self::result::{Identity, no_basis, write};
use crate::args::{EncoderArgs, HeadArgs};
use crate::conflicts::{Given, Refused, option, options};
use crate::output;

impl Fit {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let Method::Closed(_) = self.method else {
            let unneeded = self.unlabelled.then(|| option!(Self, alphabetical));
            let unneeded = given.first(unneeded, "is of labels, and --unlabelled looks at none");
            return unneeded.or_else(|| self.encoder.conflict(Some(&self.model), given));
        };
        let of_images = [
            option!(Self, data),
            option!(Self, alphabetical),
            option!(Self, split),
            option!(Self, shots),
            option!(Self, folds),
            option!(Self, unlabelled),
            option!(Self, rounds),
            option!(Self, pull),
            option!(Self, seed),
            option!(Self, test),
            option!(Self, report),
        ];
        let of_runs = options::<EncoderArgs>().into_iter().filter(|id| *id != option!(EncoderArgs, threads));
        let all = of_images.into_iter().chain(options::<HeadArgs>()).chain(of_runs);
        given.first(all, "is of images, and this method looks at none")
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        match self.method {
            Method::Search => search::run(&self, as_json),
            Method::Closed(form) => {
                let path = self.model.basis.as_ref().ok_or_else(no_basis)?;
                let basis = BasisFile::open(path, MapMode::Map)?.into_basis()?;
                let tasks = match self.tasks.as_slice() {
                    [] => recoverable(&basis),
                    tasks => tasks.to_vec(),
                };
                let grouping = self.grouping(&basis)?;
                let expr = closed_form(&basis, &tasks, &grouping, form, self.encoder.threads)?;
                let json = json!({
                    "expression": expr.to_string(), "method": self.method.to_string(), "tasks": tasks,
                    "groups": { "by": self.groups, "count": grouping.len() }, "files": Identity::of(&basis, None)?,
                });
                write(self.output.as_ref(), &json)?;
                if as_json { output::json(&json) } else { output::text(&format!("{expr}\n")) }
            }
        }
    }

    /// The groups that are asked for.
    fn grouping(&self, basis: &Basis) -> Result<Grouping> {
        Grouping::named(basis, &self.groups)
            .ok_or_else(|| Error::invalid("an unknown grouping").expected(Grouping::NAMES.join(", ")).got(&self.groups))
    }
}

/// The tasks that the basis can give back.
fn recoverable(basis: &Basis) -> Vec<String> {
    let tasks = basis.tasks().iter().enumerate().filter(|(t, _)| basis.recovery().is_recoverable(*t));
    tasks.map(|(_, task)| task.clone()).collect()
}
