//! From the text of PTX to instructions.

use std::collections::HashMap;

use super::{Comparison, Instruction, Integer, Kernel, Op, Operand, Type};

impl Kernel {
    /// The kernel of this name.
    ///
    /// # Panics
    /// When it is not there, or has anything that this machine does not know.
    pub(in super::super) fn parse(ptx: &str, name: &str) -> Self {
        let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
        let ptx: String = ptx.trim_end_matches('\0').lines().map(without_comment).collect();
        let (_, from) = ptx.split_once(&format!(".visible .entry {name}(")).unwrap_or_else(|| panic!("no {name}"));
        let (parameter, from) = from.split_once(')').unwrap();
        // .param .align 8 .b8 NAME[BYTES]
        let (parameter, bytes) = parameter.trim().split_once('[').unwrap();
        let parameter = parameter.rsplit(' ').next().unwrap();
        let bytes = bytes.trim_end_matches(']').parse().unwrap();
        let (_, body) = from.split_once('{').unwrap();
        let (statements, labels) = statements(body.split(".visible").next().unwrap());

        let mut names = Names { registers: HashMap::new(), bits: Vec::new(), labels, parameter };
        let mut code = Vec::new();
        for statement in statements {
            if let Some(declared) = statement.strip_prefix(".reg") {
                names.declare(declared.trim());
            } else {
                code.push(names.instruction(&statement));
            }
        }
        Self { parameter: bytes, registers: names.bits, code }
    }
}

/// The statements of a kernel's body, and of each label how many instructions are before it.
fn statements(body: &str) -> (Vec<String>, HashMap<String, u64>) {
    let (mut statements, mut labels): (Vec<String>, _) = (Vec::new(), HashMap::new());
    let (mut current, mut instructions) = (String::new(), 0);
    for c in body.chars() {
        let begins = current.trim().is_empty();
        match c {
            ';' => {
                let statement = std::mem::take(&mut current).split_whitespace().collect::<Vec<_>>().join(" ");
                if !statement.starts_with(".pragma") {
                    instructions += u64::from(!statement.starts_with(".reg"));
                    statements.push(statement);
                }
            }
            // Of a scope, not of a vector. What is declared in one is declared anew in another.
            '{' | '}' if begins => {}
            ':' if current.trim().starts_with('$') => {
                labels.insert(std::mem::take(&mut current).trim().to_owned(), instructions);
            }
            c => current.push(c),
        }
    }
    assert!(current.trim().is_empty(), "left over: {current}");
    (statements, labels)
}

struct Names<'a> {
    registers: HashMap<String, usize>,
    bits: Vec<u32>,
    labels: HashMap<String, u64>,
    parameter: &'a str,
}

impl Names<'_> {
    /// `.b32 %r<100>`: a hundred registers, from 0 on; or `.b16 name`.
    fn declare(&mut self, declared: &str) {
        let (of, name) = declared.split_once(' ').unwrap();
        let bits = type_of(of.trim_start_matches('.')).unwrap_or_else(|| panic!("{declared}")).bits();
        let mut add = |name: String| {
            self.registers.insert(name, self.bits.len());
            self.bits.push(bits);
        };
        match name.trim().split_once('<') {
            Some((name, count)) => {
                let count: usize = count.trim_end_matches('>').parse().unwrap();
                (0..count).for_each(|k| add(format!("{name}{k}")));
            }
            None => add(name.trim().to_owned()),
        }
    }

    fn instruction(&self, statement: &str) -> Instruction {
        let unknown = || panic!("this machine does not know `{statement}`");
        let (guard, rest) = match statement.strip_prefix('@') {
            Some(guarded) => {
                let (guard, rest) = guarded.split_once(' ').unwrap();
                let name = guard.trim_start_matches('!');
                (Some((self.registers[name], guard == name)), rest)
            }
            None => (None, statement),
        };
        let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
        let parts: Vec<&str> = opcode.split('.').collect();
        let op = op(&parts).unwrap_or_else(unknown);
        let operands: Vec<Operand> = split(operands).into_iter().map(|text| self.operand(text)).collect();
        // A vector's width is part of the instruction's name.
        let wide = parts.iter().find_map(|part| part.strip_prefix('v')?.parse::<usize>().ok());
        let is_memory = matches!(op, Op::Load(_) | Op::Store(_) | Op::LoadParameter(_));
        let vector = operands.iter().find_map(|operand| match operand {
            Operand::Vector(elements) if is_memory => Some(elements.len()),
            _ => None,
        });
        assert_eq!(wide, vector, "{statement}");
        Instruction { guard, op, operands, text: statement.to_owned() }
    }

    fn operand(&self, text: &str) -> Operand {
        if let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            return Operand::Vector(split(inner).into_iter().map(|text| self.operand(text)).collect());
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
            let offset = offset.trim().parse().unwrap();
            let base = base.trim();
            return Operand::Address((base != self.parameter).then(|| self.registers[base]), offset);
        }
        match text {
            "_" => Operand::Sink,
            "%tid.x" => Operand::ThreadIndex,
            "%ctaid.x" => Operand::BlockIndex,
            // Parameters have addresses of their own.
            name if name == self.parameter => Operand::Value(0),
            name if name.starts_with('$') => Operand::Value(self.labels[name]),
            text => match self.registers.get(text) {
                Some(&register) => Operand::Register(register),
                None => Operand::Value(number(text).unwrap_or_else(|| panic!("what is {text}?"))),
            },
        }
    }
}

