//! Coefficients by groups of parameters on a device.

use super::layouts::{everything, for_layout, layout_of, part, simple, tensor_spec};
use super::*;
use crate::basis::Grouping;
use crate::weights::Layout;

/// A task with these coefficients, a row per parameter in the order of [`bases`].
fn grouped(model: &Arc<Model>, rows: &[Vec<f64>]) -> TaskWeights {
    let row = |vectors: &Vec<f64>| Coefficients { vectors: vectors.clone(), ..Coefficients::zero(0) };
    let grouping = Grouping::per_parameter(model.basis().unwrap());
    let matrix = grouping.coefficients(rows.iter().map(row).collect()).unwrap();
    model.weights_from_matrix(matrix).unwrap()
}

/// Coefficients that differ from parameter to parameter and from those of every other number. Some parameters have none
/// that is not zero, and some have those of another.
fn rows(vectors: usize, number: usize) -> Vec<Vec<f64>> {
    let row = |parameter: usize| match (number + parameter) % 4 {
        0 => vec![0.0; vectors],
        1 => coefficients(vectors, number),
        2 => (0..vectors).map(|m| if m == parameter % vectors { 0.25 + number as f64 } else { -0.0 }).collect(),
        _ => coefficients(vectors, number + parameter),
    };
    (0..bases().len()).map(row).collect()
}

/// Rows that are zero but for those of the parameters of these names.
fn rows_of(vectors: usize, names: &[&str]) -> Vec<Vec<f64>> {
    let row = |name: &str| if names.contains(&name) { 0.75 } else { 0.0 };
    bases().iter().map(|(name, ..)| vec![row(name); vectors]).collect()
}

/// The least budget, without a layout or with one: most of the basis is streamed then.
fn least(model: &Arc<Model>, layout: Option<&Arc<Layout>>) -> usize {
    let host = Arc::new(SimulatedDevice::new(ROOM, 1));
    let refused = match layout {
        Some(layout) => for_layout(&host, model, 0, layout),
        None => on(&host, model, 0),
    };
    layouts::least(&refused.unwrap_err())
}

/// Tasks of groups and plain ones by turns, the base among them.
fn mixed(model: &Arc<Model>, vectors: usize) -> Vec<TaskWeights> {
    let by_turns = |t: usize| [grouped(model, &rows(vectors, t)), task(model, &coefficients(vectors, t))].into_iter();
    (0..5).flat_map(by_turns).chain([task(model, &vec![0.0; vectors])]).collect()
}

#[test]
fn the_bits_are_those_of_the_cpu_whatever_the_budget() {
    for vectors in [1, 5] {
        let model = model(vectors);
        let (resident, arena) = sizes(&model);
        let all = resident + 2 * arena;
        let least = least(&model, None);
        for (seed, budget) in [least, least + (all - least) / 2, all - 1, all].into_iter().enumerate() {
            let host = Arc::new(SimulatedDevice::new(ROOM, seed as u64 + 3));
            let device = on(&host, &model, budget).unwrap();
            if budget == least || budget == all {
                assert_eq!(device.stats().slot_bytes > 0, budget == least, "{:?}", device.stats());
            }
            for task in mixed(&model, vectors) {
                assert_same(&device.get(&task).unwrap(), &task);
                assert_eq!(device.get(&task).unwrap().coefficients(), task.coefficients());
            }
            let tally = host.tally();
            assert!(tally.by_rows >= 5 && tally.by_rows < tally.combined && tally.peak <= budget, "{tally:?}");
            drop(device);
            assert_eq!(host.tally().bytes, 0);
        }
    }
}

/// In the queue one behind the other, before any is looked at: all of them, or where the basis is streamed two.
#[test]
fn rows_stay_until_the_kernel_has_read_them() {
    let model = model(3);
    let (_, arena) = sizes(&model);
    let streams = least(&model, None) + arena;
    for (seed, budget) in (1..15).flat_map(|seed| [(seed, ROOM), (seed, streams)]) {
        let host = Arc::new(SimulatedDevice::new(ROOM, seed));
        let device = on(&host, &model, budget).unwrap();
        assert_eq!(device.stats().slot_bytes > 0, budget == streams);
        let tasks = mixed(&model, 3);
        for tasks in tasks.chunks(if budget == streams { 2 } else { tasks.len() }) {
            let held: Vec<_> = tasks.iter().map(|task| device.get(task).unwrap()).collect();
            for (weights, task) in held.iter().zip(tasks) {
                assert_same(weights, task);
            }
        }
    }
}

