//! `tb_router`: the task chosen by the image.

use std::ffi::{CString, c_char};

use super::basis::tb_basis;
use super::encoder::tb_encoder;
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Constants, Handle, Out, StructOut, Versioned};
use super::head::{self, tb_head, tb_score};
use crate::basis::TaskExpr;
use crate::error::{Error, Result};
use crate::router::{Choice, FeatureKind, Route, Routed, Router, Routing};

/// What tells by an image alone which of several tasks it belongs to, over the tasks of a basis: a small subspace of
/// the base's features per task, as `taskbasis route` makes it. Shareable between threads.
pub struct tb_router {
    _opaque: [u8; 0],
}

pub(super) struct OpenRouter {
    routing: Routing,
    tasks: Vec<CString>,
    features: CString,
    fallback: Option<CString>,
}

impl Handle for tb_router {
    type Inner = OpenRouter;
    const NAME: &'static str = "router";
}

/// The image's likeliest task answers.
pub const TB_CHOICE_TASK: u32 = 1;
/// The confidence is below the threshold, and the fallback's weights answer, with the likeliest task's head.
pub const TB_CHOICE_FALLBACK: u32 = 2;
/// The confidence is below the threshold, and nothing answers.
pub const TB_CHOICE_NONE: u32 = 3;

const CHOICES: Constants<Choice, 3> = Constants {
    what: "choice",
    names: "TB_CHOICE_…",
    values: [(TB_CHOICE_TASK, Choice::Task), (TB_CHOICE_FALLBACK, Choice::Fallback), (TB_CHOICE_NONE, Choice::None)],
};

/// How tb_router_open() opens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_router_options {
    /// sizeof(tb_router_options), set by the caller.
    pub struct_size: usize,
    /// The confidence, at most 1, below which the fallback answers; 0: the router's own. A tiny number sends every
    /// image to its likeliest task.
    pub threshold: f64,
    /// The task expression of the weights that answer below the threshold; `none` for no answer; NULL: the router's
    /// own.
    pub fallback: *const c_char,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_router_options {}

/// What a router is. Texts belong to the router.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_router_properties {
    /// sizeof(tb_router_properties), set by the caller.
    pub struct_size: usize,
    /// The number of tasks.
    pub tasks: usize,
    /// e: the length of a feature, which is an embedding of the encoder's; of hidden features 2*width.
    pub embedding: usize,
    /// The dimensions of each task's subspace.
    pub components: usize,
    /// The confidence below which an image is not sent to its likeliest task.
    pub threshold: f64,
    /// The task expression of the weights that the features are of, `base` as a rule.
    pub features: *const c_char,
    /// The task expression of the weights that answer below the threshold; NULL where nothing does.
    pub fallback: *const c_char,
    /// 1 where features are no embeddings but hidden features: the class token behind the last norm, before the
    /// projection, and the mean of the patches' tokens behind the last block, f32 [2*width]. tb_router_encode() and
    /// tb_router_classify() compute them, on the CPU, with the built graph and whole weights. 0 where they are
    /// embeddings.
    pub hidden: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_router_properties {}

/// What a router says of one image. This struct never changes, so arrays of it are safe.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_route {
    /// The likeliest task: 0 <= task < tasks.
    pub task: usize,
    /// The probability of that task among the router's tasks.
    pub probability: f64,
    /// The probability, lowered where the image lies further from the task than all images that the router was made of:
    /// what is compared with the threshold.
    pub confidence: f64,
    /// What becomes of the image: TB_CHOICE_TASK, TB_CHOICE_FALLBACK or TB_CHOICE_NONE.
    pub choice: u32,
    /// 0.
    pub reserved: u32,
}

