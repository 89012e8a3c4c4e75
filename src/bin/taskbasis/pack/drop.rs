//! `pack --max-drop`: small formats with which no task loses more than some points.

use std::path::Path;

use taskbasis::bundle::Formats;
use taskbasis::{BaseFormat, Error, ErrorKind, Packer, PartialFolder, Result, TowerConfig};

use super::Pack;
use crate::accuracy::Accuracy;

impl Pack {
    /// The smallest formats found with which every task keeps its accuracy: value by value first, then what the planner
    /// finds in ever fewer bytes.
    pub(super) fn within_drop(
        &self,
        packer: &Packer<'_>,
        tower: &TowerConfig,
        points: f64,
        before: &[Accuracy],
    ) -> Result<Formats> {
        if points.is_nan() || points < 0.0 {
            return Err(Error::invalid("--max-drop must be a number of at least 0").got(points));
        }
        let folder = self.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let trial = PartialFolder::in_folder(folder)?;
        // The bytes of the bundle, where it keeps the promise.
        let kept = |formats: &Formats| {
            let file = trial.path().join("trial.taskbasis");
            let tried =
                self.write(packer, formats, &file).and_then(|report| Ok((report, self.accuracies_after(&file)?)));
            let (report, after) = tried.map_err(|e| e.about(trial.path(), &self.output))?;
            let drop = before.iter().zip(&after).map(|(b, a)| 100.0 * (b.share() - a.share())).fold(f64::MIN, f64::max);
            // Shares of images are no round numbers.
            Ok::<_, Error>((drop <= points + 1e-9).then_some(report.bytes))
        };
        let (mut best, mut bytes) = self.values_within_drop(packer, &kept)?;
        let planner = self.planner(packer, tower)?;
        let least = planner.least_bytes()?;
        // Down to what is not kept, or to less than anything takes.
        while bytes / 10 * 9 >= least {
            let formats = planner.within(bytes / 10 * 9)?;
            let Some(fewer) = kept(&formats)? else { break };
            (best, bytes) = (formats, fewer);
        }
        Ok(best)
    }

    /// The coarsest formats, value by value, of those that are `kept`, and the bundle's bytes.
    fn values_within_drop(
        &self,
        packer: &Packer<'_>,
        kept: &dyn Fn(&Formats) -> Result<Option<u64>>,
    ) -> Result<(Formats, u64)> {
        let mut last = None;
        // The error of a format is half that of one with a bit less; two tries between.
        let bounds = (0..24).map(|step| 0.7 * 0.5f64.powf(f64::from(step) / 2.0)).chain([0.0]);
        for bound in bounds {
            let formats = self.measured(packer, 1, |progress| packer.smallest_of_values(bound, progress))?;
            if last.as_ref() == Some(&formats) {
                continue;
            }
            if let Some(bytes) = kept(&formats)? {
                return Ok((formats, bytes));
            }
            last = Some(formats);
        }
        let rounded = if matches!(self.base_format, BaseFormat::F32 | BaseFormat::LeftOut) { "" } else { " f32" };
        Err(Error::new(ErrorKind::NotFound, "no format keeps every task within the points of --max-drop")
            .hint(format!("Rounding the base may be what costs; try --base-format{rounded}")))
    }
}
