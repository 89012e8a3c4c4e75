// The combine kernel: out = base + sum over m of a_m * s_m, with the bits of `scalar.rs`.
//
// One launch computes any number of tensors. All of them are cut into tiles of 2048 elements, and a warp takes a few
// tiles, one after the other. In a tile, lane l has the elements 128*r + 4*l + i (r < 16, i < 4), as its values 4*r +
// i: what the 32 lanes of a warp load and store at a time lies side by side, 16 bytes per lane. Everything in device
// memory is in the order that this asks for (`tiles.rs` has it), in whole tiles: there are no tails here.
//
// NVRTC makes kernels.ptx of it (scripts/make-ptx), and the tests compile it as plain C++ (tests/cuda_host). So it
// includes nothing, and no thread needs another one.

typedef unsigned long long u64;

#define LANES 32u
#define ROWS 16
#define TILE 2048u
#define VALUES 64   // of a tile, per lane
#define CHUNK 512u  // bytes that a warp loads at a time
#define SECTOR 32u  // bytes of a cache line that are fetched at least
#define MAX_BLOCKS 2112u  // bytes of a tile of blocks at most: those of q8
#define WARPS 4u    // of a block; `launch.rs` launches blocks of that size
#define MAX_ACTIVE 504

// Formats, as `launch.rs` numbers them.
#define NO_BASE 0u
#define F32 1u
#define F16 2u
#define BF16 3u
#define Q8 4u
#define Q6 5u
#define Q4 6u
#define Q3 7u
#define Q2 8u

// In memory, all little-endian:
//
// segment, 32 bytes   u64 base         address of its first tile
//                     u64 out          bytes from the launch's `out`
//                     u32 first_tile   of the launch
//                     u32 base_format  NO_BASE: there is no base
//                     u32 first_term   in `terms`
//                     u32 has_terms    0 or 1
// term, 16 bytes      u64 address      of the segment's first tile
//                     u32 format
//                     u32 tile_bytes
//
// Where segments add terms of their own (LaunchByRows), there is one list more, of entries of 8 bytes: a row per
// segment, in their order, then the terms that are added.
//
// row                 u32 first        place in the list of the first term that is added
//                     u32 end          place after the last one
// term that is added  u32 term         as in `Active`
//                     f32 coefficient

// A term that is added: those whose coefficient is zero are not here.
struct Active {
    unsigned term;  // counted from the segment's first
    float coefficient;
};

struct Launch {
    u64 segments;
    u64 terms;
    u64 out;
    unsigned segment_count;
    unsigned tiles;
    unsigned run;  // tiles per warp
    unsigned active_count;
    Active active[MAX_ACTIVE];  // in ascending m
};

// The same where each segment adds terms of its own, in ascending m too.
struct LaunchByRows {
    u64 segments;
    u64 terms;
    u64 out;
    u64 rows;
    unsigned segment_count;
    unsigned tiles;
    unsigned run;
};

// Places in a list of terms that are added: from `first` on, before `end`.
struct Places {
    unsigned first;
    unsigned end;
};

#ifdef __CUDACC__
// Exact, subnormals included. A function of the toolkit's headers, which NVRTC comes without.
static __device__ __forceinline__ float half_to_float(unsigned bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
    return value;
}

static __device__ __forceinline__ void prefetch(u64 address) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
}
#endif

static __device__ __forceinline__ void load16(u64 address, unsigned *words) {
    const uint4 loaded = __ldg((const uint4 *)address);
    words[0] = loaded.x;
    words[1] = loaded.y;
    words[2] = loaded.z;
    words[3] = loaded.w;
}

// The two halves of a word as values; `IS_BF16`: the upper 16 bits of an f32, else f16.
template <bool IS_BF16>
static __device__ __forceinline__ void halves(unsigned word, float *values) {
    values[0] = IS_BF16 ? __uint_as_float(word << 16) : half_to_float(word & 0xffffu);
    values[1] = IS_BF16 ? __uint_as_float(word & 0xffff0000u) : half_to_float(word >> 16);
}

// Two rows of a tile of half floats at `at`: values 8*pair to 8*pair + 7 of this lane.
template <bool IS_BF16>
static __device__ __forceinline__ void load_halves(u64 at, unsigned lane, int pair, float *values) {
    unsigned words[4];
    load16(at + CHUNK * pair + 16u * lane, words);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        halves<IS_BF16>(words[w], values + 2 * w);
    }
}

