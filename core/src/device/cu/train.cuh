// One training step: selection over a batch, entries, residuals, gradients by latent, the decoder bias, and Adam.
#pragma once
#include "levels.cuh"

// ---- Selection over a batch -------------------------------------------------------------------------------------------------

// The `wanted` largest candidates of a batch, in four passes over the bits of their values, which are above 0 and so are ordered
// as integers are. Afterwards `bits` is the smallest value that is kept, and `wanted` is how many of those equal to it are: the
// first ones, in the order of rows and then of latents. If no more were found than are wanted, both are 0, and all are kept.
struct Cut { u32 bits, wanted, above_tau, found, least; };
KERNEL(256) cut_count(float tau, u32 room, const u32 *count, const float *value, u32 shift, Cut *cut, u32 *bins) {
    SHARED u32 own[256];
    own[threadIdx.x] = 0;
    __syncthreads();
    u32 known = shift < 24 ? ~0u << (shift + 8) : 0, above = 0, least = ~0u, m = count[blockIdx.x];
    for (u32 e = threadIdx.x; e < m; e += 256) {
        float u = value[(u64)blockIdx.x * room + e];
        u32 bits = (u32)__float_as_int(u);
        if ((bits & known) == (cut->bits & known)) atomicAdd(&own[bits >> shift & 255], 1);
        above += u > tau;
        least = bits < least ? bits : least;
    }
    __syncthreads();
    if (own[threadIdx.x] > 0) atomicAdd(&bins[threadIdx.x], own[threadIdx.x]);
    if (shift == 24) {
        if (above > 0) atomicAdd(&cut->above_tau, above);
        if (least < ~0u) atomicMin(&cut->least, least);
        if (threadIdx.x == 0 && m > 0) atomicAdd(&cut->found, m);
    }
}
// One thread looks from the top for the bin that the last wanted value lies in, and empties the bins.
KERNEL(32) cut_pick(u32 shift, Cut *cut, u32 *bins) {
    if (threadIdx.x > 0) return;
    if (shift == 24 && cut->found <= cut->wanted) cut->wanted = 0;
    if (cut->wanted > 0) {
        u32 bin = 255;
        while (bins[bin] < cut->wanted) cut->wanted -= bins[bin--];
        cut->bits |= bin << shift;
    }
    for (u32 b = 0; b < 256; b++) bins[b] = 0;
}
KERNEL(128) count_ties(u32 room, const u32 *count, const float *value, const Cut *cut, u32 *ties) {
    u32 equal = 0;
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) equal += (u32)__float_as_int(value[(u64)blockIdx.x * room + e]) == cut->bits;
    if (equal > 0) atomicAdd(&ties[blockIdx.x], equal);
}
// `before` are the sums of the ties of the rows before: `scan` of them.
KERNEL(128) keep_cut(u32 room, const u32 *count, const u32 *index, const float *value, const Cut *cut, const u32 *before,
                     u32 *count_out, u32 *index_out, float *value_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 m = count[blockIdx.x], limit = cut->bits, rows_before = before[blockIdx.x];
    u32 left = cut->wanted > rows_before ? cut->wanted - rows_before : 0;
    u32 part = (m + 127) / 128, from = threadIdx.x * part, to = from + part < m ? from + part : m, above = 0, equal = 0, total, ties;
    for (u32 e = from; e < to; e++) {
        u32 bits = (u32)__float_as_int(value[row + e]);
        above += bits > limit, equal += bits == limit;
    }
    u32 rank = sum_before<128>(equal, ties), place = sum_before<128>(above, total) + (rank < left ? rank : left);
    for (u32 e = from; e < to; e++) {
        u32 bits = (u32)__float_as_int(value[row + e]);
        bool kept = bits > limit || (bits == limit && rank < left);
        rank += bits == limit;
        if (kept) index_out[row + place] = index[row + e], value_out[row + place] = value[row + e], place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = total + (ties < left ? ties : left);
}
// The smallest value of all lists, as bits.
KERNEL(128) list_least(u32 room, const u32 *count, const float *value, u32 *least) {
    u32 own = ~0u;
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) {
        u32 bits = (u32)__float_as_int(value[(u64)blockIdx.x * room + e]);
        own = bits < own ? bits : own;
    }
    if (own < ~0u) atomicMin(least, own);
}

