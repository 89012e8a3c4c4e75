//! A task never seen, to its first embedding, in every precision, in turns with a new session on the task's `.onnx`.

use std::cell::RefCell;

use serde::Serialize;
use taskbasis::{Encoder, Result, TaskExpr};

use super::Setup;
use super::frozen::FrozenFile;
use super::samples::{Ratio, Samples, Variant, digits, take_turns, time};
use super::switch::Sequence;

/// All precisions, from vectors in one format.
#[derive(Serialize)]
pub struct NeverSeen {
    pub format: String,
    /// A new session on the task's own `.onnx`, page cache warm, and its first embedding.
    pub reload_ms: Samples,
    /// The part of `reload_ms` until the session was there.
    pub reload_open_ms: Samples,
    pub precisions: Vec<First>,
}

#[derive(Serialize)]
pub struct First {
    pub precision: String,
    /// Time from the name to the embedding, batch 1, nothing of the task in the cache.
    pub ms: Samples,
    /// `reload_ms` over `ms`: how many times faster.
    pub reload_over: Ratio,
    /// `ms` over that of the first precision that was measured.
    pub over_first: Ratio,
}

/// From the basis's own format, and from q4 where there is one. One format at a time, as each precision has a task's
/// weights in memory.
pub fn measure(setup: &Setup<'_>, tasks: &[TaskExpr], pixels: &[f32]) -> Result<Vec<NeverSeen>> {
    let files = tasks.iter().take(2).map(|task| FrozenFile::write(setup, task)).collect::<Result<Vec<_>>>()?;
    let own = setup.family.bases().first();
    let q4 = setup.family.bases().iter().skip(1).find(|(format, _)| format == "q4");
    let formats = own.into_iter().chain(q4);
    formats.map(|(format, path)| of_format(setup, format, path, &files, tasks, pixels)).collect()
}

fn of_format(
    setup: &Setup<'_>,
    format: &str,
    path: &std::path::Path,
    files: &[FrozenFile],
    tasks: &[TaskExpr],
    pixels: &[f32],
) -> Result<NeverSeen> {
    let opened = RefCell::new(Vec::new());
    let mut which = 0;
    let mut variants: Vec<Variant<'_>> = vec![Box::new(|| {
        which = (which + 1) % files.len();
        let (ms, open_ms) = time(|| {
            let (ms, session) = time(|| files[which].open(setup))?;
            session.encode(pixels, 1)?;
            Ok(ms)
        })?;
        opened.borrow_mut().push(open_ms);
        Ok(ms)
    })];
    for &precision in &setup.precisions {
        let encoder: Encoder = setup.encoder_in(precision)?;
        // Room for one task: every one finds the memory of the one before, and nothing else.
        let room = setup.family.weights_bytes_in(Some(encoder.layout()))?;
        let model = setup.family.open_format(path, setup.threads, room)?;
        let mut turn = Sequence::new(tasks.to_vec());
        variants.push(Box::new(move || {
            let task = turn.next();
            time(|| encoder.encode_task(&model.weights(task)?, pixels, 1)).map(|(ms, _)| ms)
        }));
    }
    let mut samples = take_turns(if setup.quick { 3 } else { 11 }, &mut variants)?;
    drop(variants);
    let reload_ms = samples.remove(0);
    let first = samples[0].clone();
    let precisions = setup.precisions.iter().zip(samples).map(|(precision, ms)| First {
        precision: precision.to_string(),
        reload_over: Ratio::of(&reload_ms, &ms),
        over_first: Ratio::of(&ms, &first),
        ms,
    });
    let precisions = precisions.collect();
    let reload_open_ms = Samples::of(opened.into_inner().split_off(1));
    Ok(NeverSeen { format: format.to_owned(), reload_ms, reload_open_ms, precisions })
}

impl NeverSeen {
    pub fn rows(all: &[Self]) -> Vec<Vec<String>> {
        let first = all.first().and_then(|of| of.precisions.first()).map_or("", |first| &first.precision);
        let header =
            ["a task never seen", "ms", "half of the runs", "a new session's time over it", &format!("over {first}")];
        let row = |name: String, ms: &Samples, [faster, over]: [String; 2]| {
            vec![name, digits(ms.median), format!("{}–{}", digits(ms.p25), digits(ms.p75)), faster, over]
        };
        let mut rows = vec![header.map(String::from).to_vec()];
        for NeverSeen { format, reload_ms, precisions, .. } in all {
            for First { precision, ms, reload_over, over_first } in precisions {
                rows.push(row(format!("{format}, {precision}"), ms, [reload_over.text(), over_first.text()]));
            }
            rows.push(row("a new session, frozen".into(), reload_ms, [String::new(), String::new()]));
        }
        rows
    }
}
