// What the kernels of src/kernel/cuda need to be plain C++: each thread of a launch is a call of the kernel. Every
// access to memory is checked: inside what the test allowed, and aligned to its own size, as the device demands.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};

// Device memory, by its first address: the address after the last, and where it really is.
struct Range {
    uint64_t end;
    char *memory;
};
using Ranges = std::map<uint64_t, Range>;
static Ranges readable, writable;
static uint64_t forbidden, misaligned;

// Where the bytes at an address are; null, and counted, where they may not be touched.
static char *find(const Ranges &ranges, uint64_t address, uint64_t size) {
    if (address % size != 0) {
        ++misaligned;
        return nullptr;
    }
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin() || std::prev(after)->second.end < address + size) {
        ++forbidden;
        return nullptr;
    }
    --after;
    return after->second.memory + (address - after->first);
}

template <class T>
static T __ldg(const T *from) {
    T value{};
    if (const char *memory = find(readable, (uint64_t)from, sizeof(T))) {
        std::memcpy(&value, memory, sizeof(T));
    }
    return value;
}

template <class T>
static void __stcg(T *to, T value) {
    if (char *memory = find(writable, (uint64_t)to, sizeof(T))) {
        std::memcpy(memory, &value, sizeof(T));
    }
}

// Four of the eight bytes of x and y, those that the nibbles of `which` count.
static unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
    const uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i) {
        out |= (unsigned)(bytes >> (8 * (which >> (4 * i) & 7)) & 0xff) << (8 * i);
    }
    return out;
}

static float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

static unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}

static float __fmul_rn(float a, float b) {
    return a * b;
}

static float __fadd_rn(float a, float b) {
    return a + b;
}

// By the format's definition: one bit of sign, five of exponent, ten of fraction.
static float half_to_float(unsigned bits) {
    const int exponent = bits >> 10 & 31;
    const float fraction = (float)(bits & 1023);
    const float magnitude = exponent == 31  ? (bits & 1023 ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(fraction, -24)
                                            : std::ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

// By the format's definition, for what is no NaN; `std::nearbyint` rounds to nearest, ties to even.
static unsigned float_to_half(float value) {
    const unsigned sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (magnitude >= 65520) {
        return sign | 0x7c00;
    }
    int exponent;
    std::frexp(magnitude, &exponent);
    exponent = magnitude == 0 || exponent < -13 ? -13 : exponent;
    // 1024 to 2048 of the last place, or fewer in a subnormal; a carry goes into the exponent by itself.
    const unsigned places = (unsigned)std::nearbyint(std::ldexp(magnitude, 11 - exponent));
    return sign | (((unsigned)(exponent + 13) << 10) + places);
}

// A hint, which must not reach beyond what is there all the same.
static void prefetch(uint64_t address) {
    find(readable, address, 1);
}

// The kernels' source. The second uses what the first defines.
// clang-format off
#include "combine.cu"
#include "relayout.cu"
// clang-format on

// Runs all threads of a launch, one after the other: none needs another one.
template <class Parameter>
static void run(void (*kernel)(const Parameter), unsigned blocks, unsigned threads, const void *parameter) {
    const Parameter copy = *(const Parameter *)parameter;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
            kernel(copy);
        }
    }
}
