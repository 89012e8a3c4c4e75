//! A machine for PTX, as far as NVRTC makes it of our kernels: the code that the driver gets, and not only its source,
//! does what it should. `__byte_perm`, wide loads and conversions are here what NVIDIA's "Parallel Thread Execution
//! ISA" says that their instructions do; the kernels as C++ have them from a shim of ours.
//!
//! Threads run one after the other, since none of the kernels needs another thread: what such code would need
//! (barriers, shared memory, atomics) is not known here. What is not known, or not right, is a panic that names the
//! instruction: registers read before they are written or at another width, accesses outside of the memory that there
//! is, misaligned ones, memory written twice.

mod memory;
mod parse;
mod run;
mod tests;

pub(super) use memory::Memory;

/// A kernel.
pub(super) struct Kernel {
    /// Bytes of its one parameter.
    parameter: usize,
    /// Bits of every register.
    registers: Vec<u32>,
    code: Vec<Instruction>,
}

struct Instruction {
    /// The register of a predicate, and what it has to be.
    guard: Option<(usize, bool)>,
    op: Op,
    operands: Vec<Operand>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Pred,
    /// Of so many bits, of no kind or unsigned.
    Bits(u32),
    Signed(u32),
    F16,
    F32,
    F64,
}

impl Type {
    const fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::Bits(bits) | Self::Signed(bits) => bits,
            Self::F16 => 16,
            Self::F32 => 32,
            Self::F64 => 64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Of two integers.
    Integer(Integer, Type),
    /// Of integers of this type, twice as wide.
    MulWide(Type),
    MadLo(Type),
    Neg(Type),
    /// Of f32, rounded to nearest, ties to even.
    AddF32,
    MulF32,
    FmaF32,
    BitFieldInsert(Type),
    Permute,
    Compare(Comparison, Type),
    Select(Type),
    Move(Type),
    Convert {
        to: Type,
        from: Type,
    },
    LoadParameter(Type),
    Load(Type),
    Store(Type),
    Prefetch,
    Branch,
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Integer {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Register(usize),
    Value(u64),
    ThreadIndex,
    BlockIndex,
    /// Where a value goes that nobody needs.
    Sink,
    Vector(Vec<Operand>),
    /// What a register holds, or zero, and so many bytes on.
    Address(Option<usize>, i64),
}
