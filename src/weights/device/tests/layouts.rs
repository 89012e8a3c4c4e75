//! Weights on a device in the layouts of graphs.

mod lifetimes;

use super::*;
use crate::weights::{BatchNorm, Layout, TensorSpec, View};

pub(super) fn part(parameter: &str) -> View {
    View::whole(parameter)
}

pub(super) fn tensor_spec(name: &str, dtype: DType, shape: &[usize], parts: Vec<View>) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.to_vec(), parts, packed: None }
}

/// Of everything that a layout can ask for, of what is changed and of what is not.
pub(super) fn everything() -> Vec<TensorSpec> {
    use DType::{BF16, F16, F32, F64};
    let turned = |parameter: &str| View { permute: Some(vec![1, 0]), ..part(parameter) };
    let rows = |parameter: &str, rows| View { rows: Some(rows), ..part(parameter) };
    vec![
        tensor_spec("a", F32, &[70, 90], vec![part("visual.a")]),
        tensor_spec("a.turned", F32, &[90, 70], vec![turned("visual.a")]),
        tensor_spec("a.turned.f16", F16, &[90, 70], vec![turned("visual.a")]),
        tensor_spec("a.rows", BF16, &[20, 90], vec![rows("visual.a", [30, 50])]),
        tensor_spec(
            "a.rows.turned",
            F32,
            &[90, 33],
            vec![View { permute: Some(vec![1, 0]), ..rows("visual.a", [1, 34]) }],
        ),
        tensor_spec(
            "a.heads",
            F16,
            &[7, 90, 10],
            vec![View {
                shape: Some(vec![7, 10, 90]),
                permute: Some(vec![0, 2, 1]),
                scale: Some(0.125),
                ..part("visual.a")
            }],
        ),
        tensor_spec("b.half", F16, &[5000], vec![part("visual.b")]),
        tensor_spec("b.scaled", F32, &[50, 100], vec![View { scale: Some(-1.5), ..part("visual.b") }]),
        tensor_spec("c.double", F64, &[3, 7], vec![part("visual.c")]),
        tensor_spec("c.turned", F64, &[7, 3], vec![turned("visual.c")]),
        tensor_spec(
            "d.mixed",
            F64,
            &[8, 16, 32],
            vec![View { shape: Some(vec![16, 8, 32]), permute: Some(vec![1, 0, 2]), ..rows("visual.d", [0, 2]) }],
        ),
        tensor_spec("e", BF16, &[9, 999], vec![part("visual.e")]),
        tensor_spec("unchanged", F32, &[33, 64], vec![part("visual.unchanged")]),
        tensor_spec("unchanged.f16", F16, &[33, 64], vec![part("visual.unchanged")]),
        tensor_spec("unchanged.turned", F32, &[64, 33], vec![turned("visual.unchanged")]),
        tensor_spec("unchanged.rows", F32, &[8, 64], vec![rows("visual.unchanged", [4, 12])]),
        tensor_spec("half", F16, &[100], vec![part("visual.half")]),
        tensor_spec("half.f32", F32, &[4, 25], vec![part("visual.half")]),
        tensor_spec("half.few", F32, &[63], vec![View { rows: Some([7, 70]), ..part("visual.half") }]),
        tensor_spec(
            "sum",
            F32,
            &[3, 30],
            vec![
                rows("visual.a", [2, 3]),
                View {
                    rows: Some([10, 100]),
                    shape: Some(vec![30, 3]),
                    permute: Some(vec![1, 0]),
                    ..part("visual.half")
                },
                View { scale: Some(3.0), ..rows("visual.a", [9, 10]) },
            ],
        ),
        tensor_spec("sum.f16", F16, &[7], vec![rows("visual.c", [0, 1]), rows("visual.c", [2, 3])]),
        tensor_spec(
            "sum.unchanged",
            BF16,
            &[64],
            vec![rows("visual.unchanged", [0, 1]), rows("visual.unchanged", [7, 8])],
        ),
    ]
}

pub(super) fn layout_of(model: &Arc<Model>, tensors: Vec<TensorSpec>) -> Arc<Layout> {
    Layout::new(tensors, &[], model.base()).unwrap()
}

