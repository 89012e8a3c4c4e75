//! Every task's images sent to the task that they look like, beside knowing which it is.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use taskbasis::{Choice, Error, Head, Result, Routing};

use super::measured::percent;
use super::options::Eval;
use super::workbench::Bench;
use crate::classify::AUTO;
use crate::output;

/// What was counted of one task's images.
#[derive(Default)]
struct Counted {
    images: usize,
    /// With the router's task: its weights and its head.
    routed: usize,
    /// With the router's weights, and the own task's head.
    own_head: usize,
    /// With the own task's weights and head.
    known: usize,
    /// Below the threshold.
    unsure: usize,
    /// Images whose likeliest task is this one, per task of the router.
    likeliest: Vec<usize>,
}

/// Time spent in the encoder.
#[derive(Default)]
struct Times {
    routed: Duration,
    known: Duration,
}

pub(super) fn run(eval: &Eval, bench: &Bench<'_>, routing: &Routing, as_json: bool) -> Result<()> {
    let router = routing.router();
    let is_auto = eval.tasks.is_empty() || eval.tasks == [AUTO];
    let mut tasks = if is_auto { bench.tasks_of(&[&eval.split])? } else { eval.tasks.clone() };
    if is_auto {
        tasks.retain(|task| router.tasks().contains(task));
    }
    if tasks.is_empty() {
        return Err(Error::not_found("the router knows none of the data's tasks")
            .expected(format_args!("one of {}", router.tasks().join(", "))));
    }
    let places = tasks.iter().map(|task| router.task_index(task)).collect::<Result<Vec<_>>>()?;
    let labelled = bench.images.labelled(&tasks, &eval.split)?;
    // An image may be sent to any task that the router knows.
    let heads = bench.images.heads(router.tasks())?;
    let bar = output::progress(labelled.iter().map(|labelled| labelled.len()).sum(), "images");
    let (mut counted, mut times) = (Vec::with_capacity(tasks.len()), Times::default());
    for (labelled, &own) in labelled.iter().zip(&places) {
        let mut count = Counted { likeliest: vec![0; router.tasks().len()], ..Counted::default() };
        count.images = bench.images.for_each_batch(labelled, &bar, |pixels, labels| {
            count.add(bench, routing, (&heads, own), pixels, labels, &mut times)
        })?;
        counted.push(count);
    }
    bar.finish_and_clear();
    let table = Table { tasks: &tasks, places: &places, counted: &counted, times: &times, routing };
    if as_json { output::json(&table.json(&eval.split)) } else { output::text(&table.text()) }
}

impl Counted {
    fn add(
        &mut self,
        bench: &Bench<'_>,
        routing: &Routing,
        (heads, own): (&[Head], usize),
        pixels: &[f32],
        labels: &[usize],
        times: &mut Times,
    ) -> Result<()> {
        let encoder = &bench.encoder;
        let began = Instant::now();
        let routed = routing.encode(encoder, pixels, labels.len())?;
        times.routed += began.elapsed();
        let began = Instant::now();
        let weights = routing.task(own).unwrap_or(routing.features());
        let known = encoder.encode_task(weights, pixels, labels.len())?;
        times.known += began.elapsed();
        let width = encoder.arch().embed_dim;
        let is_right = |head: &Head, embedding: &[f32], label: usize| -> Result<bool> {
            Ok(head.classify(embedding, 1)?.first().is_some_and(|best| best.class == label))
        };
        let embeds = routed.embeds.chunks_exact(width).zip(known.chunks_exact(width));
        let answers = routed.routes.iter().zip(&routed.choices);
        for ((&label, (embedding, known)), (route, &choice)) in labels.iter().zip(embeds).zip(answers) {
            self.likeliest[route.task] += 1;
            self.unsure += usize::from(choice != Choice::Task);
            self.known += usize::from(is_right(&heads[own], known, label)?);
            if choice != Choice::None && is_right(&heads[own], embedding, label)? {
                self.own_head += 1;
                self.routed += usize::from(route.task == own);
            }
        }
        Ok(())
    }
}

