//! The λ of tasks and groups, and the few directions in which weights really move with them.

use std::sync::Arc;

use crate::basis::{Basis, Coefficients, Grouping, Selector, Target, TaskExpr};
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{Model, TaskWeights};

/// λ are whole numbers of these: what is measured is what is printed, in few digits.
const GRAIN: f64 = 1e4;

/// λ that are to be found: one for each task and group, group by group.
///
/// Weights move in no more directions than there are vectors. Where these are fewer than tasks, what is measured is how
/// logits change along the vectors; along a task it follows.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) tasks: Vec<String>,
    grouping: Grouping,
    /// The groups that change anything, by their indices in the grouping.
    pub(super) groups: Vec<usize>,
    /// Each task's coefficients at λ = 1.
    columns: Vec<Coefficients>,
    has_mean: bool,
    /// The directions, each as coefficients.
    pub(super) axes: Vec<Coefficients>,
    /// What a task's λ adds along each axis: axes rows of tasks.
    chain: Vec<f64>,
}

impl Space {
    /// The λ of these tasks by these groups, as far as they change a parameter that `is_used`.
    pub(super) fn new(
        basis: &Basis,
        tasks: &[String],
        grouping: &Grouping,
        is_used: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        if let Some(twice) = tasks.iter().enumerate().find(|(i, task)| tasks[..*i].contains(task)) {
            return Err(Error::invalid(format!("task `{}` is given twice", twice.1)));
        }
        if tasks.is_empty() {
            return Err(Error::invalid("no tasks to find coefficients for"));
        }
        if grouping.groups().len() != basis.parameters().len() {
            return Err(Error::invalid("the groups are of another basis")
                .expected(format_args!("{} parameters", basis.parameters().len()))
                .got(grouping.groups().len()));
        }
        let column = |task: &String| {
            let coefficients = basis.coefficients(&TaskExpr::task(task))?;
            let plain = coefficients.plain().cloned();
            plain.ok_or_else(|| Error::new(ErrorKind::Internal, "a task's coefficients differ between parameters"))
        };
        let columns = tasks.iter().map(column).collect::<Result<Vec<_>>>()?;
        let mut is_active = vec![false; grouping.len()];
        for ((name, parameter), &group) in basis.parameters().zip(grouping.groups()) {
            if !is_active[group as usize] && is_used(name) && parameter.is_changed() {
                is_active[group as usize] = true;
            }
        }
        let groups: Vec<usize> = (0..grouping.len()).filter(|&group| is_active[group]).collect();
        if groups.is_empty() {
            return Err(Error::invalid("the basis changes nothing that the encoder takes").at(basis.path()));
        }
        let entries: Vec<Vec<f64>> = columns.iter().map(|column| entries(column, basis.has_mean())).collect();
        let sources = entries[0].len();
        let (axes, chain) = if sources < tasks.len() {
            let unit = |source: usize| {
                let (mut unit, m) = (zero(&columns[0]), basis.vectors());
                match source {
                    source if source < m => unit.vectors[source] = 1.0,
                    source if source == m && basis.has_mean() => unit.mean = 1.0,
                    source => unit.residuals[source - m - usize::from(basis.has_mean())] = 1.0,
                }
                unit
            };
            let axes = (0..sources).map(unit).collect();
            (axes, (0..sources).flat_map(|source| entries.iter().map(move |entries| entries[source])).collect())
        } else {
            let unit = |i: usize| f64::from(u8::from(i.is_multiple_of(tasks.len() + 1)));
            (columns.clone(), (0..tasks.len() * tasks.len()).map(unit).collect())
        };
        let (tasks, grouping, has_mean) = (tasks.to_vec(), grouping.clone(), basis.has_mean());
        let space = Self { tasks, grouping, groups, columns, has_mean, axes, chain };
        space.check(basis, is_used)?;
        Ok(space)
    }

    /// Whether expressions of these groups mean what is measured: their selectors must tell the groups apart.
    fn check(&self, basis: &Basis, is_used: impl Fn(&str) -> bool) -> Result<()> {
        let lambdas: Vec<f64> = (0..self.len()).map(|i| 1.0 + (i / self.tasks.len()) as f64).collect();
        let expr: TaskExpr = self.expr(&lambdas).to_string().parse()?;
        let (printed, own) = (basis.coefficients(&expr)?, self.grouping.coefficients(self.rows(&lambdas))?);
        for (i, (name, parameter)) in basis.parameters().enumerate() {
            if is_used(name) && parameter.is_changed() && printed.rows()[printed.row_of(i)] != own.rows()[own.row_of(i)]
            {
                return Err(Error::new(ErrorKind::Internal, "an expression cannot tell the groups apart").tensor(name));
            }
        }
        Ok(())
    }

    /// What multiplies the sources of a parameter for each task, at λ = 1.
    pub(super) fn columns(&self) -> Vec<Vec<f64>> {
        self.columns.iter().map(|column| entries(column, self.has_mean)).collect()
    }

