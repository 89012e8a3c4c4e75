//! Tasks taken out of bundles, and tasks added with the vectors made anew.

use std::path::Path;

use crate::growth::{distance, saved, task, weights};
use crate::support;
use crate::support::bundle::{Family, format, pack_digits, tiny_files};
use safetensors::tensor::TensorView;
use taskbasis::build::{Refit, RefitOptions, refit};
use taskbasis::{
    BaseFormat, BlockFormat, Bundle, BundleUpdate, Checkpoint, ErrorKind, Head, Method, NewTask, TaskExpr,
};

const MADE_ANEW: [Method; 2] = [Method::Autoencoder, Method::Pca];

fn refitted(path: &Path, onto: &Path, name: &str, finetuned: &Checkpoint, vectors: Option<usize>) -> Refit {
    let bundle = Bundle::open(path).unwrap();
    let mut update = BundleUpdate::new(&bundle, None).unwrap();
    let told = refit(&mut update, task(name, finetuned, None), &RefitOptions { vectors, seed: 1 }).unwrap();
    let fits = update.write(onto, &[], &|_| {}).unwrap();
    assert_eq!(fits.len(), 1);
    assert_eq!(fits[0].lacking, told.tasks.last().unwrap().lacking);
    assert!(Bundle::open(onto).unwrap().verify(0, &|_| {}).is_empty());
    told
}

/// Weights outside the span of a family's vectors.
fn outside(family: &Family, bundle: &Bundle) -> Checkpoint {
    let path = family.path("outside.safetensors");
    let inside = saved(bundle, "Task0@0.5 - Task2@0.25", &path);
    let changed: Vec<(String, Vec<usize>, Vec<u8>)> = inside
        .iter()
        .enumerate()
        .map(|(at, (name, tensor))| {
            let values = tensor.to_f32().unwrap();
            let moved = |(i, value): (usize, &f32)| value + 0.01 * (((i * 7 + at * 3) % 11) as f32 - 5.0);
            let bytes = values.iter().enumerate().map(moved).flat_map(f32::to_le_bytes).collect();
            (name.to_owned(), tensor.shape().to_vec(), bytes)
        })
        .collect();
    let views = changed
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap()));
    let path = family.path("new.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Checkpoint::open(path).unwrap()
}

#[test]
fn one_vector_more_holds_the_new_task_and_all_others() {
    for method in MADE_ANEW {
        let family = tiny_files(method);
        let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
        let bundle = Bundle::open(&path).unwrap();
        let new = outside(&family, &bundle);
        let onto = family.path("grown.taskbasis");
        let told = refitted(&path, &onto, "New", &new, Some(3));
        let grown = Bundle::open(&onto).unwrap();
        assert_eq!((told.vectors, grown.tasks().len()), (3, 4));
        assert!(told.lacking < 1e-5 && told.least < 1e-5, "{method}: {told:?}");
        let base = Checkpoint::open(&family.base).unwrap();
        assert!(distance(&weights(&grown, "New"), &new, &base) < 1e-4, "{method}");
        for name in ["Task0", "Task1", "Task2", "Task0@0.3 - Task1"] {
            let before = saved(&bundle, name, &family.path("before.safetensors"));
            assert!(distance(&weights(&grown, name), &before, &base) < 1e-4, "{method}: {name}");
        }
        // What the bundle had beside its vectors it still has.
        assert_eq!(grown.head("Task1").unwrap().classes(), ["no", "yes"]);
    }
}

