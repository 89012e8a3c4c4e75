// The relayout kernel: tensors of f32, row-major, become those of a graph's layout, with their elements in another
// order, scaled, added up and rounded to another type, with the bits of the CPU.
//
// Compiled behind `combine.cu`, whose helpers it uses, and by the same rules: nothing is included, and no thread needs
// another one.
//
// One launch makes any number of tensors, cut into tiles that a warp takes one after the other. A tile is 2048 elements
// side by side of what is written (`gather_tile`), 16 bytes or more per lane and store. But where neighbours in what is
// written come from different rows, it is a square of 32 rows and 32 columns (`transpose_tile`): a lane loads a piece
// of a row, 16 bytes at a time and all of its sectors, and the lanes side by side write a column each. What is loaded
// goes through registers and no shared memory.

#define F64 9u
#define GROUP 4     // rows of a gathered tile whose loads are on their way together
#define SQUARE 32u  // rows and columns of a transposed tile; there is a lane for each row

// In memory, all little-endian:
//
// segment, 32 bytes    u64 out             bytes from the launch's `out`; a multiple of 256
//                      u32 numel           elements that are written
//                      u32 dtype           F32, F16, BF16 or F64
//                      u32 first_tile      of the launch
//                      u32 first_part      in `parts`
//                      u32 parts           that are added up, in this order; at least one
//                      u32 is_transposed   0 or 1; then there is one part, and it has two dimensions or more
// part, 32 bytes       u64 source          address of the element that comes first
//                      u32 first_dimension in `dimensions`
//                      u32 dimensions      at least one
//                      u32 is_scaled       0 or 1
//                      f32 scale
//                      u64 unused
// dimension, 16 bytes, of what is written, the innermost first
//                      u32 extent
//                      u32 stride          in elements of the source; where it is transposed, 1 in the second dimension
//                      u32 out_stride      in elements of what is written
//                      u32 unused

struct Relayout {
    u64 segments;
    u64 parts;
    u64 dimensions;
    u64 out;
    unsigned segment_count;
    unsigned tiles;
    unsigned run;  // tiles per warp
    unsigned unused;
};

#ifdef __CUDACC__
// To nearest, ties to even, subnormals included; what is too large becomes infinite.
static __device__ __forceinline__ unsigned float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

