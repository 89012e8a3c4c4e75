//! Errors of ONNX Runtime as the library's own.

use crate::error::{Error, ErrorKind};

/// Turns an error of ONNX Runtime into ours, with its message.
pub(super) fn failed<R>(doing: &'static str) -> impl Fn(ort::Error<R>) -> Error {
    move |e| refused(doing, e.message())
}

/// The error for a `message` of ONNX Runtime's. It has no code of its own for memory that it is refused: its arena says
/// so in words, and C++'s exception passes for a failed run.
fn refused(doing: &'static str, message: &str) -> Error {
    const NO_MEMORY: [&str; 3] = ["std::bad_alloc", "bad allocation", "Failed to allocate memory"];
    let message = message.trim_end();
    let is_refused = NO_MEMORY.iter().any(|words| message.contains(words));
    Error::new(if is_refused { ErrorKind::OutOfMemory } else { ErrorKind::Runtime }, doing).because(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ONNX Runtime says, word for word, and what it is.
    #[test]
    fn memory_that_onnx_runtime_is_refused() {
        let arena = "Non-zero status code returned while running Gemm node. Name:'fc' Status Message: bfc_arena.cc:359 \
                     void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for \
                     requested buffer of size 805306368\n";
        for (message, kind) in [
            ("std::bad_alloc", ErrorKind::OutOfMemory),
            ("Exception during initialization: std::bad_alloc\n", ErrorKind::OutOfMemory),
            (arena, ErrorKind::OutOfMemory),
            ("Invalid rank for input: pixels Got: 3 Expected: 4\n", ErrorKind::Runtime),
        ] {
            let error = refused("the encoder failed", message);
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.to_string(), format!("the encoder failed ({})", message.trim_end()));
        }
    }
}
