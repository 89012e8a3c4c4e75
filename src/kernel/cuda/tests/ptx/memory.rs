//! What a launch may touch.

/// Ranges that it reads, and one that it writes.
pub(in super::super) struct Memory<'a> {
    /// With the address of each, in ascending order.
    readable: Vec<(u64, &'a [u8])>,
    out: u64,
    writable: &'a mut [u8],
    /// Which bytes were written.
    written: Vec<bool>,
}

impl<'a> Memory<'a> {
    pub(in super::super) fn new(mut readable: Vec<(u64, &'a [u8])>, out: u64, writable: &'a mut [u8]) -> Self {
        readable.sort_unstable_by_key(|&(address, _)| address);
        let written = vec![false; writable.len()];
        Self { readable, out, writable, written }
    }

    /// So many bytes from an address on.
    pub(super) fn read(&self, address: u64, bytes: usize) -> Result<&[u8], String> {
        let after = self.readable.partition_point(|&(start, _)| start <= address);
        let found = after.checked_sub(1).and_then(|at| {
            let (start, memory) = self.readable[at];
            memory.get((address - start) as usize..)?.get(..bytes)
        });
        found.ok_or_else(|| format!("{bytes} bytes at {address:#x} are not there"))
    }

    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String> {
        let start = address.wrapping_sub(self.out) as usize;
        let outside = || format!("{} bytes at {address:#x} may not be written", bytes.len());
        let end = start.checked_add(bytes.len()).filter(|&end| end <= self.writable.len()).ok_or_else(outside)?;
        // Two threads that write the same place are a race, whatever they write.
        if self.written[start..end].contains(&true) {
            return Err(format!("{} bytes at {address:#x} are written twice", bytes.len()));
        }
        self.writable[start..end].copy_from_slice(bytes);
        self.written[start..end].fill(true);
        Ok(())
    }
}
