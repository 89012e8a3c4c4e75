//! The search: from the best single λ, step by step over linearised logits, as far as images that were held out agree.
//!
//! Beside the λ that are fitted on all images go λ that are fitted without one part of them each, by the same steps.
//! Every image is run with the λ that have not seen it, and what that comes to (cross-validation) chooses.

use std::cell::RefCell;
use std::sync::Arc;

use serde::Serialize;

use super::bench::{Bench, Slopes};
use super::linear::Linear;
use super::objective::{Measure, Objective};
use super::set::{FitTask, Set};
use super::shots::hash;
use super::space::Space;
use crate::basis::{Grouping, TaskExpr};
use crate::descent::minimise;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::kernel::threads;
use crate::weights::Model;

/// The strengths of the pull back to the start that are tried in the first round, in units of the objective per λ² in
/// the mean over groups. From strong to weak, so that each descent begins near its end.
const PULLS: [f64; 9] = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003];
/// In the rounds after it, as multiples of the one that was best.
const NEARBY: [f64; 3] = [3.0, 1.0, 0.3];
/// What a round must gain, as a share of the loss, for another one.
const MIN_GAIN: f64 = 1e-3;
/// Halvings of a step that goes too far.
const HALVINGS: usize = 5;
const MAX_ITERATIONS: usize = 300;
/// Bytes that measured changes may take, and directions that are measured in a round: of more, each round takes another
/// part of the groups.
const MAX_BYTES: usize = 1 << 30;
const MAX_DIRECTIONS: usize = 2048;

/// The options of [`fit`].
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// What is minimised.
    pub objective: Objective,
    /// The single λ that are tried for the start.
    pub sweep: Vec<f64>,
    /// How often changes are measured anew.
    pub rounds: usize,
    /// The strength of the pull back to the start; `None` finds it by cross-validation. The objective has
    /// `pull·Σ(λ − λ₀)²/groups` added to it.
    pub pull: Option<f64>,
    /// Parts that the images are cut into, at least 2: on each are tried the λ that are fitted on the others.
    pub folds: usize,
    /// Chooses which groups come first, where they are too many for one round.
    pub seed: u64,
    /// Images a run.
    pub batch: usize,
    /// Threads, at most [`max_threads`](crate::kernel::max_threads); 0 means one per processor.
    pub threads: usize,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            sweep: (0..=20).map(|i| f64::from(i) / 20.0).collect(),
            rounds: 4,
            pull: None,
            folds: 4,
            seed: 0,
            batch: 32,
            threads: 0,
        }
    }
}

/// A single λ for all tasks, and what the images say of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// λ
    pub lambda: f64,
    /// Of all images.
    pub validation: Measure,
}

/// Coefficients that were tried, and what the images say of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The round, from 1 on; 0 for the start.
    pub round: usize,
    /// The strength of the pull back to the start.
    pub pull: f64,
    /// `pull·Σ(λ − λ₀)²/groups`.
    pub penalty: f64,
    /// Of the images that coefficients are fitted on, which are all.
    pub training: Measure,
    /// Of the same images, each by coefficients that were fitted alike without it: what the best is chosen by.
    pub validation: Measure,
    /// The λ, tasks first: those of a group one after the other.
    #[serde(skip)]
    pub lambdas: Vec<f64>,
    /// As fitted without each part of the images.
    #[serde(skip)]
    without: Vec<Vec<f64>>,
}

impl Candidate {
    /// The λ that were fitted on all images, then those without each part.
    fn each(&self) -> impl Iterator<Item = &Vec<f64>> {
        std::iter::once(&self.lambdas).chain(&self.without)
    }
}

/// What [`fit`] found.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The weights: a term for each task with a λ for each group. It reads back to the same bits.
    pub expr: TaskExpr,
    /// The best single λ, which is where the search began.
    pub start: f64,
    /// Every single λ that was tried.
    pub sweep: Vec<SweepPoint>,
    /// Everything that was tried, in order, the start first.
    pub curve: Vec<Candidate>,
    /// The one of them that was chosen.
    pub best: usize,
    /// The number of groups that have λ of their own.
    pub groups: usize,
    /// The number of directions in which changes are measured, all groups together.
    pub directions: usize,
    /// The number of parts that the images were held out in.
    pub folds: usize,
    /// τ, what logits were divided by after the sweep: 1, or more where those of the start are too sure of themselves.
    pub temperature: f64,
}

