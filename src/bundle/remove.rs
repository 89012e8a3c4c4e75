//! Taking tasks out of a bundle.

use super::add_tasks::{BundleUpdate, KeptRouter};
use crate::basis::Target;
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};

impl BundleUpdate<'_> {
    /// Takes a task out: its coefficients, its head with its class names, and its residual. The vectors stay, and with
    /// them every other task, to the bit; so a task without a residual frees some bytes only. `all` means the tasks
    /// that are left. A router that knows the task has to go too ([`BundleUpdate::forget_router`]).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown task;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for the last one, for one that the same update
    /// adds or gives a residual, and for one that an expression needs which the bundle keeps.
    pub fn remove(&mut self, task: &str) -> Result<&mut Self> {
        let tasks = &self.metadata.basis.tasks;
        let at = |error: Error| error.at(self.bundle.path());
        let Some(t) = tasks.iter().position(|known| known == task) else {
            return Err(at(unknown("task", task, tasks.iter().map(String::as_str))));
        };
        if tasks.len() == 1 {
            return Err(at(Error::invalid(format!("`{task}` is the bundle's last task"))));
        }
        if self.recombination.is_some() || self.fits.iter().any(|fit| fit.task == task) {
            return Err(at(Error::invalid(format!("the same update changes task `{task}`"))));
        }
        for (name, expr) in self.metadata.named().map_err(at)? {
            if expr.terms().iter().any(|(target, _)| matches!(target, Target::Task(used) if used == task)) {
                let error = Error::invalid(format!("the bundle keeps `{name}`, which needs task `{task}`"));
                return Err(at(error.got(format_args!("{name} = {expr}")))
                    .hint(format!("Forget it first: taskbasis name FILE --forget {name}")));
            }
        }
        self.columns.remove(t);
        let basis = &mut self.metadata.basis;
        basis.tasks.remove(t);
        basis.residuals.retain(|known| known != task);
        self.metadata.classes.remove(task);
        self.metadata.heads.remove(task);
        self.metadata.merges.remove(task);
        for residual in self.residuals.iter_mut().filter(|residual| residual.task > t) {
            residual.task -= 1;
        }
        self.removed.push(task.to_owned());
        Ok(self)
    }

    /// Leaves out the router that the bundle keeps.
    pub fn forget_router(&mut self) -> &mut Self {
        self.router = KeptRouter::LeftOut;
        self
    }
}