#[test]
fn what_is_told_is_what_the_weights_lack() {
    for method in MADE_ANEW {
        let family = tiny_files(method);
        let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
        let bundle = Bundle::open(&path).unwrap();
        let new = outside(&family, &bundle);
        let onto = family.path("grown.taskbasis");
        let told = refitted(&path, &onto, "New", &new, None);
        let grown = Bundle::open(&onto).unwrap();
        assert_eq!(told.vectors, 2);
        assert!(told.lacking >= told.least && told.lacking > 1e-3, "{method}: {told:?}");
        if method == Method::Pca {
            // Nothing is better than PCA at what it minimises.
            assert!(told.lacking < 1.0001 * told.least, "{told:?}");
        }
        let base = Checkpoint::open(&family.base).unwrap();
        for of in &told.tasks {
            let before = match of.task.as_str() {
                "New" => Checkpoint::open(family.path("new.safetensors")).unwrap(),
                old => saved(&bundle, old, &family.path("before.safetensors")),
            };
            let lacking = distance(&weights(&grown, &of.task), &before, &base);
            assert!((lacking - of.lacking).abs() < 1e-4, "{method}: {of:?}, the weights lack {lacking}");
        }
        // The same bytes, whatever the number of threads; another seed is another basis of the Autoencoder's.
        let again = |seed: u32, threads: usize| {
            let mut update = BundleUpdate::new(&bundle, None).unwrap();
            update.threads(threads);
            refit(&mut update, task("New", &new, None), &RefitOptions { vectors: None, seed }).unwrap();
            update.write(&family.path("again.taskbasis"), &[], &|_| {}).unwrap();
            std::fs::read(family.path("again.taskbasis")).unwrap()
        };
        assert!(again(1, 1) == std::fs::read(&onto).unwrap() && again(1, 3) == again(1, 1), "{method}");
        assert!(method == Method::Pca || again(2, 0) != again(1, 0));
    }
}

#[test]
fn a_real_family_gains_over_the_vectors_as_they_are() {
    for (method, of) in [("AE", "q8"), ("PCA", "f16")] {
        let Some(finetuned) = support::digits("finetuned/MNIST.pt") else { return };
        let new = Checkpoint::open(finetuned).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.taskbasis");
        pack_digits(method, format(of), BaseFormat::F16, &path).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let mut update = BundleUpdate::new(&bundle, None).unwrap();
        let plain = update.task(task("New", &new, None)).unwrap().lacking;
        let onto = folder.path().join("grown.taskbasis");
        let told = refitted(&path, &onto, "New", &new, None);
        let of_new = told.tasks.last().unwrap().lacking;
        assert!(of_new < plain, "{method}: {of_new} beside {plain}");
        let grown = Bundle::open(&onto).unwrap();
        let base = bundle.base().unwrap().unwrap();
        let measured = distance(&weights(&grown, "New"), &new, &base);
        // Storing adds its own, at right angles to what is lacking, mostly.
        assert!((measured - of_new).abs() < 0.01, "{method}: {measured} beside {of_new}");
        assert_eq!(grown.file_bytes() / 4096, bundle.file_bytes() / 4096, "the same sizes");
    }
}

