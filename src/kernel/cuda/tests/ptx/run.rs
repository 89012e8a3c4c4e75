//! What instructions do.

use half::f16;

use super::memory::Memory;
use super::{Comparison, Instruction, Integer, Kernel, Op, Operand, Type};

/// More than any thread of the kernels runs here.
const MOST_STEPS: u64 = 1 << 26;

impl Kernel {
    /// Launches it over so many blocks of so many threads.
    ///
    /// # Panics
    /// When anything of it is not as it has to be.
    pub(in super::super) fn run(&self, blocks: u32, threads: u32, parameter: &[u8], memory: &mut Memory<'_>) {
        assert_eq!(parameter.len(), self.parameter, "bytes of the parameter");
        let mut thread =
            Thread { kernel: self, parameter, block: 0, index: 0, registers: vec![None; self.registers.len()] };
        for block in 0..blocks {
            for index in 0..threads {
                (thread.block, thread.index) = (block, index);
                thread.registers.fill(None);
                thread.run(memory);
            }
        }
    }
}

struct Thread<'a> {
    kernel: &'a Kernel,
    parameter: &'a [u8],
    block: u32,
    index: u32,
    /// `None`: not written yet.
    registers: Vec<Option<u64>>,
}

impl Thread<'_> {
    fn run(&mut self, memory: &mut Memory<'_>) {
        let (kernel, block, index) = (self.kernel, self.block, self.index);
        let mut next = 0;
        for _ in 0..MOST_STEPS {
            let instruction = &kernel.code[next];
            let fault = |what: String| -> ! { panic!("block {block}, thread {index}: `{}`: {what}", instruction.text) };
            next += 1;
            if let Some((register, wanted)) = instruction.guard {
                match self.registers[register] {
                    Some(is) if (is != 0) == wanted => {}
                    Some(_) => continue,
                    None => fault("the predicate was not set".to_owned()),
                }
            }
            match (instruction.op, instruction.operands.as_slice()) {
                (Op::Return, []) => return,
                (Op::Branch, [Operand::Value(target)]) => next = *target as usize,
                _ => {
                    if let Err(what) = self.step(instruction, memory) {
                        fault(what);
                    }
                }
            }
        }
        panic!("block {block}, thread {index} does not end");
    }

    fn step(&mut self, instruction: &Instruction, memory: &mut Memory<'_>) -> Result<(), String> {
        let operands = instruction.operands.as_slice();
        let (to, value, of) = match (instruction.op, operands) {
            (Op::Integer(op, of), [to, a, b]) => {
                // How far is a number of 32 bits, whatever is shifted.
                let is_shift = matches!(op, Integer::ShiftLeft | Integer::ShiftRight);
                let b = self.value(b, if is_shift { Type::Bits(32) } else { of })?;
                (to, integer(op, of, self.value(a, of)?, b)?, of)
            }
            (Op::MulWide(of), [to, a, b]) => {
                let product = extend(self.value(a, of)?, of).wrapping_mul(extend(self.value(b, of)?, of));
                (to, product, Type::Bits(2 * of.bits()))
            }
            (Op::MadLo(of), [to, a, b, c]) => {
                let product = self.value(a, of)?.wrapping_mul(self.value(b, of)?);
                (to, product.wrapping_add(self.value(c, of)?), of)
            }
            (Op::Neg(of), [to, a]) => (to, self.value(a, of)?.wrapping_neg(), of),
            (Op::AddF32, [to, a, b]) => (to, f32_bits(self.f32(a)? + self.f32(b)?), Type::F32),
            (Op::MulF32, [to, a, b]) => (to, f32_bits(self.f32(a)? * self.f32(b)?), Type::F32),
            (Op::FmaF32, [to, a, b, c]) => {
                (to, f32_bits(f32::mul_add(self.f32(a)?, self.f32(b)?, self.f32(c)?)), Type::F32)
            }
            (Op::BitFieldInsert(of), [to, a, b, at, length]) => {
                let [at, length] = [self.value(at, Type::Bits(32))? & 0xff, self.value(length, Type::Bits(32))? & 0xff];
                let field =
                    (0..64).filter(|bit| (at..at + length).contains(bit)).fold(0, |mask, bit| mask | 1u64 << bit);
                let inserted = if at < 64 { self.value(a, of)? << at } else { 0 };
                (to, self.value(b, of)? & !field | inserted & field, of)
            }
            (Op::Permute, [to, a, b, which]) => {
                let of = Type::Bits(32);
                (to, permute(self.value(a, of)?, self.value(b, of)?, self.value(which, of)?), of)
            }
            (Op::Compare(how, of), [to, a, b]) => {
                let (a, b) = (self.value(a, of)?, self.value(b, of)?);
                let order = match of {
                    Type::Signed(_) => extend(a, of).cast_signed().cmp(&extend(b, of).cast_signed()),
                    _ => a.cmp(&b),
                };
                let holds = match how {
                    Comparison::Eq => order.is_eq(),
                    Comparison::Ne => order.is_ne(),
                    Comparison::Lt => order.is_lt(),
                    Comparison::Le => order.is_le(),
                    Comparison::Gt => order.is_gt(),
                    Comparison::Ge => order.is_ge(),
                };
                (to, u64::from(holds), Type::Pred)
            }
            (Op::Select(of), [to, a, b, which]) => {
                // Both are read, as every operand is.
                let (a, b) = (self.value(a, of)?, self.value(b, of)?);
                (to, if self.value(which, Type::Pred)? == 0 { b } else { a }, of)
            }
            (Op::Move(of), [Operand::Vector(to), from]) => {
                let value = self.value(from, of)?;
                let piece = Type::Bits(of.bits() / to.len() as u32);
                for (k, to) in to.iter().enumerate() {
                    self.set(to, value >> (piece.bits() * k as u32), piece)?;
                }
                return Ok(());
            }
            (Op::Move(of), [to, Operand::Vector(from)]) => {
                let piece = Type::Bits(of.bits() / from.len() as u32);
                let mut value = 0;
                for (k, from) in from.iter().enumerate() {
                    value |= self.value(from, piece)? << (piece.bits() * k as u32);
                }
                (to, value, of)
            }
            (Op::Move(of), [to, from]) => (to, self.value(from, of)?, of),
            (Op::Convert { to: into, from: of }, [to, from]) => (to, convert(self.value(from, of)?, of, into), into),
            (Op::LoadParameter(of), [to, at]) => {
                let (size, count, address) = self.place(to, at, of)?;
                let bytes = usize::try_from(address).ok().and_then(|at| self.parameter.get(at..)?.get(..size * count));
                let bytes = bytes.ok_or_else(|| format!("the parameter has no {} bytes at {address}", size * count))?;
                return self.set_all(to, bytes, of);
            }
            (Op::Load(of), [to, at]) => {
                let (size, count, address) = self.place(to, at, of)?;
                return self.set_all(to, memory.read(address, size * count)?, of);
            }
            (Op::Store(of), [at, from]) => {
                let (size, count, address) = self.place(from, at, of)?;
                let mut bytes = Vec::with_capacity(size * count);
                for from in elements(from) {
                    bytes.extend_from_slice(&self.value(from, of)?.to_le_bytes()[..size]);
                }
                return memory.write(address, &bytes);
            }
            (Op::Prefetch, [at]) => {
                // A device would not mind; but nobody asks for what is not there on purpose.
                return memory.read(self.address(at)?, 1).map(drop);
            }
            (op, operands) => return Err(format!("{op:?} with {} operands", operands.len())),
        };
        self.set(to, value, of)
    }

    /// Bytes of an element, how many there are, and where they are; aligned to all of them.
    fn place(&self, vector: &Operand, at: &Operand, of: Type) -> Result<(usize, usize, u64), String> {
        let (size, count, address) = (of.bits() as usize / 8, elements(vector).len(), self.address(at)?);
        if address % (size * count) as u64 != 0 {
            return Err(format!("{} bytes at {address:#x} are misaligned", size * count));
        }
        Ok((size, count, address))
    }

    fn address(&self, operand: &Operand) -> Result<u64, String> {
        match operand {
            Operand::Address(None, offset) => Ok(offset.cast_unsigned()),
            Operand::Address(Some(register), offset) => {
                Ok(self.value(&Operand::Register(*register), Type::Bits(64))?.wrapping_add_signed(*offset))
            }
            other => Err(format!("{other:?} is no address")),
        }
    }

    fn value(&self, operand: &Operand, of: Type) -> Result<u64, String> {
        match operand {
            Operand::Register(register) => {
                self.has_width(*register, of)?;
                self.registers[*register].ok_or_else(|| "a register that was not set".to_owned())
            }
            Operand::Value(value) => Ok(truncate(*value, of)),
            Operand::ThreadIndex => Ok(u64::from(self.index)),
            Operand::BlockIndex => Ok(u64::from(self.block)),
            other => Err(format!("{other:?} is no value")),
        }
    }

    fn f32(&self, operand: &Operand) -> Result<f32, String> {
        Ok(f32::from_bits(self.value(operand, Type::F32)? as u32))
    }

    fn set(&mut self, to: &Operand, value: u64, of: Type) -> Result<(), String> {
        match to {
            Operand::Register(register) => {
                self.has_width(*register, of)?;
                self.registers[*register] = Some(truncate(value, of));
                Ok(())
            }
            Operand::Sink => Ok(()),
            other => Err(format!("{other:?} cannot be written")),
        }
    }

    fn set_all(&mut self, to: &Operand, bytes: &[u8], of: Type) -> Result<(), String> {
        for (to, bytes) in elements(to).iter().zip(bytes.chunks_exact(of.bits() as usize / 8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            self.set(to, u64::from_le_bytes(value), of)?;
        }
        Ok(())
    }

    fn has_width(&self, register: usize, of: Type) -> Result<(), String> {
        match self.kernel.registers[register] {
            bits if bits == of.bits() => Ok(()),
            bits => Err(format!("a register of {bits} bits as {of:?}")),
        }
    }
}

fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        one => std::slice::from_ref(one),
    }
}

fn truncate(value: u64, of: Type) -> u64 {
    value & (u64::MAX >> (64 - of.bits()))
}

/// A value of this type, in 64 bits.
fn extend(value: u64, of: Type) -> u64 {
    match of {
        Type::Signed(bits) => ((value << (64 - bits)).cast_signed() >> (64 - bits)).cast_unsigned(),
        _ => value,
    }
}

fn integer(op: Integer, of: Type, a: u64, b: u64) -> Result<u64, String> {
    let (wide_a, wide_b) = (extend(a, of).cast_signed(), extend(b, of).cast_signed());
    let is_signed = matches!(of, Type::Signed(_));
    if matches!(op, Integer::Div | Integer::Rem) && (b == 0 || is_signed) {
        return Err(format!("{a} by {b}, signed or by zero"));
    }
    let is_less = if is_signed { wide_a < wide_b } else { a < b };
    Ok(match op {
        Integer::Add => a.wrapping_add(b),
        Integer::Sub => a.wrapping_sub(b),
        Integer::Mul => a.wrapping_mul(b),
        Integer::Div => a / b,
        Integer::Rem => a % b,
        Integer::Min => [b, a][usize::from(is_less)],
        Integer::Max => [a, b][usize::from(is_less)],
        Integer::And => a & b,
        Integer::Or => a | b,
        Integer::Xor => a ^ b,
        // All bits are gone, or the sign is left, from a register's width on.
        Integer::ShiftLeft if b >= u64::from(of.bits()) => 0,
        Integer::ShiftLeft => a << b,
        Integer::ShiftRight if is_signed => (wide_a >> b.min(63)).cast_unsigned(),
        Integer::ShiftRight if b >= u64::from(of.bits()) => 0,
        Integer::ShiftRight => a >> b,
    })
}