/// Opens a router over the tasks of a basis. Nothing is reconstructed yet; of a base that is in no bundle all weights
/// are read once, as the router has to be of that base.
///
/// @param path     the file that `taskbasis route` wrote, or a bundle that keeps a router
/// @param options  NULL for the router's own threshold and fallback
/// @param out      set to the new handle, which the caller frees with tb_router_free(); NULL on failure
/// @return TB_OK; TB_ERR_IO; TB_ERR_FORMAT; TB_ERR_UNSUPPORTED for a router of a newer version; TB_ERR_MISMATCH for one
///         of another base; TB_ERR_NOT_FOUND for a bundle that keeps none; TB_ERR_NOT_FOUND and
///         TB_ERR_NOT_RECOVERABLE for a task that the basis does not have;
///         TB_ERR_INVALID_ARGUMENT for a threshold or a fallback that is none
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_open(
    basis: *const tb_basis,
    path: *const c_char,
    options: *const tb_router_options,
    out: *mut *mut tb_router,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let opened = &handle::borrow(basis)?.opened;
        let mut router = Router::open(handle::text(path, "path")?)?;
        let options = handle::options(options, "options")?;
        // What is no number is no 0 either, and refused.
        if options.threshold != 0.0 {
            router = router.with_threshold(options.threshold)?;
        }
        if let Some(fallback) = handle::optional_text(options.fallback, "fallback")? {
            let expression = (fallback != "none").then(|| fallback.parse::<TaskExpr>()).transpose()?;
            router = router.with_fallback(expression);
        }
        let routing = Routing::new(router, opened)?;
        let router = routing.router();
        let tasks = router.tasks().iter().map(|task| handle::c_text(task)).collect();
        let features = handle::c_text(&router.features().to_string());
        let fallback = router.fallback().map(|fallback| handle::c_text(&fallback.to_string()));
        out.set(handle::into_raw::<tb_router>(OpenRouter { routing, tasks, features, fallback }));
        Ok(())
    })
}

/// Tells what a router is. `info->struct_size` has to be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_info(
    router: *const tb_router,
    info: *mut tb_router_properties,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(info, "info")?;
        let OpenRouter { routing, tasks, features, fallback } = handle::borrow(router)?;
        let router = routing.router();
        out.set(tb_router_properties {
            struct_size: 0,
            tasks: tasks.len(),
            embedding: router.embedding_dim(),
            components: router.components(),
            threshold: router.threshold(),
            features: features.as_ptr(),
            fallback: fallback.as_ref().map_or(std::ptr::null(), |fallback| fallback.as_ptr()),
            hidden: u32::from(router.kind() == FeatureKind::Hidden),
            reserved: 0,
        });
        Ok(())
    })
}

/// Sets `*out` to the name of a task of the router's, UTF-8, which belongs to the router.
///
/// @param index  0 <= index < tasks
/// @return TB_OK; TB_ERR_NOT_FOUND
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_task_name(
    router: *const tb_router,
    index: usize,
    out: *mut *const c_char,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null())?;
        out.set(handle::text_at(&handle::borrow(router)?.tasks, index, "the router has no task of that index")?);
        Ok(())
    })
}

/// Tells the tasks of `n` images by their features: embeddings of the weights that tb_router_properties.features names,
/// as tb_encoder_encode() gives them, not normalised. Where tb_router_properties.hidden is 1, they are hidden features
/// of those weights. Runs nothing.
///
/// @param features   f32 [n,embedding]
/// @param embedding  e, or 2*width: the length of a feature; must be the router's, or TB_ERR_MISMATCH
/// @param out        [n], room for n
/// @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for a feature whose norm is 0 or not finite. On failure
///         `out` is as it was
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_route(
    router: *const tb_router,
    features: *const f32,
    n: usize,
    embedding: usize,
    out: *mut tb_route,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let router = handle::borrow(router)?.routing.router();
        if embedding != router.embedding_dim() {
            return Err(Error::mismatch("the router takes features of another length")
                .expected(router.embedding_dim())
                .got(embedding));
        }
        let features = handle::slice(features, values(n, embedding)?, "features")?;
        let out = Buffer::new(out, n, std::ptr::null_mut(), "out")?.room(n)?;
        let routes = router.route(features)?;
        fill(out, &routes, routes.iter().map(|route| router.choice(route)));
        Ok(())
    })
}

/// Embeds `n` preprocessed images, each with the weights of the task that it looks like: one run for the features of
/// all, and one for each task that occurs among them. Otherwise as tb_encoder_encode().
///
/// @param encoder   of the router's base, with the pooling that the router was made with
/// @param pixels    f32 [n,3,S,S], as tb_preprocess() gives them
/// @param out       f32 [n,e]; zeros for an image that nothing answers for
/// @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
/// @param routes    [n], room for n; NULL where they are not wanted
/// @return what tb_encoder_encode() returns; TB_ERR_MISMATCH for an encoder that gives other features, and
///         TB_ERR_UNSUPPORTED for one that gives no hidden ones where the router takes such. On failure `out` and
///         `routes` are as they were
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_encode(
    router: *const tb_router,
    encoder: *const tb_encoder,
    pixels: *const f32,
    n: usize,
    out: *mut f32,
    capacity: usize,
    routes: *mut tb_route,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, std::ptr::null_mut(), "out")?;
        let out = out.room(values(n, handle::borrow(encoder)?.encoder.arch().embed_dim)?)?;
        let wanted = if routes.is_null() { 0 } else { n };
        let routes = Buffer::new(routes, wanted, std::ptr::null_mut(), "routes")?.room(wanted)?;
        let (routed, _) = encode(router, encoder, pixels, n)?;
        out.copy_from_slice(&routed.embeds);
        fill(routes, &routed.routes, routed.choices.iter().copied());
        Ok(())
    })
}

