//! The choice of the kernel that runs: what this machine has, and what the environment asks for.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::hints::Hints;
use super::product::ProductTile;
use super::tile::Tile;
use crate::error::{Error, Result};

/// The environment variable that forces a kernel: `scalar`, `avx2`, `avx512` or `neon`.
pub const VARIABLE: &str = "TASKBASIS_KERNEL";

/// An instruction set that the combine kernel is written for. All give the same bits; only the speed differs.
///
/// Every build knows every name, so that asking for one that this machine lacks can be answered with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Plain Rust, one element at a time: the specification. Runs everywhere.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// 64-bit ARM.
    Neon,
}

impl Kernel {
    const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Scalar];

    /// The name that [`VARIABLE`] and `FromStr` understand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// The kernels that this machine can run, the fastest first. [`Kernel::Scalar`] is always the last.
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Kernel>> = OnceLock::new();
        AVAILABLE.get_or_init(|| Self::ALL.into_iter().filter(|kernel| kernel.is_detected()).collect())
    }

    /// The fastest kernel that this machine can run.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Scalar)
    }

    /// The hints for the caches that it takes unless something else is chosen: all on x86-64, where that was measured
    /// (docs/performance.md); none on ARM, where it was not. The scalar kernel heeds none.
    pub fn hints(self) -> Hints {
        match self {
            Self::Avx2 | Self::Avx512 => Hints::new(true, true),
            Self::Scalar | Self::Neon => Hints::new(false, false),
        }
    }

    fn is_detected(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => super::avx2::is_detected(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => super::avx512::is_detected(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => super::neon::is_detected(),
            #[allow(unreachable_patterns)] // On a machine that has them all.
            _ => false,
        }
    }

    /// What this kernel is made of.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine lacks the instructions.
    pub(super) fn functions(self) -> Result<Functions> {
        if !Self::available().contains(&self) {
            return Err(unavailable(self));
        }
        // The functions below are safe to name only because the machine was just found to have their instructions.
        Ok(match self {
            Self::Scalar => Functions { combine: super::scalar::combine, product: super::scalar::product },
            #[cfg(target_arch = "x86_64")]
            // `available` lists AVX2 only where it, FMA and F16C were detected.
            Self::Avx2 => Functions {
                // SAFETY: it was, as said above.
                combine: |tile| unsafe { super::avx2::combine(tile) },
                // SAFETY: it was, as said above.
                product: |tile| unsafe { super::avx2::product(tile) },
            },
            #[cfg(target_arch = "x86_64")]
            // `available` lists AVX-512 only where it was detected.
            Self::Avx512 => Functions {
                // SAFETY: it was, as said above.
                combine: |tile| unsafe { super::avx512::combine(tile) },
                // SAFETY: it was, as said above.
                product: |tile| unsafe { super::avx512::product(tile) },
            },
            #[cfg(target_arch = "aarch64")]
            // `available` lists NEON only where it was detected.
            Self::Neon => Functions {
                // SAFETY: it was, as said above.
                combine: |tile| unsafe { super::neon::combine(tile) },
                // SAFETY: it was, as said above.
                product: |tile| unsafe { super::neon::product(tile) },
            },
            #[allow(unreachable_patterns)] // On a machine that has them all.
            _ => return Err(unavailable(self)),
        })
    }
}

/// What a kernel is made of.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    /// Combines a tile.
    pub(super) combine: fn(Tile<'_>),
    /// Computes some elements of a matrix of low rank.
    pub(super) product: fn(ProductTile<'_>),
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = Error;

    /// The kernel of that name, whether or not this machine can run it, in upper or lower case.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            Error::invalid(format!("unknown kernel `{name}`")).expected(format_args!("one of {}", list(&Self::ALL)))
        })
    }
}

/// The kernel that this process uses: [`choose`] on the value of [`VARIABLE`], settled at the first success.
///
/// # Errors
/// As [`choose`]. A failure is not remembered.
pub fn active() -> Result<Kernel> {
    static ACTIVE: OnceLock<Kernel> = OnceLock::new();
    if let Some(&kernel) = ACTIVE.get() {
        return Ok(kernel);
    }
    let wanted = std::env::var_os(VARIABLE);
    let kernel = choose(wanted.as_ref().map(|name| name.to_string_lossy()).as_deref())?;
    Ok(*ACTIVE.get_or_init(|| kernel))
}

/// The kernel that [`VARIABLE`] asks for with this value; [`Kernel::best`] when it is unset or empty.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a name that is not a kernel's,
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a kernel that this machine cannot run.
/// Both list those it can.
pub fn choose(value: Option<&str>) -> Result<Kernel> {
    let Some(name) = value.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(Kernel::best());
    };
    let kernel: Kernel = name.parse().map_err(|_| {
        Error::invalid(format!("{VARIABLE} names no kernel"))
            .expected(format_args!("one of {}", list(Kernel::available())))
            .got(format_args!("`{name}`"))
    })?;
    if Kernel::available().contains(&kernel) {
        return Ok(kernel);
    }
    Err(unavailable(kernel).hint(format!("Unset {VARIABLE} to take the fastest")))
}

fn unavailable(kernel: Kernel) -> Error {
    Error::unsupported("this machine cannot run that kernel")
        .expected(format_args!("one of {}", list(Kernel::available())))
        .got(kernel)
}

fn list(kernels: &[Kernel]) -> String {
    kernels.iter().map(|kernel| kernel.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_environment_is_obeyed_or_refused() {
        for unset in [None, Some(""), Some(" ")] {
            assert_eq!(choose(unset).unwrap(), Kernel::best());
        }
        assert_eq!(choose(Some("scalar")).unwrap(), Kernel::Scalar);
        assert_eq!(choose(Some(" Scalar ")).unwrap(), Kernel::Scalar);

        let unknown = choose(Some("avx3")).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidArgument);
        assert!(unknown.to_string().contains("avx3") && unknown.to_string().contains("scalar"), "{unknown}");

        for kernel in Kernel::ALL {
            match choose(Some(kernel.name())) {
                Ok(chosen) => assert_eq!(chosen, kernel),
                Err(error) => {
                    assert!(!Kernel::available().contains(&kernel));
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.to_string().contains(kernel.name()) && error.to_string().contains("scalar"));
                    assert!(kernel.functions().is_err());
                }
            }
        }
    }

    #[test]
    fn scalar_is_always_there_and_last() {
        assert_eq!(Kernel::available().last(), Some(&Kernel::Scalar));
        assert_eq!(Kernel::best(), Kernel::available()[0]);
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn no_machine_has_the_kernels_of_another() {
        let foreign = if cfg!(target_arch = "x86_64") { Kernel::Neon } else { Kernel::Avx2 };
        assert_eq!(choose(Some(foreign.name())).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