// ---- Entries ----------------------------------------------------------------------------------------------------------------

// The entries of each row: the latents that fire, with AuxK's values where it has picked them too, then AuxK's other picks with
// the value 0. Both lists ascend; picks are places in `dead`, and their latents go to `picked`.
KERNEL(128) settle(u32 room_fires, const u32 *fires, const u32 *index, const float *value, const u32 *dead, u32 room_picks,
                   const u32 *picks, const u32 *pick, const float *pick_value, u32 *picked, u32 room, u32 *count_out, u32 *index_out,
                   float *z_out, float *v_out) {
    u64 row = (u64)blockIdx.x * room_fires, pick_row = (u64)blockIdx.x * room_picks, out = (u64)blockIdx.x * room;
    u32 m = fires[blockIdx.x], a = picks[blockIdx.x];
    for (u32 e = threadIdx.x; e < m; e += 128) index_out[out + e] = index[row + e], z_out[out + e] = value[row + e], v_out[out + e] = 0.0f;
    __syncthreads();
    u32 part = (a + 127) / 128, from = threadIdx.x * part, to = from + part < a ? from + part : a, silent = 0, total;
    for (u32 e = from; e < to; e++) {
        u32 j = dead[pick[pick_row + e]], low = 0, high = m;
        picked[pick_row + e] = j;
        while (low < high) {
            u32 middle = (low + high) / 2;
            if (index[row + middle] < j) low = middle + 1;
            else high = middle;
        }
        if (low < m && index[row + low] == j) v_out[out + low] = pick_value[pick_row + e];
        else silent++;
    }
    u32 place = m + sum_before<128>(silent, total);
    for (u32 e = from; e < to; e++) {
        u32 j = dead[pick[pick_row + e]], low = 0, high = m;
        while (low < high) {
            u32 middle = (low + high) / 2;
            if (index[row + middle] < j) low = middle + 1;
            else high = middle;
        }
        if (low < m && index[row + low] == j) continue;
        index_out[out + place] = j, z_out[out + place] = 0.0f, v_out[out + place] = pick_value[pick_row + e], place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = m + total;
}

// squares[i] = |r_i|^2; eight rows per block, a warp each.
KERNEL(256) row_squares(const float *r, u32 n, u32 d, float *squares) {
    u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= n) return;
    float s = warp_dot(r + (u64)i * d, r + (u64)i * d, d);
    if (threadIdx.x % 32 == 0) squares[i] = s;
}

// AuxK of each row: e = weight (v D - r), and |v D - r|^2. Picks ascend, which is the order of the sum.
KERNEL(256) aux_rows(const float *r, const float *decoder, float weight, u32 d, u32 room, const u32 *count, const u32 *index,
                     const float *v, float *e, float *squares) {
    float *own = (float *)dynamic_shared();
    u32 i = blockIdx.x, m = count[i];
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float acc = 0.0f;
        for (u32 p = 0; p < m; p++) acc = fma1(v[(u64)i * room + p], decoder[(u64)index[(u64)i * room + p] * d + c], acc);
        own[c] = acc - r[(u64)i * d + c];
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = warp_dot(own, own, d);
        if (threadIdx.x == 0) squares[i] = s;
    }
    for (u32 c = threadIdx.x; c < d; c += 256) e[(u64)i * d + c] = own[c] * weight;
}

