//! `taskbasis eval`

mod analogy;
mod baseline;
mod data;
mod finetuned;
mod layers;
mod measured;
mod negate;
mod options;
mod plain;
mod report;
mod routed;
mod sweep;
mod workbench;

use taskbasis::Result;

use self::data::Images;
pub use self::data::{labels, open_data};
pub use self::options::{DataArg, Eval};
use self::workbench::Bench;
use crate::conflicts::{Given, Refused, option};
use crate::route::leaves_choice;

impl Eval {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        // Clap asks for nothing that conflicts with what was typed.
        let written = self.tasks_dir.is_none().then(|| given.first([option!(Self, accuracies)], "needs '--tasks-dir'"));
        written.flatten().or_else(|| self.encoder.conflict(Some(&self.model), given))
    }

    /// Whether one accuracy per task is all that is asked for.
    fn is_plain(&self) -> bool {
        let swept = self.sweep.is_some() || self.sweep_layers;
        !(swept || self.negate || self.analogy.is_some() || self.weights.is_some())
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let session = match &self.tasks_dir {
            Some(folder) => baseline::open(&self, folder)?,
            None => self.model.open(self.encoder.threads)?,
        };
        let encoder = self.encoder.encoder(&session)?;
        let images = Images::new(open_data(&self.data)?, &self, &session, encoder.arch())?;
        let bench = Bench { session: &session, encoder, images };
        let is_left = matches!(&*self.tasks, [task] if leaves_choice(task, &session));
        let routing = self.router.open(&session, self.is_plain() && is_left)?;
        if let Some(folder) = &self.accuracies {
            baseline::accuracies(&self, &bench, folder, as_json)?;
            bench.images.tell_skipped();
            return Ok(());
        }
        match (&self.sweep, self.negate, &self.analogy) {
            (sweep, true, _) => negate::run(&self, &bench, sweep.clone(), as_json),
            (sweep, false, Some(analogy)) => analogy::run(&self, &bench, analogy, sweep.clone(), as_json),
            (Some(sweep), false, None) => sweep::run(&self, &bench, sweep, as_json),
            (None, false, None) if self.sweep_layers => layers::run(&self, &bench, as_json),
            (None, false, None) => match &routing {
                Some(routing) => routed::run(&self, &bench, routing, as_json),
                None => plain::run(&self, &bench, as_json),
            },
        }?;
        bench.images.tell_skipped();
        Ok(())
    }
}
