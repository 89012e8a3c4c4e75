//! The attributes of a graph's nodes, read when they are asked for.

use std::collections::HashMap;

use super::file::OnnxFile;
use super::wire::{FieldValue, fields};
use crate::error::Result;

/// The value of an attribute.
pub(super) enum AttributeValue {
    Float(f32),
    Int(i64),
    Ints(Vec<i64>),
    Text(String),
}

impl OnnxFile {
    /// The attributes of a node, by name. Tensors and graphs are empty lists here.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where it is damaged.
    pub(super) fn attributes(&self, node: usize) -> Result<HashMap<String, AttributeValue>> {
        let (bytes, mut attributes) = (&self.mapping[..], HashMap::new());
        for field in fields(bytes, self.nodes[node].message.clone()) {
            let field = field?;
            if field.number != 5 {
                continue;
            }
            let (mut name, mut value, mut integers) = (String::new(), None, Vec::new());
            for field in fields(bytes, field.range()?) {
                let field = field?;
                match (field.number, &field.value) {
                    (1, _) => name = field.text(bytes)?,
                    (2, FieldValue::Fixed32(float)) => value = Some(AttributeValue::Float(f32::from_le_bytes(*float))),
                    (3, _) => value = Some(AttributeValue::Int(field.integer()?)),
                    (4, _) => value = Some(AttributeValue::Text(field.text(bytes)?)),
                    (8, _) => field.integers(bytes, |integer| {
                        integers.push(integer);
                        Ok(())
                    })?,
                    _ => {}
                }
            }
            attributes.insert(name, value.unwrap_or(AttributeValue::Ints(integers)));
        }
        Ok(attributes)
    }
}