// dL/du of the entries of each row: AuxK's part e . D_j where it has picked the latent, and 0 - factor (r . D_j) where the latent
// fires. Without AuxK there is no e. One block per row, whose vectors stay in shared memory; a warp per entry.
KERNEL(256) entry_gradients(const float *r, const float *e, const float *decoder, float factor, u32 d, u32 room, const u32 *count,
                            const u32 *index, const float *z, const float *v, float *du) {
    float *rs = (float *)dynamic_shared(), *es = rs + d;
    u32 i = blockIdx.x, m = count[i];
    for (u32 c = threadIdx.x; c < d; c += 256) {
        rs[c] = r[(u64)i * d + c];
        if (e) es[c] = e[(u64)i * d + c];
    }
    __syncthreads();
    for (u32 at = threadIdx.x / 32; at < m; at += 8) {
        u64 place = (u64)i * room + at;
        const float *row = decoder + (u64)index[place] * d;
        float g = 0.0f;
        // All lanes of a warp have the same entry.
        if (e && v[place] > 0.0f) g += warp_dot(row, es, d);
        if (z[place] > 0.0f) g += 0.0f - factor * warp_dot(row, rs, d);
        if (threadIdx.x % 32 == 0) du[place] = g;
    }
}

// ---- Entries by latent ------------------------------------------------------------------------------------------------------

KERNEL(128) count_latents(u32 room, const u32 *count, const u32 *index, u32 *per_latent) {
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) atomicAdd(&per_latent[index[(u64)blockIdx.x * room + e]], 1);
}
// Where each entry goes, in any order within its latent.
KERNEL(128) place_entries(u32 room, const u32 *count, const u32 *index, u32 *next, u32 *row_at, u32 *entry_at) {
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) {
        u32 to = atomicAdd(&next[index[(u64)blockIdx.x * room + e]], 1);
        row_at[to] = blockIdx.x, entry_at[to] = e;
    }
}
// Puts the entries of each latent in the order of rows, with their values: z, and AuxK's v and the second gradient where there are
// any. One block per latent; shared memory has a bit per row, and how many lie before every SPAN words of them.
KERNEL(128) order_entries(u32 n, u32 room, const u32 *offsets, const u32 *row_at, const u32 *entry_at, const float *z, const float *v,
                          const float *g0, const float *g1, u32 *rows, float *z_out, float *v_out, float *g0_out, float *g1_out) {
    u32 from = offsets[blockIdx.x], m = offsets[blockIdx.x + 1] - from;
    if (m == 0) return;
    u32 words = (n + 31) / 32, spans = (words + SPAN - 1) / SPAN, *set = (u32 *)dynamic_shared(), *before = set + spans * SPAN;
    for (u32 w = threadIdx.x; w < spans * SPAN; w += 128) set[w] = 0;
    __syncthreads();
    for (u32 e = threadIdx.x; e < m; e += 128) atomicOr(&set[row_at[from + e] / 32], 1u << row_at[from + e] % 32);
    __syncthreads();
    u32 part = (spans + 127) / 128, first = threadIdx.x * part, last = first + part < spans ? first + part : spans, own = 0, total;
    for (u32 s = first; s < last; s++)
        for (u32 w = 0; w < SPAN; w++) own += __popc(set[s * SPAN + w]);
    u32 sum = sum_before<128>(own, total);
    for (u32 s = first; s < last; s++) {
        before[s] = sum;
        for (u32 w = 0; w < SPAN; w++) sum += __popc(set[s * SPAN + w]);
    }
    __syncthreads();
    for (u32 e = threadIdx.x; e < m; e += 128) {
        u32 i = row_at[from + e], place = from + before[i / 32 / SPAN];
        for (u32 w = i / 32 / SPAN * SPAN; w < i / 32; w++) place += __popc(set[w]);
        place += __popc(set[i / 32] & ((1u << i % 32) - 1));
        u64 entry = (u64)i * room + entry_at[from + e];
        rows[place] = i, z_out[place] = z[entry], g0_out[place] = g0[entry];
        if (v) v_out[place] = v[entry];
        if (g1) g1_out[place] = g1[entry];
    }
}

// ---- Gradients of a latent: one chain per column, in the order of rows ------------------------------------------------------

// `sum_e a[e]` in the order of `reduce::sum`, by one warp.
__device__ __forceinline__ float warp_sum(const float *a, u32 len) {
    u32 lane = threadIdx.x % 32, end = (len + 15) / 16 * 16;
    float low = 0.0f, high = 0.0f;
    for (u32 e = lane; e < end; e += 64) {
        low += e < len ? a[e] : 0.0f;
        if (e + 32 < end) high += e + 32 < len ? a[e + 32] : 0.0f;
    }
    return tree64(low, high);
}

