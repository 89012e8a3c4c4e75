//! The shape of what a linear layer of our own gives, for ONNX Runtime to know before any run: what its optimiser knows
//! no shape of, it leaves as it is, and a user's graph has transpositions and casts between its layers.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::AsPointer;
use ort::operator::ShapeInferenceContext;
use ort::value::{Shape, SymbolicDimensions, TensorElementType, ValueType};

/// Tells the shape of a node's output: that of its first input with another last extent, where that is known.
///
/// # Errors
/// What ONNX Runtime says.
pub(super) fn of_layer(context: &mut ShapeInferenceContext, last: i64) -> ort::Result<()> {
    let (mut shape, mut symbols) = first_input(context)?;
    let (Some(extent), Some(symbol)) = (shape.last_mut(), symbols.last_mut()) else {
        // Not even the rank is known.
        return Ok(());
    };
    *extent = last;
    symbol.clear();
    for (extent, symbol) in shape.iter().zip(&mut symbols) {
        if *extent < 0 && symbol.is_empty() {
            *symbol = nameless();
        }
    }
    let (ty, shape) = (TensorElementType::Float32, Shape::new(shape));
    context.set_output(0, &ValueType::Tensor { ty, shape, dimension_symbols: SymbolicDimensions::new(symbols) })
}

/// A name for an extent that has none, and is like no other: without one ONNX Runtime takes −1 for its size.
fn nameless() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("taskbasis.extent.{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Extents and their names, of which one of both is known each.
fn first_input(context: &ShapeInferenceContext) -> ort::Result<(Vec<i64>, Vec<String>)> {
    let (api, mut info, mut rank) = (ort::api(), std::ptr::null_mut(), 0);
    // SAFETY: the context is valid during the call that it was handed to, and so is the shape that it gives of its
    // first input, which every layer has; the arrays have room for as many extents as that says, and the names live as
    // long as the shape.
    unsafe {
        let ok = |status| ort::Error::result_from_status(status);
        ok((api.ShapeInferContext_GetInputTypeShape)(context.ptr(), 0, &mut info))?;
        if info.is_null() {
            return Ok((Vec::new(), Vec::new()));
        }
        ok((api.GetDimensionsCount)(info, &mut rank))?;
        let (mut shape, mut names) = (vec![0; rank], vec![std::ptr::null(); rank]);
        ok((api.GetDimensions)(info, shape.as_mut_ptr(), rank))?;
        ok((api.GetSymbolicDimensions)(info, names.as_mut_ptr(), rank))?;
        let text = |name: *const std::ffi::c_char| match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        };
        Ok((shape, names.into_iter().map(text).collect()))
    }
}
