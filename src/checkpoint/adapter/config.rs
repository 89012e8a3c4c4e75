//! `adapter_config.json`: the way in which an adapter's weights are put together with the base's.

use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::super::choose::ADAPTER_CONFIG;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::mmap::read_small;

/// The rank and the alpha of PEFT where a configuration says nothing.
const DEFAULT_RANK: f64 = 8.0;
/// The largest configuration that is read; one with a pattern per module has some kilobytes.
const MAX_CONFIG: usize = 4 << 20;

/// The most modules with a rank or an alpha of their own, and the most among them by regular expressions; what one of
/// these may cost in bytes.
const MAX_PATTERNS: usize = 4096;
const MAX_EXPRESSIONS: usize = 64;
const MAX_EXPRESSION: usize = 1 << 20;

/// Options that change nothing of what the weights mean, or that are heeded here. With any other option that is on, the
/// adapter is refused by the option's name: a newer library may know more.
const KNOWN_OPTIONS: [&str; 29] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    // Heeded by modules that CLIP has none of (Conv1D); PEFT passes over it for all others.
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];
/// Options of [`KNOWN_OPTIONS`]'s kind that are heeded and may be on.
const HEEDED_OPTIONS: [&str; 2] = ["use_dora", "use_rslora"];
/// The beginnings of weights for which the base was not changed. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take
/// a part out of the base first.
const INITS: [&str; 6] = ["true", "false", "gaussian", "eva", "orthogonal", "mica"];

/// The values of a configuration.
#[derive(Debug)]
pub(super) struct Config {
    base: Option<String>,
    rank: f64,
    alpha: f64,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    is_rank_stabilised: bool,
    pub(super) is_dora: bool,
}

impl Config {
    /// Reads the configuration beside the weights at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for what is no such configuration;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an adapter that is not read, by its kind or option.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let file = path.with_file_name(ADAPTER_CONFIG);
        std::fs::metadata(&file).map_err(|e| missing(path, e))?;
        let text = read_small(&file, MAX_CONFIG, "a configuration")?;
        let json: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| Error::format("not the configuration of an adapter").at(&file).because(e))?;
        Self::of(&json).map_err(|error| error.at(file))
    }

    fn of(json: &Map<String, Value>) -> Result<Self> {
        check_kind(json)?;
        check_options(json)?;
        Ok(Self {
            base: json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank: number(json, "r")?,
            alpha: number(json, "lora_alpha")?,
            ranks: patterns(json, "rank_pattern")?,
            alphas: patterns(json, "alpha_pattern")?,
            is_rank_stabilised: flag(json, "use_rslora"),
            is_dora: flag(json, "use_dora"),
        })
    }

    /// The factor of B·A for `module`; `rank` is the number of rows of A.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where the configuration has another rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f32> {
        let of = |patterns: &[(Pattern, f64)], otherwise: f64| {
            patterns.iter().find(|(pattern, _)| pattern.fits(module)).map_or(otherwise, |(_, value)| *value)
        };
        let (stated, alpha) = (of(&self.ranks, self.rank), of(&self.alphas, self.alpha));
        if stated != rank as f64 {
            return Err(Error::format("the adapter's rank is another than its configuration says")
                .tensor(did_you_mean::clipped(module))
                .expected(stated)
                .got(rank));
        }
        let divisor = if self.is_rank_stabilised { stated.sqrt() } else { stated };
        Ok((alpha / divisor) as f32)
    }

    /// The error for an adapter in the place of a model.
    pub(super) fn no_model(&self, path: &Path) -> Error {
        let base = self.base.as_deref().filter(|base| !base.is_empty());
        let base = base.map_or("its base".into(), |base| format!("its base ({})", did_you_mean::clipped(base)));
        Error::unsupported("a LoRA adapter, which is no model without its base").at(path).hint(format!(
            "Give {base} as the base, and this as a fine-tuned checkpoint (--task NAME=PATH); or {}",
            merging()
        ))
    }
}

/// The command that makes a whole model of base and adapter, with the library that trained it.
fn merging() -> &'static str {
    "merge the two: python -c \"from peft import PeftModel; from transformers import CLIPModel; \
     PeftModel.from_pretrained(CLIPModel.from_pretrained('BASE'), 'ADAPTER').merge_and_unload().save_pretrained('OUT')\""
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io("cannot read", path.with_file_name(ADAPTER_CONFIG), error);
    }
    Error::not_found(format!("LoRA weights without the `{ADAPTER_CONFIG}` that says their scale"))
        .at(PathBuf::from(path))
        .hint(format!("Put it beside the file; or {}", merging()))
}

fn check_kind(json: &Map<String, Value>) -> Result<()> {
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Ok(()),
        Some(kind) => {
            Err(Error::unsupported(format!("an adapter of a kind that is not read: {}", did_you_mean::clipped(kind)))
                .expected("LORA")
                .hint(format!("To use it, {}", merging())))
        }
        None => Err(Error::format("not the configuration of an adapter").expected("a `peft_type`")),
    }
}

/// Refuses what changes the meaning of the weights and is not heeded.
fn check_options(json: &Map<String, Value>) -> Result<()> {
    let refused = |what: String| Err(Error::unsupported(what).hint(format!("To use it, {}", merging())));
    let init = match json.get("init_lora_weights") {
        None | Some(Value::Null) => "true".to_owned(),
        Some(Value::String(text)) => text.to_lowercase(),
        Some(other) => other.to_string(),
    };
    if !INITS.contains(&init.as_str()) {
        return refused(format!(
            "an adapter of a changed base (`init_lora_weights`: {})",
            did_you_mean::clipped(&init)
        ));
    }
    let is_on = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(pairs) => !pairs.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    let is_known = |name: &str| KNOWN_OPTIONS.contains(&name) || HEEDED_OPTIONS.contains(&name);
    match json.iter().find(|(name, value)| !is_known(name) && is_on(value)) {
        Some((name, _)) => {
            refused(format!("an adapter with an option that is not read: `{}`", did_you_mean::clipped(name)))
        }
        None => Ok(()),
    }
}

