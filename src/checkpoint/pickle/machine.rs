//! The pickle machine: a stack, a memo and one step per opcode. The opcodes are those of CPython's `pickletools`.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::{MAX_ARRAY_BYTES, MAX_BYTES, MAX_NODES, NodeId, Object, Pickle, PickleNode, Span};
use crate::error::{Error, Result};
use crate::tensor::{TryGrow, try_collected};

/// Nodes that are the same wherever they occur are made once.
const NONE: NodeId = NodeId(0);
const FALSE: NodeId = NodeId(1);
const TRUE: NodeId = NodeId(2);
const EMPTY_TUPLE: NodeId = NodeId(3);

const HIGHEST_PROTOCOL: u8 = 5;

impl Pickle {
    /// Reads one pickle of any protocol from 0 to 5; bytes after its end are refused.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) with the offset of the opcode that went wrong;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) past [`MAX_BYTES`] or [`MAX_NODES`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        check_length(bytes, MAX_BYTES)?;
        run(bytes)
    }

    /// Reads a pickle with arrays in it, which may be larger than one of objects: at most 1 GiB.
    ///
    /// # Errors
    /// Those of [`Pickle::parse`].
    pub fn parse_with_arrays(bytes: &[u8]) -> Result<Self> {
        check_length(bytes, MAX_ARRAY_BYTES)?;
        run(bytes)
    }
}

fn check_length(bytes: &[u8], limit: usize) -> Result<()> {
    if bytes.len() <= limit {
        return Ok(());
    }
    Err(Error::unsupported("the pickle is too large").expected(format_args!("at most {limit} bytes")).got(bytes.len()))
}

fn run(bytes: &[u8]) -> Result<Pickle> {
    let mut machine = Machine {
        input: Cursor::new(bytes),
        nodes: vec![PickleNode::None, PickleNode::Bool(false), PickleNode::Bool(true), PickleNode::Tuple(Vec::new())],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
    };
    loop {
        let opcode = machine.input.opcode()?;
        if opcode == b'.' {
            break;
        }
        machine.step(opcode)?;
    }
    let (&[root], true) = (&*machine.stack, machine.marks.is_empty()) else {
        return Err(machine
            .input
            .fail("the pickle stops in the middle of something")
            .expected("one object on the stack")
            .got(format_args!("{} objects and {} marks", machine.stack.len(), machine.marks.len())));
    };
    if !machine.input.at_end() {
        return Err(machine.input.fail("bytes follow the pickle's STOP"));
    }
    Ok(Pickle { text: machine.input.text, nodes: machine.nodes, root })
}

