//! Handles: the one place where pointers that come from C are turned into something safe.
//!
//! A handle is an `Arc` that C holds as a raw pointer to an opaque type. Children hold their parents, so handles may be
//! freed in any order; a handle is `Send + Sync`, so it may be used from several threads at once.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// A type that C sees as an opaque handle.
pub(super) trait Handle: Sized {
    /// The content of the handle.
    type Inner: Send + Sync;
    /// The name in messages.
    const NAME: &'static str;
}

/// Gives C a handle: it owns one reference from now on.
pub(super) fn into_raw<H: Handle>(inner: H::Inner) -> *mut H {
    Arc::into_raw(Arc::new(inner)).cast_mut().cast()
}

/// Borrows the content of a handle of C's for the time of a call.
///
/// # Safety
/// `handle` is NULL, or came from [`into_raw`] and has not been freed.
pub(super) unsafe fn borrow<'a, H: Handle>(handle: *const H) -> Result<&'a H::Inner> {
    if handle.is_null() {
        return Err(null(H::NAME));
    }
    // SAFETY: the caller's promise; an `Arc`'s raw pointer is that of its content.
    Ok(unsafe { &*handle.cast::<H::Inner>() })
}

/// Takes C's reference back.
///
/// # Safety
/// As for [`borrow`]; the handle is not used again.
pub(super) unsafe fn free<H: Handle>(handle: *mut H) {
    if !handle.is_null() {
        // SAFETY: the caller's promise: this is the reference that `into_raw` gave.
        infallible((), || drop(unsafe { Arc::from_raw(handle.cast_const().cast::<H::Inner>()) }));
    }
}

/// The body of a function that cannot fail and gives a plain value: `otherwise` should a panic try to cross.
pub(super) fn infallible<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// A place for a result: set to nothing at once, written when the call succeeds.
pub(super) struct Out<'a, T>(&'a mut T);

impl<'a, T> Out<'a, T> {
    /// # Safety
    /// `out` is NULL or a place that C may have a `T` written to, which nothing else uses during the call.
    pub(super) unsafe fn new(out: *mut T, name: &str, nothing: T) -> Result<Self> {
        check_place(out, name)?;
        // SAFETY: not NULL and aligned, checked above; the rest is the caller's promise. The place may not be
        // initialised yet, so it is written before it is borrowed.
        unsafe {
            out.write(nothing);
            Ok(Self(&mut *out))
        }
    }

    pub(super) fn set(self, value: T) {
        *self.0 = value;
    }
}

/// A text of C's.
///
/// # Safety
/// `text` is NULL or ends in a NUL, and stays as it is during the call.
pub(super) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { optional_text(text, name) }?.ok_or_else(|| null(name))
}

/// A text of C's that may be NULL.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(text) }.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(e) => Err(Error::invalid(format!("`{name}` is not UTF-8")).because(e)),
    }
}

/// An array of C's; NULL is fine for no elements.
///
/// # Safety
/// `data` is NULL or `length` elements that stay as they are during the call.
pub(super) unsafe fn slice<'a, T>(data: *const T, length: usize, name: &str) -> Result<&'a [T]> {
    check_array(data, length, name)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, aligned and of a possible size (`check_array`); the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

fn check_array<T>(data: *const T, length: usize, name: &str) -> Result<()> {
    if length > 0 && data.is_null() {
        return Err(null(name));
    }
    if !data.is_aligned() {
        return Err(Error::invalid(format!("`{name}` is not aligned for its type")));
    }
    match length.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Error::invalid(format!("`{name}` cannot have {length} elements"))),
    }
}

/// Checks that something can be read or written there, as far as the address tells.
fn check_place<T>(place: *const T, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(null(name));
    }
    check_array(place, 1, name)
}

pub(super) fn null(name: &str) -> Error {
    Error::invalid(format!("`{name}` is NULL"))
}

