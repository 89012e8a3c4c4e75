//! What packing and growing both write: heads and the table of recovery.

use super::format::name;
use super::writer::Item;
use crate::error::Result;
use crate::heads::Head;
use crate::tensor::{DType, Source, try_zeroed};

/// The tasks whose heads take embeddings as they are.
pub(super) fn unnormalised<'h>(heads: impl Iterator<Item = (&'h String, &'h Head)>) -> impl Iterator<Item = String> {
    heads.filter(|(_, head)| !head.normalises()).map(|(task, _)| task.clone())
}

/// Weight and bias of every head.
pub(super) fn head_items<'h>(heads: impl Iterator<Item = (&'h str, &'h Head)>) -> Vec<Item<'h>> {
    heads
        .flat_map(|(task, head)| {
            let (classes, embedding) = (head.num_classes(), head.embedding_dim());
            let weight = format!("{}{task}{}", name::HEADS, name::WEIGHT);
            let bias = format!("{}{task}{}", name::HEADS, name::BIAS);
            [Item::f32(weight, &[classes, embedding], head.weight()), Item::f32(bias, &[classes], head.bias())]
        })
        .collect()
}

/// The coefficients that recover each task: f64, of this shape.
pub(super) fn recovery_item<'t>(table: &'t [f64], shape: &[usize; 2]) -> Item<'t> {
    Item::new(name::RECOVERY, DType::F64, shape, |sink| {
        let bytes: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
        sink.write(&bytes)
    })
}

/// All of a source's values.
pub(super) fn read_all(source: &Source, start: usize, length: usize) -> Result<Vec<f32>> {
    let mut values = try_zeroed::<f32>(length)?;
    source.read_f32(start, &mut values)?;
    Ok(values)
}
