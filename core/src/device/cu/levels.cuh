// What the levels read of the rows and of each other.
#pragma once
#include "lists.cuh"

// A number of f16, widened exactly.
__device__ __forceinline__ float widen16(u32 bits) {
    u32 sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    // Subnormal numbers are multiples of 2^-24.
    if (exponent == 0) return __int_as_float((int)(sign | (u32)__float_as_int(__int2float_rn((int)fraction) * 5.9604644775390625e-8f)));
    return __int_as_float((int)(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13));
}

// xt = (x - mean) scale - b_dec, where there is a mean and a b_dec; x are numbers of f32, f16 or bf16 as `type` says: 0, 1, 2.
KERNEL(256) rows_in(const void *x, u32 type, const float *mean, float scale, const float *b_dec, u32 d, u64 numbers, float *xt) {
    for (u64 at = (u64)blockIdx.x * 256 + threadIdx.x; at < numbers; at += (u64)gridDim.x * 256) {
        float v;
        if (type == 0) v = ((const float *)x)[at];
        else {
            u32 bits = ((const u16 *)x)[at];
            v = type == 1 ? widen16(bits) : __int_as_float((int)(bits << 16));
        }
        if (mean) v = (v - mean[at % d]) * scale;
        xt[at] = b_dec ? v - b_dec[at % d] : v;
    }
}

// out = x - z D: what level 1 leaves over of each row. Each column is one chain over the entries of the list. The chain goes on from
// `before` where that is not null, the sum of the latents of the shards before this one; without x, out is the sum so far; without
// lists nothing is added to it.
KERNEL(256) leave_over(const float *x, const float *before, const float *decoder, u32 d, u32 room, const u32 *count, const u32 *index,
                       const float *value, float *out) {
    u32 i = blockIdx.x, m = count ? count[i] : 0;
    const u32 *list = index + (u64)i * room;
    const float *z = value + (u64)i * room;
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float acc = before ? before[(u64)i * d + c] : 0.0f;
#pragma unroll 8
        for (u32 e = 0; e < m; e++) acc = fma1(z[e], decoder[(u64)list[e] * d + c], acc);
        out[(u64)i * d + c] = x ? x[(u64)i * d + c] - acc : acc;
    }
}

// out = sum of the rows of a list with coefficients: each column is one chain over the entries, from 0.
KERNEL(256) sum_rows(const float *rows, u32 d, u32 room, const u32 *count, const u32 *index, const float *coef, float *out) {
    u32 i = blockIdx.x, m = count[i];
    const u32 *list = index + (u64)i * room;
    const float *k = coef + (u64)i * room;
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float acc = 0.0f;
#pragma unroll 8
        for (u32 e = 0; e < m; e++) acc = fma1(k[e], rows[(u64)list[e] * d + c], acc);
        out[(u64)i * d + c] = acc;
    }
}

// The children of a parent, or of ROOT at place f1: child[offsets[p]..offsets[p + 1]], ascending.
struct Families { const u32 *offsets, *child; u32 f1; };

// Of the children of each active parent only the largest may fire, the first of equal ones; those of ROOT all may. Appends those
// above the limit, or above limits[j] where there are limits. One block per row, which stays in shared memory; a half-warp takes a
// parent, or one child of ROOT.
KERNEL(256) largest_children(const float *x, const float *w, const float *bias, float limit, const float *limits, Families families,
                             u32 d, u32 room1, const u32 *count1, const u32 *index1, const float *value1, u32 room, u32 *count,
                             u32 *index, float *value) {
    float *xs = (float *)dynamic_shared();
    u32 i = blockIdx.x, half = threadIdx.x / 16, l = threadIdx.x % 16, end = (d + 15) / 16 * 16;
    for (u32 c = threadIdx.x; c < end; c += 256) xs[c] = c < d ? x[(u64)i * d + c] : 0.0f;
    __syncthreads();
    u32 parents = count1[i], root = families.offsets[families.f1], roots = families.offsets[families.f1 + 1] - root;
    // Both halves of a warp go round together: as often as the one with more to do.
    for (u32 first = 0; first < parents + roots; first += 16) {
        u32 task = first + half, from = 0, to = 0;
        if (task < parents) {
            u32 p = index1[(u64)i * room1 + task];
            if (value1[(u64)i * room1 + task] > 0.0f) from = families.offsets[p], to = families.offsets[p + 1];
        } else if (task < parents + roots) from = root + task - parents, to = from + 1;
        u32 mine = to - from, other = shuffle_xor(mine, 16), most = mine > other ? mine : other, best = 0;
        float largest = 0.0f;
        for (u32 e = 0; e < most; e++) {
            bool there = e < mine;
            u32 j = there ? families.child[from + e] : 0;
            const float *row = w + (u64)j * d;
            float acc = 0.0f;
            if (there)
                for (u32 c = l; c < end; c += 16) acc = fma1(xs[c], c < d ? row[c] : 0.0f, acc);
            float u = tree16(acc) + (there ? bias[j] : 0.0f);
            if (there && (e == 0 || u > largest)) largest = u, best = j;
        }
        if (mine > 0 && l == 0 && largest > (limits ? limits[best] : limit)) {
            u32 at = atomicAdd(&count[i], 1);
            if (at < room) index[(u64)i * room + at] = best, value[(u64)i * room + at] = largest;
        }
    }
}
