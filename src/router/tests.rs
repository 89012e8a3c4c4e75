//! Routers of made-up features: found tasks, calibrated probabilities, files, and what is refused.

use std::path::Path;

use super::*;
use crate::ErrorKind;
use crate::weights::save_arrays;

const E: usize = 24;
const BASE: &str = "0123456789abcdef0123456789abcdef";

/// Sums of uniform numbers: near enough to normal ones, and the same everywhere.
struct Random(u64);

impl Random {
    fn normal(&mut self) -> f64 {
        let mut uniform = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    fn vector(&mut self, scale: f64) -> Vec<f64> {
        (0..E).map(|_| scale * self.normal()).collect()
    }
}

/// A task of features around a point, along two directions.
struct Domain([Vec<f64>; 3]);

impl Domain {
    fn new(random: &mut Random) -> Self {
        Self([random.vector(1.0), random.vector(0.6), random.vector(0.4)])
    }

    /// `n` features with this much noise, of different lengths.
    fn features(&self, random: &mut Random, n: usize, noise: f64) -> Vec<f32> {
        let mut features = Vec::with_capacity(n * E);
        for _ in 0..n {
            let (a, b, length) = (random.normal(), random.normal(), random.normal().abs() + 0.1);
            let [mean, first, second] = &self.0;
            let at = |i: usize| mean[i] + a * first[i] + b * second[i];
            features.extend((0..E).map(|i| (length * (at(i) + noise * random.normal())) as f32));
        }
        features
    }
}

fn base() -> Fingerprint {
    BASE.parse().unwrap()
}

fn fit(tasks: &[(String, Vec<f32>)]) -> Result<(Router, FitReport)> {
    RouterFit { fallback: Some("all@0.3".parse().unwrap()), ..RouterFit::default() }.fit(
        base(),
        Pooling::ClassToken,
        E,
        tasks,
    )
}

/// Four tasks with this much noise, a router of them, and 200 more features of each.
fn made(noise: f64) -> (Router, FitReport, Vec<Vec<f32>>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let domains: Vec<Domain> = (0..4).map(|_| Domain::new(&mut random)).collect();
    let few = domains.iter().enumerate().map(|(i, d)| (format!("task {i}"), d.features(&mut random, 48, noise)));
    let few: Vec<(String, Vec<f32>)> = few.collect();
    let (router, report) = fit(&few).unwrap();
    let more = domains.iter().map(|domain| domain.features(&mut random, 200, noise)).collect();
    (router, report, more)
}

#[test]
fn tasks_that_lie_apart_are_told_apart() {
    let (router, report, more) = made(0.2);
    assert_eq!((router.tasks().len(), router.embedding_dim()), (4, E));
    assert!((2..=8).contains(&router.components()), "two directions: {}", router.components());
    assert_eq!(report.images, [48; 4]);
    assert!(report.own.iter().all(|&own| own > 0.95), "{report:?}");
    for (task, features) in more.iter().enumerate() {
        let routes = router.route(features).unwrap();
        let own = routes.iter().filter(|route| route.task == task).count();
        let sure = routes.iter().filter(|route| router.choice(route) == Choice::Task).count();
        assert!(own > 190 && sure > 180, "{task}: {own} and {sure} of 200");
    }
    // The length of a feature does not count.
    let scaled: Vec<f32> = more[1].iter().map(|value| value * 512.0).collect();
    assert_eq!(router.route(&scaled).unwrap(), router.route(&more[1]).unwrap());
    // What is nowhere near any task is of none, however much likelier one of them is than the others.
    let mut random = Random(77);
    let foreign: Vec<f32> = Domain::new(&mut random).features(&mut random, 200, 0.2);
    let routes = router.route(&foreign).unwrap();
    let sure = routes.iter().filter(|route| router.choice(route) == Choice::Task).count();
    assert!(sure < 20, "{sure} of 200");
    let certain = router.clone().with_threshold(0.0).unwrap();
    assert!(routes.iter().all(|route| certain.choice(route) == Choice::Task));
    let silent = router.with_fallback(None);
    assert!(routes.iter().any(|route| silent.choice(route) == Choice::None));
}

/// Where tasks overlap, of the images with a probability of p about p are right.
#[test]
fn probabilities_are_what_they_say() {
    let (router, report, more) = made(1.6);
    assert!(report.own.iter().sum::<f64>() / 4.0 < 0.97, "they overlap: {report:?}");
    let (mut right, mut told) = (0.0, 0.0);
    for (task, features) in more.iter().enumerate() {
        for route in router.route(features).unwrap() {
            right += f64::from(u8::from(route.task == task)) / 800.0;
            told += route.probability / 800.0;
            assert!(route.confidence <= route.probability && (0.25..=1.0).contains(&route.probability));
        }
    }
    assert!((right - told).abs() < 0.06, "{right} right, {told} told");
}

#[test]
fn images_that_say_nothing_are_sent_nowhere() {
    let mut random = Random(5);
    let one = Domain::new(&mut random);
    let tasks = [("a", 1), ("b", 2)].map(|(name, seed)| (name.to_owned(), one.features(&mut Random(seed), 64, 0.5)));
    let (router, _) = fit(&tasks).unwrap();
    let routes = router.route(&one.features(&mut random, 100, 0.5)).unwrap();
    let mean = routes.iter().map(|route| route.probability).sum::<f64>() / 100.0;
    assert!(mean < 0.65, "two tasks with the same images are as likely: {mean}");
}

#[test]
fn equal_images_and_fewer_directions_than_asked_for_make_a_router() {
    let axis = |i: usize| (0..E).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let tasks = [0, 1].map(|i| (format!("{i}"), axis(i).repeat(8)));
    let (router, report) = fit(&tasks).unwrap();
    assert_eq!(report.own, [1.0; 2]);
    let routes = router.route(&[axis(0), axis(1)].concat()).unwrap();
    assert_eq!(routes.iter().map(|route| route.task).collect::<Vec<_>>(), [0, 1]);
    assert!(routes.iter().all(|route| route.confidence > 0.99), "{routes:?}");
    let only = fit(&tasks[..1]).unwrap().0;
    assert_eq!(only.route(&axis(0)).unwrap()[0].task, 0);
}

/// Tasks whose features lie in the same places, but spread along other directions than a common one that is wide:
/// whitened they are told apart, and the file keeps what does it.
#[test]
fn hidden_features_are_whitened() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (wide, places) = (random.vector(3.0), [0, 1, 2].map(|_| random.vector(0.25)));
    let mut features = |task: usize, n: usize| -> Vec<f32> {
        let mut features = Vec::with_capacity(n * E);
        for _ in 0..n {
            let (a, lengths) = (random.normal(), [random.normal().abs() + 0.1, random.normal().abs() + 0.1]);
            for i in 0..E {
                // A constant that all share keeps lengths alike; the halves have lengths of their own.
                let value = 2.0 + places[task][i] + a * wide[i] * 0.4 + 0.15 * random.normal();
                features.push((value * lengths[i / (E / 2)]) as f32);
            }
        }
        features
    };
    let few = [0, 1, 2].map(|task| (format!("task {task}"), features(task, 64)));
    let more = [0, 1, 2].map(|task| features(task, 200));
    let made = |kind: FeatureKind| {
        let fit = RouterFit { kind, max_components: 2, ..RouterFit::default() };
        fit.fit(base(), Pooling::ClassToken, E, &few).unwrap().0
    };
    let own = |router: &Router| -> usize {
        let of = |task: usize| router.route(&more[task]).unwrap().iter().filter(|route| route.task == task).count();
        (0..3).map(of).sum()
    };
    let (plain, hidden) = (made(FeatureKind::Embedding), made(FeatureKind::Hidden));
    assert!(own(&hidden) > 560 && own(&hidden) > own(&plain), "{} and {} of 600", own(&hidden), own(&plain));
    assert_eq!((hidden.kind(), hidden.shared_bytes(), plain.shared_bytes()), (FeatureKind::Hidden, E * (E + 1) * 2, 0));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    hidden.save(&path, &[]).unwrap();
    let read = Router::open(&path).unwrap();
    assert_eq!((read.kind(), &read.subspaces), (FeatureKind::Hidden, &hidden.subspaces));
    assert_eq!(read.route(&more[1]).unwrap(), hidden.route(&more[1]).unwrap());
    let bytes = std::fs::read(&path).unwrap();
    read.save(&path, &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(r#"\"version\":2"#) && has(r#"\"kind\":\"hidden\""#));
    // A half without length cannot be divided by it.
    let mut broken = more[0][..E].to_vec();
    broken[E / 2..].fill(0.0);
    assert!(hidden.route(&broken).unwrap_err().to_string().contains("cannot be normalised: got a norm of 0"));
    assert!(plain.route(&broken).is_ok());
    let odd = RouterFit { kind: FeatureKind::Hidden, ..RouterFit::default() };
    let error = odd.fit(base(), Pooling::ClassToken, 3, &few).unwrap_err().to_string();
    assert!(error.contains("hidden features of the wrong length: expected 2·width values, got 3"), "{error}");
}

#[test]
fn a_file_gives_the_same_router() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let (router, _, more) = made(0.3);
    router.save(&path, &[]).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    // What earlier readers know is written as they know it.
    let text = String::from_utf8_lossy(&bytes[..1024]).into_owned();
    assert!(text.contains(r#"\"version\":1"#) && !text.contains("kind") && !text.contains("whitening"), "{text}");
    let read = Router::open(&path).unwrap();
    assert_eq!((read.tasks(), &read.subspaces), (router.tasks(), &router.subspaces));
    assert_eq!((read.base(), read.pooling(), read.temperature()), (base(), Pooling::ClassToken, router.temperature()));
    assert_eq!(read.fallback(), Some(&"all@0.3".parse().unwrap()));
    assert_eq!(read.route(&more[2]).unwrap(), router.route(&more[2]).unwrap());
    read.save(&path, &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert!(read.task_index("task 9").unwrap_err().to_string().contains("router.safetensors: no task of the router"));
    let error = read.check_base("f".repeat(32).parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("a router of another base: expected fingerprint 0123"), "{error}");
}

/// Writes a router's file of these metadata and arrays, and tells what opening it says.
fn refused(path: &Path, about: &str, arrays: &[(&str, &[usize], &[f32])]) -> Error {
    save_arrays(path, arrays, &[("taskbasis.router", about.to_owned())], &[]).unwrap();
    Router::open(path).unwrap_err()
}

#[test]
fn what_is_no_router_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let about = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut about = serde_json::json!({
            "version": 1, "base": BASE, "pooling": "class_token", "features": "base", "tasks": ["a", "b"],
            "temperature": 2.0, "threshold": 0.5, "fallback": null,
        });
        change(&mut about);
        about.to_string()
    };
    let good = about(&|_| ());
    let (means, directions) = ([0.5f32; 6], [1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let arrays = |means: &'static [usize], directions: &'static [usize], variances: &'static [usize]| {
        [("means", means), ("directions", directions), ("variances", variances), ("limits", &[2][..])]
    };
    let usual = arrays(&[2, 3], &[2, 1, 3], &[2, 2]);
    let with = |shapes: [(&'static str, &'static [usize]); 4]| {
        let values: [&[f32]; 4] = [&means, &directions, &[1.0; 4], &[1.0; 2]];
        let all = shapes.into_iter().zip(values);
        all.map(|((name, shape), values)| (name, shape, &values[..shape.iter().product()])).collect::<Vec<_>>()
    };
    save_arrays(&path, &with(usual), &[("taskbasis.router", good.clone())], &[]).unwrap();
    assert_eq!(Router::open(&path).unwrap().tasks(), ["a", "b"]);

    let said = |about: &str, part: &str| {
        let error = refused(&path, about, &with(usual));
        assert!(error.to_string().contains(part) && error.to_string().contains("router.safetensors"), "{error}");
        error.kind()
    };
    assert_eq!(said(&about(&|a| a["version"] = 3.into()), "another version: expected 1 to 2"), ErrorKind::Unsupported);
    for (key, value, part) in [
        ("tasks", serde_json::json!([]), "number of tasks"),
        ("tasks", serde_json::json!(["a", "a"]), "one is there twice: got `a`"),
        ("temperature", serde_json::json!(0.0), "temperature: expected a positive number"),
        ("threshold", serde_json::json!(1.5), "threshold: expected 0 to 1"),
        ("base", serde_json::json!("no"), "not a fingerprint"),
        ("pooling", serde_json::json!("guess"), "metadata are broken"),
    ] {
        assert_eq!(said(&about(&|a| a[key] = value.clone()), part), ErrorKind::Format, "{part}");
    }
    said(&about(&|a| a["features"] = "a@".into()), "");
    said("{", "metadata are broken");
    let three = about(&|a| a["tasks"] = serde_json::json!(["a", "b", "c"]));
    said(&three, "`means`: not as a router has it: expected 2 extents, the first 3");

    let misshapen = |shapes, part: &str| {
        let error = refused(&path, &good, &with(shapes)).to_string();
        assert!(error.contains(part), "{error}");
    };
    // Hidden features are of two parts, and come with what whitens them.
    said(&about(&|a| a["version"] = 2.into()), "kind of features is not said: expected embedding or hidden");
    let hidden = about(&|a| {
        a["version"] = 2.into();
        a["kind"] = "hidden".into();
    });
    said(&hidden, "hidden features have an even number of values: got 3");
    let even = arrays(&[2, 2], &[2, 1, 2], &[2, 2]);
    let whitened = |triangle: &[f32], part: &str| {
        let extent = [triangle.len()];
        let mut all = with(even);
        all[1].2 = &[1.0, 0.0, 0.0, 1.0];
        all.push(("whitening", &extent, triangle));
        let error = refused(&path, &hidden, &all).to_string();
        assert!(error.contains(part), "{error}");
    };
    let error = refused(&path, &hidden, &with(even)).to_string();
    assert!(error.contains("`whitening`: the router has no such tensor"), "{error}");
    whitened(&[1.0, 0.0], "`whitening`: not as a router has it: expected floats of shape [3]");
    whitened(&[1.0, f32::INFINITY, 1.0], "`whitening`: a value is not finite");
    whitened(&[1.0, 0.0, -1.0], "`whitening`: a value of the diagonal is not positive: got -1 in row 1");

    misshapen(arrays(&[2, 3], &[2, 3], &[2, 2]), "`directions`: not as a router has it: expected 3 extents");
    misshapen(arrays(&[2, 3], &[2, 1, 2], &[2, 2]), "`directions`: not as a router has it: expected floats of shape");
    misshapen(arrays(&[2, 1], &[2, 1, 3], &[2, 2]), "fewer than the 1 dimensions of a feature");
    misshapen(arrays(&[2, 0], &[2, 0, 0], &[2, 1]), "fewer than the 0 dimensions of a feature");
    misshapen(arrays(&[2, 3], &[2, 1, 3], &[2, 1]), "`variances`: not as a router has it");
    let error = refused(&path, &good, &with(usual)[..3]).to_string();
    assert!(error.contains("`limits`: the router has no such tensor"), "{error}");
    let mut wrong = with(usual);
    wrong[0].2 = &[f32::NAN; 6];
    assert!(refused(&path, &good, &wrong).to_string().contains("`means`: a value is not finite"));

    save_arrays(&path, &with(usual), &[], &[]).unwrap();
    assert!(Router::open(&path).unwrap_err().to_string().contains("its metadata has no `taskbasis.router`"));
    std::fs::write(&path, "{}").unwrap();
    assert!(Router::open(&path).unwrap_err().to_string().contains("it is no safetensors file"));
    assert_eq!(Router::open(folder.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn what_makes_no_router_is_refused() {
    let mut random = Random(3);
    let domain = Domain::new(&mut random);
    let features = domain.features(&mut random, 8, 0.1);
    let named = |name: &str, features: &[f32]| (name.to_owned(), features.to_vec());
    let said = |tasks: &[(String, Vec<f32>)], part: &str| {
        let error = fit(tasks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(part), "{error}");
    };
    said(&[], "needs tasks");
    said(&[named("few", &features[..7 * E])], "too few images of task `few` to make a router of: expected 8 or more");
    said(&[named("a", &features), named("a", &features)], "task `a` is there twice");
    said(&[named("a", &features[1..])], "It is of task `a`");
    let mut broken = features.clone();
    broken[3 * E + 1] = f32::INFINITY;
    said(&[named("a", &features), named("b", &broken)], "feature 3 cannot be normalised: got a norm of inf");
    broken[3 * E..4 * E].fill(0.0);
    said(&[named("b", &broken)], "feature 3 cannot be normalised: got a norm of 0. It is of task `b`");

    let (router, _) = fit(&[named("a", &features)]).unwrap();
    for wrong in [&features[1..], &broken] {
        assert_eq!(router.route(wrong).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(router.route(&[]).unwrap().is_empty());
    for wrong in [-0.1, 1.1, f64::NAN] {
        assert_eq!(router.clone().with_threshold(wrong).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
