//! `tb_head`: the classification head of a task.

use std::ffi::{CString, c_char};
use std::path::Path;

use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Handle, Out};
use crate::error::{Error, Result};
use crate::heads::{Head, softmax, top_k};
use crate::open::open_head;
use crate::tensor::try_zeroed;

/// The frozen classification head of a task: logits = W*(e/|e|) + b. Shareable between threads.
pub struct tb_head {
    _opaque: [u8; 0],
}

pub(super) struct OpenHead {
    head: Head,
    classes: Vec<CString>,
}

impl Handle for tb_head {
    type Inner = OpenHead;
    const NAME: &'static str = "head";
}

/// A class and its probability. This struct never changes, so arrays of it are safe.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_score {
    /// The class, 0 <= class_index < C.
    pub class_index: usize,
    /// The class's logit.
    pub logit: f32,
    /// The class's share of the softmax over all classes.
    pub probability: f32,
}

/// Opens a head: a safetensors file with `TASK/weight` [C,e] and `TASK/bias` [C], a pickled head, a folder of
/// `head_TASKVal.pt`, `head_TASK.pt` or `TASK.safetensors`, a checkpoint of CLIPForImageClassification (its classifier,
/// with the class names of the `config.json` beside it; a folder of such is called like the task), or a bundle, which
/// holds class names too. A classifier takes the embeddings of an encoder with TB_POOLING_PATCH_MEAN and of no other,
/// which tb_classify() sees by their length alone.
///
/// @param task     whose head; NULL where the file has only one
/// @param classes  a JSON file of class names, `{"TASK": ["name", ...]}`; NULL: the classes are called `0`, `1`, ...
/// @param out      set to the new handle, which the caller frees with tb_head_free(); NULL on failure
/// @return TB_OK; TB_ERR_IO; TB_ERR_FORMAT; TB_ERR_NOT_FOUND, with the tasks that there are; TB_ERR_MISMATCH where
///         there are not as many names as classes
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_open(
    path: *const c_char,
    task: *const c_char,
    classes: *const c_char,
    out: *mut *mut tb_head,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let (path, task) = (handle::text(path, "path")?, handle::optional_text(task, "task")?);
        let classes = handle::optional_text(classes, "classes")?;
        let head = open_head(path, task, classes.map(Path::new))?;
        let classes = (0..head.num_classes()).map(|class| handle::c_text(&head.class_name(class))).collect();
        out.set(handle::into_raw::<tb_head>(OpenHead { head, classes }));
        Ok(())
    })
}

/// Sets `*out` to C, the number of classes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_classes(head: *const tb_head, out: *mut usize, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        out.set(handle::borrow(head)?.classes.len());
        Ok(())
    })
}

/// Sets `*out` to the name of class `index`, UTF-8, which belongs to the head.
///
/// @param index  0 <= index < C
/// @return TB_OK; TB_ERR_NOT_FOUND
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_class_name(
    head: *const tb_head,
    index: usize,
    out: *mut *const c_char,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null())?;
        let classes = &handle::borrow(head)?.classes;
        let name = classes.get(index).ok_or_else(|| {
            Error::not_found("the head has no class of that index")
                .expected(format_args!("an index below {}", classes.len()))
                .got(index)
        })?;
        out.set(name.as_ptr());
        Ok(())
    })
}

/// Classifies `n` embeddings, which need no normalisation: gives all logits, the best classes, or both.
///
/// @param embeds     f32 [n,embedding]
/// @param embedding  e: the length of an embedding; must be the head's, or TB_ERR_MISMATCH
/// @param logits     f32 [n,C]; NULL where they are not wanted
/// @param capacity   floats that `logits` has room for: at least n*C, or TB_ERR_BUFFER_TOO_SMALL
/// @param top        [n,k], room for n*k: the k best classes of each, the best first; NULL where k is 0
/// @param k          at most C
/// @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for a k beyond C, or an embedding that cannot be normalised
///         because its norm is 0 or not finite; TB_ERR_BUFFER_TOO_SMALL. On failure `logits` and `top` are as they were
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_classify(
    head: *const tb_head,
    embeds: *const f32,
    n: usize,
    embedding: usize,
    logits: *mut f32,
    capacity: usize,
    top: *mut tb_score,
    k: usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let head = &handle::borrow(head)?.head;
        let classes = head.num_classes();
        if embedding != head.embedding_dim() {
            return Err(Error::mismatch("the head takes embeddings of another length")
                .expected(head.embedding_dim())
                .got(embedding));
        }
        if k > classes {
            return Err(Error::invalid("more best classes than there are").expected(classes).got(k));
        }
        let embeds = handle::slice(embeds, product(n, embedding)?, "embeds")?;
        let count = product(n, classes)?;
        let best = product(n, k)?;
        let top = Buffer::new(top, best, std::ptr::null_mut(), "top")?.room(best)?;
        let wanted = if logits.is_null() { 0 } else { count };
        let logits = Buffer::new(logits, capacity, std::ptr::null_mut(), "logits")?.room(wanted)?;
        let mut all = try_zeroed(count)?;
        head.logits(embeds, &mut all)?;
        logits.copy_from_slice(&all[..wanted]);
        if k > 0 {
            for (logits, best) in all.chunks_exact_mut(classes).zip(top.chunks_exact_mut(k)) {
                rank(logits, best);
            }
        }
        Ok(())
    })
}

/// Fills `best` with the classes of the largest logits; `logits` becomes their softmax.
fn rank(logits: &mut [f32], best: &mut [tb_score]) {
    let ranked = top_k(logits, best.len());
    for (slot, (class_index, logit)) in best.iter_mut().zip(ranked) {
        *slot = tb_score { class_index, logit, probability: 0.0 };
    }
    softmax(logits);
    best.iter_mut().for_each(|score| score.probability = logits[score.class_index]);
}

fn product(n: usize, each: usize) -> Result<usize> {
    n.checked_mul(each).ok_or_else(|| Error::invalid("more values than memory can hold"))
}

/// Frees a head. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_free(head: *mut tb_head) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(head) };
}
