//! Task expressions: the one way to name weights, in Rust, C and on the command line.
//!
//! ```text
//! expression = ["+" | "-"] term { ("+" | "-") term }
//! term       = name ["@" λ]
//! name       = letters, digits, "_", "." and "/"  |  "any characters" (\" and \\ inside)
//! ```
//! `base` (no change at all), `merged` (the plain sum of the basis vectors: the paper's task addition) and `all`
//! (every task recovered and summed) are not tasks; a task of such a name is written in double quotes.

use std::fmt;
use std::iter::Peekable;
use std::ops::{Add, Mul, Neg, Sub};
use std::str::{CharIndices, FromStr};

use crate::did_you_mean::clipped;
use crate::error::{Error, Result};

/// The most terms, more than any use has: what bounds the work that a hostile expression can ask for.
const MAX_TERMS: usize = 100_000;

/// The words that an expression may name beside tasks.
pub(super) const WORDS: [&str; 3] = ["base", "merged", "all"];

/// The name in one term of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The recovered task vector τ̂ of this task.
    Task(String),
    /// Σ_m s_m, the plain sum of the basis vectors, without coefficients and without PCA's mean.
    Merged,
    /// Σ_t τ̂_t, every task recovered and summed.
    All,
}

/// A linear combination of task vectors, to be added to the base: `base + Σ λ·target`. Empty is the base itself.
///
/// ```
/// use taskbasis::TaskExpr;
/// let expr: TaskExpr = "MNIST@0.3 + SVHN@0.3 - Cars@0.2".parse()?;
/// assert_eq!(expr, TaskExpr::task("MNIST") * 0.3 + TaskExpr::task("SVHN") * 0.3 - TaskExpr::task("Cars") * 0.2);
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskExpr {
    terms: Vec<(Target, f64)>,
}

impl TaskExpr {
    /// The base: no task at all.
    pub fn base() -> Self {
        Self::default()
    }

    /// A task with λ = 1.
    pub fn task(name: impl Into<String>) -> Self {
        Self { terms: vec![(Target::Task(name.into()), 1.0)] }
    }

    /// The plain sum of the basis vectors with λ = 1.
    pub fn merged() -> Self {
        Self { terms: vec![(Target::Merged, 1.0)] }
    }

    /// Every task recovered and summed, λ = 1.
    pub fn all() -> Self {
        Self { terms: vec![(Target::All, 1.0)] }
    }

    /// The terms, in the order they were written; each with its λ.
    pub fn terms(&self) -> &[(Target, f64)] {
        &self.terms
    }
}

impl Mul<f64> for TaskExpr {
    type Output = Self;

    fn mul(mut self, lambda: f64) -> Self {
        self.terms.iter_mut().for_each(|(_, own)| *own *= lambda);
        self
    }
}

impl Neg for TaskExpr {
    type Output = Self;

    fn neg(self) -> Self {
        self * -1.0
    }
}

impl Add for TaskExpr {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }
}

impl Sub for TaskExpr {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

/// Writes the expression so that parsing it gives it back.
impl fmt::Display for TaskExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("base");
        }
        for (i, (target, lambda)) in self.terms.iter().enumerate() {
            match (i, lambda.is_sign_negative()) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            match target {
                Target::Task(name) if is_bare(name) => f.write_str(name)?,
                Target::Task(name) => write!(f, "\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))?,
                Target::Merged => f.write_str("merged")?,
                Target::All => f.write_str("all")?,
            }
            if lambda.abs() != 1.0 {
                write!(f, "@{}", Number(lambda.abs()))?;
            }
        }
        Ok(())
    }
}

/// A number as expressions and messages spell it: with an exponent where there would be many zeros. It reads back as
/// the same number.
pub(crate) struct Number(pub(crate) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        match value.abs() {
            0.0 | 1e-5..1e16 => write!(f, "{value}"),
            _ => write!(f, "{value:e}"),
        }
    }
}