struct Machine<'a> {
    input: Cursor<'a>,
    nodes: Vec<PickleNode>,
    stack: Vec<NodeId>,
    /// Stack heights at which a MARK was set.
    marks: Vec<usize>,
    memo: Memo,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // Framing and protocol.
            0x80 => {
                let protocol = self.input.u8()?;
                if protocol > HIGHEST_PROTOCOL {
                    return Err(self.input.fail(format_args!("the pickle's protocol {protocol} is not known")));
                }
            }
            0x95 => drop(self.input.length64()?),
            // Constants.
            b'N' => self.push(NONE)?,
            0x88 => self.push(TRUE)?,
            0x89 => self.push(FALSE)?,
            b')' => self.push(EMPTY_TUPLE)?,
            b'J' => self.integer(|input| Ok(i32::from_le_bytes(input.array()?).into()))?,
            b'K' => self.integer(|input| Ok(input.u8()?.into()))?,
            b'M' => self.integer(|input| Ok(input.u16()?.into()))?,
            b'G' => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.make(PickleNode::Float(value))?;
            }
            b'F' => {
                let value = self.input.number_line()?;
                self.make(PickleNode::Float(value))?;
            }
            b'I' | b'L' => self.decimal(opcode)?,
            0x8a => {
                let length = self.input.u8()?;
                self.long(length.into())?;
            }
            0x8b => {
                let length = self.input.u32()?;
                self.long(length as usize)?;
            }
            // Strings and bytes.
            b'X' | 0x8c | 0x8d => {
                let length = self.length(opcode, 0x8c, b'X')?;
                let text = self.input.take(length)?;
                let text = self.input.keep(text)?;
                self.make(PickleNode::Text(text))?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.length(opcode, b'C', b'B')?;
                self.input.take(length)?;
                self.make(PickleNode::Bytes(self.input.last(length)))?;
            }
            b'T' | b'U' => {
                let length = self.length(opcode, b'U', b'T')?;
                let bytes = self.input.take(length)?;
                self.python2_string(bytes, self.input.last(length))?;
            }
            b'S' => {
                let bytes = self.input.quoted_line()?;
                self.python2_string(&bytes, None)?;
            }
            b'V' => {
                let text = self.input.raw_unicode_line()?;
                self.make(PickleNode::Text(text))?;
            }
            // Containers.
            b']' => self.make(PickleNode::List(Vec::new()))?,
            b'}' => self.make(PickleNode::Dict(Vec::new()))?,
            0x8f => self.make(PickleNode::Set(Vec::new()))?,
            0x85..=0x87 => {
                let mut items = [NONE; 3];
                let items = &mut items[..usize::from(opcode - 0x84)];
                for slot in items.iter_mut().rev() {
                    *slot = self.pop()?;
                }
                self.make(PickleNode::Tuple(items.to_vec()))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.make(PickleNode::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.make(PickleNode::List(items))?;
            }
            0x91 => {
                let items = self.pop_to_mark()?;
                self.make(PickleNode::Set(items))?;
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.make(PickleNode::Dict(entries))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_entries(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.set_entries(entries)?;
            }
            // The stack and the memo.
            b'(' => {
                self.room(self.marks.len())?;
                self.marks.try_push(self.stack.len())?;
            }
            // As in CPython, POP takes a mark where one is on top.
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            b'p' => {
                let index = self.input.number_line()?;
                self.remember(index)?;
            }
            b'q' => {
                let index = self.input.u8()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = self.input.u32()?;
                self.remember(index)?;
            }
            0x94 => {
                let index = self.memo.count();
                self.remember(index)?;
            }
            b'g' => {
                let index = self.input.number_line()?;
                self.recall(index)?;
            }
            b'h' => {
                let index = self.input.u8()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = self.input.u32()?;
                self.recall(index)?;
            }
            // Names, calls and references, none of which is followed.
            b'c' => {
                let (module, name) = (self.input.keep_line()?, self.input.keep_line()?);
                self.make(PickleNode::Global { module, name })?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (&PickleNode::Text(module), &PickleNode::Text(name)) = (self.value(module), self.value(name))
                else {
                    return Err(self.input.fail("a class or function is named by something other than strings"));
                };
                self.make(PickleNode::Global { module, name })?;
            }
            b'R' | 0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.call(class, args)?;
            }
            0x92 => {
                let (keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                let args = self.add(PickleNode::Tuple(vec![args, keywords]))?;
                self.call(class, args)?;
            }
            b'i' => {
                let (module, name) = (self.input.keep_line()?, self.input.keep_line()?);
                let args = self.pop_to_mark()?;
                let class = self.add(PickleNode::Global { module, name })?;
                let args = self.add(PickleNode::Tuple(args))?;
                self.call(class, args)?;
            }
            b'o' => {
                let items = self.pop_to_mark()?;
                let Some((&class, args)) = items.split_first() else {
                    return Err(self.input.fail("a call names nothing to be called"));
                };
                let args = self.add(PickleNode::Tuple(try_collected(args.iter().copied())?))?;
                self.call(class, args)?;
            }
            b'b' => self.build()?,
            b'P' => {
                let text = self.input.keep_line()?;
                let id = self.add(PickleNode::Text(text))?;
                self.make(PickleNode::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.make(PickleNode::Persistent(id))?;
            }
            _ => return Err(self.input.fail(format_args!("opcode 0x{opcode:02x} is not known or not supported"))),
        }
        Ok(())
    }

    /// A string's or byte string's length: one byte, four or eight, by opcode.
    fn length(&mut self, opcode: u8, one: u8, four: u8) -> Result<usize> {
        if opcode == one {
            Ok(self.input.u8()?.into())
        } else if opcode == four {
            Ok(self.input.u32()? as usize)
        } else {
            self.input.length64()
        }
    }

    fn integer(&mut self, read: impl FnOnce(&mut Cursor<'a>) -> Result<i64>) -> Result<()> {
        let value = read(&mut self.input)?;
        self.make(PickleNode::Int(value))
    }

    /// An integer in decimal digits; protocol 0 writes the booleans as `I00` and `I01`, and longs with an `L`.
    fn decimal(&mut self, opcode: u8) -> Result<()> {
        let digits = self.input.line()?.trim_ascii();
        match (opcode, digits) {
            (b'I', b"00") => return self.push(FALSE),
            (b'I', b"01") => return self.push(TRUE),
            _ => {}
        }
        let digits = digits.strip_suffix(b"L").unwrap_or(digits);
        let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
        if unsigned.is_empty() || !unsigned.iter().all(u8::is_ascii_digit) {
            return Err(self.input.fail("a number cannot be read"));
        }
        let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        self.make(value.map_or(PickleNode::BigInt, PickleNode::Int))
    }

    /// An integer of `length` bytes, two's complement, little-endian.
    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.input.take(length)?;
        let value = if bytes.len() > 8 {
            PickleNode::BigInt
        } else {
            let negative = bytes.last().is_some_and(|&high| high & 0x80 != 0);
            let mut extended = if negative { [0xff; 8] } else { [0; 8] };
            extended[..bytes.len()].copy_from_slice(bytes);
            PickleNode::Int(i64::from_le_bytes(extended))
        };
        self.make(value)
    }

    /// Python 2 did not tell text from bytes.
    fn python2_string(&mut self, bytes: &[u8], at: Option<Span>) -> Result<()> {
        let value = if std::str::from_utf8(bytes).is_ok() {
            PickleNode::Text(self.input.keep(bytes)?)
        } else {
            PickleNode::Bytes(at)
        };
        self.make(value)
    }

    fn call(&mut self, class: NodeId, args: NodeId) -> Result<()> {
        self.make(PickleNode::Object(Box::new(Object {
            class,
            args,
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            PickleNode::Object(object) if object.state.is_none() => object.state = Some(state),
            PickleNode::Object(_) => return Err(self.input.fail("an object's state is set twice")),
            _ => return Err(self.input.fail("a state is set on something that is not an object")),
        }
        Ok(())
    }

    fn extend(&mut self, new: Vec<NodeId>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            PickleNode::List(items) | PickleNode::Set(items) => items.try_append(&new),
            PickleNode::Object(object) => object.items.try_append(&new),
            _ => Err(self.input.fail("something is appended to what is not a list")),
        }
    }

    fn set_entries(&mut self, new: Vec<(NodeId, NodeId)>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            PickleNode::Dict(entries) => entries.try_append(&new),
            PickleNode::Object(object) => object.entries.try_append(&new),
            _ => Err(self.input.fail("a key is set in what is not a dict")),
        }
    }

    fn pairs(&self, items: &[NodeId]) -> Result<Vec<(NodeId, NodeId)>> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.input.fail("a dict has a key without a value"));
        };
        try_collected(pairs.iter().map(|&[key, value]| (key, value)))
    }

    fn value(&self, id: NodeId) -> &PickleNode {
        &self.nodes[id.0 as usize]
    }

    /// Adds a node that is not on the stack.
    fn add(&mut self, value: PickleNode) -> Result<NodeId> {
        self.room(self.nodes.len())?;
        // `room` keeps the count far below u32's range.
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.try_push(value)?;
        Ok(id)
    }

    /// Adds a node and pushes it.
    fn make(&mut self, value: PickleNode) -> Result<()> {
        let id = self.add(value)?;
        self.push(id)
    }

    fn push(&mut self, id: NodeId) -> Result<()> {
        self.room(self.stack.len())?;
        self.stack.try_push(id)
    }

    fn room(&self, count: usize) -> Result<()> {
        if count < MAX_NODES {
            return Ok(());
        }
        Err(Error::unsupported("the pickle has too many objects").expected(format_args!("at most {MAX_NODES}")))
    }

    /// The top of the stack, above the last mark.
    fn top(&self) -> Result<NodeId> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.input.fail("the pickle takes from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<NodeId> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Everything above the last mark, and the mark.
    fn pop_to_mark(&mut self) -> Result<Vec<NodeId>> {
        let height =
            self.marks.pop().ok_or_else(|| self.input.fail("the pickle takes up to a mark that is not set"))?;
        // Not `split_off`, which may leave the stack's whole capacity with a short tuple.
        let items = try_collected(self.stack[height..].iter().copied())?;
        self.stack.truncate(height);
        Ok(items)
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        self.room(self.memo.sparse.len())?;
        self.room(self.memo.dense.len())?;
        self.memo.put(index, top)
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let id = self.memo.get(index);
        let id = id.ok_or_else(|| self.input.fail(format_args!("memo entry {index} is not set")))?;
        self.push(id)
    }
}

/// Picklers number their entries from 0 on, so a vector serves; whatever else a pickle does goes to the map.
#[derive(Default)]
struct Memo {
    dense: Vec<NodeId>,
    sparse: HashMap<u32, NodeId>,
}

impl Memo {
    fn put(&mut self, index: u32, id: NodeId) -> Result<()> {
        let at = index as usize;
        if at < self.dense.len() {
            self.dense[at] = id;
        } else if at == self.dense.len() {
            self.sparse.remove(&index);
            self.dense.try_push(id)?;
        } else {
            let wanted = (self.sparse.len() + 1) * size_of::<(u32, NodeId)>();
            self.sparse.try_reserve(1).map_err(|_| Error::out_of_memory(wanted))?;
            self.sparse.insert(index, id);
        }
        Ok(())
    }

    fn get(&self, index: u32) -> Option<NodeId> {
        self.dense.get(index as usize).or_else(|| self.sparse.get(&index)).copied()
    }

    /// The number of entries, which MEMOIZE gives its entry.
    fn count(&self) -> u32 {
        // Both parts are limited to far less.
        (self.dense.len() + self.sparse.len()) as u32
    }
}
