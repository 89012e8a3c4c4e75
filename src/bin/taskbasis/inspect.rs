//! `taskbasis inspect`

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};
use taskbasis::{
    Arch, Basis, BasisFile, Bundle, Checkpoint, Preprocess, Provider, Result, Router, Runtime, TowerConfig,
    TowerOptions, kernel,
};

use crate::checkpoints::{self, listed};
use crate::gate;
use crate::output::{self, bytes, grouped, table};
use crate::paths::InPath;

/// Show what a basis folder, a bundle or a checkpoint holds, and what would run it.
#[derive(Args)]
pub struct Inspect {
    /// A basis folder, a bundle, or a checkpoint.
    path: InPath,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<InPath>,
}

impl Inspect {
    pub fn run(self, as_json: bool) -> Result<()> {
        let engine = Engine::look(self.onnxruntime.as_deref());
        if BasisFile::is_folder(&self.path) {
            let basis = Basis::open(&self.path)?;
            if as_json {
                output::json(&engine.added_to(basis_json(&basis)))
            } else {
                output::text(&(basis_text(&basis) + &engine.text()))
            }
        } else if Bundle::is_bundle(&self.path) {
            let bundle = Bundle::open(&self.path)?;
            let basis = bundle.basis()?;
            if as_json {
                let mut value = basis_json(&basis);
                add_bundle(&mut value, &bundle)?;
                output::json(&engine.added_to(value))
            } else {
                output::text(&(basis_text(&basis) + &bundle_text(&bundle)? + &engine.text()))
            }
        } else {
            let checkpoint = checkpoints::open(&self.path)?;
            if as_json {
                output::json(&engine.added_to(checkpoint_json(&checkpoint)))
            } else {
                output::text(&(checkpoint_text(&checkpoint) + &engine.text()))
            }
        }
    }
}

/// What would compute: the kernel and ONNX Runtime. Neither is needed to look at a file, so neither's absence fails.
struct Engine {
    kernel: Result<kernel::Kernel>,
    runtime: Result<taskbasis::Probe>,
    /// The providers that ONNX Runtime was built with, and what keeps them from being used here.
    providers: Vec<(Provider, Result<()>)>,
}

impl Engine {
    fn look(onnxruntime: Option<&Path>) -> Self {
        let runtime = Runtime::probe(onnxruntime);
        let built_in = runtime.as_ref().map_or(Vec::new(), |probe| Provider::known_among(&probe.providers));
        let tried = |provider| {
            let usable = Runtime::load(onnxruntime).and_then(|runtime| runtime.check_provider(provider, 0));
            (provider, usable)
        };
        Self { kernel: kernel::active(), runtime, providers: built_in.into_iter().map(tried).collect() }
    }

