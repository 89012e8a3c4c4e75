// A CUDA driver that has no GPU: device memory is the host's, streams do their work at once, and a launch runs a
// kernel, compiled as plain C++. So everything of src/kernel/cuda runs as it would with a GPU, but for the GPU and the
// kernels' PTX. What a real driver would refuse is refused: calls without a context, handles that are gone, accesses
// outside of what was allocated.
//
// FAKE_DEVICES, FAKE_VERSION, FAKE_CAPABILITY (75 for 7.5), FAKE_MEMORY (bytes), FAKE_REFUSED (the name of a function
// that fails) and FAKE_CAPTURING (1: another thread captures a graph all the time) change what it is.

#include "shim.hpp"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
};

// One at a time: the kernel's thread indices are global.
std::recursive_mutex one;
bool is_initialised;
int retained;
char context;
thread_local std::vector<void *> contexts;
// How captures of others concern this thread; RELAXED: not at all.
enum { GLOBAL = 0, RELAXED = 2 };
thread_local int capture_mode = GLOBAL;
// What is there: streams, events, modules, pinned memory.
std::set<void *> handles;
size_t used;

long setting(const char *name, long otherwise) {
    const char *value = std::getenv(name);
    return value ? std::atol(value) : otherwise;
}

size_t capacity() {
    return (size_t)setting("FAKE_MEMORY", 1l << 32);
}

bool is_refused(const char *function) {
    const char *refused = std::getenv("FAKE_REFUSED");
    return refused && std::strcmp(refused, function) == 0;
}

bool has_context() {
    return retained > 0 && !contexts.empty() && contexts.back() == &context;
}

void *make() {
    void *handle = std::malloc(1);
    handles.insert(handle);
    return handle;
}

Result destroy(void *handle) {
    if (handles.erase(handle) == 0) {
        return INVALID_HANDLE;
    }
    std::free(handle);
    return SUCCESS;
}

// The legacy default stream is a null pointer.
bool is_stream(void *stream) {
    return stream == nullptr || handles.count(stream);
}

bool is_memory(uint64_t address, size_t bytes) {
    auto after = readable.upper_bound(address);
    return after != readable.begin() && std::prev(after)->second.end >= address + bytes;
}

bool may_be_unsafe() {
    return setting("FAKE_CAPTURING", 0) == 0 || capture_mode == RELAXED;
}

}  // namespace

#define API extern "C" int
#define ENTER                                                \
    std::lock_guard<std::recursive_mutex> guard(one);        \
    if (is_refused(__func__)) return INVALID_VALUE;          \
    if (!is_initialised) return NOT_INITIALIZED
#define ENTER_CONTEXT \
    ENTER;            \
    if (!has_context()) return INVALID_CONTEXT
// What might change what another thread captures meanwhile.
#define ENTER_UNSAFE \
    ENTER_CONTEXT;   \
    if (!may_be_unsafe()) return CAPTURE_UNSUPPORTED

API cuDriverGetVersion(int *version) {
    *version = (int)setting("FAKE_VERSION", 12080);
    return SUCCESS;
}

API cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    if (setting("FAKE_DEVICES", 1) == 0) return NO_DEVICE;
    is_initialised = true;
    return SUCCESS;
}

API cuDeviceGetCount(int *count) {
    ENTER;
    *count = (int)setting("FAKE_DEVICES", 1);
    return SUCCESS;
}

API cuDeviceGet(int *device, int ordinal) {
    ENTER;
    if (ordinal < 0 || ordinal >= setting("FAKE_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER;
    switch (attribute) {
        case 16: *value = 2; return SUCCESS;  // multiprocessors
        case 75: *value = (int)setting("FAKE_CAPABILITY", 90) / 10; return SUCCESS;  // compute capability, major
        case 76: *value = (int)setting("FAKE_CAPABILITY", 90) % 10; return SUCCESS;  // and minor
        default: return INVALID_VALUE;
    }
}

API cuDeviceGetName(char *name, int length, int) {
    ENTER;
    std::snprintf(name, (size_t)length, "none at all");
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **made, int) {
    ENTER;
    ++retained;
    *made = &context;
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) {
    ENTER;
    // Everything has been given back, and the context left.
    const bool is_clean = handles.empty() && readable.empty() && contexts.empty() && capture_mode == GLOBAL;
    if (--retained == 0 && !is_clean) {
        std::fprintf(stderr, "%zu handles, %zu allocations, %zu contexts, capture mode %d are left\n", handles.size(),
                     readable.size(), contexts.size(), capture_mode);
        std::abort();
    }
    return SUCCESS;
}

API cuCtxPushCurrent_v2(void *pushed) {
    ENTER;
    if (pushed != &context || retained == 0) return INVALID_CONTEXT;
    contexts.push_back(pushed);
    return SUCCESS;
}

API cuCtxPopCurrent_v2(void **popped) {
    ENTER;
    if (contexts.empty()) return INVALID_CONTEXT;
    *popped = contexts.back();
    contexts.pop_back();
    return SUCCESS;
}

API cuThreadExchangeStreamCaptureMode(int *mode) {
    ENTER;
    if (*mode < GLOBAL || *mode > RELAXED) return INVALID_VALUE;
    std::swap(*mode, capture_mode);
    return SUCCESS;
}

API cuMemGetInfo_v2(size_t *available, size_t *total) {
    ENTER_CONTEXT;
    *available = capacity() - used;
    *total = capacity();
    return SUCCESS;
}

API cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    ENTER_UNSAFE;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > capacity() - used) return OUT_OF_MEMORY;
    void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xff, bytes);
    *address = (uint64_t)memory;
    readable[*address] = writable[*address] = {*address + bytes, (char *)memory};
    used += bytes;
    return SUCCESS;
}