/// Finds the λ of every task and group for which `tasks`' images give the least of the objective.
///
/// The start is the best single λ of all tasks by all images. What comes back is never worse than it in
/// cross-validation, neither by accuracy, where there are labels, nor by the objective; of what is not worse, it has
/// the least objective there. It is fitted on all images itself. The same images, options and machine give the same
/// bits, on any number of threads as far as the encoder's runs do. `progress` is told how many more images were run.
///
/// # Errors
/// As [`Model::weights`] for a task that the basis does not have or cannot recover, and as [`Encoder::encode_task`];
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a model without a basis, no task or one twice,
/// images of another size, or without labels where they are needed; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch)
/// for labels that are no class of the head, and for heads of other embeddings.
pub fn fit(
    model: &Arc<Model>,
    encoder: &Encoder,
    tasks: Vec<FitTask>,
    grouping: &Grouping,
    options: &FitOptions,
    progress: &dyn Fn(usize),
) -> Result<Fitted> {
    threads::count(options.threads)?;
    if options.folds < 2 {
        let error = Error::invalid("too few parts to hold one out").expected("at least 2");
        return Err(error.got(options.folds));
    }
    if options.batch == 0 || options.sweep.is_empty() {
        return Err(Error::invalid("a batch has at least one image, and a sweep at least one λ"));
    }
    if let Some(pull) = options.pull.filter(|pull| !(*pull >= 0.0 && pull.is_finite())) {
        return Err(Error::invalid("the pull back to the start is out of range").expected("0 or above").got(pull));
    }
    let basis = model.basis().ok_or_else(|| Error::invalid("there is no basis whose coefficients could be found"))?;
    let names: Vec<String> = tasks.iter().map(|task| task.task.clone()).collect();
    for task in &tasks {
        task.head.check_tower(&task.task, encoder.arch())?;
    }
    let layout = encoder.layout();
    let used: std::collections::HashSet<&str> = layout.parameters().map(|(name, _)| name).collect();
    let space = Space::new(basis, &names, grouping, |name| used.contains(name))?;
    let (heads, images): (Vec<Head>, Vec<_>) = tasks.into_iter().map(|task| (task.head, task.images)).unzip();
    let with_heads = names.iter().map(String::as_str).zip(&heads).zip(images);
    let with_heads = with_heads.map(|((name, head), images)| (name, head, images)).collect();
    let set = Set::new(with_heads, encoder.arch().pixels(), options.objective, options.folds)?;
    let bench = bench(model, encoder, &space, &heads, options, progress);
    Search { bench, options, set, curve: Vec::new(), start: Vec::new() }.run()
}

fn bench<'a>(
    model: &'a Arc<Model>,
    encoder: &'a Encoder,
    space: &'a Space,
    heads: &'a [Head],
    options: &FitOptions,
    progress: &'a dyn Fn(usize),
) -> Bench<'a> {
    let FitOptions { objective, batch, threads, .. } = *options;
    Bench { model, encoder, space, heads, objective, temperature: 1.0, batch, threads, progress }
}

struct Search<'a> {
    bench: Bench<'a>,
    options: &'a FitOptions,
    set: Set,
    curve: Vec<Candidate>,
    start: Vec<f64>,
}