static __device__ __forceinline__ bool is_nan(unsigned bits) {
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

// The conversions keep of a NaN what the type has room for, and make it a quiet one, as the host's do.
static __device__ __forceinline__ unsigned to_f16(float value) {
    const unsigned bits = __float_as_uint(value);
    return is_nan(bits) ? (bits >> 16 & 0x8000u) | 0x7e00u | (bits >> 13 & 0x3ffu) : float_to_half(value);
}

static __device__ __forceinline__ unsigned to_bf16(float value) {
    const unsigned bits = __float_as_uint(value);
    return is_nan(bits) ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

static __device__ __forceinline__ u64 to_f64(float value) {
    const unsigned bits = __float_as_uint(value);
    return is_nan(bits) ? (u64)(bits >> 31) << 63 | 0x7ff8ull << 48 | (u64)(bits & 0x7fffffu) << 29
                        : (u64)__double_as_longlong((double)value);
}

template <unsigned DTYPE>
static __device__ __forceinline__ unsigned to_half(float value) {
    return DTYPE == BF16 ? to_bf16(value) : to_f16(value);
}

template <unsigned DTYPE>
static __device__ __forceinline__ void store_one(u64 out, unsigned index, float value) {
    if (DTYPE == F32) {
        __stcg((float *)(out + 4ull * index), value);
    } else if (DTYPE == F64) {
        __stcg((u64 *)(out + 8ull * index), to_f64(value));
    } else {
        __stcg((unsigned short *)(out + 2ull * index), (unsigned short)to_half<DTYPE>(value));
    }
}

// Four elements side by side; `index` is a multiple of four.
template <unsigned DTYPE>
static __device__ __forceinline__ void store_four(u64 out, unsigned index, const float *values) {
    if (DTYPE == F32) {
        const float4 four = {values[0], values[1], values[2], values[3]};
        __stcg((float4 *)(out + 4ull * index), four);
    } else if (DTYPE == F64) {
        const ulonglong2 low = {to_f64(values[0]), to_f64(values[1])}, high = {to_f64(values[2]), to_f64(values[3])};
        __stcg((ulonglong2 *)(out + 8ull * index), low);
        __stcg((ulonglong2 *)(out + 8ull * index + 16), high);
    } else {
        const uint2 four = {to_half<DTYPE>(values[0]) | to_half<DTYPE>(values[1]) << 16,
                            to_half<DTYPE>(values[2]) | to_half<DTYPE>(values[3]) << 16};
        __stcg((uint2 *)(out + 2ull * index), four);
    }
}

// Where the element `index` of what is written comes from, in elements of the source; and how many lie side by side
// there from it on, as far as the innermost dimension says.
static __device__ __forceinline__ unsigned locate(u64 dimension, unsigned dimensions, unsigned index, unsigned *run) {
    unsigned words[4], from = 0;
    load16(dimension, words);
    *run = 1;
    for (unsigned d = 1; d < dimensions; ++d) {
        const unsigned next = index / words[0], here = index - next * words[0];
        if (d == 1 && words[1] == 1) {
            *run = words[0] - here;
        }
        from += here * words[1];
        index = next;
        load16(dimension + 16ull * d, words);
    }
    if (dimensions == 1 && words[1] == 1) {
        *run = words[0] - index;
    }
    return from + index * words[1];
}

// The elements from `index` on, four at most, that a part has there.
static __device__ __forceinline__ void gather(u64 source, u64 dimension, unsigned dimensions, unsigned index,
                                              unsigned count, float *values) {
    unsigned run, words[4];
    const u64 at = source + 4ull * locate(dimension, dimensions, index, &run);
    if (count == 4 && run >= 4 && at % 16 == 0) {
        load16(at, words);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[i] = __uint_as_float(words[i]);
        }
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        if (i < count) {
            values[i] = __ldg((const float *)(source + 4ull * locate(dimension, dimensions, index + i, &run)));
        }
    }
}

template <unsigned DTYPE>
static __device__ __forceinline__ void store_rows(u64 out, unsigned first, unsigned numel, const float *sums) {
#pragma unroll
    for (int r = 0; r < GROUP; ++r) {
        const unsigned index = first + 4 * LANES * r;
        if (index + 4 <= numel) {
            store_four<DTYPE>(out, index, sums + 4 * r);
            continue;
        }
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            if (index + i < numel) {
                store_one<DTYPE>(out, index + i, sums[4 * r + i]);
            }
        }
    }
}

// The tile `tile` of a segment: element 128*r + 4*l + i of it is value i of row r in lane l.
static __device__ __forceinline__ void gather_tile(const Relayout &launch, u64 out, unsigned numel, unsigned dtype,
                                                   u64 part, unsigned parts, unsigned tile, unsigned lane) {
    for (int row = 0; row < ROWS; row += GROUP) {
        const unsigned first = TILE * tile + 4 * LANES * row + 4 * lane;
        if (first >= numel) {
            return;
        }
        float sums[4 * GROUP] = {};
        for (unsigned p = 0; p < parts; ++p) {
            unsigned words[4];
            load16(part + 32ull * p, words);
            const u64 source = address(words), dimension = launch.dimensions + 16ull * words[2];
            const unsigned dimensions = words[3];
            float values[4 * GROUP] = {};
#pragma unroll
            for (int r = 0; r < GROUP; ++r) {
                const unsigned index = first + 4 * LANES * r;
                if (index < numel) {
                    const unsigned left = numel - index;
                    gather(source, dimension, dimensions, index, left < 4 ? left : 4, values + 4 * r);
                }
            }
            load16(part + 32ull * p + 16, words);
#pragma unroll
            for (int v = 0; v < 4 * GROUP; ++v) {
                const float value = words[0] ? __fmul_rn(values[v], __uint_as_float(words[1])) : values[v];
                sums[v] = p == 0 ? value : __fadd_rn(sums[v], value);
            }
        }
        switch (dtype) {
            case F32: store_rows<F32>(out, first, numel, sums); break;
            case F16: store_rows<F16>(out, first, numel, sums); break;
            case BF16: store_rows<BF16>(out, first, numel, sums); break;
            case F64: store_rows<F64>(out, first, numel, sums); break;
        }
    }
}

