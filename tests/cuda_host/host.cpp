// The kernels as a library for the host: what the tests in src/kernel/cuda compile, load and call.
// clang-format off
#include "shim.hpp"
#include "combine.cu"
#include "lay_out.cu"
// clang-format on

static_assert(sizeof(Launch) <= 4096, "more than a kernel's parameters may take on every device");

extern "C" uint64_t host_launch_bytes() {
    return sizeof(Launch);
}

extern "C" uint64_t host_lay_out_bytes() {
    return sizeof(LayOut);
}

extern "C" void host_allow(int write, uint64_t address, uint64_t bytes) {
    (write ? writable : readable)[address] = address + bytes;
}

extern "C" void host_forget() {
    readable.clear();
    writable.clear();
    forbidden = misaligned = 0;
}

// Accesses outside what was allowed, and above bit 32 those at a wrong alignment.
extern "C" uint64_t host_faults() {
    return misaligned << 32 | forbidden;
}

extern "C" void host_launch(unsigned blocks, unsigned threads, const Launch *launch) {
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
            taskbasis_combine(*launch);
        }
    }
}

extern "C" void host_lay_out(unsigned blocks, unsigned threads, const LayOut *launch) {
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
            taskbasis_lay_out(*launch);
        }
    }
}