impl Search<'_> {
    fn run(mut self) -> Result<Fitted> {
        let space = self.bench.space;
        let mut sweep: Vec<SweepPoint> = Vec::new();
        for &lambda in &self.options.sweep {
            let lambda = Space::rounded(&[lambda])[0];
            let validation = self.bench.measure(&space.uniform(lambda), &self.set)?;
            sweep.push(SweepPoint { lambda, validation });
        }
        let best = sweep.iter().reduce(|best, point| match point.validation.is_better_than(&best.validation) {
            true => point,
            false => best,
        });
        let Some(&SweepPoint { lambda, .. }) = best else { return Err(Error::invalid("there is no sweep")) };
        self.start = space.uniform(lambda);
        let mut logits = self.bench.logits_at(&self.start, &self.set)?;
        let temperature = self.set.temperature(&logits, self.options.objective);
        logits.iter_mut().for_each(|z| *z /= temperature);
        self.bench.temperature = temperature;
        let training = self.set.measure(&logits, self.options.objective);
        let (validation, lambdas) = (training, self.start.clone());
        let without = vec![self.start.clone(); self.set.folds];
        self.curve.push(Candidate { round: 0, pull: 0.0, penalty: 0.0, training, validation, lambdas, without });

        let (order, part) = self.parts();
        let mut at = 0;
        let mut pull = self.options.pull;
        for round in 1..=self.options.rounds {
            let groups: Vec<usize> = (0..part).map(|i| order[((round - 1) * part + i) % order.len()]).collect();
            let next = match self.options.pull {
                Some(pull) => self.step(round, at, pull, &groups)?,
                None => self.choose(round, at, pull, &groups)?,
            };
            let Some(next) = next else {
                // Other groups may have more to give.
                if round * part >= order.len() { break } else { continue }
            };
            pull = Some(self.curve[next].pull);
            at = next;
        }
        let best = self.best();
        Ok(Fitted {
            expr: space.expr(&self.curve[best].lambdas),
            start: lambda,
            sweep,
            best,
            groups: space.groups.len(),
            directions: space.groups.len() * space.axes.len(),
            folds: self.set.folds,
            temperature: f64::from(temperature),
            curve: self.curve,
        })
    }

    /// The order in which groups take their turns, and how many there are in a round.
    fn parts(&self) -> (Vec<usize>, usize) {
        let space = self.bench.space;
        let count = space.groups.len();
        let of_group = space.axes.len() * self.set.logits.saturating_mul(size_of::<f32>());
        let fits = (MAX_BYTES / of_group.max(1)).min(MAX_DIRECTIONS / space.axes.len()).clamp(1, count);
        let mut order: Vec<usize> = (0..count).collect();
        if fits < count {
            order.sort_by_key(|&group| hash(self.options.seed, group));
        }
        // Rounds of about the same size.
        (order, count.div_ceil(count.div_ceil(fits)))
    }

    /// The objective near the λ of a candidate, and near each of those that were fitted without a part of the images:
    /// over the images that they were fitted on. Changes are measured once, where all images were seen; logits are
    /// those of each, so that no image has a say in the λ that it is to judge.
    fn linears<'s>(&self, from: &Candidate, slopes: &'s Slopes) -> Result<Vec<Linear<'s>>> {
        let mut linears = vec![self.bench.linear(slopes, slopes.logits.clone(), self.set.without(None))];
        for (fold, lambdas) in from.without.iter().enumerate() {
            let logits = match *lambdas == from.lambdas {
                true => slopes.logits.clone(),
                false => self.bench.logits_at(lambdas, &self.set)?,
            };
            linears.push(self.bench.linear(slopes, logits, self.set.without(Some(fold))));
        }
        Ok(linears)
    }

    /// A round whose pull is chosen by cross-validation: from strong to weak as long as it gains.
    fn choose(&mut self, round: usize, at: usize, pull: Option<f64>, groups: &[usize]) -> Result<Option<usize>> {
        let from = self.curve[at].clone();
        let slopes = self.bench.linearise(&from.lambdas, groups, &self.set)?;
        let linears = self.linears(&from, &slopes)?;
        let pulls: Vec<f64> = match pull {
            None => PULLS.to_vec(),
            Some(pull) => NEARBY.iter().map(|factor| pull * factor).collect(),
        };
        let mut steps = self.no_steps(groups);
        let (mut best, mut worse) = (None, 0);
        let mut least = from.validation.loss;
        let mut found = Vec::new();
        for pull in pulls {
            steps = self.descents(&linears, &from, groups, pull, steps)?;
            let mut candidate = self.candidate(round, pull, &from, groups, &steps, 1.0)?;
            // Further than the linearised logits reach, even what is minimised gets larger.
            let away = if from.pull > 0.0 { from.penalty / from.pull } else { 0.0 };
            for halving in 1..=HALVINGS {
                if candidate.training.loss + candidate.penalty <= from.training.loss + pull * away {
                    break;
                }
                candidate = self.candidate(round, pull, &from, groups, &steps, 0.5f64.powi(halving as i32))?;
            }
            let loss = candidate.validation.loss;
            found.push(candidate);
            if loss < least {
                (least, best, worse) = (loss, Some(found.len() - 1), 0);
            } else {
                worse += 1;
            }
            // Weaker pulls lead farther away from where the changes were measured.
            if worse >= if best.is_some() { 2 } else { 4 } {
                break;
            }
        }
        let is_enough = from.validation.loss - least > MIN_GAIN * from.validation.loss.abs();
        let first = self.curve.len();
        self.curve.extend(found);
        Ok(best.filter(|_| is_enough).map(|best| first + best))
    }

    /// A round with this pull: as far along as the objective falls on the training images.
    fn step(&mut self, round: usize, at: usize, pull: f64, groups: &[usize]) -> Result<Option<usize>> {
        let from = self.curve[at].clone();
        let slopes = self.bench.linearise(&from.lambdas, groups, &self.set)?;
        let linears = self.linears(&from, &slopes)?;
        let steps = self.descents(&linears, &from, groups, pull, self.no_steps(groups))?;
        let value = |candidate: &Candidate| candidate.training.loss + candidate.penalty;
        for halving in 0..=HALVINGS {
            let share = 0.5f64.powi(halving as i32);
            let candidate = self.candidate(round, pull, &from, groups, &steps, share)?;
            let gain = value(&from) - value(&candidate);
            self.curve.push(candidate);
            if gain > 0.0 {
                return Ok((gain > MIN_GAIN * value(&from).abs()).then_some(self.curve.len() - 1));
            }
        }
        Ok(None)
    }

    /// No step yet: of what is fitted on all images, and of what is fitted without each part.
    fn no_steps(&self, groups: &[usize]) -> Vec<Vec<f64>> {
        vec![vec![0.0; groups.len() * self.bench.space.tasks.len()]; 1 + self.set.folds]
    }

    /// [`Search::descend`] for each.
    fn descents(
        &self,
        linears: &[Linear<'_>],
        from: &Candidate,
        groups: &[usize],
        pull: f64,
        begin: Vec<Vec<f64>>,
    ) -> Result<Vec<Vec<f64>>> {
        let each = linears.iter().zip(from.each()).zip(begin);
        each.map(|((linear, from), begin)| self.descend(linear, from, groups, pull, begin)).collect()
    }

    /// The step from `from` in these groups for which the objective over linearised logits, with the pull, is least.
    fn descend(
        &self,
        linear: &Linear<'_>,
        from: &[f64],
        groups: &[usize],
        pull: f64,
        begin: Vec<f64>,
    ) -> Result<Vec<f64>> {
        let (space, t) = (self.bench.space, self.bench.space.tasks.len());
        let strength = pull / space.groups.len() as f64;
        // How far each λ is from the start already.
        let away: Vec<f64> =
            groups.iter().flat_map(|g| (g * t..(g + 1) * t).map(|i| from[i] - self.start[i])).collect();
        let failed = RefCell::new(None);
        let function = |step: &[f64]| {
            let (value, slopes) = linear.at(&space.along_axes(step)).unwrap_or_else(|error| {
                failed.borrow_mut().get_or_insert(error);
                (f64::INFINITY, vec![0.0; linear.columns])
            });
            let mut gradient = space.of_axes(&slopes);
            let mut penalty = 0.0;
            for ((slope, step), away) in gradient.iter_mut().zip(step).zip(&away) {
                penalty += strength * (step + away).powi(2);
                *slope += 2.0 * strength * (step + away);
            }
            (value + penalty, gradient)
        };
        let found = minimise(begin, f64::NEG_INFINITY, MAX_ITERATIONS, function);
        failed.into_inner().map_or(Ok(found.at), Err)
    }

    /// λ after a share of a step in these groups.
    fn moved(&self, from: &[f64], groups: &[usize], step: &[f64], share: f64) -> Vec<f64> {
        let t = self.bench.space.tasks.len();
        let mut moved = from.to_vec();
        for (group, step) in groups.iter().zip(step.chunks(t)) {
            moved[group * t..][..t].iter_mut().zip(step).for_each(|(lambda, step)| *lambda += share * step);
        }
        Space::rounded(&moved)
    }

    fn candidate(
        &self,
        round: usize,
        pull: f64,
        from: &Candidate,
        groups: &[usize],
        steps: &[Vec<f64>],
        share: f64,
    ) -> Result<Candidate> {
        let mut moved = from.each().zip(steps).map(|(from, step)| self.moved(from, groups, step, share));
        let lambdas = moved.next().unwrap_or_default();
        let without: Vec<Vec<f64>> = moved.collect();
        let away: f64 = lambdas.iter().zip(&self.start).map(|(lambda, start)| (lambda - start).powi(2)).sum();
        Ok(Candidate {
            round,
            pull,
            penalty: pull * away / self.bench.space.groups.len() as f64,
            training: self.bench.measure(&lambdas, &self.set)?,
            validation: self.bench.validate(&without, &self.set)?,
            lambdas,
            without,
        })
    }

    /// Of what is not worse than the start in cross-validation, the one with the least objective there.
    fn best(&self) -> usize {
        let start = &self.curve[0].validation;
        let is_allowed = |candidate: &Candidate| match (candidate.validation.accuracy, start.accuracy) {
            (Some(own), Some(others)) if own < others => false,
            _ => candidate.validation.loss <= start.loss,
        };
        let mut best = 0;
        for (i, candidate) in self.curve.iter().enumerate() {
            if is_allowed(candidate) && candidate.validation.loss < self.curve[best].validation.loss {
                best = i;
            }
        }
        best
    }
}
