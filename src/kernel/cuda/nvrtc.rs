//! NVRTC, NVIDIA's compiler as a library: found, loaded and called. It needs no GPU and no driver.
//!
//! Written here and not taken from `cudarc`, which loads it by name only (a Python wheel keeps it in a folder of its
//! own, where no loader looks) and panics where it is missing.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::device::Architecture;
use crate::error::{Error, ErrorKind, Result};

/// The environment variable that names NVRTC: the library, or the folder that holds it.
pub(crate) const VARIABLE: &str = "TASKBASIS_NVRTC";

/// The versions in the names of NVRTC that are looked for, the newest first. From 11.2 on the name stays for all of a
/// major version.
const VERSIONS: [&str; 3] = ["13", "12", "11.2"];

/// What the kernel is compiled with, apart from the architecture. No fused multiply-add that the source does not name,
/// no subnormal that becomes zero: the bit contract.
pub(super) const OPTIONS: [&str; 4] = ["--std=c++17", "--fmad=false", "--ftz=false", "--ptxas-options=-v"];

/// Code for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// A cubin, or PTX with a zero behind it: what the driver loads.
    pub(crate) image: Vec<u8>,
    /// What the compiler said: registers, memory that they spilled to.
    pub(crate) log: String,
}

type Program = *mut c_void;

/// The library, and what is called of it.
#[derive(Debug)]
pub(crate) struct Nvrtc {
    path: PathBuf,
    version: (c_int, c_int),
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log_size: Size,
    log: Get,
    ptx_size: Size,
    ptx: Get,
    cubin_size: Size,
    cubin: Get,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Those that it compiles for, in ascending order.
    architectures: Vec<Architecture>,
    /// Last, so that the functions are gone before it is.
    _library: Library,
}

