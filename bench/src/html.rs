//! The report: one HTML file with its plots inside, which loads nothing.

use taskbasis::{Error, ErrorKind, Result};

use super::samples::digits;
use super::{Report, device, encode, growth, never_seen, packed, reconstruct, soak, switch};
use crate::report::plot::{Curve, Lines};
use crate::report::{bars, begin, end, escape, legend, paragraph, section};

/// All of it.
pub(super) fn page(report: &Report) -> Result<String> {
    let name = report.family.as_ref().map_or("growth on synthetic families", |family| family.name.as_str());
    let mut out = begin(name);
    if let Some(family) = &report.family {
        out += &paragraph(&family.text());
    }
    out += &paragraph(&report.machine.text());
    if report.quick {
        out += &paragraph("Measured with --quick: few repetitions, not to be quoted.");
    }
    out += &figures(report);
    if let Some(reconstruct) = &report.reconstruct {
        reconstruction(&mut out, reconstruct)?;
    }
    if let Some(switch) = &report.switch {
        switching(&mut out, switch)?;
        first_embeddings(&mut out, &switch.never_seen)?;
    }
    if let Some(encode) = &report.encode {
        encoding(&mut out, encode)?;
    }
    if let Some(device) = &report.device {
        on_device(&mut out, device)?;
    }
    let pairs = [
        ("Opening", report.open.as_ref().map(super::open::Open::rows)),
        ("Memory", report.memory.as_ref().map(super::open::Memory::rows)),
        ("Storage", report.storage.as_ref().map(|storage| storage.rows(report.tasks()))),
    ];
    for (title, rows) in pairs {
        if let Some(rows) = rows {
            section(&mut out, title, "", &pairs_table(&rows));
        }
    }
    if let Some(growth) = &report.growth {
        grow(&mut out, growth)?;
    }
    if let Some(soak) = &report.soak {
        soaking(&mut out, soak)?;
    }
    let json = serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot write JSON").because(e))?;
    out += &end(&json);
    Ok(out)
}

/// The figures that a program asks for first.
fn figures(report: &Report) -> String {
    let mut figures: Vec<(String, String)> = Vec::new();
    let mut add = |value: String, name: &str| figures.push((value, name.into()));
    if let Some(open) = &report.open {
        add(format!("{} ms", digits(open.ms)), "to open base and basis");
    }
    if let Some(reconstruct) = &report.reconstruct {
        add(format!("{} ms", digits(reconstruct.ms)), "to reconstruct a task");
        add(digits(reconstruct.bandwidth_ratio), "of the speed at which memory is copied");
    }
    if let Some(switch) = &report.switch {
        add(format!("{} ×", digits(switch.vs_reload)), "faster to another task than a new session");
        add(format!("{} ms", digits(switch.cached_overhead_ms)), "to switch to a cached task");
    }
    if let Some(encode) = &report.encode {
        for way in encode.ways.iter().filter(|way| way.weights_bytes.is_some()) {
            let slowest = encode.over_frozen[&way.name].values().copied().fold(0.0, f64::max);
            add(digits(slowest), &format!("of a frozen session's time in {}, at most", way.name));
        }
    }
    if let Some(device) = &report.device {
        add(format!("{} ms", digits(device.switch_p50_ms)), "to a task's weights on the GPU");
        add(digits(device.bandwidth_ratio), "of the speed at which the GPU copies its memory");
        if let Some(encode) = &device.encode {
            add(digits(encode.lowest_switched_vs_frozen), "of a frozen session's throughput after a switch, at least");
        }
    }
    if let Some(over) = report.memory.as_ref().and_then(|memory| memory.peak_over_model) {
        add(format!("{} ×", digits(over)), "the model's size in memory, at most");
    }
    let figure = |(value, name): &(String, String)| {
        format!("<div class=\"figure\"><b>{}</b><span>{}</span></div>\n", escape(value), escape(name))
    };
    format!("<div class=\"figures\">\n{}</div>\n", figures.iter().map(figure).collect::<String>())
}

