//! The reader of expressions: the grammar is that of [the module](super).

use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

use super::{Scale, Selector, Target, TaskExpr, is_name_char};
use crate::did_you_mean::clipped;
use crate::error::{Error, Result};

/// The most terms, more than any use has, and the most groups of a term: what bounds the work that a hostile expression
/// can ask for.
const MAX_TERMS: usize = 100_000;
const MAX_GROUPS: usize = 10_000;

const QUOTES: &str = "Names with characters other than letters, digits, `_`, `.` and `/` go in double quotes";

impl FromStr for TaskExpr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Parser { text, chars: text.char_indices().peekable() }.expression()
    }
}

impl FromStr for Selector {
    type Err = Error;

    /// A selector as expressions spell it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument), with what is expected.
    fn from_str(text: &str) -> Result<Self> {
        let mut parser = Parser { text, chars: text.char_indices().peekable() };
        parser.skip_space();
        let selector = parser.selector()?;
        parser.skip_space();
        match parser.chars.peek() {
            None => Ok(selector),
            Some(_) => Err(parser.error("expected the end of the group")),
        }
    }
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
                None => return Err(self.no_sign()),
            }
        }
    }

    fn term(&mut self, sign: f64, terms: &mut Vec<(Target, Scale)>) -> Result<()> {
        self.skip_space();
        let target = if self.takes('#') {
            self.vector()?
        } else {
            match self.name()? {
                (name, false) if name == "base" => {
                    if sign < 0.0 || self.scale()?.is_some() {
                        return Err(self.error("`base` takes neither a sign nor a λ: it is what tasks are added to"));
                    }
                    return Ok(());
                }
                (name, false) if name == "merged" => Target::Merged,
                (name, false) if name == "all" => Target::All,
                (name, _) => Target::Task(name),
            }
        };
        let mut scale = self.scale()?.unwrap_or(Scale::Whole(1.0));
        scale.times(sign);
        terms.push((target, scale));
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

    /// The number of a basis vector, or `mean`, behind `#`.
    fn vector(&mut self) -> Result<Target> {
        let word = self.word(is_name_char);
        match (&*word, word.parse()) {
            ("mean", _) => Ok(Target::Mean),
            (_, Ok(m)) => Ok(Target::Vector(m)),
            _ => Err(self
                .error("expected the number of a basis vector, from 0 on, or `mean` after `#`")
                .got(format_args!("`{}`", clipped(&word)))),
        }
    }

    fn name(&mut self) -> Result<(String, bool)> {
        self.skip_space();
        if let Some(name) = self.quoted()? {
            return Ok((name, true));
        }
        let name = self.word(is_name_char);
        if name.is_empty() {
            return Err(self.error("expected the name of a task, `base`, `merged` or `all`").hint(QUOTES));
        }
        Ok((name, false))
    }

    /// A name in double quotes, where one begins here.
    fn quoted(&mut self) -> Result<Option<String>> {
        if !self.takes('"') {
            return Ok(None);
        }
        let mut name = String::new();
        loop {
            match self.chars.next() {
                Some((_, '"')) if name.is_empty() => return Err(self.error("a name is empty")),
                Some((_, '"')) => return Ok(Some(name)),
                Some((_, '\\')) => name.extend(self.chars.next().map(|(_, c)| c)),
                Some((_, c)) => name.push(c),
                None => return Err(self.error("a quoted name does not end")),
            }
        }
    }

    /// `@λ` or `@{…}`, where there is one.
    fn scale(&mut self) -> Result<Option<Scale>> {
        self.skip_space();
        if !self.takes('@') {
            return Ok(None);
        }
        self.skip_space();
        if self.takes('{') { self.groups().map(Some) } else { Ok(Some(Scale::Whole(self.number("`@`")?))) }
    }

    /// The groups behind `{`, to the `}`.
    fn groups(&mut self) -> Result<Scale> {
        let mut groups: Vec<(Selector, f64)> = Vec::new();
        loop {
            if groups.len() == MAX_GROUPS {
                return Err(self.error(&format!("more than {MAX_GROUPS} groups")));
            }
            self.skip_space();
            let selector = self.selector()?;
            self.skip_space();
            if !self.takes(':') {
                return Err(self.error(&format!("expected `:` and a number after the group `{selector}`")));
            }
            self.skip_space();
            let lambda = self.number("`:`")?;
            if groups.iter().any(|(other, _)| *other == selector) {
                return Err(self.error(&format!("the group `{selector}` stands there twice")));
            }
            groups.push((selector, lambda));
            self.skip_space();
            match self.chars.next() {
                Some((_, ',')) => {}
                Some((_, '}')) => return Ok(Scale::Groups(groups)),
                _ => return Err(self.error("expected `,` or `}` after the λ of a group")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        if let Some(name) = self.quoted()? {
            return Ok(Selector::of_names(name));
        }
        let word = self.word(|c| is_name_char(c) || matches!(c, '*' | '-'));
        Selector::of_words(&word).map_err(|what| self.error(&what))
    }

    fn number(&mut self, after: &str) -> Result<f64> {
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
            Ok(lambda) if lambda.is_finite() => Ok(lambda),
            Ok(_) => {
                Err(self.error("a scaling coefficient (λ) must be finite").got(format_args!("`{}`", clipped(&number))))
            }
            Err(_) => {
                Err(self.error(&format!("expected a number after {after}")).got(format_args!("`{}`", clipped(&number))))
            }
        }
    }

    /// What follows a term and is no sign.
    fn no_sign(&mut self) -> Error {
        let at = self.chars.peek().map_or(self.text.len(), |&(at, _)| at);
        let rest = &self.text[at..];
        if rest.starts_with('^') || rest.starts_with("**") {
            let why = "powers of single elements are not linear in the basis vectors, so no coefficients give them";
            return self.error(why).hint("Weights are sums of multiples: `MNIST@0.5 + SVHN@0.3`");
        }
        if rest.starts_with('*') {
            return self.error("expected `+`, `-` or the end").hint("A multiple is written `MNIST@0.5`");
        }
        self.error("expected `+`, `-` or the end").hint(QUOTES)
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some((_, c)) = self.chars.next_if(|&(_, c)| is_part(c)) {
            word.push(c);
        }
        word
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.chars.next_if(|&(_, c)| c == wanted).is_some()
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