// One column of `sum_e coef_e X_row(e)`, from `acc` on.
__device__ __forceinline__ float column(const float *x, u32 d, u32 c, const u32 *rows, const float *coef, u32 from, u32 to, float acc) {
#pragma unroll 8
    for (u32 e = from; e < to; e++) acc = fma1(coef[e], x[(u64)rows[e] * d + c], acc);
    return acc;
}

// dD_j = -recon sum z r + sum v e, and for level 1 of two levels mixed with -through sum z r2. `stats` receives the squares of both
// parts before AuxK, and their product. One block per latent.
KERNEL(256) decoder_gradients(const float *r, float recon, const float *e, const float *r2, float through, u32 two, u32 own_only, u32 d,
                              const u32 *offsets, const u32 *rows, const float *z, const float *v, float *grad, float *stats) {
    float *own = (float *)dynamic_shared(), *other = own + d;
    u32 j = blockIdx.x, from = offsets[j], to = offsets[j + 1];
    for (u32 c = threadIdx.x; c < d; c += 256) {
        own[c] = column(r, d, c, rows, z, from, to, 0.0f) * -recon;
        if (two) other[c] = r2 ? column(r2, d, c, rows, z, from, to, 0.0f) * -through : 0.0f;
    }
    __syncthreads();
    if (stats && threadIdx.x < 96) {
        u32 warp = threadIdx.x / 32;
        float s = warp == 0 || two ? warp_dot(warp == 1 ? other : own, warp == 0 ? own : other, d) : 0.0f;
        if (threadIdx.x % 32 == 0) stats[j * 3 + warp] = s;
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float g = own[c];
        if (e) g = column(e, d, c, rows, v, from, to, g);
        if (two) g = fma1(1.0f, own_only ? 0.0f : other[c], g);
        grad[(u64)j * d + c] = g;
    }
}

// dW_j = sum g0 x, for level 1 of two levels mixed with sum g1 x; and the sums of g0 and of g1. One block per latent.
KERNEL(256) encoder_gradients(const float *x, u32 own_only, u32 d, const u32 *offsets, const u32 *rows, const float *g0, const float *g1,
                              float *grad, float *bias, float *bias2) {
    u32 j = blockIdx.x, from = offsets[j], to = offsets[j + 1];
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float g = column(x, d, c, rows, g0, from, to, 0.0f);
        if (g1) {
            float other = column(x, d, c, rows, g1, from, to, 0.0f);
            g = fma1(1.0f, own_only ? 0.0f : other, g);
        }
        grad[(u64)j * d + c] = g;
    }
    if (threadIdx.x < 64) {
        u32 warp = threadIdx.x / 32;
        if (warp == 0 || g1) {
            float s = warp_sum((warp == 0 ? g0 : g1) + from, to - from);
            if (threadIdx.x % 32 == 0) (warp == 0 ? bias : bias2)[j] = s;
        }
    }
}

// Takes from the gradient of each unit row its part along the row.
KERNEL(256) project_rows(const float *p, u32 d, float *g) {
    SHARED float along;
    const float *row = p + (u64)blockIdx.x * d;
    float *grad = g + (u64)blockIdx.x * d;
    if (threadIdx.x < 32) {
        float s = warp_dot(grad, row, d);
        if (threadIdx.x == 0) along = s;
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < d; c += 256) grad[c] = fma1(-along, row[c], grad[c]);
}

