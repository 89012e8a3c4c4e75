//! The tensors that packing and updating both write: heads, the recovery table, vectors.

use std::collections::HashMap;

use super::format::Role;
use super::quantise::{BlocksRecord, StoredFormat};
use super::writer::{Item, Sink};
use crate::error::Result;
use crate::heads::Head;
use crate::tensor::DType;

/// Weight and bias of every head.
pub(super) fn head_items<'h>(heads: impl Iterator<Item = (&'h str, &'h Head)>) -> impl Iterator<Item = Item<'h>> {
    heads.flat_map(|(task, head)| {
        let (classes, embedding) = (head.num_classes(), head.embedding_dim());
        [
            Item::f32(Role::HeadWeight(task), &[classes, embedding], head.weight()),
            Item::f32(Role::HeadBias(task), &[classes], head.bias()),
        ]
    })
}

/// The recovery table, f64 of this shape.
pub(super) fn recovery_item<'t>(table: Vec<f64>, shape: &[usize; 2]) -> Item<'t> {
    Item::new(Role::Recovery, DType::F64, shape, move |sink| {
        let bytes: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
        sink.write(&bytes)
    })
}

/// A parameter of `shape` in `count` vectors (`None`: one, without that dimension), which `fill` writes in `format`.
/// What the metadata say of it goes into `blocks`.
pub(super) fn vector_item<'a>(
    role: Role<'_>,
    format: StoredFormat,
    shape: &[usize],
    count: Option<usize>,
    blocks: &mut HashMap<String, BlocksRecord>,
    fill: impl FnOnce(&mut Sink) -> Result<()> + 'a,
) -> Result<Item<'a>> {
    let (stored, record) = format.stored_shape(shape, count)?;
    blocks.extend(record.map(|record| (role.to_string(), record)));
    Ok(Item::new(role, format.dtype(), &stored, fill))
}
