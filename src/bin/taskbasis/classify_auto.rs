//! `taskbasis classify --task auto`: each image by the task that it looks like.

use serde_json::{Value, json};
use taskbasis::{Choice, Head, Residency, Result, Route, Routing, Score};

use crate::args::Session;
use crate::classify::{Classify, top_cells, top_json};
use crate::output;

/// What was found of one image; no classes where nothing answers.
struct Found {
    route: Route,
    choice: Choice,
    top: Vec<Score>,
}

pub fn run(classify: &Classify, session: &Session, routing: &Routing, as_json: bool) -> Result<()> {
    let tasks = routing.router().tasks();
    classify.heads.check(tasks)?;
    let (encoder, input) = classify.open(session)?;
    let head = |task: &String| classify.heads.head(session.bundle(), task, encoder.arch());
    let heads: Vec<Head> = tasks.iter().map(head).collect::<Result<_>>()?;
    if encoder.residency() == Residency::Whole {
        encoder.prepare(routing.features())?;
    }

    let bar = output::progress(input.len(), "images");
    let mut found: Vec<Found> = Vec::with_capacity(input.len());
    let width = encoder.arch().embed_dim;
    let taken = input.for_each_batch(classify.encoder.batch as usize, classify.encoder.threads, |pixels, n| {
        let routed = routing.encode(&encoder, pixels, n)?;
        let answers = routed.routes.iter().zip(&routed.choices).zip(routed.embeds.chunks_exact(width));
        for ((&route, &choice), embedding) in answers {
            let top = match choice {
                Choice::None => Vec::new(),
                Choice::Task | Choice::Fallback => heads[route.task].classify(embedding, classify.top.get())?,
            };
            found.push(Found { route, choice, top });
        }
        bar.inc(n as u64);
        Ok(())
    })?;
    bar.finish_and_clear();

    taken.skipped.tell();
    let names = taken.names();
    let all = names.iter().zip(&found);
    if as_json {
        let image = |(name, found): (&String, &Found)| {
            json!({
                "image": name, "task": tasks[found.route.task], "probability": found.route.probability,
                "confidence": found.route.confidence, "answer": found.choice.name(),
                "top": top_json(&heads[found.route.task], &found.top),
            })
        };
        return output::json(&json!({
            "task": crate::classify::AUTO, "threshold": routing.router().threshold(),
            "fallback": routing.router().fallback().map(ToString::to_string),
            "images": all.map(image).collect::<Vec<Value>>(), "skipped": taken.skipped.json(),
        }));
    }
    let row = |(name, found): (&String, &Found)| {
        let task = &tasks[found.route.task];
        let sure = format!("{:.0} %", 100.0 * found.route.confidence);
        let task = match (found.choice, routing.router().fallback()) {
            (Choice::Fallback, Some(fallback)) => format!("{task}? {sure}, by {fallback}"),
            (Choice::None, _) => format!("{task}? {sure}, not asked"),
            _ => format!("{task} {sure}"),
        };
        let answers = top_cells(&heads[found.route.task], &found.top);
        [name.clone(), task].into_iter().chain(answers).collect()
    };
    output::text(&output::table(&all.map(row).collect::<Vec<Vec<String>>>()))
}
