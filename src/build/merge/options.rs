//! A merge as text: `METHOD[:key=value,…]`.

use std::fmt;
use std::str::FromStr;

use super::dare::Dare;
use super::ties::{Reduce, Ties};
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};

/// A rule that makes one vector of T task vectors, with its options. Its text is what `--merge` takes:
///
/// ```
/// use taskbasis::build::Merge;
/// let merge: Merge = "dare:drop=0.8,seed=7".parse()?;
/// assert_eq!(merge.to_string(), "dare:drop=0.8,seed=7,then=sum");
/// assert!("dare:dorp=0.8".parse::<Merge>().unwrap_err().to_string().contains("Did you mean `drop`?"));
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    /// `magmax`: of each element the largest magnitude (arXiv 2407.06322).
    MagMax,
    /// `ties:keep=0.2,by=mean`: trimmed, with elected signs (arXiv 2306.01708).
    Ties(Ties),
    /// `dare:drop=0.9,seed=0,then=sum`: elements dropped at random (arXiv 2311.03099), then the sum; with `then=ties`
    /// and its options, TIES of what is left.
    Dare(Dare, Option<Ties>),
    /// `stock`: the mean, drawn to the base parameter by parameter (arXiv 2403.19522).
    Stock,
    /// `tall:task=NAME,lambda=0.4`: what one task's mask holds of the sum (arXiv 2405.07813).
    Tall {
        /// Whose mask.
        task: String,
        /// λ, above 0.
        lambda: f64,
    },
    /// `consensus:lambda=0.4,agree=2`: what several tasks' masks hold of the sum (arXiv 2405.07813).
    Consensus {
        /// λ, above 0.
        lambda: f64,
        /// How many masks must hold an element, at least 1.
        agree: usize,
    },
    /// `tsv`: TSV-M, singular vectors of all tasks made orthogonal to each other (arXiv 2412.00081).
    Tsv,
    /// `iso-c`: the sum with all singular values made equal (arXiv 2502.04959).
    IsoC,
    /// `iso-cts:common=0.8`: the same, with directions that are one task's own (arXiv 2502.04959).
    IsoCts {
        /// The share of directions that is the sum's: at least 0 and at most 1.
        common: f64,
    },
    /// `wudi:steps=300,rate=0.00001`: the vector that disturbs the tasks' linear layers least, by descent
    /// (arXiv 2503.08099).
    Wudi {
        /// Steps of Adam.
        steps: usize,
        /// Their rate.
        rate: f64,
    },
}

/// The methods with their options.
const METHODS: [(&str, &[&str]); 10] = [
    ("magmax", &[]),
    ("ties", &["keep", "by"]),
    ("dare", &["drop", "seed", "then", "keep", "by"]),
    ("stock", &[]),
    ("tall", &["task", "lambda"]),
    ("consensus", &["lambda", "agree"]),
    ("tsv", &[]),
    ("iso-c", &[]),
    ("iso-cts", &["common"]),
    ("wudi", &["steps", "rate"]),
];

/// The middle of the values that the paper chooses from.
const LAMBDA: f64 = 0.4;
/// The most steps of WUDI: two hundred times the paper's.
const MAX_STEPS: usize = 60_000;

/// `key=value,…` of one method.
struct Pairs<'t> {
    method: &'t str,
    pairs: Vec<(&'t str, &'t str)>,
}

impl<'t> Pairs<'t> {
    fn get(&self, key: &str) -> Option<&'t str> {
        self.pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// The value of `key`, or the default, where `fits` is true of it.
    fn number<N: FromStr + Copy>(&self, key: &str, default: N, expected: &str, fits: impl Fn(N) -> bool) -> Result<N> {
        let Some(text) = self.get(key) else { return Ok(default) };
        match text.parse() {
            Ok(value) if fits(value) => Ok(value),
            _ => Err(Error::invalid(format!("option `{key}` of `{}` is out of range", self.method))
                .expected(expected)
                .got(format_args!("`{text}`"))),
        }
    }

