//! Which provider has got which nodes of a graph.
//!
//! ONNX Runtime gives each node to the first provider that takes it, and the rest to the CPU, without a word.

use std::ffi::CStr;

use ort::AsPointer;
use ort::session::Session;

use crate::encoder::ort_error::failed;
use crate::error::Result;

/// The session's setting without which nothing is known afterwards.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// How many nodes each provider has got, by ONNX Runtime's names, the most first. A node that TensorRT takes may be
/// many of the graph's.
///
/// # Errors
/// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) where the session was made without [`RECORD`].
pub(in crate::encoder) fn count(session: &Session) -> Result<Vec<(String, usize)>> {
    let told = failed("cannot ask which provider computes what");
    let api = ort::api();
    let (mut parts, mut length) = (std::ptr::null(), 0);
    // SAFETY: the session is valid, and both pointers are to locals, which are set to an array of the session's.
    let status = unsafe {
        ort::Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut length))
    };
    status.map_err(&told)?;
    let mut counts: Vec<(String, usize)> = Vec::new();
    for index in 0..length {
        let (mut name, mut nodes, mut count) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the array has `length` elements, valid as long as the session; the pointers are to locals.
        let status = unsafe {
            let part = *parts.add(index);
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(part, &mut name)).and_then(|()| {
                ort::Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(part, &mut nodes, &mut count))
            })
        };
        status.map_err(&told)?;
        // SAFETY: set by a call that succeeded, to a NUL-terminated text of the session's.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => counts.push((name.into_owned(), count)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(counts)
}