impl FromStr for TaskExpr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Parser { text, chars: text.char_indices().peekable() }.expression()
    }
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name_char) && !WORDS.contains(&name)
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '/')
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn expression(mut self) -> Result<TaskExpr> {
        let mut terms = Vec::new();
        let mut sign = self.sign().unwrap_or(1.0);
        loop {
            if terms.len() == MAX_TERMS {
                return Err(self.error(&format!("more than {MAX_TERMS} terms")));
            }
            self.term(sign, &mut terms)?;
            match self.sign() {
                Some(next) => sign = next,
                None if self.chars.peek().is_none() => return Ok(TaskExpr { terms }),
                None => return Err(self.error("expected `+`, `-` or the end").hint(QUOTES)),
            }
        }
    }

    fn term(&mut self, sign: f64, terms: &mut Vec<(Target, f64)>) -> Result<()> {
        let (name, quoted) = self.name()?;
        let lambda = self.lambda()?;
        let target = match (&*name, quoted) {
            ("base", false) => {
                if sign < 0.0 || lambda.is_some() {
                    return Err(self.error("`base` takes neither a sign nor a λ: it is what tasks are added to"));
                }
                return Ok(());
            }
            ("merged", false) => Target::Merged,
            ("all", false) => Target::All,
            _ => Target::Task(name),
        };
        terms.push((target, sign * lambda.unwrap_or(1.0)));
        Ok(())
    }

    fn sign(&mut self) -> Option<f64> {
        self.skip_space();
        let sign = match self.chars.peek()?.1 {
            '+' => 1.0,
            '-' | '−' => -1.0,
            _ => return None,
        };
        self.chars.next();
        Some(sign)
    }

    fn name(&mut self) -> Result<(String, bool)> {
        self.skip_space();
        if self.chars.next_if(|&(_, c)| c == '"').is_some() {
            let mut name = String::new();
            loop {
                match self.chars.next() {
                    Some((_, '"')) if name.is_empty() => return Err(self.error("a name is empty")),
                    Some((_, '"')) => return Ok((name, true)),
                    Some((_, '\\')) => name.extend(self.chars.next().map(|(_, c)| c)),
                    Some((_, c)) => name.push(c),
                    None => return Err(self.error("a quoted name does not end")),
                }
            }
        }
        let mut name = String::new();
        while let Some((_, c)) = self.chars.next_if(|&(_, c)| is_name_char(c)) {
            name.push(c);
        }
        if name.is_empty() {
            return Err(self.error("expected the name of a task, `base`, `merged` or `all`").hint(QUOTES));
        }
        Ok((name, false))
    }

    /// `@λ`, where there is one.
    fn lambda(&mut self) -> Result<Option<f64>> {
        self.skip_space();
        if self.chars.next_if(|&(_, c)| c == '@').is_none() {
            return Ok(None);
        }
        self.skip_space();
        let mut number = String::new();
        while let Some(&(_, c)) = self.chars.peek() {
            // A sign belongs to the number at its start and after an exponent's `e`; elsewhere it begins a term.
            let sign_here = number.is_empty() || number.ends_with(['e', 'E']);
            if !(c.is_alphanumeric() || c == '.' || (matches!(c, '+' | '-') && sign_here)) {
                break;
            }
            number.push(c);
            self.chars.next();
        }
        match number.parse::<f64>() {
            Ok(lambda) if lambda.is_finite() => Ok(Some(lambda)),
            Ok(_) => {
                Err(self.error("a scaling coefficient (λ) must be finite").got(format_args!("`{}`", clipped(&number))))
            }
            Err(_) => Err(self.error("expected a number after `@`").got(format_args!("`{}`", clipped(&number)))),
        }
    }

    fn skip_space(&mut self) {
        while self.chars.next_if(|&(_, c)| c.is_whitespace()).is_some() {}
    }

    fn error(&mut self, what: &str) -> Error {
        let at = self.chars.peek().map_or(self.text.len(), |&(at, _)| at);
        let place = match self.text[at..].chars().take(20).collect::<String>() {
            rest if rest.is_empty() => "at its end".to_owned(),
            rest => format!("before `{rest}`"),
        };
        Error::invalid(format!("task expression `{}`, {place}: {what}", clipped(self.text)))
    }
}