/// What is told.
struct Table<'a> {
    tasks: &'a [String],
    /// The places of the tasks in the router.
    places: &'a [usize],
    counted: &'a [Counted],
    times: &'a Times,
    routing: &'a Routing,
}

impl Table<'_> {
    /// Per task the share of its images that `of` counts.
    fn shares(&self, of: impl Fn(usize, &Counted) -> usize) -> Vec<f64> {
        let share = |(at, count): (usize, &Counted)| of(at, count) as f64 / count.images.max(1) as f64;
        self.counted.iter().enumerate().map(share).collect()
    }

    /// Per task, in the order of the columns: the accuracies, and the shares of images.
    fn columns(&self) -> [(&'static str, &'static str, Vec<f64>); 5] {
        [
            ("known", "task known", self.shares(|_, count| count.known)),
            ("routed", "routed", self.shares(|_, count| count.routed)),
            ("own_head", "routed, own head", self.shares(|_, count| count.own_head)),
            ("own", "sent to it", self.shares(|at, count| count.likeliest[self.places[at]])),
            ("unsure", "unsure", self.shares(|_, count| count.unsure)),
        ]
    }

    /// Milliseconds per image of the encoder, routed and with the task known.
    fn milliseconds(&self) -> [f64; 2] {
        let images: usize = self.counted.iter().map(|count| count.images).sum();
        [self.times.routed, self.times.known].map(|time| 1e3 * time.as_secs_f64() / images.max(1) as f64)
    }

    fn json(&self, split: &str) -> Value {
        let columns = self.columns();
        let of_task = |at: usize| {
            let mut fields: Map<String, Value> = Map::new();
            columns.iter().for_each(|(name, _, shares)| drop(fields.insert((*name).into(), json!(shares[at]))));
            fields.insert("images".into(), json!(self.counted[at].images));
            let names = self.routing.router().tasks().iter().cloned();
            let likeliest = self.counted[at].likeliest.iter().map(|&count| json!(count));
            fields.insert("likeliest".into(), Value::Object(names.zip(likeliest).collect()));
            Value::Object(fields)
        };
        let tasks: Map<String, Value> = (0..self.tasks.len()).map(|at| (self.tasks[at].clone(), of_task(at))).collect();
        let mean: Map<String, Value> =
            columns.iter().map(|(name, _, shares)| ((*name).into(), json!(mean(shares)))).collect();
        let [routed, known] = self.milliseconds();
        let router = self.routing.router();
        json!({
            "tasks": tasks, "mean": mean, "split": split, "threshold": router.threshold(),
            "fallback": router.fallback().map(ToString::to_string),
            "ms_per_image": { "routed": routed, "known": known },
        })
    }

    fn text(&self) -> String {
        let columns = self.columns();
        let heading = ["task", "images"].into_iter().chain(columns.iter().map(|(_, heading, _)| *heading));
        let mut rows = vec![heading.map(String::from).collect::<Vec<_>>()];
        for (at, task) in self.tasks.iter().enumerate() {
            let cells = columns.iter().map(|(.., shares)| percent(shares[at]));
            rows.push([task.clone(), self.counted[at].images.to_string()].into_iter().chain(cells).collect());
        }
        let means = columns.iter().map(|(.., shares)| percent(mean(shares)));
        rows.push(["mean".to_owned(), String::new()].into_iter().chain(means).collect());

        let known = self.routing.router().tasks();
        let mut confusion = vec![[&["sent to →".to_owned()], known].concat()];
        for (task, count) in self.tasks.iter().zip(self.counted) {
            let cells = count.likeliest.iter().map(ToString::to_string);
            confusion.push(std::iter::once(task.clone()).chain(cells).collect());
        }
        let [routed, alone] = self.milliseconds();
        format!(
            "{}\n{}\n{routed:.2} ms per image routed, {alone:.2} with the task known\n",
            output::table(&rows),
            output::table(&confusion)
        )
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