/// Operands, of which those in brackets are one.
fn split(operands: &str) -> Vec<&str> {
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, c) in operands.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                all.push(operands[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(operands[start..].trim());
    all.retain(|operand| !operand.is_empty());
    all
}

/// The bits of a number; a negative one's are those of 64 bits.
fn number(text: &str) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0d")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    let text = text.trim_end_matches('U'); // Unsigned, which nothing here depends on.
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
}

fn type_of(name: &str) -> Option<Type> {
    Some(match name {
        "pred" => Type::Pred,
        "f16" => Type::F16,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "b8" | "u8" => Type::Bits(8),
        "b16" | "u16" => Type::Bits(16),
        "b32" | "u32" => Type::Bits(32),
        "b64" | "u64" => Type::Bits(64),
        "s16" => Type::Signed(16),
        "s32" => Type::Signed(32),
        "s64" => Type::Signed(64),
        _ => return None,
    })
}

/// What an instruction does. Without `.rn` a sum or product of floats may be fused with another one by the assembler,
/// so those are not known.
fn op(parts: &[&str]) -> Option<Op> {
    let integer = |name: &str| match type_of(name)? {
        of @ (Type::Bits(16..) | Type::Signed(_)) => Some(of),
        _ => None,
    };
    let binary = |op, name| Some(Op::Integer(op, integer(name)?));
    let bits = |name: &str| type_of(name).filter(|of| matches!(of, Type::Pred | Type::Bits(_)));
    Some(match parts {
        ["add", "rn", "f32"] => Op::AddF32,
        ["mul", "rn", "f32"] => Op::MulF32,
        ["fma", "rn", "f32"] => Op::FmaF32,
        ["add", of] => binary(Integer::Add, of)?,
        ["sub", of] => binary(Integer::Sub, of)?,
        ["mul", "lo", of] => binary(Integer::Mul, of)?,
        ["mul", "wide", of] => Op::MulWide(integer(of)?),
        ["mad", "lo", of] => Op::MadLo(integer(of)?),
        ["div", of] => binary(Integer::Div, of)?,
        ["rem", of] => binary(Integer::Rem, of)?,
        ["min", of] => binary(Integer::Min, of)?,
        ["max", of] => binary(Integer::Max, of)?,
        ["neg", of] => Op::Neg(integer(of)?),
        ["and", of] => Op::Integer(Integer::And, bits(of)?),
        ["or", of] => Op::Integer(Integer::Or, bits(of)?),
        ["xor", of] => Op::Integer(Integer::Xor, bits(of)?),
        ["shl", of] => binary(Integer::ShiftLeft, of)?,
        ["shr", of] => binary(Integer::ShiftRight, of)?,
        ["bfi", of] => Op::BitFieldInsert(bits(of)?),
        ["prmt", "b32"] => Op::Permute,
        ["setp", how, of] => Op::Compare(comparison(how)?, integer(of)?),
        ["selp", of] => Op::Select(type_of(of)?),
        ["mov", of] => Op::Move(type_of(of)?),
        ["cvt", "rn", "f16", "f32"] => Op::Convert { to: Type::F16, from: Type::F32 },
        ["cvt", "f32", "f16"] => Op::Convert { to: Type::F32, from: Type::F16 },
        ["cvt", "f64", "f32"] => Op::Convert { to: Type::F64, from: Type::F32 },
        ["cvt", to, from] => Op::Convert { to: integer(to)?, from: integer(from)? },
        ["ld", "param", of] | ["ld", "param", "v2" | "v4", of] => Op::LoadParameter(type_of(of)?),
        ["ld", "global", "nc", of] | ["ld", "global", "nc", "v2" | "v4", of] => Op::Load(type_of(of)?),
        ["st", "global", "cg", of] | ["st", "global", "cg", "v2" | "v4", of] => Op::Store(type_of(of)?),
        ["prefetch", "global", "L2"] => Op::Prefetch,
        ["bra"] | ["bra", "uni"] => Op::Branch,
        ["ret"] => Op::Return,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "eq" => Comparison::Eq,
        "ne" => Comparison::Ne,
        "lt" => Comparison::Lt,
        "le" => Comparison::Le,
        "gt" => Comparison::Gt,
        "ge" => Comparison::Ge,
        _ => return None,
    })
}
