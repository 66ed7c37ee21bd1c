// What a step has come to: sums in f64 in the order of the CPU, the weights that follow from them, and whether to update.
#pragma once
#include "train.cuh"

// The place of a number in `out`: two levels each, but for the consistency loss and the norm of the gradient.
constexpr u32 FVU = 0, LOSSES = 10, NORM = 9, SQUARES = 10;

// *out = the sum of n numbers over `divisor`, each chunk of `chunk` of them added first, chunks in order. The numbers are those of
// `wide`, or those of `narrow` times `factor`, or times half of *weight where that is not null; all is 0 where it is not above 0.
// `chunks` has a place per chunk. One block.
KERNEL(256) ordered_sum(const float *narrow, const double *wide, u32 n, u32 chunk, double factor, const float *weight, double divisor,
                        double *chunks, double *out) {
    double by = weight ? 0.5 * (double)*weight : factor;
    if (weight && !(*weight > 0.0f)) {
        if (threadIdx.x == 0) *out = 0.0;
        return;
    }
    u32 all = (n + chunk - 1) / chunk;
    for (u32 c = threadIdx.x; c < all; c += 256) {
        double sum = 0.0;
        u32 to = n - c * chunk < chunk ? n : c * chunk + chunk;
        for (u32 i = c * chunk; i < to; i++) sum += wide ? wide[i] : by * (double)narrow[i];
        chunks[c] = sum;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (u32 c = 0; c < all; c++) sum += chunks[c];
    *out = sum / divisor;
}

// The weight of AuxK's gradient: 2 alpha unit, with alpha = aux / fvu * share, or 0 where nothing is left to explain.
KERNEL(32) aux_weight(const double *fvu, double aux, double share, double unit, float *weight) {
    if (threadIdx.x > 0) return;
    double alpha = *fvu > 0.0 ? aux / *fvu * share : 0.0;
    *weight = (float)(2.0 * alpha * unit);
}

// The norm of the gradient from the squares of the tensors that learn, the factor by which it is clipped, and whether the step counts:
// nothing was lacking, and all sums are finite. One thread.
KERNEL(32) verdict(u32 tensors, double clip, const u32 *bad, double *out, float *scale, u32 *ok) {
    if (threadIdx.x > 0) return;
    double all = 0.0;
    for (u32 t = 0; t < tensors; t++) all += out[SQUARES + t];
    double norm = __dsqrt_rn(all), zero = all * 0.0;
    for (u32 i = 0; i < NORM; i++) zero += out[i] * 0.0;
    out[NORM] = norm;
    *scale = clip > 0.0 && norm > clip ? (float)(clip / norm) : 1.0f;
    // A number that is not finite times 0 is not 0.
    *ok = *bad == 0 && zero == 0.0;
}