fn flag(json: &Map<String, Value>, name: &str) -> bool {
    json.get(name).and_then(Value::as_bool) == Some(true)
}

/// A finite number above 0; PEFT's default where there is none.
fn number(json: &Map<String, Value>, name: &str) -> Result<f64> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(DEFAULT_RANK),
        Some(value) => {
            positive(value).ok_or_else(|| Error::format(format!("`{name}` is no number above 0")).got(value))
        }
    }
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite() && *value > 0.0)
}

/// A pattern for the end of a module's name: a regular expression, nearly always one of letters and dots.
#[derive(Debug)]
enum Pattern {
    /// A dot is any character.
    Plain(String),
    Expression(Regex),
}

impl Pattern {
    /// Whether it fits all of `module`, or what follows one of its dots.
    fn fits(&self, module: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.is_match(module),
            Self::Plain(key) => module.len().checked_sub(key.len()).is_some_and(|at| {
                let (before, end) = module.as_bytes().split_at(at);
                before.last().is_none_or(|&last| last == b'.')
                    && end.iter().zip(key.as_bytes()).all(|(letter, wanted)| *wanted == b'.' || letter == wanted)
            }),
        }
    }
}

/// Patterns for the ends of modules' names, in their order, and what holds for those modules.
fn patterns(json: &Map<String, Value>, name: &str) -> Result<Vec<(Pattern, f64)>> {
    let Some(Value::Object(pairs)) = json.get(name) else { return Ok(Vec::new()) };
    let broken =
        |key: &str| Error::format(format!("`{name}` cannot be read")).got(did_you_mean::clipped(key).escape_debug());
    let is_plain =
        |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    let expressions = pairs.keys().filter(|key| !is_plain(key)).count();
    if pairs.len() > MAX_PATTERNS || expressions > MAX_EXPRESSIONS {
        return Err(Error::format(format!("`{name}` has too many patterns"))
            .expected(format_args!("at most {MAX_PATTERNS}, {MAX_EXPRESSIONS} of them regular expressions"))
            .got(format_args!("{}, {expressions}", pairs.len())));
    }
    let mut patterns = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let value = positive(value).ok_or_else(|| broken(key))?;
        let pattern = if is_plain(key) {
            Pattern::Plain(key.clone())
        } else {
            let mut builder = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$"));
            let expression = builder.size_limit(MAX_EXPRESSION).build();
            Pattern::Expression(expression.map_err(|e| broken(key).because(e))?)
        };
        patterns.push((pattern, value));
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Config> {
        Config::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn scales_are_those_of_the_library() {
        let config = of(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "rank_pattern": {"v_proj": 2, "0.fc1": 2},
            "alpha_pattern": {"1.*q_proj": 10, "q_proj": 20}}"#)
        .unwrap();
        assert_eq!(config.scale("layers.0.k_proj", 4).unwrap(), 1.5);
        assert_eq!(config.scale("layers.0.v_proj", 2).unwrap(), 3.0);
        assert_eq!(config.scale("layers.1.attn.q_proj", 4).unwrap(), 2.5, "the first pattern that fits");
        assert_eq!(config.scale("layers.0.attn.q_proj", 4).unwrap(), 5.0);
        assert_eq!(config.scale("layers.0.mlp.fc1x", 4).unwrap(), 1.5, "the whole end of the name");
        assert!(config.scale("v_proj", 4).unwrap_err().to_string().contains("expected 2, got 4"));
        let config = of(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": true}"#).unwrap();
        assert_eq!(config.scale("a", 4).unwrap(), 3.0);
        assert_eq!(of(r#"{"peft_type": "LORA"}"#).unwrap().scale("a", 8).unwrap(), 1.0, "the library's defaults");
    }

    #[test]
    fn what_is_not_read_is_refused_by_its_name() {
        for (json, wanted) in [
            (r#"{"peft_type": "IA3"}"#, "a kind that is not read: IA3"),
            (r#"{"r": 4}"#, "a `peft_type`"),
            (r#"{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}"#, "a changed base (`init_lora_weights`"),
            (r#"{"peft_type": "LORA", "use_qalora": true}"#, "`use_qalora`"),
            (r#"{"peft_type": "LORA", "target_parameters": ["in_proj_weight"]}"#, "`target_parameters`"),
            (r#"{"peft_type": "LORA", "of_tomorrow": {"a": 1}}"#, "`of_tomorrow`"),
            (r#"{"peft_type": "LORA", "r": 0}"#, "`r` is no number above 0: got 0"),
            (r#"{"peft_type": "LORA", "lora_alpha": "x"}"#, "`lora_alpha` is no number"),
            (r#"{"peft_type": "LORA", "alpha_pattern": {"(": 1}}"#, "`alpha_pattern` cannot be read: got ("),
            (r#"{"peft_type": "LORA", "alpha_pattern": {"a": -1}}"#, "`alpha_pattern` cannot be read"),
            (r#"{"peft_type": "LORA", "rank_pattern": {"((a{99}){99}){99}": 1}}"#, "`rank_pattern` cannot be read"),
        ] {
            let error = of(json).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}\nshould say\n{wanted}");
        }
        let harmless = r#"{"peft_type": "LORA", "use_qalora": false, "layer_replication": null, "target_parameters": [],
            "init_lora_weights": "gaussian", "fan_in_fan_out": true}"#;
        of(harmless).unwrap();
    }
}