/// A few large tensors, one of them unchanged; `turned` or not.
pub(super) fn simple(model: &Arc<Model>, dtype: DType, is_turned: bool) -> Arc<Layout> {
    let tensor = |parameter: &str, [rows, columns]: [usize; 2]| {
        let permute = is_turned.then(|| vec![1, 0]);
        let shape = if is_turned { [columns, rows] } else { [rows, columns] };
        tensor_spec(parameter, dtype, &shape, vec![View { permute, ..part(parameter) }])
    };
    layout_of(
        model,
        vec![tensor("visual.a", [70, 90]), tensor("visual.unchanged", [33, 64]), tensor("visual.e", [9, 999])],
    )
}

pub(super) fn for_layout(
    device: &Arc<SimulatedDevice>,
    model: &Arc<Model>,
    budget: usize,
    layout: &Arc<Layout>,
) -> Result<Arc<DeviceModel>> {
    let options = DeviceOptions { budget: Some(budget) };
    DeviceModel::for_layout(model, &Cuda::of(Arc::clone(device)), &options, layout)
}

/// The least that an error says there has to be.
pub(super) fn least(error: &crate::Error) -> usize {
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    error.to_string().split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_bits_are_those_of_the_cpu_whatever_the_budget() {
    for vectors in [1, 5] {
        let model = model(vectors);
        let layout = layout_of(&model, everything());
        let host = || Arc::new(SimulatedDevice::new(ROOM, 1));
        let least = least(&for_layout(&host(), &model, 0, &layout).unwrap_err());
        assert!(for_layout(&host(), &model, least - 1, &layout).is_err());
        let all = {
            let device = for_layout(&host(), &model, ROOM, &layout).unwrap();
            let weights = device.get(&task(&model, &coefficients(vectors, 1)).in_layout(&layout)).unwrap();
            let stats = device.stats();
            stats.resident_bytes + stats.layout_bytes + 2 * weights.nbytes()
        };
        let budgets = [least, least + (all - least) / 3, least + (all - least) / 2, all - 1, all];
        for (seed, budget) in budgets.into_iter().enumerate() {
            let host = Arc::new(SimulatedDevice::new(ROOM, seed as u64 + 7));
            let device = for_layout(&host, &model, budget, &layout).unwrap();
            if budget == least || budget == all {
                assert_eq!(device.stats().slot_bytes > 0, budget == least, "{:?}", device.stats());
            }
            for number in 0..5 {
                let task = task(&model, &coefficients(vectors, number)).in_layout(&layout);
                assert_same(&device.get(&task).unwrap(), &task);
            }
            let base = task(&model, &vec![0.0; vectors]).in_layout(&layout);
            assert_same(&device.get(&base).unwrap(), &base);
            assert!(host.tally().peak <= budget, "{:?} of {budget}", host.tally());
            drop((device, base));
            assert_eq!(host.tally().bytes, 0);
        }
    }
}

#[test]
fn a_folded_batch_normalisation_is_refused_by_name() {
    let model = model(2);
    let norm = BatchNorm { weight: None, variance: "visual.half".into(), epsilon: 1.0 };
    let half = model.base().get("visual.half").unwrap().shape().to_vec();
    let view = View { norm: Some(norm), ..part("visual.half") };
    let layout = layout_of(&model, vec![tensor_spec("folded", DType::F32, &half, vec![view])]);
    let error = for_layout(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, ROOM, &layout).unwrap_err();
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Unsupported, Some("folded")), "{error}");
}

