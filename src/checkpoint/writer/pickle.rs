//! The pickle of protocol 2 beside the storages.

use super::super::torch::types::storage_class;
use super::value::{Storage, TensorView, Value};
use crate::error::{Error, Result};

/// CPython's pickler sets this many items at a time, too.
const BATCH: usize = 1000;

pub(super) fn encode(value: &Value, storages: &[Storage]) -> Result<Vec<u8>> {
    let mut encoder = Encoder { out: vec![0x80, 2], storages };
    encoder.value(value)?;
    encoder.out.push(b'.');
    Ok(encoder.out)
}

struct Encoder<'a> {
    out: Vec<u8>,
    storages: &'a [Storage],
}

impl Encoder<'_> {
    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.out.push(b'G');
                self.out.extend_from_slice(&value.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::List(items) => {
                self.out.push(b']');
                for batch in items.chunks(BATCH) {
                    self.out.push(b'(');
                    batch.iter().try_for_each(|item| self.value(item))?;
                    self.out.push(b'e');
                }
            }
            Value::Tuple(items) => {
                self.out.push(b'(');
                items.iter().try_for_each(|item| self.value(item))?;
                self.out.push(b't');
            }
            Value::Dict(pairs) => {
                self.out.push(b'}');
                for batch in pairs.chunks(BATCH) {
                    self.out.push(b'(');
                    for (key, value) in batch {
                        self.text(key)?;
                        self.value(value)?;
                    }
                    self.out.push(b'u');
                }
            }
            Value::Size(extents) => {
                self.global("torch", "Size");
                self.extents(extents)?;
                self.out.extend_from_slice(b"\x85R");
            }
            Value::Tensor(view) => self.tensor(view)?,
        }
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad=False, backward_hooks=OrderedDict())`.
    fn tensor(&mut self, view: &TensorView) -> Result<()> {
        let storage = self
            .storages
            .get(view.storage.0)
            .ok_or_else(|| Error::invalid("a tensor's storage belongs to another writer"))?;
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.out.extend_from_slice(b"((");
        self.text("storage")?;
        self.global("torch", storage_class(storage.dtype)?);
        self.text(&view.storage.0.to_string())?;
        self.text("cpu")?;
        self.extent(storage.numel)?;
        self.out.extend_from_slice(b"tQ");
        self.extent(view.offset)?;
        self.extents(&view.shape)?;
        self.extents(&view.strides)?;
        self.out.push(0x89);
        self.global("collections", "OrderedDict");
        self.out.extend_from_slice(b")RtR");
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.extend_from_slice(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let length = u32::try_from(text.len()).map_err(|_| Error::invalid("a string is too long for a pickle"))?;
        self.out.push(b'X');
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend_from_slice(&[b'K', value]);
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend_from_slice(&value.to_le_bytes());
        } else {
            self.out.extend_from_slice(&[0x8a, 8]);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn extent(&mut self, extent: usize) -> Result<()> {
        self.int(i64::try_from(extent).map_err(|_| Error::invalid("a tensor is too large"))?);
        Ok(())
    }

    fn extents(&mut self, extents: &[usize]) -> Result<()> {
        self.out.push(b'(');
        extents.iter().try_for_each(|&extent| self.extent(extent))?;
        self.out.push(b't');
        Ok(())
    }
}