const QUOTES: &str = "Names with characters other than letters, digits, `_`, `.` and `/` go in double quotes";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Vec<(Target, f64)> {
        text.parse::<TaskExpr>().unwrap().terms
    }

    fn task(name: &str) -> Target {
        Target::Task(name.into())
    }

    #[test]
    fn the_grammar() {
        assert_eq!(parse("base"), []);
        assert_eq!(parse("MNIST"), [(task("MNIST"), 1.0)]);
        assert_eq!(parse(" MNIST @ 0.8 "), [(task("MNIST"), 0.8)]);
        assert_eq!(parse("-MNIST@0.5"), [(task("MNIST"), -0.5)]);
        assert_eq!(parse("MNIST@-0.5"), [(task("MNIST"), -0.5)]);
        assert_eq!(
            parse("MNIST@0.3+SVHN@3e-1 - Cars@.2"),
            [(task("MNIST"), 0.3), (task("SVHN"), 0.3), (task("Cars"), -0.2)]
        );
        assert_eq!(parse("merged@0.4 + all@2"), [(Target::Merged, 0.4), (Target::All, 2.0)]);
        assert_eq!(parse(r#""CIFAR-10 \"x\""@2 + "base""#), [(task("CIFAR-10 \"x\""), 2.0), (task("base"), 1.0)]);
        assert_eq!(parse("base + MNIST@0.3"), [(task("MNIST"), 0.3)]);
    }

    #[test]
    fn errors_say_where_and_why() {
        for (text, part) in [
            ("", "expected the name of a task"),
            ("MNIST +", "at its end: expected the name"),
            ("MNIST@", "expected a number after `@`"),
            ("MNIST@x", "got `x`"),
            ("MNIST@nan", "must be finite"),
            ("MNIST@1e999", "must be finite"),
            ("MNIST SVHN", "before `SVHN`: expected `+`, `-` or the end"),
            ("\"MNIST", "does not end"),
            ("\"\"", "a name is empty"),
            ("base@0.5", "takes neither"),
            ("-base", "takes neither"),
            ("MNIST@0.5@0.5", "expected `+`"),
        ] {
            let error = text.parse::<TaskExpr>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_are_short_and_read_back() {
        for (value, text) in [
            (0.3, "0.3"),
            (0.0, "0"),
            (1e-5, "0.00001"),
            (2.5e-7, "2.5e-7"),
            (1e-310, "1e-310"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (1e15, "1000000000000000"),
            (1e300, "1e300"),
            (f64::MAX, "1.7976931348623157e308"),
        ] {
            assert_eq!((TaskExpr::task("A") * value).to_string(), format!("A@{text}"));
            assert_eq!(parse(&format!("A@{text} - A@{text}")), [(task("A"), value), (task("A"), -value)]);
        }
        assert_eq!((Number(f64::NAN).to_string(), Number(f64::INFINITY).to_string()), ("NaN".into(), "inf".into()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(terms in prop::collection::vec((".{1,8}", -1e3f64..1e3), 0..6)) {
            let expr = TaskExpr { terms: terms.into_iter().map(|(n, l)| (Target::Task(n), l)).collect() };
            prop_assert_eq!(expr.to_string().parse::<TaskExpr>().unwrap(), expr);
        }

        #[test]
        fn every_number_reads_back(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let expr = TaskExpr::task("A") * value;
            prop_assert_eq!(expr.to_string().parse::<TaskExpr>().unwrap(), expr);
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = text.parse::<TaskExpr>();
        }
    }
}
