// Which latents fire together: the counts of core's `train::cofire` and `train::counts`.
#pragma once
#include "verdict.cuh"

// Adds the weight w of each row on which a parent fires to its count, and w times the energy of the row to its energy, in the order of
// rows. A thread per parent, whose entries by latent fire where z is above 0.
KERNEL(128) count_parents(u32 f, const u32 *offsets, const u32 *rows, const float *z, const float *energy, double w, double *parent,
                          double *sums) {
    u32 j = blockIdx.x * 128 + threadIdx.x;
    if (j >= f) return;
    double count = parent[j], sum = sums[j];
    for (u32 e = offsets[j]; e < offsets[j + 1]; e++) {
        if (!(z[e] > 0.0f)) continue;
        count += w;
        sum += w * (double)energy[rows[e]];
    }
    parent[j] = count, sums[j] = sum;
}

// The header of a child's row: tokens in the sample, how often it was thinned out with a bit for the rounding, and tokens since the
// last one of the sample.
constexpr u32 HEAD = 4, ROUNDS_UP = 1 << 15;
struct Header { u32 sampled, shift, tick; };

// Halves the counts of a row; `sampled` is rounded up. A warp, whose lanes have met since they last wrote to the counts.
__device__ __forceinline__ void halve(Header &head, u16 *counts, u32 f) {
    u32 up = (head.shift & ROUNDS_UP) > 0;
    head.shift ^= ROUNDS_UP;
    head.sampled = (head.sampled + 1) / 2;
    for (u32 i = threadIdx.x % 32; i < f; i += 32) counts[i] = (u16)(counts[i] / 2 + (counts[i] & ((i + up) & 1)));
    __syncwarp();
}

// Counts a token that stands for `weight` tokens, and returns what is added to the count of each parent that fires on it. A warp.
__device__ __forceinline__ u32 token(Header &head, u32 weight, u16 *counts, u32 f) {
    u32 tick = head.tick + weight;
    for (;;) {
        u32 shift = head.shift & (ROUNDS_UP - 1), units = tick >> shift;
        if (units + head.sampled <= 65535) {
            head.sampled += units, head.tick = tick & ((1u << shift) - 1);
            return units;
        }
        halve(head, counts, f);
        head.shift++;
    }
}

// Halves what the counts of a row stand for. A warp.
__device__ __forceinline__ void fade(Header &head, u16 *counts, u32 f) {
    if ((head.shift & (ROUNDS_UP - 1)) == 0) {
        if (head.sampled > 0) halve(head, counts, f);
        return;
    }
    head.shift--;
    head.tick &= (1u << (head.shift & (ROUNDS_UP - 1))) - 1;
}

// Adds the rows on which a child would fire without its gate to its count with the weight w, and to its counts with the parents that
// fire on these rows, as `tokens` tokens each; before that the latter fade so many times. A warp per child; rows ascend.
KERNEL(256) count_children(u32 f2, u32 f1, u32 fades, u32 tokens, double w, const u32 *offsets, const u32 *rows, u32 room, const u32 *count,
                           const u32 *index, double *child, u16 *both) {
    u32 j = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (j >= f2) return;
    u16 *row = both + (u64)j * (HEAD + f1), *counts = row + HEAD;
    Header head = {row[0], row[1], (u32)row[3] << 16 | row[2]};
    // All lanes have read what the first one writes at the end.
    __syncwarp();
    for (u32 k = 0; k < fades; k++) fade(head, counts, f1);
    double sum = child[j];
    for (u32 e = offsets[j]; e < offsets[j + 1]; e++) {
        u32 i = rows[e], units = token(head, tokens, counts, f1);
        sum += w;
        if (units > 0)
            for (u32 p = lane; p < count[i]; p += 32) counts[index[(u64)i * room + p]] += (u16)units;
        __syncwarp();
    }
    if (lane > 0) return;
    child[j] = sum;
    row[0] = (u16)head.sampled, row[1] = (u16)head.shift, row[2] = (u16)head.tick, row[3] = (u16)(head.tick >> 16);
}

// v *= by.
KERNEL(256) scale_sums(u32 n, double by, double *v) {
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) v[i] *= by;
}