    fn added_to(&self, mut value: Value) -> Value {
        value["kernel"] = match &self.kernel {
            Ok(kernel) => json!(kernel.name()),
            Err(error) => json!({ "error": error.to_string() }),
        };
        value["onnxruntime"] = match &self.runtime {
            Ok(info) => json!({
                "path": info.path, "version": info.version.as_str(), "providers": info.providers,
                "usable": self.providers.iter().filter(|(_, usable)| usable.is_ok()).map(|(p, _)| p.name()).collect::<Vec<_>>(),
                "not_usable": self.providers.iter().filter_map(|(provider, usable)| {
                    Some((provider.name().to_owned(), json!(usable.as_ref().err()?.to_string())))
                }).collect::<serde_json::Map<_, _>>(),
            }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        value
    }

    fn text(&self) -> String {
        let kernel = self.kernel.as_ref().map_or_else(ToString::to_string, |kernel| kernel.name().to_owned());
        let runtime = match &self.runtime {
            Ok(info) => format!("{} ({})", info.version, info.path.display()),
            Err(error) => error.to_string(),
        };
        let usable: Vec<_> =
            self.providers.iter().filter(|(_, usable)| usable.is_ok()).map(|(p, _)| p.name()).collect();
        let mut text = format!("\nkernel        {kernel}\nONNX Runtime  {runtime}\n");
        if !self.providers.is_empty() {
            text += &format!("providers     {}\n", usable.join(", "));
        }
        for (provider, error) in self.providers.iter().filter_map(|(p, usable)| Some((p, usable.as_ref().err()?))) {
            text += &format!("  not {provider:<9} {error}\n");
        }
        text
    }
}

fn basis_json(basis: &Basis) -> Value {
    let coefficients: Vec<Vec<Option<f64>>> =
        (0..basis.vectors()).map(|m| (0..basis.tasks().len()).map(|t| basis.recovery().get(m, t)).collect()).collect();
    json!({
        "kind": "basis",
        "method": basis.method().to_string(),
        "tasks": basis.tasks(),
        "vectors": basis.vectors(),
        "parameters": basis.count(),
        "bytes": basis.file_bytes(),
        "has_mean": basis.has_mean(),
        "coefficients": coefficients,
    })
}

fn basis_text(basis: &Basis) -> String {
    let count = basis.count();
    let share =
        |part: usize| format!("{} ({:.1} %)", grouped(part as u64), 100.0 * part as f64 / count.total.max(1) as f64);
    let mean = if basis.has_mean() { " and a mean" } else { "" };
    let mut rows =
        vec![std::iter::once("coefficients".to_owned()).chain((0..basis.vectors()).map(|m| format!("s{m}"))).collect()];
    for (t, task) in basis.tasks().iter().enumerate() {
        let cell = |m| basis.recovery().get(m, t).map_or("—".to_owned(), |a| format!("{a:.4}"));
        rows.push(std::iter::once(task.clone()).chain((0..basis.vectors()).map(cell)).collect());
    }
    format!(
        "{}\n\nmethod        {}\ntasks         {}\nvectors       {}{mean}\nparameters    {}\n  image tower {}\n  changed     {}\n\
         bytes         {}\n\n{}",
        basis.path().display(),
        basis.method(),
        basis.tasks().len(),
        basis.vectors(),
        grouped(count.total as u64),
        share(count.image_tower),
        share(count.changed),
        bytes(basis.file_bytes()),
        table(&rows),
    )
}

fn add_bundle(value: &mut Value, bundle: &Bundle) -> Result<()> {
    value["kind"] = json!("bundle");
    value["architecture"] = arch_json(bundle.arch());
    if let Ok(preprocess) = bundle.preprocess() {
        value["preprocess"] = preprocess_json(&preprocess);
    }
    value["base"] = json!({
        "stored": bundle.holds_base(), "fingerprint": bundle.fingerprint().to_string(),
    });
    value["graph"] = match bundle.graph_map() {
        None => json!({ "source": "built" }),
        Some(map) => json!({
            "source": "carried", "bytes": bundle.graph().map_or(0, <[u8]>::len),
            "pixels": map.pixels, "output": map.output, "tensors": map.tensors.len(),
        }),
    };
    value["heads"] = json!(bundle.head_tasks().collect::<Vec<_>>());
    value["residuals"] = json!(bundle.residuals());
    value["merges"] = bundle.merges().map(|(name, method)| (name.to_owned(), json!(method))).collect();
    value["names"] = bundle.names().map(|(name, expr)| (name.to_owned(), json!(expr))).collect();
    value["router"] = match Router::of_bundle(bundle)? {
        None => Value::Null,
        Some(router) => json!({
            "tasks": router.tasks(), "components": router.components(), "threshold": router.threshold(),
            "features": router.features().to_string(), "kind": router.kind().name(),
            "fallback": router.fallback().map(ToString::to_string),
        }),
    };
    value["lambda"] = json!(bundle.lambdas());
    value["precision"] = json!(bundle.precision());
    value["precision_stale"] = json!(bundle.has_stale_precision());
    value["sections"] = json!(bundle.sections());
    value["writer"] = json!(bundle.writer());
    Ok(())
}

fn bundle_text(bundle: &Bundle) -> Result<String> {
    let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let lambdas = bundle.lambdas();
    let lambda = [("task", lambdas.task), ("merged", lambdas.merged), ("all", lambdas.all)]
        .into_iter()
        .filter_map(|(kind, lambda)| lambda.map(|lambda| format!("{kind} {lambda}")))
        .collect::<Vec<_>>();
    let rows: Vec<Vec<String>> =
        std::iter::once(vec!["in the file".to_owned(), "type".into(), "tensors".into(), "bytes".into()])
            .chain(bundle.sections().iter().map(|section| {
                vec![section.kind.to_owned(), section.format.into(), section.tensors.to_string(), bytes(section.bytes)]
            }))
            .collect();
    let router = match Router::of_bundle(bundle)? {
        None => "none".to_owned(),
        Some(router) => format!("of {}", router.tasks().join(", ")),
    };
    let base = if bundle.holds_base() { "in the file" } else { "left out" };
    let graph = match bundle.graph_map() {
        None => "the built one".to_owned(),
        Some(map) => format!(
            "carried, {}: `{}` → `{}`, {} tensors of the base's",
            bytes(bundle.graph().map_or(0, <[u8]>::len) as u64),
            map.pixels,
            map.output,
            map.tensors.len()
        ),
    };
    let precision = match bundle.precision() {
        Some(measure) => gate::text(measure),
        None if bundle.has_stale_precision() => {
            "\nprecision     f32: the bundle was changed since others were measured\n".to_owned()
        }
        None => "\nprecision     f32: no other was measured\n".to_owned(),
    };
    Ok(format!(
        "\nencoder       {}\ngraph         {graph}\nbase          {base}, fingerprint {}\nheads         {}\nresiduals     {}\nmerges        {}\nnames         {}\nrouter        {router}\n\
         suggested λ   {}\nwritten by    {}\n\n{}{precision}",
        bundle.arch(),
        bundle.fingerprint(),
        list(bundle.head_tasks().map(str::to_owned).collect()),
        list(bundle.residuals().to_vec()),
        list(bundle.merges().map(|(name, method)| format!("{name} ({method})")).collect()),
        list(bundle.names().map(|(name, _)| name.to_owned()).collect()),
        if lambda.is_empty() { "none".to_owned() } else { lambda.join(", ") },
        bundle.writer(),
        table(&rows),
    ))
}

fn arch_json(arch: &Arch) -> Value {
    if arch.is_of_graph() {
        // Nothing else is known of it.
        return json!({ "image_size": arch.image_size(), "embedding": arch.embed_dim });
    }
    json!({
        "width": arch.width, "layers": arch.layers, "heads": arch.heads, "mlp_width": arch.mlp_width,
        "patch_size": arch.patch, "image_size": arch.image_size(), "embedding": arch.embed_dim,
        "activation": arch.activation, "pre_norm": arch.variant.pre_norm,
        "norm_epsilon": arch.variant.norm_epsilon, "pooling": arch.variant.pooling,
    })
}

fn preprocess_json(preprocess: &Preprocess) -> Value {
    json!({
        "image_size": preprocess.size(), "mean": preprocess.mean(), "std": preprocess.std(),
        "resize": preprocess.resize(), "resize_edge": preprocess.edge(),
        "interpolation": preprocess.interpolation(),
    })
}

/// The tower, where the tensors are those of an image tower.
fn tower(checkpoint: &Checkpoint) -> Option<Result<TowerConfig>> {
    checkpoint.image_tower().next().map(|_| TowerConfig::read(checkpoint, &TowerOptions::default()))
}

/// The architecture as JSON, with where each value came from.
fn tower_json(tower: &TowerConfig) -> Value {
    let mut value = arch_json(&tower.arch);
    let origins = tower.values.iter().map(|value| (value.property.name().to_owned(), json!(value.origin.to_string())));
    value["origins"] = Value::Object(origins.collect());
    value["preprocess"] = preprocess_json(&tower.preprocess);
    value["notes"] = json!(tower.notes);
    value
}

/// The architecture for people, with where each value came from.
fn tower_text(tower: &TowerConfig) -> String {
    let rows = tower.values.iter();
    let rows = rows.map(|value| format!("\n  {:<11} {} ({})", value.property.name(), value.value, value.origin));
    let notes = tower.notes.iter().map(|note| format!("\n  note: {note}"));
    format!("{}{}{}", tower.arch, rows.collect::<String>(), notes.collect::<String>())
}

fn image_tower_parameters(checkpoint: &Checkpoint) -> usize {
    checkpoint.image_tower().filter(|(_, tensor)| tensor.dtype().is_float()).map(|(_, tensor)| tensor.numel()).sum()
}

fn checkpoint_json(checkpoint: &Checkpoint) -> Value {
    let tensors: Vec<Value> = checkpoint
        .iter()
        .map(|(name, tensor)| json!({ "name": name, "dtype": tensor.dtype().name(), "shape": tensor.shape() }))
        .collect();
    let architecture = match tower(checkpoint) {
        None => Value::Null,
        Some(Ok(tower)) => tower_json(&tower),
        Some(Err(error)) => json!({ "error": error.to_string() }),
    };
    let unread = checkpoint.unread().map(|(name, unread)| (name.to_owned(), json!(unread.reason())));
    let unread: serde_json::Map<_, _> = unread.collect();
    let naming = checkpoint.naming();
    json!({
        "kind": "checkpoint",
        "format": checkpoint.format().name(),
        "parameters": { "total": checkpoint.parameters(), "image_tower": image_tower_parameters(checkpoint) },
        "bytes": checkpoint.file_bytes(),
        "architecture": architecture,
        "prefix": naming.prefix(),
        "names": naming.told(),
        "left_out": naming.beside(),
        "unread": unread,
        "tensors": tensors,
    })
}

fn checkpoint_text(checkpoint: &Checkpoint) -> String {
    let mut rows = vec![vec!["tensor".to_owned(), "type".into(), "shape".into()]];
    rows.extend(
        checkpoint
            .iter()
            .map(|(name, tensor)| vec![name.to_owned(), tensor.dtype().to_string(), format!("{:?}", tensor.shape())]),
    );
    rows.extend(
        checkpoint.unread().map(|(name, unread)| vec![name.to_owned(), "not read".into(), unread.reason().into()]),
    );
    let naming = checkpoint.naming();
    let mut names = naming.told().map(|told| format!("names         {told}\n")).unwrap_or_default();
    if !naming.beside().is_empty() {
        names += &format!("left out      {}\n", listed(naming.beside()));
    }
    let architecture = match tower(checkpoint) {
        None if naming.kind().is_some() => format!("no image tower, but {}", naming.kind().unwrap_or_default()),
        None => "no image tower".to_owned(),
        Some(Ok(tower)) => tower_text(&tower),
        Some(Err(error)) => error.to_string(),
    };
    format!(
        "{}\n\nformat        {}\n{names}parameters    {}\n  image tower {}\nbytes         {}\narchitecture  {architecture}\n\n{}",
        checkpoint.path().display(),
        checkpoint.format().name(),
        grouped(checkpoint.parameters()),
        grouped(image_tower_parameters(checkpoint) as u64),
        bytes(checkpoint.file_bytes()),
        table(&rows),
    )
}