fn reconstruction(out: &mut String, measured: &reconstruct::Reconstruct) -> Result<()> {
    let mut thread_counts: Vec<usize> = measured.copy.iter().map(|copy| copy.threads).collect();
    thread_counts.dedup();
    for threads in thread_counts {
        let mut curves: Vec<Curve> = Vec::new();
        for case in measured.cases.iter().filter(|case| case.threads == threads) {
            let known = curves.iter().position(|curve| curve.name == case.format);
            let at = known.unwrap_or_else(|| {
                let colour = curves.len() / 2;
                let curve = |name: String, dashed| Curve { name, points: Vec::new(), colour, dashed, marks: !dashed };
                curves.push(curve(case.format.clone(), false));
                curves.push(curve(format!("{} at the copy's speed", case.format), true));
                curves.len() - 2
            });
            curves[at].points.push((case.vectors as f64, case.ms.median));
            curves[at + 1].points.push((case.vectors as f64, case.limit_ms));
        }
        let lines = Lines { x: "M, the basis vectors that are combined", y: "ms", log_x: false, log_y: false, curves };
        let title = format!("Reconstruction, {threads} thread{}", if threads == 1 { "" } else { "s" });
        let about =
            "A task's weights from M vectors, beside what moving the same bytes would take at the speed of a copy.";
        section(out, &title, about, &(lines.svg()? + &legend(&lines.curves)));
    }
    if !measured.packed.is_empty() {
        packing(out, &measured.packed)?;
    }
    let tables = rows_table(&measured.rows()) + &pairs_table(&measured.other_rows());
    section(out, "Reconstruction in numbers", "", &tables);
    Ok(())
}

fn packing(out: &mut String, measured: &[packed::Packed]) -> Result<()> {
    let mut formats: Vec<String> = measured.iter().map(|packed| packed.format.clone()).collect();
    formats.dedup();
    let mut series: Vec<(String, Vec<f64>)> = vec![("plain arrays".into(), Vec::new())];
    for packed in measured {
        let known = series.iter().position(|(name, _)| *name == packed.precision);
        let at = known.unwrap_or_else(|| {
            series.push((packed.precision.clone(), Vec::new()));
            series.len() - 1
        });
        series[at].1.push(packed.ms.median);
        if at == 1 {
            series[0].1.push(packed.plain_ms.median);
        }
    }
    let about = "A task's weights in the form that each precision's kernels multiply, beside plain arrays of f32, in \
                 turns: all vectors, by their format.";
    let bars = bars("ms", formats, series)?;
    section(out, "Reconstruction into packed weights", about, &(bars + &rows_table(&packed::rows(measured))));
    Ok(())
}

fn first_embeddings(out: &mut String, measured: &[never_seen::NeverSeen]) -> Result<()> {
    let formats = measured.iter().map(|of| format!("{} vectors", of.format)).collect();
    let precisions = measured.first().map_or(0, |of| of.precisions.len());
    let mut series: Vec<(String, Vec<f64>)> = (0..precisions)
        .map(|at| {
            let ms = measured.iter().map(|of| of.precisions[at].ms.median).collect();
            (measured[0].precisions[at].precision.clone(), ms)
        })
        .collect();
    series.push(("a new session, f32".into(), measured.iter().map(|of| of.reload_ms.median).collect()));
    let about = "From a task's name to its first embedding, nothing of the task in the cache, batch 1.";
    let bars = bars("ms", formats, series)?;
    section(out, "A task never seen", about, &(bars + &rows_table(&never_seen::NeverSeen::rows(measured))));
    Ok(())
}

fn switching(out: &mut String, measured: &switch::Switch) -> Result<()> {
    let curves = [
        ("a run without a switch", &measured.run_ms),
        ("another task, in the cache", &measured.cached_ms),
        ("another task, reconstructed", &measured.switch_ms),
        ("another task, a block at a time", &measured.streamed_ms),
    ];
    let own = measured.never_seen.first().map(|own| ("a session on the task's own .onnx", &own.reload_ms));
    let curves: Vec<_> = curves.into_iter().chain(own).collect();
    let curve = |(colour, (name, ms)): (usize, &(&str, &super::samples::Samples))| Curve {
        name: (*name).into(),
        points: cumulative(&ms.each),
        colour,
        dashed: false,
        marks: false,
    };
    let curves = curves.iter().enumerate().map(curve).collect();
    let lines =
        Lines { x: "ms, from a task's name to its first embedding", y: "% of runs", log_x: true, log_y: false, curves };
    let about = "The share of the runs that were done within a time; random tasks, batch 1.";
    section(out, "Switching", about, &(lines.svg()? + &legend(&lines.curves) + &pairs_table(&measured.rows())));
    Ok(())
}