template <unsigned DTYPE>
static __device__ __forceinline__ void store_column(u64 out, unsigned index, unsigned stride, unsigned count,
                                                    const float *values) {
#pragma unroll
    for (unsigned k = 0; k < SQUARE; ++k) {
        if (k < count) {
            store_one<DTYPE>(out, index + k * stride, values[k]);
        }
    }
}

// The tile `tile` of a segment whose innermost dimension, across the lanes, is not the source's.
static __device__ __forceinline__ void transpose_tile(const Relayout &launch, u64 out, unsigned dtype, u64 part,
                                                      unsigned tile, unsigned lane) {
    unsigned words[4];
    load16(part, words);
    const u64 source = address(words), dimension = launch.dimensions + 16ull * words[2];
    const unsigned dimensions = words[3];

    load16(dimension, words);
    const unsigned rows = words[0], row_stride = words[1];
    const unsigned squares = (rows + SQUARE - 1) / SQUARE;
    const unsigned row = tile % squares * SQUARE + lane;
    tile /= squares;
    if (row >= rows) {
        return;
    }
    load16(dimension + 16, words);
    const unsigned columns = words[0], out_stride = words[2];
    const unsigned steps = (columns + SQUARE - 1) / SQUARE;
    const unsigned column = tile % steps * SQUARE;
    tile /= steps;
    const unsigned count = columns - column < SQUARE ? columns - column : SQUARE;

    unsigned from = row * row_stride + column, to = row + column * out_stride;
    for (unsigned d = 2; d < dimensions; ++d) {
        load16(dimension + 16ull * d, words);
        const unsigned next = tile / words[0], here = tile - next * words[0];
        from += here * words[1];
        to += here * words[2];
        tile = next;
    }

    const u64 at = source + 4ull * from;
    float values[SQUARE] = {};
    if (count == SQUARE && at % 16 == 0) {
#pragma unroll
        for (unsigned k = 0; k < SQUARE; k += 4) {
            load16(at + 4 * k, words);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                values[k + i] = __uint_as_float(words[i]);
            }
        }
    } else {
#pragma unroll
        for (unsigned k = 0; k < SQUARE; ++k) {
            if (k < count) {
                values[k] = __ldg((const float *)(at + 4 * k));
            }
        }
    }
    load16(part + 16, words);
    if (words[0]) {
#pragma unroll
        for (unsigned k = 0; k < SQUARE; ++k) {
            values[k] = __fmul_rn(values[k], __uint_as_float(words[1]));
        }
    }
    switch (dtype) {
        case F32: store_column<F32>(out, to, out_stride, count, values); break;
        case F16: store_column<F16>(out, to, out_stride, count, values); break;
        case BF16: store_column<BF16>(out, to, out_stride, count, values); break;
        case F64: store_column<F64>(out, to, out_stride, count, values); break;
    }
}

extern "C" __global__ void __launch_bounds__(WARPS *LANES, 6)
    taskbasis_relayout(const __grid_constant__ Relayout launch) {
    const unsigned lane = threadIdx.x % LANES;
    each_tile(launch, [&](u64 segment, unsigned tile) {
        unsigned words[4];
        load16(segment, words);
        const u64 out = launch.out + address(words);
        const unsigned numel = words[2], dtype = words[3];
        load16(segment + 16, words);
        const u64 part = launch.parts + 32ull * words[1];
        if (words[3]) {
            transpose_tile(launch, out, dtype, part, tile - words[0], lane);
        } else {
            gather_tile(launch, out, numel, dtype, part, words[2], tile - words[0], lane);
        }
    });
}
