//! Memory of this process, without a file.

use crate::error::{Error, Result};

/// Memory of this process, fresh from the operating system: page-aligned, zero, and no page of it in use until it is
/// written.
#[derive(Debug, Default)]
pub struct Anonymous {
    /// `None` for no bytes, which cannot be mapped.
    map: Option<memmap2::MmapMut>,
}

impl Anonymous {
    /// Room for `length` f32 values.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn new(length: usize) -> Result<Self> {
        if length == 0 {
            return Ok(Self { map: None });
        }
        let bytes = length.checked_mul(size_of::<f32>()).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let map = memmap2::MmapMut::map_anon(bytes).map_err(|e| Error::out_of_memory(bytes).because(e))?;
        // A fault for every 4 KiB would cost more than the arithmetic that fills them. Only advice: it may be refused.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Some(map) })
    }

    /// The values.
    pub fn as_f32(&self) -> &[f32] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: every bit pattern is an f32; a mapping begins at a page's start and `new` made it whole values long.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<f32>()) }
    }

    /// The values, to be written.
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        let Some(map) = &mut self.map else { return &mut [] };
        // SAFETY: every bit pattern is an f32, the mapping begins at a page's start and is whole values long, and `&mut
        // self` is the only access to it.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<f32>()) }
    }
}