/// A struct of plain data that begins with `size_t struct_size`, and whose all-zero state means all defaults.
///
/// # Safety
/// `repr(C)`, begins with a `usize`, and any bytes are a value of it: it holds numbers and raw pointers, no `bool`, no
/// enum, no reference. C may hand over whatever bytes it likes.
pub(super) unsafe trait Versioned: Copy {}

/// Options of C's: as much of them as the program knows, the rest zero, which means default.
///
/// A program built with a newer header may hand over more than this library knows; that is fine while the rest is zero.
///
/// # Safety
/// `options` is NULL or points to as many bytes as its `struct_size` says.
pub(super) unsafe fn options<T: Versioned>(options: *const T, name: &str) -> Result<T> {
    // SAFETY: `Versioned` promises that zero is a value.
    let mut known: T = unsafe { std::mem::zeroed() };
    if options.is_null() {
        return Ok(known);
    }
    check_place(options, name)?;
    // SAFETY: aligned, checked above; every versioned struct begins with its size.
    let given = unsafe { options.cast::<usize>().read() };
    check_struct_size::<T>(given, name)?;
    // SAFETY: both have at least that many bytes, and every struct of C's is plain data: any bytes are a value.
    unsafe { std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut known).cast(), given.min(size_of::<T>())) };
    for at in size_of::<T>()..given {
        // SAFETY: within `struct_size`.
        if unsafe { options.cast::<u8>().add(at).read() } != 0 {
            return Err(Error::unsupported(format!("`{name}` asks for something that this version does not know"))
                .expected(format_args!("a struct of at most {} bytes, or zeros after them", size_of::<T>()))
                .got(format_args!("struct_size {given}")));
        }
    }
    Ok(known)
}

/// The caller's struct for information: as much of it as the program knows is written.
pub(super) struct StructOut<T> {
    out: *mut T,
    given: usize,
}

impl<T: Versioned> StructOut<T> {
    /// # Safety
    /// `out` is NULL or points to as many writable bytes as its `struct_size` says.
    pub(super) unsafe fn new(out: *mut T, name: &str) -> Result<Self> {
        check_place(out, name)?;
        // SAFETY: not NULL and aligned, checked above; every versioned struct begins with its size.
        let given = unsafe { out.cast::<usize>().read() };
        check_struct_size::<T>(given, name)?;
        // SAFETY: `struct_size` bytes are the caller's promise, at least the size itself was checked. Zeros are a
        // value, and written as bytes: nothing is read from, or borrowed of, what C may not have initialised.
        unsafe { out.cast::<u8>().add(size_of::<usize>()).write_bytes(0, given - size_of::<usize>()) };
        Ok(Self { out, given })
    }

    /// Writes all but the leading `struct_size`, which stays the program's.
    pub(super) fn set(self, value: T) {
        let skip = size_of::<usize>();
        let end = self.given.min(size_of::<T>());
        // SAFETY: both have at least `end` bytes (`new` had the promise for `out`), and `end >= skip` by
        // `check_struct_size`. The copy is one of bytes, so padding may be in it.
        unsafe {
            let from = (&raw const value).cast::<u8>().add(skip);
            std::ptr::copy_nonoverlapping(from, self.out.cast::<u8>().add(skip), end - skip);
        }
    }
}

/// No struct of ours will ever have this many bytes: a size beyond it was never set.
const MAX_STRUCT: usize = 4096;

fn check_struct_size<T>(given: usize, name: &str) -> Result<()> {
    if (size_of::<usize>()..=MAX_STRUCT).contains(&given) {
        return Ok(());
    }
    let why = if (1..size_of::<usize>()).contains(&given) { "too small" } else { "not set" };
    Err(Error::invalid(format!("`{name}->struct_size` is {why}"))
        .expected(format_args!("sizeof the struct ({} bytes here)", size_of::<T>()))
        .got(given))
}