fn encoding(out: &mut String, measured: &encode::Encode) -> Result<()> {
    let sizes = || measured.batches.iter().map(|batch| batch.batch);
    // 0, which draws no bar, where a peer failed.
    let over = |way: &encode::Way| sizes().map(|batch| measured.over_frozen(&way.name, batch).unwrap_or(0.0)).collect();
    let series = measured.ways.iter().map(|way| (way.name.clone(), over(way))).collect();
    let bars = by_batch("time over a frozen session's", sizes(), series)?;
    let about = "A run of the same task again and again, over that of an ONNX Runtime session on the task's own .onnx, \
                 f32, in turns with it: the median of the rounds' ratios. Lower is faster; the frozen session is 1.";
    let tables: String = [measured.rows(), measured.peer_rows()]
        .iter()
        .filter(|rows| rows.len() > 1)
        .map(|rows| rows_table(rows))
        .collect();
    section(out, "Precisions and peers", about, &(bars + &tables + &pairs_table(&measured.other_rows())));
    let Some(graph) = &measured.graph else { return Ok(()) };
    let per_s = |of: fn(&encode::OfGraphBatch) -> f64| graph.batches.iter().map(of).collect();
    let series = vec![
        ("weights as inputs".into(), per_s(|batch| batch.inputs_per_s)),
        ("promoted".into(), per_s(|batch| batch.promoted_per_s)),
        ("frozen".into(), per_s(|batch| batch.frozen_per_s)),
    ];
    let bars = by_batch("images / s", graph.batches.iter().map(|batch| batch.batch), series)?;
    let rows = measured.graph_rows().map_or_else(String::new, |rows| rows_table(&rows));
    section(out, "A user's graph", "The same task again and again, in turns within one process.", &(bars + &rows));
    Ok(())
}

fn on_device(out: &mut String, measured: &device::Device) -> Result<()> {
    let curve = |(colour, of): (usize, &device::InFormat)| Curve {
        name: of.format.clone(),
        points: cumulative(&of.computed_ms.each),
        colour,
        dashed: false,
        marks: false,
    };
    let curves = measured.formats.iter().enumerate().map(curve).collect();
    let lines =
        Lines { x: "ms, from a task's name to its weights", y: "% of switches", log_x: true, log_y: false, curves };
    let mut plots = lines.svg()? + &legend(&lines.curves);
    if let Some(encode) = &measured.encode {
        let per_s = |of: fn(&device::Batch) -> f64| encode.batches.iter().map(of).collect();
        let series = vec![
            ("just switched".into(), per_s(|batch| batch.switched_per_s)),
            ("steady".into(), per_s(|batch| batch.steady_per_s)),
            ("weights of the host's".into(), per_s(|batch| batch.host_per_s)),
            ("a frozen session".into(), per_s(|batch| batch.frozen_per_s)),
        ];
        plots += &by_batch("images / s", encode.batches.iter().map(|batch| batch.batch), series)?;
    }
    let tables: String = measured.tables().iter().map(|table| rows_table(table)).collect();
    let about = "Weights reconstructed in the GPU's memory, another task every time.";
    section(out, "On the GPU", about, &(plots + &tables + &pairs_table(&measured.rows())));
    Ok(())
}

/// Bars by batch size, with their legend.
fn by_batch(y: &'static str, batches: impl Iterator<Item = usize>, series: Vec<(String, Vec<f64>)>) -> Result<String> {
    bars(y, batches.map(|batch| format!("batch {batch}")).collect(), series)
}