#[test]
fn what_cannot_be_made_anew_is_refused() {
    let refused = |method: Method, prepare: &dyn Fn(&mut BundleUpdate<'_>), new: NewTask<'_>, vectors, part: &str| {
        let family = tiny_files(method);
        let path = family.pack("x.taskbasis", "q8", BaseFormat::F32);
        let bundle = Bundle::open(&path).unwrap();
        let mut update = BundleUpdate::new(&bundle, None).unwrap();
        prepare(&mut update);
        let error = refit(&mut update, new, &RefitOptions { vectors, seed: 0 }).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        error.kind()
    };
    let family = tiny_files(Method::Autoencoder);
    let bundle = Bundle::open(family.pack("y.taskbasis", "q8", BaseFormat::F32)).unwrap();
    let (new, base) = (outside(&family, &bundle), Checkpoint::open(&family.base).unwrap());
    let plain = || task("New", &new, None);
    for method in [Method::Random, Method::RandomSample] {
        let kind = refused(method, &|_| {}, plain(), None, "cannot be made anew");
        assert_eq!(kind, ErrorKind::Unsupported);
    }
    let ae = Method::Autoencoder;
    refused(ae, &|_| {}, task("New", &new, Some(BlockFormat::Q4.into())), None, "a residual of a task");
    refused(ae, &|_| {}, task("Task1", &new, None), None, "has a task `Task1` already");
    refused(ae, &|_| {}, plain(), Some(0), "1 to 4");
    refused(ae, &|_| {}, plain(), Some(5), "1 to 4");
    refused(ae, &|_| {}, task("New", &base, None), None, "the weights of task `New` are the base's");
    let kind = refused(
        ae,
        &|update| {
            drop(update.residual("Task1", Box::leak(Box::new(outside(&family, &bundle))), BlockFormat::Q4.into()))
        },
        plain(),
        None,
        "task `Task1` has a residual",
    );
    assert_eq!(kind, ErrorKind::Unsupported);
}

#[test]
fn a_task_taken_out_leaves_the_others_as_they_are() {
    for method in [Method::Autoencoder, Method::Pca] {
        let family = tiny_files(method);
        let path = family.pack("x.taskbasis", "q4", BaseFormat::F32);
        let before = Bundle::open(&path).unwrap();
        let (one, two) = (outside(&family, &before), saved(&before, "Task0@2", &family.path("two.safetensors")));
        let mut update = BundleUpdate::new(&before, None).unwrap();
        update.task(task("One", &one, Some(BlockFormat::Q8.into()))).unwrap();
        let head = Head::new(vec![0.5; 3 * 4], vec![0.25; 3]).unwrap().with_normalisation(false);
        let new = NewTask { name: "Two", finetuned: &two, head: Some(head), residual: Some(BlockFormat::Q4.into()) };
        update.task(new).unwrap();
        update.write(&path, &[], &|_| {}).unwrap();

        // The first residual goes, and the second takes its number.
        let grown = Bundle::open(&path).unwrap();
        let onto = family.path("less.taskbasis");
        let mut update = BundleUpdate::of_names(&grown);
        update.remove("One").unwrap().remove("Task1").unwrap();
        update.write(&onto, &[], &|_| {}).unwrap();
        let less = Bundle::open(&onto).unwrap();
        assert!(less.verify(0, &|_| {}).is_empty());
        assert_eq!(less.tasks(), ["Task0", "Task2", "Two"]);
        assert_eq!((less.residuals(), less.head_tasks().collect::<Vec<_>>()), (&["Two".to_owned()][..], vec!["Two"]));
        assert!(!less.head("Two").unwrap().normalises());
        assert!(less.file_bytes() < grown.file_bytes());
        for name in ["Task0", "Task2", "Two", "Two@0.5 - Task0@0.25"] {
            let (own, others) = (weights(&less, name), weights(&grown, name));
            for (parameter, _, _) in own.iter() {
                assert_eq!(own.get(parameter), others.get(parameter), "{method}: {name}, {parameter}");
            }
        }
        // `all` is of the tasks that are left.
        let basis = less.basis().unwrap();
        let coefficients = |expr: &str| basis.coefficients(&expr.parse::<TaskExpr>().unwrap()).unwrap();
        assert_eq!(coefficients("all"), coefficients("Task0 + Task2 + Two"));
        // The one that went can come again.
        let mut update = BundleUpdate::new(&less, None).unwrap();
        update.task(task("One", &one, Some(BlockFormat::Q8.into()))).unwrap();
        update.write(&onto, &[], &|_| {}).unwrap();
        assert_eq!(Bundle::open(&onto).unwrap().residuals(), ["Two", "One"]);
    }
}

#[test]
fn what_cannot_be_taken_out_is_told() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.pack("x.taskbasis", "q8", BaseFormat::F32);
    let bundle = Bundle::open(&path).unwrap();
    let mut update = BundleUpdate::of_names(&bundle);
    let refused = |result: taskbasis::Result<&mut BundleUpdate<'_>>, kind: ErrorKind, part: &str| {
        let error = result.map(|_| ()).unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(part), "{error:?}");
    };
    refused(update.remove("Tusk1"), ErrorKind::NotFound, "Task1");
    update.keep("best", &"Task0@0.3 + Task1@0.3".parse().unwrap()).unwrap();
    refused(update.remove("Task1"), ErrorKind::InvalidArgument, "the bundle keeps `best`, which needs task `Task1`");
    update.forget("best").unwrap().remove("Task1").unwrap().remove("Task0").unwrap();
    refused(update.remove("Task2"), ErrorKind::InvalidArgument, "`Task2` is the bundle's last task");
    refused(update.remove("Task0"), ErrorKind::NotFound, "Task0");
}