#[test]
fn what_no_vector_changes_is_made_once_or_not_at_all() {
    let model = model(2);
    let host = Arc::new(SimulatedDevice::new(ROOM, 3));
    let device = on(&host, &model, ROOM).unwrap();
    let canonical = device.get(&task(&model, &[1.0, 0.0])).unwrap();
    let layout = layout_of(&model, everything());
    let of = |number: usize| device.get(&task(&model, &coefficients(2, number)).in_layout(&layout)).unwrap();
    let (one, other) = (of(1), of(2));
    let at = |weights: &DeviceWeights, name: &str| weights.get(name).unwrap().address;
    for tensor in one.iter() {
        let stays = ["unchanged", "half", "sum.unchanged"].iter().any(|prefix| tensor.name.starts_with(prefix));
        assert_eq!(tensor.address == at(&other, tensor.name), stays, "{}", tensor.name);
    }
    // In f32, and aligned: where the canonical one lies.
    assert_eq!(at(&one, "unchanged"), at(&canonical, "visual.unchanged"));
    assert_eq!(at(&one, "unchanged.rows"), at(&canonical, "visual.unchanged") + 4 * 64 * 4);
    assert_eq!(at(&one, "half.f32"), at(&canonical, "visual.half"));
    assert_ne!(at(&one, "half.few"), at(&canonical, "visual.half") + 4 * 7, "not at a multiple of 256");

    let error = one.to_host("half").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(one.to_host("half.f32").is_ok() && one.bytes_to_host("none").is_err());
    host.finish();
    assert_eq!((host.tally().combined, host.tally().relaid), (3, 3), "two tasks' and what stays");
}

#[test]
fn a_thousand_switches_between_layouts_stay_within_the_budget() {
    let model = model(6);
    let layouts =
        [simple(&model, DType::F16, true), simple(&model, DType::F32, true), simple(&model, DType::F32, false)];
    let (resident, arena) = sizes(&model);
    let least = least(&for_layout(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, 0, &layouts[1]).unwrap_err());
    for (budget, streams) in [(resident + 5 * arena, false), (least + arena, true)] {
        let host = Arc::new(SimulatedDevice::new(budget, 5));
        let device = for_layout(&host, &model, budget, &layouts[1]).unwrap();
        assert_eq!(device.stats().slot_bytes > 0, streams);
        let tasks: Vec<TaskWeights> = (0..8).map(|t| task(&model, &coefficients(6, t))).collect();
        let tasks: Vec<TaskWeights> = tasks
            .iter()
            .flat_map(|task| layouts.iter().map(|layout| task.in_layout(layout)).chain([task.clone()]))
            .collect();
        switch_at_random(&device, &tasks, 37);
        let stats = device.stats();
        assert!(stats.cache.evictions > 100 && stats.cache.hits > 50, "{stats:?}");
        assert!(host.tally().peak <= budget, "{:?}", host.tally());
        drop(device);
        assert_eq!(host.tally().bytes, 0);
    }
}

#[test]
fn what_the_graph_holds_itself_has_to_be_the_base() {
    let model = model(2);
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, ROOM).unwrap();
    let tensors = || vec![tensor_spec("a", DType::F32, &[70, 90], vec![part("visual.a")])];
    let (task, nothing) = (task(&model, &[1.0, 0.0]), task(&model, &[0.0, -0.0]));

    let fits = Layout::new(tensors(), &["visual.unchanged"], model.base()).unwrap();
    assert_same(&device.get(&task.in_layout(&fits)).unwrap(), &task.in_layout(&fits));
    let holds_a_changed_one = Layout::new(tensors(), &["visual.unchanged", "visual.b"], model.base()).unwrap();
    // Of another file with the same values, which is what reading a file twice gives.
    let of_equal = Layout::new(tensors(), &["visual.unchanged"], &base()).unwrap();
    assert_same(&device.get(&task.in_layout(&of_equal)).unwrap(), &task.in_layout(&of_equal));
    let of_another = Layout::new(tensors(), &["visual.unchanged"], &seeded(1)).unwrap();
    for (layout, named) in [(&holds_a_changed_one, "visual.b"), (&of_another, "visual.unchanged")] {
        let (cpu, here) = (task.in_layout(layout).get().unwrap_err(), device.get(&task.in_layout(layout)).unwrap_err());
        assert_eq!((here.kind(), here.to_string()), (cpu.kind(), cpu.to_string()));
        assert!(here.to_string().contains(named), "{here}");
    }
    // Nothing is added to it.
    assert_same(
        &device.get(&nothing.in_layout(&holds_a_changed_one)).unwrap(),
        &nothing.in_layout(&holds_a_changed_one),
    );
    assert!(device.get(&nothing.in_layout(&of_another)).is_err());
}