static __device__ __forceinline__ void add_f32(float a, u64 at, unsigned lane, float *sums) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        unsigned words[4];
        load16(at + CHUNK * r + 16u * lane, words);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums[4 * r + i] = __fmaf_rn(a, __uint_as_float(words[i]), sums[4 * r + i]);
        }
    }
}

template <bool IS_BF16>
static __device__ __forceinline__ void add_halves(float a, u64 at, unsigned lane, float *sums) {
#pragma unroll
    for (int pair = 0; pair < ROWS / 2; ++pair) {
        float values[8];
        load_halves<IS_BF16>(at, lane, pair, values);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            sums[8 * pair + i] = __fmaf_rn(a, values[i], sums[8 * pair + i]);
        }
    }
}

// This lane's words of a plane of P bits.
template <int P>
static __device__ __forceinline__ void load_plane(u64 at, unsigned lane, unsigned *words) {
    if (P == 1) {
        const uint2 loaded = __ldg((const uint2 *)(at + 8u * lane));
        words[0] = loaded.x;
        words[1] = loaded.y;
    } else {
#pragma unroll
        for (int chunk = 0; chunk < P / 2; ++chunk) {
            load16(at + CHUNK * chunk + 16u * lane, words + 4 * chunk);
        }
    }
}

// The codes of values 16*w to 16*w + 15 of this lane, one per byte of four words; `place` says which is where. Four at
// a time: taken one by one they cost more than their memory does.
template <int P, int Q>
static __device__ __forceinline__ void unpack(const unsigned *low, const unsigned *high, int w, unsigned *bytes) {
    // The bits of sixteen values in the plane above, four per byte.
    const unsigned half = Q == 1 ? __byte_perm(high[w / 2], 0, w % 2 ? 0x4342 : 0x4140) : 0;
    const unsigned ones = (half | half << 4) & 0x0f0f0f0fu;
    const unsigned twos = Q == 2 ? __byte_perm(high[w], 0, 0x3120) : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (P == 8) {
            bytes[i] = low[4 * w + i];
        } else if (P == 4 && Q == 0) {
            bytes[i] = low[2 * w + i / 2] >> (i % 2 * 4) & 0x0f0f0f0fu;
        } else if (P == 4) {
            const unsigned second = i < 2 ? low[2 * w + 1] << (8 - 4 * i) : low[2 * w + 1] >> (4 * i - 8);
            const unsigned above = i < 2 ? twos << (4 - 2 * i) : twos >> (2 * i - 4);
            bytes[i] = (low[2 * w] >> (4 * i) & 0x000f000fu) | (second & 0x0f000f00u) | (above & 0x30303030u);
        } else {
            const unsigned above = i < 2 ? ones << (2 - i) : ones >> (i - 2);
            bytes[i] = (low[w] >> (2 * i) & 0x03030303u) | (above & 0x04040404u);
        }
    }
}

// Which of the sixteen bytes has value k of the sixteen.
template <int P, int Q>
static __device__ __forceinline__ int place(int k) {
    if (P == 8) {
        return k;
    }
    if (P == 4 && Q == 0) {
        return k / 8 * 8 + k % 2 * 4 + k % 8 / 2;
    }
    return k % 4 * 4 + (P == 4 ? k / 4 % 2 * 2 + k / 8 : k / 4);
}