#[test]
fn a_thousand_switches_stay_within_the_budget() {
    let model = model(6);
    let layout = simple(&model, DType::F32, true);
    let (resident, arena) = sizes(&model);
    let least = least(&model, Some(&layout));
    for (budget, streams) in [(resident + 5 * arena, false), (least + arena, true)] {
        let host = Arc::new(SimulatedDevice::new(budget, 5));
        let device = for_layout(&host, &model, budget, &layout).unwrap();
        assert_eq!(device.stats().slot_bytes > 0, streams);
        let tasks: Vec<TaskWeights> =
            mixed(&model, 6).into_iter().flat_map(|task| [task.in_layout(&layout), task]).collect();
        switch_at_random(&device, &tasks, 41);
        let stats = device.stats();
        assert!(stats.cache.evictions > 100 && stats.cache.hits > 20, "{stats:?}");
        assert!(host.tally().by_rows > 100 && host.tally().peak <= budget, "{:?}", host.tally());
        drop(device);
        assert_eq!(host.tally().bytes, 0);
    }
}

#[test]
fn only_what_a_group_adds_is_streamed() {
    let model = model(4);
    let (_, arena) = sizes(&model);
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 4)), &model, least(&model, None) + arena).unwrap();
    let streamed = |task: &TaskWeights| {
        let before = device.stats().streamed;
        drop(device.get(task).unwrap());
        device.trim(0);
        device.stats().streamed - before
    };
    let plain = |coefficients: &[f64]| streamed(&task(&model, coefficients));
    let (none, all) = (plain(&[0.0; 4]), plain(&[0.5; 4]));
    let of_a = streamed(&grouped(&model, &rows_of(4, &["visual.a"])));
    let others = ["visual.b", "visual.c", "visual.d", "visual.e"];
    let of_others = streamed(&grouped(&model, &rows_of(4, &others)));
    assert!(none < of_a && of_a < all && none < of_others && of_others < all);
    // Each vector comes for the one or the other; beside them, tables of a few bytes.
    let (apart, together) = (of_a - none + of_others - none, all - none);
    assert!(apart.abs_diff(together) < 1 << 10, "{apart} bytes, {together} together");
}

#[test]
fn layouts_have_the_bits_of_the_cpu() {
    let model = model(3);
    let layout = layout_of(&model, everything());
    for (seed, budget) in [ROOM, least(&model, Some(&layout))].into_iter().enumerate() {
        let host = Arc::new(SimulatedDevice::new(ROOM, seed as u64 + 1));
        let device = for_layout(&host, &model, budget, &layout).unwrap();
        assert_eq!(device.stats().slot_bytes > 0, budget < ROOM);
        // What is f64 in base and graph keeps its own bits where its group adds nothing, and only there.
        let of_one = [["visual.c"], ["visual.a"]].map(|names| grouped(&model, &rows_of(3, &names)));
        for task in mixed(&model, 3).into_iter().chain(of_one) {
            let in_layout = task.in_layout(&layout);
            assert_same(&device.get(&in_layout).unwrap(), &in_layout);
            assert_same(&device.get(&task).unwrap(), &task);
        }
    }
}

#[test]
fn a_graph_may_hold_what_no_group_changes() {
    let model = model(2);
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, ROOM).unwrap();
    let tensors = vec![tensor_spec("a", DType::F32, &[70, 90], vec![part("visual.a")])];
    let kept = ["visual.unchanged", "visual.b", "visual.d"];
    let layout = Layout::new(tensors, &kept, model.base()).unwrap();
    let of = |names: &[&str]| grouped(&model, &rows_of(2, names)).in_layout(&layout);
    for fits in [of(&["visual.a"]), of(&["visual.a", "visual.c", "visual.unchanged"])] {
        assert_same(&device.get(&fits).unwrap(), &fits);
    }
    let refused = [(["visual.a", "visual.d"], "visual.d"), (["visual.d", "visual.b"], "visual.b")];
    for (names, first) in refused {
        let task = of(&names);
        let (cpu, here) = (task.get().unwrap_err(), device.get(&task).unwrap_err());
        assert_eq!((here.kind(), here.tensor_name()), (ErrorKind::Mismatch, Some(first)), "{here}");
        assert_eq!(here.to_string(), cpu.to_string());
    }
}