/// Classifies `n` preprocessed images, each with the weights and the head of the task that it looks like; below the
/// threshold with the fallback's weights and the likeliest task's head.
///
/// @param heads   [tasks], in the order of the router's tasks
/// @param count   must be the router's number of tasks
/// @param pixels  as in tb_router_encode()
/// @param routes  [n], room for n: whose classes they are
/// @param top     [n,k], room for n*k: the k best classes of each image, the best first. Where there are fewer, or
///                nothing answers, the rest has a class_index of SIZE_MAX and zeros. NULL where k is 0
/// @param k       the best classes that are wanted of each image
/// @return what tb_router_encode() and tb_head_classify() return; TB_ERR_MISMATCH, with the task, for a head that takes
///         other embeddings. On failure `routes` and `top` are as they were
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_classify(
    router: *const tb_router,
    encoder: *const tb_encoder,
    heads: *const *const tb_head,
    count: usize,
    pixels: *const f32,
    n: usize,
    routes: *mut tb_route,
    top: *mut tb_score,
    k: usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let tasks = handle::borrow(router)?.routing.router().tasks();
        if count != tasks.len() {
            return Err(Error::invalid("not as many heads as the router has tasks").expected(tasks.len()).got(count));
        }
        let arch = handle::borrow(encoder)?.encoder.arch();
        let of_tasks = head::all(heads, count)?;
        of_tasks.iter().zip(tasks).try_for_each(|(head, task)| head.check_tower(task, arch))?;
        let slots = values(n, k)?;
        let routes = Buffer::new(routes, n, std::ptr::null_mut(), "routes")?.room(n)?;
        let top = Buffer::new(top, slots, std::ptr::null_mut(), "top")?.room(slots)?;
        let (routed, e) = encode(router, encoder, pixels, n)?;
        let mut scores = Vec::with_capacity(n);
        for ((route, choice), embed) in routed.routes.iter().zip(&routed.choices).zip(routed.embeds.chunks_exact(e)) {
            scores.push(match choice {
                Choice::None => Vec::new(),
                Choice::Task | Choice::Fallback => of_tasks[route.task].classify(embed, k)?,
            });
        }
        top.chunks_exact_mut(k.max(1)).zip(scores).for_each(|(best, scores)| head::fill(best, scores));
        fill(routes, &routed.routes, routed.choices.iter().copied());
        Ok(())
    })
}

/// Frees a router. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_router_free(router: *mut tb_router) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(router) };
}

/// The routed embeddings, and e.
///
/// # Safety
/// As for [`handle::borrow`] and [`handle::slice`].
unsafe fn encode(
    router: *const tb_router,
    encoder: *const tb_encoder,
    pixels: *const f32,
    n: usize,
) -> Result<(Routed, usize)> {
    // SAFETY: the caller's promise.
    let (router, encoder) = unsafe { (handle::borrow(router)?, &handle::borrow(encoder)?.encoder) };
    // SAFETY: the caller's promise.
    let pixels = unsafe { handle::slice(pixels, values(n, encoder.arch().pixels())?, "pixels")? };
    Ok((router.routing.encode(encoder, pixels, n)?, encoder.arch().embed_dim))
}

/// Writes as many routes as there is room for.
fn fill(out: &mut [tb_route], routes: &[Route], choices: impl Iterator<Item = Choice>) {
    for ((slot, route), choice) in out.iter_mut().zip(routes).zip(choices) {
        let Route { task, probability, confidence } = *route;
        *slot = tb_route { task, probability, confidence, choice: CHOICES.number(choice), reserved: 0 };
    }
}

fn values(n: usize, each: usize) -> Result<usize> {
    n.checked_mul(each).ok_or_else(|| Error::invalid("more values than memory can hold"))
}