// Blocks whose codes have planes of P bits and, above them, of Q (0: there is none).
template <int P, int Q>
static __device__ __forceinline__ void add_blocks(float a, float offset, u64 at, unsigned lane, float *sums) {
    unsigned low[2 * P], high[Q > 0 ? 2 * Q : 1], scales[8];
    load_plane<P>(at, lane, low);
    if (Q > 0) {
        load_plane<Q>(at + TILE / 8 * P, lane, high);
    }
    // Half the lanes have even blocks, half odd ones: sixteen scales each, of the rows in turn.
    const u64 scales_at = at + TILE / 8 * (P + Q) + 32u * (lane / 16u);
    load16(scales_at, scales);
    load16(scales_at + 16u, scales + 4);
#pragma unroll
    for (int w = 0; w < VALUES / 16; ++w) {
        unsigned bytes[4];
        unpack<P, Q>(low, high, w, bytes);
#pragma unroll
        for (int k = 0; k < 16; ++k) {
            const int r = 4 * w + k / 4, at_byte = place<P, Q>(k);
            const float d = __uint_as_float(r % 2 ? scales[r / 2] & 0xffff0000u : scales[r / 2] << 16);
            const float zero = __fmul_rn(d, -offset);
            // 2^23 + the code, of which 2^23 is taken away exactly: cheaper than a conversion.
            const unsigned bits = __byte_perm(bytes[at_byte / 4], 0x4b000000u, 0x7440u + at_byte % 4);
            const float number = __fadd_rn(__uint_as_float(bits), -8388608.0f);
            sums[16 * w + k] = __fmaf_rn(a, __fmaf_rn(d, number, zero), sums[16 * w + k]);
        }
    }
}

static __device__ __forceinline__ void store_row(u64 out, unsigned lane, int r, const float *values) {
    const float4 row = {values[0], values[1], values[2], values[3]};
    __stcg((float4 *)(out + CHUNK * r + 16u * lane), row);
}

template <bool IS_BF16>
static __device__ __forceinline__ void store_on_halves(u64 out, u64 base, unsigned lane, const float *sums) {
#pragma unroll
    for (int pair = 0; pair < ROWS / 2; ++pair) {
        float values[8];
        load_halves<IS_BF16>(base, lane, pair, values);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            values[i] = __fadd_rn(values[i], sums[8 * pair + i]);
        }
        store_row(out, lane, 2 * pair, values);
        store_row(out, lane, 2 * pair + 1, values + 4);
    }
}

static __device__ __forceinline__ void store_on_f32(u64 out, u64 base, unsigned lane, const float *sums) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        unsigned words[4];
        float values[4];
        load16(base + CHUNK * r + 16u * lane, words);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[i] = __fadd_rn(__uint_as_float(words[i]), sums[4 * r + i]);
        }
        store_row(out, lane, r, values);
    }
}

static __device__ __forceinline__ u64 address(const unsigned *words) {
    return (u64)words[1] << 32 | words[0];
}

// What the segment at `segment` adds, and what is at a place: of a launch whose segments all add the same, in the
// launch itself, else in the list. Two kernels, since a choice per term would cost the first of them registers that it
// does not have.
static __device__ __forceinline__ Places places_of(const Launch &launch, u64) {
    return {0, launch.active_count};
}

static __device__ __forceinline__ Active active_at(const Launch &launch, unsigned place) {
    return launch.active[place];
}

static __device__ __forceinline__ Places places_of(const LaunchByRows &launch, u64 segment) {
    const uint2 row = __ldg((const uint2 *)(launch.rows + (segment - launch.segments) / 4));
    return {row.x, row.y};
}

static __device__ __forceinline__ Active active_at(const LaunchByRows &launch, unsigned place) {
    const uint2 active = __ldg((const uint2 *)(launch.rows + 8ull * place));
    return {active.x, __uint_as_float(active.y)};
}

// Has the blocks of a term brought into the second-level cache: a lane asks for a sector, since nothing promises that
// more comes with it. What a warp computes of one term does not keep enough loads on their way. Dense terms do, and are
// not asked for.
static __device__ __forceinline__ void fetch_ahead(u64 term, unsigned tile, unsigned lane) {
    unsigned words[4];
    load16(term, words);
    const unsigned bytes = words[2] >= Q8 ? words[3] : 0;
    const u64 at = address(words) + (u64)tile * words[3];
#pragma unroll
    for (unsigned offset = 0; offset < MAX_BLOCKS; offset += SECTOR * LANES) {
        if (offset + SECTOR * lane < bytes) {
            prefetch(at + (offset + SECTOR * lane));
        }
    }
}