    fn ties(&self) -> Result<Ties> {
        let default = Ties::default();
        let keep = self.number("keep", default.keep, "above 0 and at most 1", |keep| keep > 0.0 && keep <= 1.0)?;
        let by = match self.get("by") {
            None => default.by,
            Some("mean") => Reduce::Mean,
            Some("sum") => Reduce::Sum,
            Some("max") => Reduce::Max,
            Some(other) => return Err(unknown("way to merge values", other, ["mean", "sum", "max"].into_iter())),
        };
        Ok(Ties { keep, by })
    }

    fn lambda(&self) -> Result<f64> {
        self.number("lambda", LAMBDA, "a number above 0", |lambda: f64| lambda > 0.0 && lambda.is_finite())
    }
}

impl FromStr for Merge {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (method, options) = text.split_once(':').unwrap_or((text, ""));
        let methods = METHODS.iter().map(|(name, _)| *name);
        let known = METHODS.iter().find(|(name, _)| *name == method);
        let (_, keys) = known.ok_or_else(|| unknown("merging method", method, methods))?;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in options.split(',').filter(|_| !options.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::invalid(format!("an option of `{method}` without a value"))
                    .expected("key=value")
                    .got(format_args!("`{pair}`"))
            })?;
            if !keys.contains(&key) {
                return Err(unknown(&format!("option of `{method}`"), key, keys.iter().copied()));
            }
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(Error::invalid(format!("option `{key}` of `{method}` is given twice")));
            }
            pairs.push((key, value));
        }
        let given = Pairs { method, pairs };
        Ok(match method {
            "magmax" => Self::MagMax,
            "ties" => Self::Ties(given.ties()?),
            "dare" => {
                let default = Dare::default();
                let below_one = |drop: f64| (0.0..1.0).contains(&drop);
                let drop = given.number("drop", default.drop, "at least 0 and below 1", below_one)?;
                let seed = given.number("seed", default.seed, "a whole number", |_| true)?;
                let ties = match given.get("then") {
                    Some("ties") => Some(given.ties()?),
                    Some("sum") | None if given.get("keep").or(given.get("by")).is_some() => {
                        return Err(Error::invalid("`keep` and `by` of `dare` are for then=ties"));
                    }
                    Some("sum") | None => None,
                    Some(other) => return Err(unknown("merge after `dare`", other, ["sum", "ties"].into_iter())),
                };
                Self::Dare(Dare { drop, seed }, ties)
            }
            "stock" => Self::Stock,
            "tall" => {
                let task = given.get("task").filter(|task| !task.is_empty());
                let task = task.ok_or_else(|| Error::invalid("`tall` needs a task: tall:task=NAME"))?;
                Self::Tall { task: task.to_owned(), lambda: given.lambda()? }
            }
            "consensus" => Self::Consensus {
                lambda: given.lambda()?,
                agree: given.number("agree", 2, "a number of tasks", |agree: usize| agree > 0)?,
            },
            "tsv" => Self::Tsv,
            "iso-c" => Self::IsoC,
            "iso-cts" => {
                let share = |common: f64| (0.0..=1.0).contains(&common);
                Self::IsoCts { common: given.number("common", 0.8, "at least 0 and at most 1", share)? }
            }
            _ => Self::Wudi {
                steps: given.number("steps", 300, "1 to 60000", |steps| (1..=MAX_STEPS).contains(&steps))?,
                rate: given.number("rate", 1e-5, "a number above 0", |rate: f64| rate > 0.0 && rate.is_finite())?,
            },
        })
    }
}