API cuMemFree_v2(uint64_t address) {
    ENTER_UNSAFE;
    auto found = readable.find(address);
    if (found == readable.end()) return INVALID_VALUE;
    used -= found->second.end - address;
    readable.erase(found);
    writable.erase(address);
    std::free((void *)address);
    return SUCCESS;
}

API cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    ENTER_UNSAFE;
    *memory = std::malloc(bytes);
    handles.insert(*memory);
    return SUCCESS;
}

API cuMemFreeHost(void *memory) {
    ENTER_UNSAFE;
    return destroy(memory);
}

API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    if (!is_memory(to, bytes) || !is_stream(stream)) return INVALID_VALUE;
    std::memcpy((void *)to, from, bytes);
    return SUCCESS;
}

API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    if (!is_memory(from, bytes) || !is_stream(stream)) return INVALID_VALUE;
    std::memcpy(to, (const void *)from, bytes);
    return SUCCESS;
}

API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    if (!is_memory(from, bytes) || !is_memory(to, bytes) || !is_stream(stream)) return INVALID_VALUE;
    std::memcpy((void *)to, (const void *)from, bytes);
    return SUCCESS;
}

API cuStreamCreate(void **stream, unsigned) {
    ENTER_UNSAFE;
    *stream = make();
    return SUCCESS;
}

API cuStreamDestroy_v2(void *stream) {
    ENTER_UNSAFE;
    return destroy(stream);
}

API cuStreamSynchronize(void *stream) {
    ENTER_UNSAFE;
    return is_stream(stream) ? SUCCESS : INVALID_HANDLE;
}

API cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    ENTER_CONTEXT;
    return is_stream(stream) && handles.count(event) && flags == 0 ? SUCCESS : INVALID_HANDLE;
}

API cuEventCreate(void **event, unsigned flags) {
    ENTER_CONTEXT;
    if (flags != 2) return INVALID_VALUE;  // without times
    *event = make();
    return SUCCESS;
}

API cuEventRecord(void *event, void *stream) {
    ENTER_CONTEXT;
    return handles.count(event) && is_stream(stream) ? SUCCESS : INVALID_HANDLE;
}

API cuEventQuery(void *event) {
    ENTER_UNSAFE;
    return handles.count(event) ? SUCCESS : INVALID_HANDLE;
}

API cuEventSynchronize(void *event) {
    ENTER_UNSAFE;
    return handles.count(event) ? SUCCESS : INVALID_HANDLE;
}

API cuEventDestroy_v2(void *event) {
    ENTER_CONTEXT;
    return destroy(event);
}

API cuModuleLoadData(void **module, const void *code) {
    ENTER_UNSAFE;
    // PTX of these kernels, whole.
    for (const char *entry : {".entry taskbasis_combine(", ".entry taskbasis_combine_by_rows(", ".entry taskbasis_relayout("}) {
        if (!std::strstr((const char *)code, entry)) return INVALID_IMAGE;
    }
    *module = make();
    return SUCCESS;
}

API cuModuleUnload(void *module) {
    ENTER_UNSAFE;
    return destroy(module);
}

API cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER_CONTEXT;
    if (!handles.count(module)) return INVALID_HANDLE;
    if (std::strcmp(name, "taskbasis_combine") == 0) {
        *function = (void *)&taskbasis_combine;
    } else if (std::strcmp(name, "taskbasis_combine_by_rows") == 0) {
        *function = (void *)&taskbasis_combine_by_rows;
    } else if (std::strcmp(name, "taskbasis_relayout") == 0) {
        *function = (void *)&taskbasis_relayout;
    } else {
        return NOT_FOUND;
    }
    return SUCCESS;
}

API cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *stream, void **parameters, void **extra) {
    ENTER_CONTEXT;
    if (!is_stream(stream)) return INVALID_HANDLE;
    const bool is_flat = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1;
    if (!is_flat || grid_x == 0 || block_x != WARPS * LANES || shared != 0 || extra) return INVALID_VALUE;
    if (function == (void *)&taskbasis_combine) {
        run<Launch>(&taskbasis_combine, grid_x, block_x, parameters[0]);
    } else if (function == (void *)&taskbasis_combine_by_rows) {
        run<LaunchByRows>(&taskbasis_combine_by_rows, grid_x, block_x, parameters[0]);
    } else if (function == (void *)&taskbasis_relayout) {
        run<Relayout>(&taskbasis_relayout, grid_x, block_x, parameters[0]);
    } else {
        return INVALID_HANDLE;
    }
    return forbidden || misaligned ? ILLEGAL_ADDRESS : SUCCESS;
}

API cuGetErrorName(int error, const char **name) {
    static thread_local char text[32];
    std::snprintf(text, sizeof(text), "FAKE_ERROR_%d", error);
    *name = text;
    return SUCCESS;
}

API cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE ? "there is no device" : "as asked for";
    return SUCCESS;
}