// The tile `tile` of the launch, which lies in the segment at `segment`.
template <class Launched>
static __device__ __forceinline__ void combine_tile(const Launched &launch, u64 segment, unsigned tile, unsigned lane) {
    unsigned words[4];
    load16(segment + 16, words);
    tile -= words[0];
    const unsigned base_format = words[1];
    const u64 terms = launch.terms + 16ull * words[2];
    const Places active = words[3] ? places_of(launch, segment) : Places{0, 0};

    for (unsigned place = active.first + 1; place < active.end; ++place) {
        fetch_ahead(terms + 16u * active_at(launch, place).term, tile, lane);
    }
    // Without a term, a sum of -0.0 leaves the base's bits as they are; +0.0 would turn -0.0 into +0.0.
    const float start = active.first == active.end && base_format != NO_BASE ? -0.0f : 0.0f;
    float sums[VALUES];
#pragma unroll
    for (int v = 0; v < VALUES; ++v) {
        sums[v] = start;
    }
    for (unsigned place = active.first; place < active.end; ++place) {
        const Active added = active_at(launch, place);
        const float a = added.coefficient;
        load16(terms + 16u * added.term, words);
        const u64 at = address(words) + (u64)tile * words[3];
        switch (words[2]) {
            case F32: add_f32(a, at, lane, sums); break;
            case F16: add_halves<false>(a, at, lane, sums); break;
            case BF16: add_halves<true>(a, at, lane, sums); break;
            case Q8: add_blocks<8, 0>(a, 128.0f, at, lane, sums); break;
            case Q6: add_blocks<4, 2>(a, 32.0f, at, lane, sums); break;
            case Q4: add_blocks<4, 0>(a, 8.0f, at, lane, sums); break;
            case Q3: add_blocks<2, 1>(a, 4.0f, at, lane, sums); break;
            case Q2: add_blocks<2, 0>(a, 1.5f, at, lane, sums); break;
        }
    }

    load16(segment, words);
    const u64 base = address(words) + (u64)tile * (base_format == F32 ? 4 * TILE : 2 * TILE);
    const u64 out = launch.out + address(words + 2) + (u64)tile * (4 * TILE);
    switch (base_format) {
        case F32: store_on_f32(out, base, lane, sums); break;
        case F16: store_on_halves<false>(out, base, lane, sums); break;
        case BF16: store_on_halves<true>(out, base, lane, sums); break;
        default:
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                store_row(out, lane, r, sums + 4 * r);
            }
    }
}

// Where the segment at `index` begins, in tiles of the launch.
static __device__ __forceinline__ unsigned first_tile(u64 segments, unsigned index) {
    return __ldg((const unsigned *)(segments + 32ull * index + 16));
}

// The segment of a tile: the last one that does not begin after it; the first one begins at 0.
static __device__ __forceinline__ unsigned segment_of(u64 segments, unsigned count, unsigned tile) {
    unsigned index = 0;
    for (unsigned beyond = count; beyond - index > 1;) {
        const unsigned middle = index + (beyond - index) / 2;
        if (first_tile(segments, middle) <= tile) {
            index = middle;
        } else {
            beyond = middle;
        }
    }
    return index;
}

// Has this warp's tiles computed, one after the other: `compute(segment, tile)`. No segment is empty.
template <class Launched, class Compute>
static __device__ __forceinline__ void each_tile(const Launched &launch, Compute compute) {
    // `launch.rs` sees to it that this fits: there are at most 2^31 tiles.
    unsigned tile = (blockIdx.x * WARPS + threadIdx.x / LANES) * launch.run;
    if (tile >= launch.tiles) {
        return;
    }
    const unsigned end = launch.tiles - tile < launch.run ? launch.tiles : tile + launch.run;
    unsigned index = segment_of(launch.segments, launch.segment_count, tile);
    for (; tile < end; ++tile) {
        // The next tile is of this segment or of the one after.
        if (index + 1 < launch.segment_count && first_tile(launch.segments, index + 1) <= tile) {
            ++index;
        }
        compute(launch.segments + 32ull * index, tile);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS *LANES, 4) taskbasis_combine(const __grid_constant__ Launch launch) {
    const unsigned lane = threadIdx.x % LANES;
    each_tile(launch, [&](u64 segment, unsigned tile) { combine_tile(launch, segment, tile, lane); });
}

extern "C" __global__ void __launch_bounds__(WARPS *LANES, 4)
    taskbasis_combine_by_rows(const __grid_constant__ LaunchByRows launch) {
    const unsigned lane = threadIdx.x % LANES;
    each_tile(launch, [&](u64 segment, unsigned tile) { combine_tile(launch, segment, tile, lane); });
}