impl Merge {
    /// Refuses what cannot be computed of these tasks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a merge that needs more tasks;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for one that names another task.
    pub fn check(&self, tasks: &[&str]) -> Result<()> {
        match self {
            Self::Tall { task, .. } if !tasks.contains(&task.as_str()) => {
                Err(unknown("task", task, tasks.iter().copied()))
            }
            Self::Consensus { agree, .. } if *agree > tasks.len() => {
                Err(Error::invalid(format!("`consensus` asks for {agree} masks that agree, of {} tasks", tasks.len())))
            }
            Self::Stock if tasks.len() < 2 => {
                Err(Error::invalid("`stock` needs two tasks or more: it goes by the angle between them"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Ties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            Reduce::Mean => "mean",
            Reduce::Sum => "sum",
            Reduce::Max => "max",
        };
        write!(f, "keep={},by={by}", self.keep)
    }
}

/// Writes all options, so that parsing it gives it back.
impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MagMax => f.write_str("magmax"),
            Self::Ties(ties) => write!(f, "ties:{ties}"),
            Self::Dare(Dare { drop, seed }, None) => write!(f, "dare:drop={drop},seed={seed},then=sum"),
            Self::Dare(Dare { drop, seed }, Some(ties)) => write!(f, "dare:drop={drop},seed={seed},then=ties,{ties}"),
            Self::Stock => f.write_str("stock"),
            Self::Tall { task, lambda } => write!(f, "tall:task={task},lambda={lambda}"),
            Self::Consensus { lambda, agree } => write!(f, "consensus:lambda={lambda},agree={agree}"),
            Self::Tsv => f.write_str("tsv"),
            Self::IsoC => f.write_str("iso-c"),
            Self::IsoCts { common } => write!(f, "iso-cts:common={common}"),
            Self::Wudi { steps, rate } => write!(f, "wudi:steps={steps},rate={rate}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_merge_is_read_as_it_is_written() {
        for (text, whole) in [
            ("magmax", "magmax"),
            ("ties", "ties:keep=0.2,by=mean"),
            ("ties:by=max,keep=1", "ties:keep=1,by=max"),
            ("dare", "dare:drop=0.9,seed=0,then=sum"),
            ("dare:then=ties,keep=0.5,drop=0", "dare:drop=0,seed=0,then=ties,keep=0.5,by=mean"),
            ("stock", "stock"),
            ("tall:task=a b", "tall:task=a b,lambda=0.4"),
            ("consensus:agree=3", "consensus:lambda=0.4,agree=3"),
            ("tsv", "tsv"),
            ("iso-c", "iso-c"),
            ("iso-cts", "iso-cts:common=0.8"),
            ("wudi", "wudi:steps=300,rate=0.00001"),
        ] {
            let merge: Merge = text.parse().unwrap();
            assert_eq!(merge.to_string(), whole);
            assert_eq!(whole.parse::<Merge>().unwrap(), merge);
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_was_meant() {
        for (text, parts) in [
            ("tyes", &["no merging method `tyes`", "Did you mean `ties`?"][..]),
            ("", &["no merging method"]),
            ("ties:kep=0.2", &["no option of `ties` `kep`", "Did you mean `keep`?"]),
            ("ties:keep", &["without a value"]),
            ("ties:keep=0", &["above 0"]),
            ("ties:keep=1.1", &["above 0"]),
            ("ties:keep=nan", &["above 0"]),
            ("ties:by=men", &["Did you mean `mean`?"]),
            ("ties:keep=1,keep=1", &["twice"]),
            ("magmax:x=1", &["no option of `magmax` `x`"]),
            ("dare:drop=1", &["below 1"]),
            ("dare:seed=-1", &["whole number"]),
            ("dare:keep=0.5", &["then=ties"]),
            ("dare:then=tie", &["Did you mean `ties`?"]),
            ("tall", &["task=NAME"]),
            ("tall:task=", &["task=NAME"]),
            ("consensus:agree=0", &["number of tasks"]),
            ("consensus:lambda=inf", &["above 0"]),
            ("iso-cts:common=2", &["at most 1"]),
            ("wudi:steps=0", &["1 to 60000"]),
            ("wudi:rate=0", &["above 0"]),
        ] {
            let error = text.parse::<Merge>().unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