type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Nvrtc {
    /// The one that [`VARIABLE`] names, else that of the toolkit (`CUDA_HOME`, `CUDA_PATH`), else the system
    /// loader's. One of a newer major version of CUDA than `newest`, the driver's, is passed over: the driver would
    /// refuse its code.
    ///
    /// # Errors
    /// [`ErrorKind::RuntimeMissing`], with every place that was tried.
    pub(crate) fn load(newest: Option<c_int>) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
        Self::first_of(&places(variable(VARIABLE), toolkits), newest)
    }

    fn first_of(places: &[PathBuf], newest: Option<c_int>) -> Result<Self> {
        let mut tried = Vec::new();
        for place in places {
            match Self::open(place) {
                Ok(Self { version: (major, _), .. }) if newest.is_some_and(|newest| major > newest) => {
                    tried.push(format!("{}: for CUDA {major}, which the driver does not know", place.display()));
                }
                Ok(nvrtc) => return Ok(nvrtc),
                Err(why) => tried.push(format!("{}: {why}", place.display())),
            }
        }
        Err(Error::new(ErrorKind::RuntimeMissing, "NVRTC, which compiles the kernel for the GPU, was not found")
            .got(tried.join("; "))
            .hint(format!(
                "Install the CUDA toolkit, or run `pip install nvidia-cuda-nvrtc-cu12` and set {VARIABLE} to the \
                 folder `nvidia/cuda_nvrtc/lib` that it brings (for CUDA 13: `nvidia-cuda-nvrtc`, `nvidia/cu13/lib`)"
            )))
    }

    fn open(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: loading NVRTC runs only its own initialisers. The types of its functions are those of nvrtc.h, the
        // same in every version since 11.2.
        unsafe {
            let library = Library::new(path)?;
            macro_rules! function {
                ($name:literal) => {
                    *library.get(concat!($name, "\0").as_bytes())?
                };
            }
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = function!("nvrtcVersion");
            let count: unsafe extern "C" fn(*mut c_int) -> c_int = function!("nvrtcGetNumSupportedArchs");
            let list: unsafe extern "C" fn(*mut c_int) -> c_int = function!("nvrtcGetSupportedArchs");
            let (mut major, mut minor, mut architectures) = (0, 0, 0);
            version(&raw mut major, &raw mut minor);
            count(&raw mut architectures);
            let mut supported: Vec<c_int> = vec![0; usize::try_from(architectures).unwrap_or_default()];
            list(supported.as_mut_ptr());
            Ok(Self {
                path: path.to_path_buf(),
                version: (major, minor),
                create: function!("nvrtcCreateProgram"),
                compile: function!("nvrtcCompileProgram"),
                destroy: function!("nvrtcDestroyProgram"),
                log_size: function!("nvrtcGetProgramLogSize"),
                log: function!("nvrtcGetProgramLog"),
                ptx_size: function!("nvrtcGetPTXSize"),
                ptx: function!("nvrtcGetPTX"),
                cubin_size: function!("nvrtcGetCUBINSize"),
                cubin: function!("nvrtcGetCUBIN"),
                error_string: function!("nvrtcGetErrorString"),
                architectures: supported.into_iter().filter_map(|arch| arch.try_into().ok()).collect(),
                _library: library,
            })
        }
    }

    #[cfg(test)]
    pub(super) fn architectures(&self) -> &[Architecture] {
        &self.architectures
    }

    /// Code for a device of this architecture: its own machine code, or, for one that is newer than this compiler, PTX
    /// of the newest that it knows, of which the driver makes machine code.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a device that is too old; [`ErrorKind::Runtime`] with the compiler's own words.
    pub(crate) fn code_for(&self, source: &str, device: Architecture) -> Result<Code> {
        match self.architectures.iter().rev().find(|&&known| known <= device) {
            Some(&known) if known == device => {
                self.compile(source, &format!("sm_{device}"), self.cubin_size, self.cubin)
            }
            Some(known) => self.ptx(source, *known),
            None => Err(Error::unsupported(format!("a GPU of compute capability {device} is too old for this NVRTC"))
                .at(&self.path)
                .expected(format_args!("one of {:?}", self.architectures))),
        }
    }

    /// The intermediate code for an architecture, as text with a zero behind it.
    ///
    /// # Errors
    /// As [`Nvrtc::code_for`].
    pub(crate) fn ptx(&self, source: &str, architecture: Architecture) -> Result<Code> {
        self.compile(source, &format!("compute_{architecture}"), self.ptx_size, self.ptx)
    }

    fn compile(&self, source: &str, architecture: &str, size: Size, get: Get) -> Result<Code> {
        let text = |text: &str| CString::new(text).map_err(|e| Error::invalid("a zero in the source").because(e));
        let source = text(source)?;
        let mut options = vec![text(&format!("--gpu-architecture={architecture}"))?];
        for option in OPTIONS {
            options.push(text(option)?);
        }
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = Made { program: std::ptr::null_mut(), destroy: self.destroy };
        // SAFETY: NUL-terminated strings, and as many options as are counted, all alive during the calls; no headers.
        let compiled = unsafe {
            let name = c"combine.cu".as_ptr();
            let none = std::ptr::null();
            self.check((self.create)(&raw mut program.program, source.as_ptr(), name, 0, none, none))?;
            (self.compile)(program.program, options.len() as c_int, options.as_ptr())
        };
        let log = String::from_utf8_lossy(&self.take(&program, self.log_size, self.log)?).trim_matches('\0').to_owned();
        self.check(compiled).map_err(|error| error.got(log.trim()))?;
        Ok(Code { image: self.take(&program, size, get)?, log })
    }

    fn take(&self, program: &Made, size: Size, get: Get) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program was made by this library; `get` writes as many bytes as `size` said.
        unsafe {
            self.check(size(program.program, &raw mut length))?;
            let mut bytes = crate::tensor::try_zeroed::<u8>(length)?;
            self.check(get(program.program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }

    fn check(&self, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC answers any number with a string of its own, which lives as long as the library.
        let what = unsafe { CStr::from_ptr((self.error_string)(status)) }.to_string_lossy().into_owned();
        let (major, minor) = self.version;
        Err(Error::new(ErrorKind::Runtime, format!("NVRTC {major}.{minor} did not compile the kernel"))
            .at(&self.path)
            .because(what))
    }
}

/// A program that is destroyed in the end.
struct Made {
    program: Program,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by the library that the function is of, and destroyed once.
            unsafe { (self.destroy)(&raw mut self.program) };
        }
    }
}

