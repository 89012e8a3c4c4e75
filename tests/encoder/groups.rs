//! Coefficients by groups of parameters: the bits of each parameter alone, in every form that weights are wanted in.

use std::sync::Arc;

use crate::support::{bits, digits, runtime};
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Coefficients, Encoder, EncoderOptions, ErrorKind, Grouping, Model,
    ModelOptions, Precision, Residency, TaskExpr, TaskWeights, Weights,
};

const BASES: [&str; 2] = ["bases/ViT-D-8_AE_M4_8task", "bases/ViT-D-8_PCA_M4_8task"];
const GROUPED: &str = "MNIST@{attn: 0.4, blocks.0.mlp: -0.2, \"visual.proj\": 1, *: 0.3} - Parity@{norm: 0, *: 0.5} \
                       + merged@0.1";

/// The plain expression that `GROUPED` is for one parameter.
fn plain(name: &str) -> String {
    let mnist = match name {
        "visual.proj" => "1",
        name if name.contains("resblocks.0.mlp") => "-0.2",
        name if name.contains(".attn.") => "0.4",
        _ => "0.3",
    };
    let parity = if name.contains("ln_") { "0" } else { "0.5" };
    format!("MNIST@{mnist} - Parity@{parity} + merged@0.1")
}

fn open(basis: &str) -> Option<Arc<Model>> {
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    let basis = Basis::open(digits(basis)?).unwrap();
    Some(Model::new(base, Some(basis), &ModelOptions::default()).unwrap())
}

fn task(model: &Arc<Model>, expr: &str) -> TaskWeights {
    model.weights(&expr.parse().unwrap_or_else(|e| panic!("{expr}: {e}"))).unwrap()
}

#[test]
fn each_parameter_is_combined_as_if_alone() {
    for basis in BASES {
        let Some(model) = open(basis) else { return };
        let weights = task(&model, GROUPED).get().unwrap();
        let mut compared = 0;
        for (name, _) in model.base().image_tower() {
            let alone = task(&model, &plain(name)).get().unwrap();
            assert_eq!(bits(weights.get(name).unwrap()), bits(alone.get(name).unwrap()), "{basis} {name}");
            compared += 1;
        }
        assert!(compared > 30, "{compared}");
        // Groups whose sum is nothing are the base's own.
        let only = task(&model, "MNIST@{norm: 0.5, *: 0}").get().unwrap();
        let base = task(&model, "base").get().unwrap();
        let differs = |name: &str| bits(only.get(name).unwrap()) != bits(base.get(name).unwrap());
        for (name, _) in model.base().image_tower() {
            assert!(!differs(name) || name.contains("ln_"), "{name}");
        }
        assert!(differs("visual.transformer.resblocks.0.ln_1.weight"));
        assert!(only.nbytes() * 20 < weights.nbytes(), "unchanged tensors take nothing: {}", only.nbytes());
    }
}

#[test]
fn what_is_printed_gives_the_same_bits() {
    let Some(model) = open(BASES[1]) else { return };
    let basis = model.basis().unwrap();
    for grouping in Grouping::NAMES {
        let grouping = Grouping::named(basis, grouping).unwrap();
        let row = |g: usize| Coefficients {
            vectors: (0..4).map(|m| ((g * 4 + m) as f64 * 0.7).sin() / 3.0).collect(),
            mean: (g as f64).cos(),
            residuals: Vec::new(),
        };
        let rows: Vec<_> = (0..grouping.len()).map(row).collect();
        let expr = TaskExpr::of_rows(grouping.selectors(), &rows).unwrap();
        let matrix = basis.coefficients(&expr).unwrap();
        assert_eq!(basis.coefficients(&expr.to_string().parse().unwrap()).unwrap(), matrix);
        for (index, &group) in grouping.groups().iter().enumerate() {
            assert_eq!(matrix.rows()[matrix.row_of(index)], rows[group as usize]);
        }
    }
    let sizes = Grouping::NAMES.map(|name| Grouping::named(basis, name).unwrap().len());
    assert!(sizes.is_sorted() && sizes[0] == 1 && sizes[4] == basis.parameters().len(), "{sizes:?}");
}

#[test]
fn groups_that_say_one_thing_are_one_task() {
    let Some(model) = open(BASES[0]) else { return };
    let plain = task(&model, "MNIST@0.4");
    plain.get().unwrap();
    let same = task(&model, "MNIST@{attn: 0.4, mlp: 0.4, *: 0.4}");
    assert!(same.is_ready() && same.coefficients() == plain.coefficients());
    let (a, b) = (task(&model, "MNIST@{attn: 0.4, *: 0.3}"), task(&model, "MNIST@{attn: 0.3, *: 0.4}"));
    a.get().unwrap();
    assert!(a.is_ready() && !b.is_ready(), "the same numbers for other parameters are another task");
    for (expr, part) in [
        ("MNIST@{attn: 0.4}", "no group has this parameter"),
        ("MNIST@{attn: 0.4, bias: 0.1, *: 0}", "equally specific"),
        ("MNIST@{blocks.40: 0.4, *: 0}", "has no parameter"),
        ("#4", "#0 to #3"),
        ("#mean", "only PCA has one"),
    ] {
        let error = model.weights(&expr.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains(part), "{expr}: {error}");
        let kind = if expr.starts_with('#') { ErrorKind::NotFound } else { ErrorKind::InvalidArgument };
        assert_eq!(error.kind(), kind, "{expr}");
    }
}

/// The weights as a caller's own would be: computed parameter by parameter, given by name.
fn by_hand(model: &Arc<Model>) -> Arc<Weights> {
    task(model, GROUPED).get().unwrap()
}

#[test]
fn encoders_take_them_in_every_form() {
    let Some(model) = open(BASES[0]).filter(|_| runtime()) else { return };
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    let pixels: Vec<f32> = (0..3 * arch.pixels()).map(|i| ((i * 37 % 1009) as f32 / 504.5) - 1.0).collect();
    let (grouped, whole) = (task(&model, GROUPED), task(&model, "MNIST@0.3 - Parity@0.5 + merged@0.1"));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for residency in [Residency::Whole, Residency::Blockwise] {
            let options = EncoderOptions { precision: precision.into(), residency, ..EncoderOptions::default() };
            let encoder = Encoder::new(&arch, &options).unwrap();
            let embeds = encoder.encode_task(&grouped, &pixels, 3).unwrap();
            assert_eq!(embeds, encoder.encode(&*by_hand(&model), &pixels, 3).unwrap(), "{precision} {residency:?}");
            assert_ne!(embeds, encoder.encode_task(&whole, &pixels, 3).unwrap());
        }
    }
}