// The sum of squares of each block of a gradient: of its runs of `run` numbers in f32, of these in f64, each in order.
KERNEL(256) square_sums(const float *g, u64 numbers, u32 block, u32 run, double *sums) {
    float *own = (float *)dynamic_shared();
    u64 first = (u64)blockIdx.x * block;
    u32 len = numbers - first < block ? (u32)(numbers - first) : block, runs = (len + run - 1) / run;
    for (u32 k = threadIdx.x / 32; k < runs; k += 8) {
        const float *at = g + first + (u64)k * run;
        u32 left = len - k * run;
        float s = warp_dot(at, at, left < run ? left : run);
        if (threadIdx.x % 32 == 0) own[k] = s;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (u32 k = 0; k < runs; k++) sum += (double)own[k];
    sums[blockIdx.x] = sum;
}

// ---- The decoder bias -------------------------------------------------------------------------------------------------------

// Sums of the columns of r over each chunk of 64 rows.
KERNEL(128) chunk_columns(const float *r, u32 n, u32 d, float *sums) {
    u32 c = blockIdx.x * 128 + threadIdx.x, from = blockIdx.y * 64, to = from + 64 < n ? from + 64 : n;
    if (c >= d) return;
    float acc = 0.0f;
    for (u32 i = from; i < to; i++) acc = fma1(1.0f, r[(u64)i * d + c], acc);
    sums[(u64)blockIdx.y * d + c] = acc;
}
// out = -recon sum of the chunks, in order.
KERNEL(128) bias_start(const float *sums, u32 chunks, float recon, u32 d, float *out) {
    u32 c = blockIdx.x * 128 + threadIdx.x;
    if (c >= d) return;
    float acc = 0.0f;
    for (u32 k = 0; k < chunks; k++) acc = fma1(1.0f, sums[(u64)k * d + c], acc);
    out[c] = acc * -recon;
}
// The sums of -db_j W_j over groups of 256 latents, each a chain from 0.
KERNEL(128) bias_groups(const float *grad_b, const float *w, u32 f, u32 d, float *sums) {
    u32 c = blockIdx.x * 128 + threadIdx.x, from = blockIdx.y * 256, to = from + 256 < f ? from + 256 : f;
    if (c >= d) return;
    float acc = 0.0f;
#pragma unroll 8
    for (u32 j = from; j < to; j++) acc = fma1(-grad_b[j], w[(u64)j * d + c], acc);
    sums[(u64)blockIdx.y * d + c] = acc;
}
// out += the sums of all groups, in order.
KERNEL(128) bias_add(const float *sums, u32 groups, u32 d, float *out) {
    u32 c = blockIdx.x * 128 + threadIdx.x;
    if (c >= d) return;
    float acc = out[c];
    for (u32 k = 0; k < groups; k++) acc = fma1(1.0f, sums[(u64)k * d + c], acc);
    out[c] = acc;
}
// g += other, or nothing but its sign of zero where level 1 sees its own part only.
KERNEL(256) mix_into(const float *other, u32 own_only, u32 len, float *g) {
    u32 c = blockIdx.x * 256 + threadIdx.x;
    if (c < len) g[c] = fma1(1.0f, own_only ? 0.0f : other[c], g[c]);
}

// ---- Adam, and unit rows ----------------------------------------------------------------------------------------------------

struct AdamStep { float lr, beta1, beta2, eps, correction2, grad_scale; };

// One block per row of `width` numbers, which has norm 1 afterwards where `unit` says so.
KERNEL(256) adam_rows(AdamStep step, u32 width, u64 numbers, u32 unit, const float *grad, float *p, float *m, float *v) {
    float *row = (float *)dynamic_shared();
    SHARED float norm;
    u64 at = (u64)blockIdx.x * width;
    u32 len = numbers - at < width ? (u32)(numbers - at) : width;
    float rest1 = 1.0f - step.beta1, rest2 = 1.0f - step.beta2;
    for (u32 c = threadIdx.x; c < len; c += 256) {
        float g = grad[at + c] * step.grad_scale;
        float m1 = fma1(step.beta1, m[at + c], rest1 * g);
        float v1 = fma1(step.beta2, v[at + c], rest2 * g * g);
        m[at + c] = m1, v[at + c] = v1;
        row[c] = p[at + c] - __fdiv_rn(step.lr * m1, __fsqrt_rn(v1 * step.correction2) + step.eps);
    }
    __syncthreads();
    if (unit && threadIdx.x < 32) {
        float s = warp_dot(row, row, len);
        if (threadIdx.x == 0) norm = __fsqrt_rn(s);
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < len; c += 256) p[at + c] = unit && norm != 0.0f ? __fdiv_rn(row[c], norm) : row[c];
}