#[test]
fn a_layout_of_another_model_is_refused() {
    let model = model(2);
    let device = on(&Arc::new(SimulatedDevice::new(ROOM, 1)), &model, ROOM).unwrap();
    let task = task(&model, &[1.0, 0.0]);
    let of = |name: &str, shape: &[usize]| {
        let larger = vec![(name.to_owned(), tensor(DType::F32, shape, 1))];
        let larger = Checkpoint::from_tensors("larger", Format::Safetensors, larger.into_iter().collect()).unwrap();
        Layout::new(vec![tensor_spec("w", DType::F32, shape, vec![part(name)])], &[], &larger).unwrap()
    };
    for layout in [of("visual.a", &[700, 900]), of("visual.z", &[3])] {
        let error = device.get(&task.in_layout(&layout)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert_eq!(device.stats().layout_bytes, 0);
    }
}

#[test]
fn no_room_is_an_error_that_says_how_much() {
    let model = model(2);
    let (resident, arena) = sizes(&model);
    let layout = layout_of(&model, everything());
    let task = task(&model, &[1.0, 0.0]);
    // Room for one task's weights alone; what is to serve all layouts takes it.
    let host = Arc::new(SimulatedDevice::new(ROOM, 1));
    let device = on(&host, &model, resident + arena).unwrap();
    let error = device.get(&task.in_layout(&layout)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("room for ") && error.to_string().contains("bytes"), "{error}");
    // The layout found room, a task in it did not.
    assert!(
        device.stats().layout_bytes > 0 && device.stats().weights_bytes == 0 && error.to_string().contains("layouts")
    );
    device.forget(&layout);
    assert_eq!(device.stats().layout_bytes, 0);
    assert_same(&device.get(&task).unwrap(), &task);

    // Weights that were kept make room; weights in use do not.
    let fits = resident + 4 * arena;
    let device = on(&host, &model, fits).unwrap();
    let held: Vec<_> = (0..4).map(|t| device.get(&super::task(&model, &coefficients(2, t))).unwrap()).collect();
    let error = device.get(&task.in_layout(&layout)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    drop(held);
    assert_same(&device.get(&task.in_layout(&layout)).unwrap(), &task.in_layout(&layout));

    // A device that has less than its budget, found out at any point.
    let mut failed = 0;
    for capacity in (0..fits).step_by(arena / 3) {
        let host = Arc::new(SimulatedDevice::new(capacity, 1));
        let result = on(&host, &model, ROOM).and_then(|device| device.get(&task.in_layout(&layout)));
        match result {
            Ok(weights) => assert_same(&weights, &task.in_layout(&layout)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                failed += 1;
            }
        }
        assert_eq!(host.tally().bytes, 0);
    }
    assert!(failed > 3);
}

#[test]
fn a_base_alone_has_layouts_too() {
    let model = Model::new(base(), None, &ModelOptions::default()).unwrap();
    let host = Arc::new(SimulatedDevice::new(ROOM, 2));
    let device = on(&host, &model, ROOM).unwrap();
    let layout = layout_of(&model, everything());
    let base = model.weights(&"base".parse().unwrap()).unwrap().in_layout(&layout);
    let weights = device.get(&base).unwrap();
    assert_same(&weights, &base);
    assert_eq!((weights.nbytes(), device.stats().weights_bytes), (0, 0));
}

#[test]
fn many_threads_share_layouts() {
    let model = model(3);
    let layouts = [simple(&model, DType::F16, true), simple(&model, DType::F32, false)];
    let (resident, arena) = sizes(&model);
    for budget in [resident + 14 * arena, resident / 2 + 14 * arena] {
        let host = Arc::new(SimulatedDevice::new(ROOM, 11));
        let device = on(&host, &model, budget).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (device, model, layouts) = (&device, &model, &layouts);
                scope.spawn(move || {
                    for round in 0..10 {
                        let task = task(model, &coefficients(3, (thread + round) % 6));
                        let layout = layouts.get((thread + round / 3) % 3);
                        let task = layout.map_or(task.clone(), |layout| task.in_layout(layout));
                        assert_same(&device.get(&task).unwrap(), &task);
                    }
                });
            }
        });
        assert!(host.tally().peak <= budget);
    }
}