    /// The number of λ.
    pub(super) fn len(&self) -> usize {
        self.groups.len() * self.tasks.len()
    }

    /// The same λ for every task and group.
    pub(super) fn uniform(&self, lambda: f64) -> Vec<f64> {
        vec![lambda; self.len()]
    }

    /// The λ as they are printed, to four decimals.
    pub(super) fn rounded(lambdas: &[f64]) -> Vec<f64> {
        // Adding 0 makes −0 a 0.
        lambdas.iter().map(|lambda| (lambda * GRAIN).round() / GRAIN + 0.0).collect()
    }

    /// The expression of these λ, one term per task.
    pub(super) fn expr(&self, lambdas: &[f64]) -> TaskExpr {
        let selectors = self.grouping.selectors();
        let is_whole = selectors == [Selector::rest()];
        let has_rest = self.groups.iter().any(|&group| selectors[group] == Selector::rest());
        let terms = self.tasks.iter().enumerate().map(|(t, task)| {
            if is_whole {
                return TaskExpr::task(task) * lambdas[t];
            }
            let of_group = |(g, &group): (usize, &usize)| (selectors[group].clone(), lambdas[g * self.tasks.len() + t]);
            let mut groups: Vec<(Selector, f64)> = self.groups.iter().enumerate().map(of_group).collect();
            if !has_rest && self.groups.len() < selectors.len() {
                groups.push((Selector::rest(), 0.0));
            }
            TaskExpr::grouped(Target::Task(task.clone()), groups)
        });
        terms.reduce(|all, term| all + term).unwrap_or_default()
    }

    /// The coefficients of every group of the grouping; those that change nothing are the base's.
    fn rows(&self, lambdas: &[f64]) -> Vec<Coefficients> {
        let mut rows = vec![zero(&self.columns[0]); self.grouping.len()];
        for (g, &group) in self.groups.iter().enumerate() {
            for (t, column) in self.columns.iter().enumerate() {
                add(&mut rows[group], column, lambdas[g * self.tasks.len() + t]);
            }
        }
        rows
    }

    /// The weights of these λ, and of a step along an axis in one of the active groups.
    pub(super) fn weights(
        &self,
        model: &Arc<Model>,
        lambdas: &[f64],
        step: Option<(usize, usize, f64)>,
    ) -> Result<TaskWeights> {
        let mut rows = self.rows(lambdas);
        if let Some((group, axis, step)) = step {
            add(&mut rows[self.groups[group]], &self.axes[axis], step);
        }
        model.weights_from_matrix(self.grouping.coefficients(rows)?)
    }

    /// The largest change along an axis of what any task's λ changes by 1.
    pub(super) fn reach(&self, axis: usize) -> f64 {
        self.chain[axis * self.tasks.len()..][..self.tasks.len()].iter().map(|c| c.abs()).fold(0.0, f64::max)
    }

    /// Steps along the axes of what λ change by, both group by group.
    pub(super) fn along_axes(&self, lambdas: &[f64]) -> Vec<f64> {
        let (t, axes) = (self.tasks.len(), self.axes.len());
        let dot = |row: &[f64], of_group: &[f64]| row.iter().zip(of_group).map(|(c, l)| c * l).sum::<f64>();
        let of_group =
            |of_group: &[f64]| (0..axes).map(|a| dot(&self.chain[a * t..][..t], of_group)).collect::<Vec<_>>();
        lambdas.chunks(t).flat_map(of_group).collect()
    }

    /// Derivatives with respect to λ of those with respect to steps along the axes.
    pub(super) fn of_axes(&self, slopes: &[f64]) -> Vec<f64> {
        let (t, axes) = (self.tasks.len(), self.axes.len());
        let of_task =
            |slopes: &[f64], task: usize| slopes.iter().enumerate().map(|(a, s)| s * self.chain[a * t + task]).sum();
        slopes.chunks(axes).flat_map(|slopes| (0..t).map(move |task| of_task(slopes, task))).collect()
    }
}

/// The numbers of a row, in the order of a basis's sources.
fn entries(row: &Coefficients, has_mean: bool) -> Vec<f64> {
    row.vectors.iter().chain(has_mean.then_some(&row.mean)).chain(&row.residuals).copied().collect()
}

/// A row of as many zeros as this one has numbers.
fn zero(like: &Coefficients) -> Coefficients {
    Coefficients { residuals: vec![0.0; like.residuals.len()], ..Coefficients::zero(like.vectors.len()) }
}

fn add(row: &mut Coefficients, other: &Coefficients, lambda: f64) {
    row.vectors.iter_mut().zip(&other.vectors).for_each(|(a, b)| *a += lambda * b);
    row.mean += lambda * other.mean;
    row.residuals.iter_mut().zip(&other.residuals).for_each(|(a, b)| *a += lambda * b);
}
