//! `tb_head`: the classification head of a task.

use std::ffi::{CString, c_char};
use std::path::Path;

use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Constants, Handle, Out};
use crate::error::{Error, Result};
use crate::heads::{Head, Score, ScoreFunction, logits_of_many, split};
use crate::open::open_head;
use crate::tensor::try_zeroed;

/// The frozen classification head of a task: logits = W*(e/|e|) + b. Shareable between threads.
pub struct tb_head {
    _opaque: [u8; 0],
}

pub(super) struct OpenHead {
    pub(super) head: Head,
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
    /// The class's share of the softmax over all classes, or its own sigmoid: see tb_head_function().
    pub probability: f32,
}

/// exp(logit) over the sum of all classes': one class is right. See tb_head_function().
pub const TB_FUNCTION_SOFTMAX: u32 = 1;
/// 1 / (1 + exp(-logit)) of each class by itself: any number of classes may be right. See tb_head_function().
pub const TB_FUNCTION_SIGMOID: u32 = 2;

const FUNCTIONS: Constants<ScoreFunction, 2> = Constants {
    what: "function",
    names: "TB_FUNCTION_…",
    values: [(TB_FUNCTION_SOFTMAX, ScoreFunction::Softmax), (TB_FUNCTION_SIGMOID, ScoreFunction::Sigmoid)],
};

/// Opens a head: a safetensors file with `TASK/weight` [C,e] and `TASK/bias` [C], a pickled head, a folder of
/// `head_TASKVal.pt`, `head_TASK.pt` or `TASK.safetensors`, a checkpoint with a classifier (of transformers' CLIP, ViT,
/// DeiT, DINOv2 and SigLIP ForImageClassification, or timm's; with the class names of the `config.json` beside it; a
/// folder of such is called like the task), a linear head of DINOv2's, or a bundle, which holds class names too. A
/// classifier takes the embeddings that its own tower pools (CLIP's: TB_POOLING_PATCH_MEAN) and no others, which
/// tb_head_classify() sees by their length alone.
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
        out.set(handle::text_at(&handle::borrow(head)?.classes, index, "the head has no class of that index")?);
        Ok(())
    })
}

/// Sets `*out` to the function that makes probabilities of the head's logits: TB_FUNCTION_SOFTMAX, or
/// TB_FUNCTION_SIGMOID (SigLIP's).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_function(head: *const tb_head, out: *mut u32, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        out.set(FUNCTIONS.number(handle::borrow(head)?.head.function()));
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
        classify(&[head], (embeds, n, embedding), (logits, capacity), (top, k))
    })
}

/// Classifies `n` embeddings by several heads in one call, as tb_head_classify() does by one; each embedding is
/// normalised once. Errors name the place in `heads` of the head that they are of.
///
/// @param heads      [count]; they all take embeddings of one length. The same head may be there twice
/// @param embeds     f32 [n,embedding]
/// @param embedding  e: the length of an embedding; must be each head's, or TB_ERR_MISMATCH
/// @param logits     f32 [n,C] of the first head, then of the next, and so on; NULL where they are not wanted
/// @param capacity   floats that `logits` has room for: at least n times the sum of all C, or TB_ERR_BUFFER_TOO_SMALL
/// @param top        [count,n,k], room for count*n*k: the k best classes of each head and embedding, the best first. A
///                   head with fewer classes fills the rest with a class_index of SIZE_MAX and zeros. NULL where k is 0
/// @param k          the best classes that are wanted of each head; may be more than some heads have
/// @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for an embedding that cannot be normalised because its norm
///         is 0 or not finite; TB_ERR_BUFFER_TOO_SMALL. On failure `logits` and `top` are as they were
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_classify_many(
    heads: *const *const tb_head,
    count: usize,
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
        let of_each = all(heads, count)?;
        if let Some(at) = of_each.iter().position(|head| head.embedding_dim() != embedding) {
            return Err(Error::mismatch(format!("heads[{at}] takes embeddings of another length"))
                .expected(of_each[at].embedding_dim())
                .got(embedding));
        }
        classify(&of_each, (embeds, n, embedding), (logits, capacity), (top, k))
    })
}

/// The heads of an array of handles, none of which may be NULL.
///
/// # Safety
/// As for [`handle::slice`], and for [`handle::borrow`] of each.
pub(super) unsafe fn all<'a>(heads: *const *const tb_head, count: usize) -> Result<Vec<&'a Head>> {
    // SAFETY: the caller's promise.
    let heads = unsafe { handle::slice(heads, count, "heads")? };
    let head = |(at, &head): (usize, &*const tb_head)| {
        // SAFETY: the caller's promise.
        let open = unsafe { handle::borrow(head) };
        Ok(&open.map_err(|e| e.got(format_args!("NULL at heads[{at}]")))?.head)
    };
    heads.iter().enumerate().map(head).collect()
}

/// Classifies `n` embeddings of the length that all of `heads` take by each of them: the logits of one head after the
/// other into `logits`, which has room for `capacity` floats or is NULL, the `k` best classes of each into `top`.
///
/// # Safety
/// As for [`handle::slice`], for the embeddings of all; `logits` and `top` have the room that is said.
unsafe fn classify(
    heads: &[&Head],
    (embeds, n, embedding): (*const f32, usize, usize),
    (logits, capacity): (*mut f32, usize),
    (top, k): (*mut tb_score, usize),
) -> Result<()> {
    // SAFETY: the caller's promise.
    let embeds = unsafe { handle::slice(embeds, product(n, embedding)?, "embeds")? };
    let mut classes = 0usize;
    for head in heads {
        classes = classes.checked_add(head.num_classes()).ok_or_else(beyond_memory)?;
    }
    let values = product(n, classes)?;
    let slots = product(heads.len(), product(n, k)?)?;
    let wanted = if logits.is_null() { 0 } else { values };
    // SAFETY: the caller's promise.
    let (top, logits) = unsafe {
        let top = Buffer::new(top, slots, std::ptr::null_mut(), "top")?.room(slots)?;
        (top, Buffer::new(logits, capacity, std::ptr::null_mut(), "logits")?.room(wanted)?)
    };
    let mut all = try_zeroed(values)?;
    logits_of_many(heads, embeds, &mut split(heads, n, &mut all))?;
    logits.copy_from_slice(&all[..wanted]);
    if slots > 0 {
        let parts = split(heads, n, &mut all);
        for ((head, part), top) in heads.iter().zip(parts).zip(top.chunks_exact_mut(n * k)) {
            for (logits, best) in part.chunks_exact_mut(head.num_classes()).zip(top.chunks_exact_mut(k)) {
                fill(best, head.rank(logits, k));
            }
        }
    }
    Ok(())
}

/// Fills `best` with scores; where there are fewer, the rest is no class.
pub(super) fn fill(best: &mut [tb_score], scores: Vec<Score>) {
    let none = tb_score { class_index: usize::MAX, logit: 0.0, probability: 0.0 };
    let scores = scores.into_iter().map(|Score { class, logit, probability }| tb_score {
        class_index: class,
        logit,
        probability,
    });
    best.iter_mut().zip(scores.chain(std::iter::repeat(none))).for_each(|(slot, score)| *slot = score);
}

fn beyond_memory() -> Error {
    Error::invalid("more values than memory can hold")
}

fn product(n: usize, each: usize) -> Result<usize> {
    n.checked_mul(each).ok_or_else(beyond_memory)
}

/// Frees a head. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_head_free(head: *mut tb_head) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(head) };
}
