//! What the combine kernel tells the caches. It changes the time that reconstruction takes, never the result.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

/// The environment variable that chooses the hints: `none`, or one or both of `prefetch,stream`.
pub const HINTS_VARIABLE: &str = "TASKBASIS_HINTS";

/// Instructions that move no data by themselves, only tell the caches what comes. Which of them help differs between
/// processors: `taskbasis bench --tune` measures that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hints {
    /// Lines of every input are asked for some way ahead of their use.
    pub prefetch: bool,
    /// Results of 8 MiB and more are written past the caches, where the instruction set can.
    pub stream: bool,
}

/// What [`Hints::set`] was given last: 0 for nothing, else 4 with the bits of [`Hints::bits`].
static SET: AtomicU8 = AtomicU8::new(0);

impl Hints {
    /// Every combination, the plainest first.
    pub const ALL: [Self; 4] =
        [Self::new(false, false), Self::new(true, false), Self::new(false, true), Self::new(true, true)];

    pub(super) const fn new(prefetch: bool, stream: bool) -> Self {
        Self { prefetch, stream }
    }

    /// Takes these from now on, in the whole process; `None`: what [`HINTS_VARIABLE`] says again. Reconstructions that
    /// are under way go on as they began.
    pub fn set(hints: Option<Self>) {
        // No other memory is handed over with it.
        SET.store(hints.map_or(0, |hints| 4 | hints.bits()), Ordering::Relaxed);
    }

    /// The hints that this process uses: the last ones [set](Self::set), those of [`HINTS_VARIABLE`], or `own`, which are
    /// the kernel's ([`Kernel::hints`](super::Kernel::hints)).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where the variable holds something else.
    pub fn active(own: Self) -> Result<Self> {
        static FROM_ENVIRONMENT: OnceLock<Option<Hints>> = OnceLock::new();
        let set = SET.load(Ordering::Relaxed);
        if set != 0 {
            return Ok(Self::new(set & 1 != 0, set & 2 != 0));
        }
        let chosen = match FROM_ENVIRONMENT.get() {
            Some(&chosen) => chosen,
            None => {
                let value = std::env::var_os(HINTS_VARIABLE);
                let chosen = Self::choose(value.as_ref().map(|value| value.to_string_lossy()).as_deref())?;
                *FROM_ENVIRONMENT.get_or_init(|| chosen)
            }
        };
        Ok(chosen.unwrap_or(own))
    }

    /// The hints that the variable asks for with this value, if it asks for any.
    fn choose(value: Option<&str>) -> Result<Option<Self>> {
        let value = value.map(str::trim).filter(|value| !value.is_empty());
        value.map(|value| value.parse().map_err(|e: Error| e.at(HINTS_VARIABLE))).transpose()
    }

    fn bits(self) -> u8 {
        u8::from(self.prefetch) | u8::from(self.stream) << 1
    }
}

impl fmt::Display for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.prefetch, self.stream) {
            (false, false) => "none",
            (true, false) => "prefetch",
            (false, true) => "stream",
            (true, true) => "prefetch,stream",
        })
    }
}

impl FromStr for Hints {
    type Err = Error;

    /// `none`, or `prefetch` and `stream` with commas between.
    fn from_str(text: &str) -> Result<Self> {
        let mut hints = Self::new(false, false);
        if text.trim().eq_ignore_ascii_case("none") {
            return Ok(hints);
        }
        for name in text.split(',') {
            match name.trim().to_ascii_lowercase().as_str() {
                "prefetch" => hints.prefetch = true,
                "stream" => hints.stream = true,
                _ => {
                    let unknown = Error::invalid("these are no hints for the caches");
                    return Err(unknown
                        .expected("`none`, or `prefetch` and `stream`, with a comma")
                        .got(format!("`{text}`")));
                }
            }
        }
        Ok(hints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_variable_is_obeyed_or_refused() {
        for unset in [None, Some(""), Some(" ")] {
            assert_eq!(Hints::choose(unset).unwrap(), None);
        }
        for hints in Hints::ALL {
            assert_eq!(Hints::choose(Some(&hints.to_string())).unwrap(), Some(hints));
        }
        assert_eq!(Hints::choose(Some(" Stream , prefetch")).unwrap(), Some(Hints::new(true, true)));
        for wrong in ["prefetch stream", "prefetch,", "all", "none,stream"] {
            let refused = Hints::choose(Some(wrong)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
            let text = refused.to_string();
            assert!(text.contains(wrong) && text.contains(HINTS_VARIABLE) && text.contains("`none`"), "{text}");
        }
    }
}
