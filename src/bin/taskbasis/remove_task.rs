//! `taskbasis remove-task`

use clap::Args;
use serde_json::json;
use taskbasis::{BundleUpdate, Result, Router, Visible, present};

use crate::args::ChangedBundle;
use crate::output;

/// Take tasks out of a bundle: their coefficients, heads and residuals. All other tasks stay as they are, to the bit.
///
/// The vectors stay too, so a task without a residual frees some bytes only.
#[derive(Args)]
pub struct RemoveTask {
    #[command(flatten)]
    changed: ChangedBundle,

    /// The tasks.
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
}

impl RemoveTask {
    /// Says that the bundle is changed.
    ///
    /// # Errors
    /// As [`ChangedBundle::check_place`].
    pub fn check_place(&self) -> Result<()> {
        self.changed.check_place()
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let (bundle, path) = self.changed.open()?;
        let mut update = BundleUpdate::of_names(&bundle);
        for task in &self.tasks {
            update.remove(task)?;
        }
        let router = Router::of_bundle(&bundle)?;
        let knows = |router: &Router| self.tasks.iter().any(|task| router.tasks().contains(task));
        let router_removed = router.as_ref().is_some_and(knows);
        if router_removed {
            update.forget_router();
            output::note("the router that the bundle kept knows a task that is gone, and is left out (route --keep)");
        }
        update.write(path, &[], &|_| {})?;
        let after = output::after_writing(path);
        let bytes = present::file_bytes(path).map_err(&after)?;
        let left = bundle.tasks().len() - self.tasks.len();
        let told = if as_json {
            output::json(&json!({
                "output": path, "bytes": bytes, "bytes_before": bundle.file_bytes(), "removed": self.tasks,
                "tasks": left, "router_removed": router_removed,
            }))
        } else {
            let removed: Vec<String> = self.tasks.iter().map(|task| Visible(task).to_string()).collect();
            output::text(&format!(
                "{}: {}, {} before; without {}, {} left\n",
                path.display(),
                output::bytes(bytes),
                output::bytes(bundle.file_bytes()),
                removed.join(", "),
                output::counted(left, "task"),
            ))
        };
        told.map_err(after)
    }
}