/// An array of C's for results, and where C wants to know how many there are. Written only when all is known.
pub(super) struct Buffer<T> {
    out: *mut T,
    capacity: usize,
    needed: *mut usize,
    name: &'static str,
}

impl<T: Copy> Buffer<T> {
    /// `*needed` is 0 from now on, and the size as soon as that is known.
    ///
    /// # Safety
    /// `out` is NULL or room for `capacity` values, `needed` is NULL or a place for a number, and nothing else uses
    /// either during the call.
    pub(super) unsafe fn new(out: *mut T, capacity: usize, needed: *mut usize, name: &'static str) -> Result<Self> {
        if !needed.is_null() {
            check_place(needed, "needed")?;
            // SAFETY: not NULL and aligned, checked above; the rest is the caller's promise.
            unsafe { needed.write(0) };
        }
        Ok(Self { out, capacity, needed, name })
    }

    /// Room for exactly `count` values.
    ///
    /// What C has not initialised counts as initialised here: the memory is not of Rust's making, so to Rust its bytes
    /// are unknown but there. Nothing reads them before writing.
    pub(super) fn room<'a>(self, count: usize) -> Result<&'a mut [T]> {
        if !self.needed.is_null() {
            // SAFETY: `new` checked it and had the promise.
            unsafe { self.needed.write(count) };
        }
        if count > self.capacity {
            return Err(Error::new(ErrorKind::BufferTooSmall, format!("`{}` is too small", self.name))
                .expected(format_args!("room for {count} values"))
                .got(format_args!("a capacity of {}", self.capacity)));
        }
        check_array(self.out, count, self.name)?;
        if count == 0 {
            return Ok(&mut []);
        }
        // SAFETY: not NULL, aligned and of a possible size (`check_array`), at most `capacity` values, for which `new`
        // had the promise.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.out, count) })
    }

    /// Copies the values into it.
    pub(super) fn fill(self, values: &[T]) -> Result<()> {
        self.room(values.len())?.copy_from_slice(values);
        Ok(())
    }
}

/// What some constants of C's stand for.
pub(super) struct Constants<T, const N: usize> {
    /// What each is, as errors name it.
    pub(super) what: &'static str,
    /// How their names begin.
    pub(super) names: &'static str,
    /// All of them.
    pub(super) values: [(u32, T); N],
}

impl<T: Copy + PartialEq, const N: usize> Constants<T, N> {
    /// What `number` stands for.
    pub(super) fn value(&self, number: impl Copy + TryInto<u32> + std::fmt::Display) -> Result<T> {
        let found = self.values.iter().find(|(constant, _)| number.try_into().is_ok_and(|number| number == *constant));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names = format!("one of {}", self.names);
            Error::invalid(format!("no such {}", self.what)).expected(names).got(number)
        })
    }

    /// What an option stands for, where 0 says nothing.
    pub(super) fn option(&self, number: u32) -> Result<Option<T>> {
        (number != 0).then(|| self.value(number)).transpose()
    }

    /// The constant that stands for `value`, which has one.
    pub(super) fn number(&self, value: T) -> u32 {
        self.values.iter().find(|(_, known)| *known == value).expect("every value has a constant").0
    }
}

/// A number of bytes that C gives; 0 is the default's.
pub(super) fn bytes(number: u64) -> Option<usize> {
    (number > 0).then(|| usize::try_from(number).unwrap_or(usize::MAX))
}

/// The text at `index` of those that a handle keeps for C.
///
/// # Errors
/// [`ErrorKind::NotFound`] beyond the last, saying what is `missing`.
pub(super) fn text_at(texts: &[CString], index: usize, missing: &str) -> Result<*const c_char> {
    let text = texts
        .get(index)
        .ok_or_else(|| Error::not_found(missing).expected(format_args!("an index below {}", texts.len())).got(index))?;
    Ok(text.as_ptr())
}

/// Text for C: it ends at a NUL, so none may be in it.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}