/// Files, and names for the system's loader, in the order in which they are tried. What the variable names is an order.
fn places(variable: Option<OsString>, toolkits: impl Iterator<Item = OsString>) -> Vec<PathBuf> {
    let names = || -> Vec<String> {
        if cfg!(windows) {
            // `nvrtc64_130_0.dll`, `nvrtc64_112_0.dll`
            let names = VERSIONS.iter().map(|version| version.split_once('.').unwrap_or((version, "0")));
            names.map(|(major, minor)| format!("nvrtc64_{major}{minor}_0.dll")).collect()
        } else {
            VERSIONS.iter().map(|version| format!("libnvrtc.so.{version}")).chain(["libnvrtc.so".to_owned()]).collect()
        }
    };
    let inside = |folder: &Path| names().into_iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    match variable.map(PathBuf::from) {
        Some(folder) if folder.is_dir() => inside(&folder),
        Some(file) => vec![file],
        None => {
            let folder = if cfg!(windows) { "bin" } else { "lib64" };
            toolkits
                .flat_map(|toolkit| inside(&Path::new(&toolkit).join(folder)))
                .filter(|file| file.exists())
                .chain(names().into_iter().map(PathBuf::from))
                .collect()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::SOURCE;
    use super::*;

    /// `None`, said aloud, where there is no NVRTC. One that is asked for has to be there.
    pub(in super::super) fn nvrtc() -> Option<Nvrtc> {
        match Nvrtc::load(None) {
            Ok(nvrtc) => Some(nvrtc),
            Err(error) if std::env::var_os(VARIABLE).is_none() => {
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_kernels_compile_for_every_architecture() {
        let Some(nvrtc) = nvrtc() else { return };
        let (major, minor) = nvrtc.version;
        let mut compiled = Vec::new();
        for architecture in [75, 80, 86, 89, 90, 100, 103, 120] {
            if !nvrtc.architectures.contains(&architecture) {
                eprintln!("skipped: NVRTC {major}.{minor} does not know sm_{architecture}");
                continue;
            }
            let code = nvrtc.code_for(SOURCE, architecture).unwrap();
            assert!(code.image.starts_with(b"\x7fELF"), "sm_{architecture}");
            // A warp's sums have to stay in registers; a word or two of what is needed once a tile need not.
            for (kernel, registers_at_most, spilled_at_most) in
                [("taskbasis_combine", 128, 64), ("taskbasis_lay_out", 80, 0)]
            {
                // What the assembler reports of each: `… 8 bytes spill stores, 8 bytes spill loads`,
                // `Used 128 registers`.
                let named = format!("Compiling entry function '{kernel}'");
                let log = &code.log[code.log.find(&named).unwrap_or_else(|| panic!("{}", code.log))..];
                let number_before = |words: &str| -> Option<u32> {
                    let before = &log[..log.find(words)?];
                    before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
                };
                let (spilled, registers) = (number_before("bytes spill stores"), number_before("registers, used"));
                eprintln!("sm_{architecture}, {kernel}: {registers:?} registers, {spilled:?} bytes spilled");
                assert!(spilled.is_some_and(|bytes| bytes <= spilled_at_most), "{}", code.log);
                assert!(registers.is_some_and(|count| count <= registers_at_most), "{}", code.log);
            }
            compiled.push(architecture);
        }
        assert!(compiled.contains(&80) && compiled.contains(&90), "{compiled:?}");
    }

    /// The instructions of a kernel.
    fn ptx_of(nvrtc: &Nvrtc, kernel: &str) -> String {
        let ptx = String::from_utf8(nvrtc.ptx(SOURCE, 80).unwrap().image).unwrap();
        let (_, from) = ptx.split_once(&format!(".visible .entry {kernel}(")).unwrap();
        from.split(".visible .entry").next().unwrap().to_owned()
    }

    #[test]
    fn it_loads_sixteen_bytes_at_a_time_and_rounds_as_the_contract_says() {
        let Some(nvrtc) = nvrtc() else { return };
        let ptx = ptx_of(&nvrtc, "taskbasis_combine");
        let count = |what: &str| ptx.matches(what).count();
        assert!(count("ld.global.nc.v4.u32") > 50 && count("st.global.cg.v4.f32") >= 16);
        // Apart from those: the upper plane of q3, eight bytes a lane, and the search for the segment.
        assert!(count("ld.global") - count("ld.global.nc.v4.u32") <= 3, "{}", count("ld.global"));
        assert_eq!(count("st.global"), count("st.global.cg.v4.f32"));
        for never in [".local", "ld.u", "st.u", ".ftz", "mad.f32", "mad.rn.f32", "fma.rn.ftz", "approx", "bar.sync"] {
            assert_eq!(count(never), 0, "{never}");
        }
        assert!(count("fma.rn.f32") >= 64 && count("add.rn.f32") >= 64);
    }

    #[test]
    fn layouts_are_read_and_written_in_wide_pieces() {
        let Some(nvrtc) = nvrtc() else { return };
        let ptx = ptx_of(&nvrtc, "taskbasis_lay_out");
        let count = |what: &str| ptx.matches(what).count();
        // Eight loads of a square, and one for each row that is gathered. Alone are only elements that no 16 bytes
        // hold: a square's 32, four a gathered row; and the search for the segment.
        assert!(count("ld.global.nc.v4.u32") >= 8 + 4);
        assert!(count("ld.global.nc.f32") <= 32 + 16, "{}", count("ld.global.nc.f32"));
        assert_eq!(count("ld.global"), count("ld.global.nc.v4.u32") + count("ld.global.nc.f32") + 2);
        // Four elements of a gathered row at a time, for each type; a square's columns, side by side over the lanes.
        let wide = [("v4.f32", 4), ("v2.u32", 2 * 4), ("v2.u64", 2 * 4)];
        let narrow = [("f32", 32 + 16), ("u16", 2 * (32 + 16)), ("u64", 32 + 16)];
        for (kind, expected) in wide.into_iter().chain(narrow) {
            assert_eq!(count(&format!("st.global.cg.{kind}")), expected, "{kind}");
        }
        for never in [".local", "ld.u", "st.u", ".ftz", "fma", "mad.f32", "approx", "bar.sync", ".shared"] {
            assert_eq!(count(never), 0, "{never}");
        }
        assert!(count("cvt.rn.f16.f32") > 0 && count("mul.rn.f32") >= 32 && count("add.rn.f32") >= 16);
    }

    #[test]
    fn a_device_newer_than_the_compiler_gets_ptx() {
        let Some(nvrtc) = nvrtc() else { return };
        let newest = *nvrtc.architectures.last().unwrap();
        let image = nvrtc.code_for(SOURCE, newest + 1).unwrap().image;
        assert_eq!(image.last(), Some(&0), "the driver takes it as a string");
        assert!(String::from_utf8(image).unwrap().contains(&format!(".target sm_{newest}")));
        assert_eq!(nvrtc.code_for(SOURCE, 10).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_compiler_says_what_is_wrong() {
        let Some(nvrtc) = nvrtc() else { return };
        let error = nvrtc.code_for("__global__ void kernel() { nonsense; }", 80).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        assert!(error.to_string().contains("\"nonsense\" is undefined"), "{error}");
        assert!(nvrtc.code_for("a\0b", 80).is_err());
    }

    #[test]
    fn compiled_code_is_kept_on_the_disk() {
        let Some(nvrtc) = nvrtc() else { return };
        let folder = tempfile::tempdir().unwrap();
        let compile = || Ok(nvrtc.code_for(SOURCE, 80)?.image);
        let load = |image: &[u8]| Ok(image.to_vec());
        let first = super::super::compiled::load_or(Some(folder.path()), SOURCE, 80, compile, load).unwrap();
        let again = super::super::compiled::load_or(Some(folder.path()), SOURCE, 80, || panic!("compiled again"), load);
        assert!(first == again.unwrap());
    }

    #[test]
    fn where_it_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("lib64");
        std::fs::create_dir(&lib).unwrap();
        let toolkit = || [folder.path().as_os_str().to_owned()].into_iter();
        let all = places(None, toolkit());
        assert!(all.len() >= 3 && all.iter().all(|place| place.parent() == Some(Path::new(""))), "{all:?}");
        if cfg!(unix) {
            // As CUDA's libraries are really called.
            for name in ["libnvrtc.so.11.2", "libnvrtc.so.12", "libnvrtc.so.13"] {
                let library = lib.join(name);
                std::fs::write(&library, b"").unwrap();
                assert_eq!(places(None, toolkit())[0], library);
                assert!(places(Some(lib.clone().into()), std::iter::empty()).contains(&library));
            }
        }
        let named = folder.path().join("missing.so");
        let named = places(Some(named.into()), toolkit());
        assert_eq!(named.len(), 1, "an order");

        // One that the driver is too old for, and nothing else.
        if let Some(nvrtc) = nvrtc() {
            let error = Nvrtc::first_of(std::slice::from_ref(&nvrtc.path), Some(nvrtc.version.0 - 1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::RuntimeMissing);
            assert!(error.to_string().contains("which the driver does not know"), "{error}");
            Nvrtc::first_of(&[nvrtc.path], Some(nvrtc.version.0)).unwrap();
        }
        let error = Nvrtc::first_of(&named, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RuntimeMissing);
        assert!(error.to_string().contains("missing.so") && error.to_string().contains(VARIABLE), "{error}");
    }
}
