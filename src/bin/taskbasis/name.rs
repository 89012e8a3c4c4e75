//! `taskbasis name`

use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value, json};
use taskbasis::{Bundle, BundleUpdate, Error, Result, TaskExpr, Visible};

use crate::args::ChangedBundle;
use crate::expression::expression;
use crate::output;

/// Keep task expressions in a bundle, under names that are then tasks like any other.
///
/// `taskbasis name m.taskbasis 'best=MNIST@{attn: 0.4, *: 0.3} + SVHN@0.3'`, and from then on `best@0.5 - Cars`.
#[derive(Args)]
pub struct Name {
    #[command(flatten)]
    changed: ChangedBundle,

    /// A name and what it is to stand for, in the place of what it stands for now. The expression may be `@FILE.json`,
    /// what `fit` wrote.
    #[arg(value_name = "NAME=EXPR", required_unless_present = "forget")]
    names: Vec<NamedExpr>,

    /// A name to forget; may be given several times.
    #[arg(long, value_name = "NAME")]
    forget: Vec<String>,
}

/// `NAME=EXPR`
#[derive(Clone, Debug)]
struct NamedExpr {
    name: String,
    expr: TaskExpr,
}

impl FromStr for NamedExpr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, expr)) if !name.is_empty() => Ok(Self { name: name.to_owned(), expr: expression(expr)? }),
            _ => Err(Error::invalid("expected NAME=EXPR, as in best=MNIST@0.3")),
        }
    }
}

impl Name {
    /// Says that the bundle is changed.
    ///
    /// # Errors
    /// As [`ChangedBundle::check_place`].
    pub fn check_place(&self) -> Result<()> {
        self.changed.check_place()
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let (bundle, path) = self.changed.open()?;
        let mut update = BundleUpdate::of_names(&bundle);
        for name in &self.forget {
            update.forget(name)?;
        }
        for NamedExpr { name, expr } in &self.names {
            update.keep(name, expr)?;
        }
        update.write(path, &[], &|_| {})?;
        let after = output::after_writing(path);
        let written = Bundle::open(path).map_err(&after)?;
        if as_json {
            let names: Map<String, Value> =
                written.names().map(|(name, expr)| (name.to_owned(), json!(expr))).collect();
            return output::json(&json!({ "output": path, "names": names })).map_err(after);
        }
        let mut text = format!("{}\n", path.display());
        for (name, expr) in written.names() {
            text += &format!("{} = {}\n", Visible(name), Visible(expr));
        }
        output::text(text.trim_end()).map_err(after)
    }
}
