//! The machine that the figures come from, and what of it this process may use.

use std::path::Path;

use serde::Serialize;
use taskbasis::{EncoderOptions, Provider, Result, Runtime, kernel};

/// The machine, which a figure depends on beside the program. What the operating system does not tell is null.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    pub cpu: Option<String>,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of the last cache level, for one processor's view.
    pub last_cache: Option<u64>,
    pub memory: Option<u64>,
    pub os: String,
    pub page_size: Option<usize>,
    /// The size of transparent huge pages, and when the kernel gives them.
    pub huge_page_size: Option<u64>,
    pub huge_pages: Option<String>,
    pub kernel: &'static str,
    /// Threads that reconstruct, and that encode.
    pub threads: usize,
    /// The version of ONNX Runtime; null where nothing that is measured needs one, and there is none.
    pub onnxruntime: Option<String>,
    /// The provider that encodes, and which of its devices; null where nothing that is measured has to, and it may not
    /// be there.
    pub provider: Option<&'static str>,
    pub device: u32,
    pub taskbasis: &'static str,
    /// Processes that ran or waited for a processor in the minute before: near 0 on a quiet machine.
    pub load: Option<f64>,
}

impl Machine {
    /// `encodes` says whether ONNX Runtime has to be there.
    pub fn look(threads: usize, options: &EncoderOptions, encodes: bool) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let onnxruntime = match Runtime::load(options.runtime.as_deref()) {
            Ok(runtime) => Some(runtime.version().to_owned()),
            Err(error) if encodes => return Err(error),
            Err(_) => None,
        };
        let huge = "/sys/kernel/mm/transparent_hugepage";
        Ok(Self {
            cpu: read("/proc/cpuinfo").and_then(|text| field(&text, "model name").map(String::from)),
            processors: processors(),
            last_cache: read("/sys/devices/system/cpu/cpu0/cache/index3/size").and_then(|text| kilobytes(&text)),
            memory: read("/proc/meminfo").and_then(|text| field(&text, "MemTotal").and_then(kilobytes)),
            os: os(),
            page_size: page_size(),
            huge_page_size: read(&format!("{huge}/hpage_pmd_size")).and_then(|text| text.parse().ok()),
            huge_pages: read(&format!("{huge}/enabled"))
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            kernel: kernel::active()?.name(),
            threads,
            onnxruntime,
            provider: (encodes || options.provider == Provider::Cpu).then_some(options.provider.name()),
            device: options.device,
            taskbasis: env!("CARGO_PKG_VERSION"),
            load: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        })
    }

    /// One line.
    pub fn text(&self) -> String {
        let runtime = self.onnxruntime.as_ref().map_or("no ONNX Runtime".into(), |version| {
            let on = self.provider.map_or(String::new(), |provider| format!(" on {provider}"));
            format!(
                "ONNX Runtime {version}{on}{}",
                if self.device == 0 { String::new() } else { format!(" {}", self.device) }
            )
        });
        format!(
            "{}, {} processors, {}; {} kernel, {} threads, {runtime}, taskbasis {}",
            self.cpu.as_deref().unwrap_or("unknown processor"),
            self.processors,
            self.os,
            self.kernel,
            self.threads,
            self.taskbasis
        )
    }
}

/// The number of processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Anonymous memory of this process that is resident, in bytes: what it holds beyond mapped files. `None` where the
/// operating system does not tell.
pub fn anonymous_memory() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "RssAnon").and_then(kilobytes)
}

/// Files that this process has open. `None` where the operating system does not tell.
pub fn descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Bytes that this process has had read from storage. `None` where the operating system does not tell.
pub fn bytes_from_storage() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/io").ok()?, "read_bytes")?.parse().ok()
}

/// The version of NVIDIA's driver. `None` where the operating system does not tell.
pub fn nvidia_driver() -> Option<String> {
    driver_version(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`: the word that is a version.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    field(text, "NVRM version")?.split_whitespace().find(is_version).map(ToOwned::to_owned)
}

/// Writes a file back and drops it from the page cache, as far as no process has it mapped; whether that could be asked
/// for.
pub fn evict(path: &Path) -> std::io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let file = std::fs::File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(true)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = path;
        Ok(false)
    }
}

/// Runs `work` on a thread that may use only the first `count` of this process's processors, as may all threads that
/// it starts. `None` where threads cannot be pinned or started.
pub fn pinned<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let all = sched_getaffinity(None).ok()?;
        let mut few = CpuSet::new();
        (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).take(count).for_each(|cpu| few.set(cpu));
        std::thread::scope(|scope| {
            let pinned = move || sched_setaffinity(None, &few).ok().map(|()| work());
            let thread = std::thread::Builder::new().spawn_scoped(scope, pinned).ok()?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (count, work);
        None
    }
}

fn page_size() -> Option<usize> {
    #[cfg(unix)]
    return Some(rustix::param::page_size());
    #[cfg(not(unix))]
    None
}

fn os() -> String {
    #[cfg(unix)]
    {
        let uname = rustix::system::uname();
        format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
    }
    #[cfg(not(unix))]
    std::env::consts::OS.to_owned()
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// `12 kB`, `12K`: bytes.
fn kilobytes(text: &str) -> Option<u64> {
    text.trim_end_matches("kB").trim_end_matches('K').trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_sizes() {
        assert_eq!(field("a\t: 1\nmodel name\t: X Y: Z\n", "model name"), Some("X Y: Z"));
        assert_eq!(
            (kilobytes("32768K"), kilobytes("12 kB"), kilobytes("many")),
            (Some(32 << 20), Some(12 << 10), None)
        );
    }

    #[test]
    fn the_version_of_a_driver() {
        let told =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\nGCC version: 12.3.0\n";
        assert_eq!(driver_version(told).as_deref(), Some("580.82.07"));
        assert_eq!(driver_version("GCC version: 12.3.0\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn fewer_processors_for_threads_and_their_children() {
        let seen = pinned(1, || (processors(), std::thread::spawn(processors).join().unwrap()));
        assert_eq!(seen, Some((1, 1)));
        assert!(anonymous_memory().is_some_and(|bytes| bytes > 100_000));
    }
}