/// Each nibble of `which` counts a byte of `b` and `a`; its upper bit asks for copies of that byte's sign.
fn permute(a: u64, b: u64, which: u64) -> u64 {
    let bytes = (b << 32 | a).to_le_bytes();
    let pick = |k: u32| {
        let nibble = which >> (4 * k) & 0xf;
        let byte = bytes[(nibble & 7) as usize];
        if nibble < 8 { byte } else { 0xff * (byte >> 7) }
    };
    (0..4).fold(0, |word, k| word | u64::from(pick(k)) << (8 * k))
}

/// Every NaN that f32 instructions compute is the same one.
fn f32_bits(value: f32) -> u64 {
    u64::from(if value.is_nan() { 0x7fff_ffff } else { value.to_bits() })
}

fn convert(value: u64, from: Type, to: Type) -> u64 {
    let single = || f32::from_bits(value as u32);
    match (from, to) {
        (Type::F32, Type::F16) if single().is_nan() => 0x7fff,
        (Type::F32, Type::F16) => u64::from(f16::from_f32(single()).to_bits()),
        (Type::F16, Type::F32) => f32_bits(f16::from_bits(value as u16).to_f32()),
        (Type::F32, Type::F64) if single().is_nan() => 0x7fff_ffff_ffff_ffff,
        (Type::F32, Type::F64) => f64::from(single()).to_bits(),
        _ => extend(value, from),
    }
}