fn grow(out: &mut String, measured: &growth::Growth) -> Result<()> {
    for (title, x, series) in [
        ("Time by vectors", "M, the basis vectors", &measured.vectors),
        ("Time by parameters", "millions of parameters, M = 4", &measured.parameters),
    ] {
        let points: Vec<(f64, f64)> = series.points.iter().map(|point| (point.x, point.ms.median)).collect();
        let fit = points.iter().map(|(x, _)| (*x, series.line.at(*x))).collect();
        let curve = |name: &str, points, dashed| Curve { name: name.into(), points, colour: 0, dashed, marks: !dashed };
        let curves = vec![curve("measured", points, false), Curve { colour: 4, ..curve("straight line", fit, true) }];
        let lines = Lines { x, y: "ms", log_x: false, log_y: false, curves };
        let about = format!("Reconstruction; R² = {:.4} for a straight line.", series.line.r2);
        section(out, title, &about, &(lines.svg()? + &legend(&lines.curves)));
    }
    let curves = [
        ("open base and basis", 0usize),
        ("open them as a bundle", 1),
        ("one task, to coefficients", 2),
        ("all tasks named in one sum", 3),
        ("all@0.3", 4),
        ("a task in the cache", 5),
    ];
    let curve = |&(name, which): &(&str, usize)| {
        let point = |tasks: &growth::Tasks| {
            let of = [
                &tasks.open_ms,
                &tasks.open_bundle_ms,
                &tasks.task_ms,
                &tasks.all_named_ms,
                &tasks.all_ms,
                &tasks.cached_ms,
            ];
            (tasks.tasks as f64, of[which].median)
        };
        let points = measured.tasks.iter().map(point).collect();
        Curve { name: name.into(), points, colour: which, dashed: false, marks: true }
    };
    let lines = Lines {
        x: "T, the tasks; M = 100 at most",
        y: "ms",
        log_x: true,
        log_y: true,
        curves: curves.iter().map(curve).collect(),
    };
    section(
        out,
        "Time by tasks",
        "A small model, so that only T and M count.",
        &(lines.svg()? + &legend(&lines.curves)),
    );
    let tables: String = measured.tables().iter().map(|table| rows_table(table)).collect();
    section(out, "Growth in numbers", "", &tables);
    Ok(())
}

fn soaking(out: &mut String, measured: &soak::Soak) -> Result<()> {
    let curve = |(colour, (name, mode)): (usize, (&str, &soak::Mode))| {
        let points = mode.memory.as_ref().map(|memory| {
            memory.samples.iter().map(|&(seconds, bytes)| (seconds, bytes as f64 / 1e6)).collect::<Vec<_>>()
        });
        Curve { name: name.into(), points: points.unwrap_or_default(), colour, dashed: false, marks: false }
    };
    let modes =
        [("as they are", &measured.plain), ("packed", &measured.packed), ("block by block", &measured.blockwise)];
    let curves = modes.into_iter().enumerate().map(curve).collect();
    let lines = Lines { x: "seconds", y: "MB of anonymous memory", log_x: false, log_y: false, curves };
    let about = format!("{} threads, {} expressions, room for three weights.", measured.threads, measured.expressions);
    section(out, "Soak", &about, &(lines.svg()? + &legend(&lines.curves) + &rows_table(&measured.rows())));
    Ok(())
}

/// The first row is the header.
fn rows_table(rows: &[Vec<String>]) -> String {
    let row = |(i, row): (usize, &Vec<String>)| {
        let tag = if i == 0 { "th" } else { "td" };
        format!(
            "<tr>{}</tr>\n",
            row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell.trim()))).collect::<String>()
        )
    };
    format!("<div class=\"scroll\"><table>\n{}</table></div>\n", rows.iter().enumerate().map(row).collect::<String>())
}

fn pairs_table(rows: &[[String; 2]]) -> String {
    let row = |[name, value]: &[String; 2]| {
        let part = if name.starts_with(' ') { " class=\"part\"" } else { "" };
        format!("<tr><td{part}>{}</td><td>{}</td></tr>\n", escape(name.trim()), escape(value))
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table class=\"pairs\">\n{rows}</table></div>\n")
}

/// The share of values up to each: where a line reaches 0.95, there is the 95th percentile.
fn cumulative(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let steps = sorted.iter().enumerate();
    steps.flat_map(|(i, &value)| [(value, i as f64 / n * 100.0), (value, (i + 1) as f64 / n * 100.0)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn shares_rise_to_a_hundred() {
        assert_eq!(super::cumulative(&[2.0, 1.0]), [(1.0, 0.0), (1.0, 50.0), (2.0, 50.0), (2.0, 100.0)]);
    }
}
