// The kernels as a library for the host: what src/kernel/cuda/simulated.rs compiles, loads and calls.
#include "shim.hpp"

static_assert(sizeof(Launch) == 40 + 8 * MAX_ACTIVE && sizeof(LaunchByRows) == 48 && sizeof(Relayout) == 48,
              "not as launch.rs fills them");
static_assert(sizeof(Launch) <= 4096, "more than a kernel's parameters may take on every device");

extern "C" void host_allow(int write, uint64_t address, uint64_t bytes, char *memory) {
    readable[address] = {address + bytes, memory};
    if (write) {
        writable[address] = readable[address];
    }
}

extern "C" void host_forget() {
    readable.clear();
    writable.clear();
    forbidden = misaligned = 0;
}

// Accesses outside what was allowed, and above bit 32 those at a wrong alignment.
extern "C" uint64_t host_combine(unsigned blocks, unsigned threads, const void *parameter) {
    run<Launch>(&taskbasis_combine, blocks, threads, parameter);
    return misaligned << 32 | forbidden;
}

extern "C" uint64_t host_combine_by_rows(unsigned blocks, unsigned threads, const void *parameter) {
    run<LaunchByRows>(&taskbasis_combine_by_rows, blocks, threads, parameter);
    return misaligned << 32 | forbidden;
}

extern "C" uint64_t host_relayout(unsigned blocks, unsigned threads, const void *parameter) {
    run<Relayout>(&taskbasis_relayout, blocks, threads, parameter);
    return misaligned << 32 | forbidden;
}
