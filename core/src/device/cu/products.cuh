// Pre-activations: dense exact products, exact screening in 8 bits, and the exact products of what the screen leaves.
#pragma once
#include "device.cuh"

constexpr u32 ROOT = 0xffffffffu;

// The parents of the latents, and which of them are active in each row, a bit each, `words` words a row. Without a gate, no
// parents.
struct Gate { const u32 *parents, *active; u32 words; };
__device__ __forceinline__ bool is_open(const Gate &gate, u32 row, u32 j) {
    if (!gate.parents) return true;
    u32 p = gate.parents[j];
    return p == ROOT || (gate.active[(u64)row * gate.words + p / 32] >> (p % 32) & 1) != 0;
}

// ---- Dense products: u_ij = x_i . w_j + b_j, in the order of kernel::dense of this crate -----------------------------------

// A half-warp owns ROWS x LATENTS outputs; lane l of it owns chain l of each, so that a chain is one register and all loads of
// a half-warp are 16 consecutive numbers. 16 half-warps make a block of 4 x 4 such tiles.
constexpr float EPSILON = 1.1920929e-7f, SHIFT = 12582912.0f, UP = 1.0005f;
constexpr u32 ROWS = 8, LATENTS = 16, DEPTH = 64, STAGES = 3;
constexpr u32 TILE_ROWS = 4 * ROWS, TILE_LATENTS = 4 * LATENTS, TILE = TILE_ROWS + TILE_LATENTS;

// Copies columns k .. k + 64 of the rows of x and w that the block works on. Column c goes to place (c % 16) * 4 + c / 16, so
// that a lane finds four steps of its chain side by side. Beyond the end there are zeros.
__device__ __forceinline__ void fill(float *stage, const float *x, const float *w, u32 i0, u32 j0, u32 n, u32 f, u32 d, u32 k) {
    for (u32 t = threadIdx.x; t < TILE * DEPTH; t += 256) {
        u32 row = t / DEPTH, c = t % DEPTH;
        float *to = stage + row * DEPTH + c % 16 * 4 + c / 16;
        bool is_x = row < TILE_ROWS;
        u32 at = is_x ? i0 + row : j0 + row - TILE_ROWS;
        bool there = at < (is_x ? n : f) && k + c < d;
        if (there) copy_async4(to, (is_x ? x : w) + (u64)at * d + k + c);
        else *to = 0.0f;
    }
    copy_commit();
}

// Four steps of every chain of a tile.
__device__ __forceinline__ void multiply4(float (&acc)[ROWS][LATENTS], const float4 *xs, const float4 *ws) {
    float4 x[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) x[r] = xs[r * 16];
#pragma unroll
    for (u32 c = 0; c < LATENTS; c++) {
        float4 w = ws[c * 16];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            acc[r][c] = fma1(x[r].x, w.x, acc[r][c]);
            acc[r][c] = fma1(x[r].y, w.y, acc[r][c]);
            acc[r][c] = fma1(x[r].z, w.z, acc[r][c]);
            acc[r][c] = fma1(x[r].w, w.w, acc[r][c]);
        }
    }
}

// One step of every chain of a tile.
__device__ __forceinline__ void multiply1(float (&acc)[ROWS][LATENTS], const float *xs, const float *ws) {
    float x[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) x[r] = xs[r * 64];
#pragma unroll
    for (u32 c = 0; c < LATENTS; c++) {
        float w = ws[c * 64];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) acc[r][c] = fma1(x[r], w, acc[r][c]);
    }
}

// One step of tree16 of 2 N latents: a lane keeps N of them, and gives the others to the lane that differs in `mask`.
template <u32 N> __device__ __forceinline__ void fold(float (&v)[16], u32 l, u32 mask) {
    bool upper = (l & mask) != 0;
#pragma unroll
    for (u32 c = 0; c < N; c++) {
        float keep = upper ? v[c + N] : v[c], give = upper ? v[c] : v[c + N];
        v[c] = keep + shuffle_xor(give, mask);
    }
}

// Appends (j, u_ij) to the list of row i where u_ij > limit, or > limits[j] where there are limits, and the gate is open; in no
// order: `rows_in_order` comes next. count[i] may pass `room`; the host then makes more room and launches again. Where `there` is not
// null only as many rows are computed as it says, less the `first` ones before these.
KERNEL(256) product_above(const float *x, const float *w, const float *bias, float limit, const float *limits, Gate gate, u32 n, u32 f, u32 d,
                           const u32 *there, u32 first, u32 room, u32 *count, u32 *index, float *value) {
    float *stages = (float *)dynamic_shared();
    u32 half = threadIdx.x / 16, l = threadIdx.x % 16;
    u32 i0 = blockIdx.y * TILE_ROWS, j0 = blockIdx.x * TILE_LATENTS;
    if (there) {
        u32 have = *there > first ? *there - first : 0;
        n = have < n ? have : n;
        if (i0 >= n) return;
    }
    u32 row0 = half / 4 * ROWS, latent0 = half % 4 * LATENTS;
    float acc[ROWS][LATENTS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
#pragma unroll
        for (u32 c = 0; c < LATENTS; c++) acc[r][c] = 0.0f;
    u32 steps = (d + DEPTH - 1) / DEPTH;
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) fill(stages + s * TILE * DEPTH, x, w, i0, j0, n, f, d, s * DEPTH);
        else copy_commit();
    }
    for (u32 s = 0; s < steps; s++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        u32 next = s + STAGES - 1;
        if (next < steps) fill(stages + next % STAGES * TILE * DEPTH, x, w, i0, j0, n, f, d, next * DEPTH);
        else copy_commit();
        const float4 *xs = (const float4 *)(stages + s % STAGES * TILE * DEPTH) + row0 * 16 + l;
        const float4 *ws = (const float4 *)(stages + s % STAGES * TILE * DEPTH) + (TILE_ROWS + latent0) * 16 + l;
        // A vector beyond the padded width is left out: it would turn a -0 into +0.
        u32 left = (d - s * DEPTH + 15) / 16;
        if (left >= 4) multiply4(acc, xs, ws);
        else
            for (u32 v = 0; v < left; v++) multiply1(acc, (const float *)xs + v, (const float *)ws + v);
    }
    // tree16 of 16 latents at once: each step halves the latents that a lane holds. Lane l ends with latent `mine`.
    u32 mine = (l >> 3 & 1) * 8 + (l & 1) * 4 + (l >> 1 & 1) * 2 + (l >> 2 & 1);
    u32 j = j0 + latent0 + mine;
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        float v[16];
#pragma unroll
        for (u32 c = 0; c < 16; c++) v[c] = acc[r][c];
        fold<8>(v, l, 8), fold<4>(v, l, 1), fold<2>(v, l, 2), fold<1>(v, l, 4);
        u32 i = i0 + row0 + r;
        if (i < n && j < f) {
            float u = v[0] + bias[j];
            if (u > (limits ? limits[j] : limit) && is_open(gate, i, j)) {
                u32 at = atomicAdd(&count[i], 1);
                if (at < room) index[(u64)i * room + at] = j, value[(u64)i * room + at] = u;
            }
        }
    }
}

// ---- Screening: which pairs can exceed a bar, by exact products of bytes ---------------------------------------------------

// What kernel::screen of this crate knows of a row and of a latent.
struct Rounded { float scale, norm, error; };
struct Weighed { float scale, bias, alpha, beta, kappa; };

// Rotates a row by the Hadamard matrix of `rounding::mix` and rounds it to bytes, as `rounding::integers` does: `width` bytes
// per row, zeros from `d` on. With a bias the rows are weights; `below` is subtracted from the bias, as the thresholds of a limit
// that each latent has for itself. One warp per row; lane l owns element l of every 32.
KERNEL(32) round_rows(const float *x, const float *bias, const float *below, u32 d, u32 width, signed char *bytes, Rounded *rows,
                      Weighed *weights) {
    float *v = (float *)dynamic_shared();
    u32 i = blockIdx.x, lane = threadIdx.x, pairs = d / 32, l = lane % 16;
    u32 stages = 0;
    while (pairs > 0 && (pairs >> stages & 1) == 0) stages++;
    float factor = __fdiv_rn(1.0f, __fsqrt_rn(__int2float_rn(32 << stages)));
    for (u32 b = 0; b < pairs; b++) {
        float t = x[(u64)i * d + b * 32 + lane] * factor;
        for (u32 s = 0; s < 5; s++) {
            float even = shuffle(t, 2 * l), odd = shuffle(t, 2 * l + 1);
            t = lane < 16 ? even + odd : even - odd;
        }
        v[b * 32 + lane] = t;
    }
    for (u32 s = 0; s < stages && pairs > 0; s++)
        for (u32 b = 0; b < pairs; b++)
            if ((b >> s & 1) == 0) {
                float low = v[b * 32 + lane], high = v[(b + (1 << s)) * 32 + lane];
                v[b * 32 + lane] = low + high, v[(b + (1 << s)) * 32 + lane] = low - high;
            }
    for (u32 c = pairs * 32 + lane; c < d; c += 32) v[c] = x[(u64)i * d + c];
    __syncwarp();
    float off = pairs > 0 ? __int2float_rn(stages + 9) * EPSILON : 0.0f, largest = 0.0f;
    for (u32 c = lane; c < d; c += 32) largest = fmaxf(largest, fabsf(v[c]));
    for (u32 m = 16; m > 0; m /= 2) largest = fmaxf(largest, shuffle_xor(largest, m));
    float root = __fsqrt_rn(__int2float_rn(d)), scale = 0.0f, norm, hat = 0.0f, error;
    if (!(largest >= 1e-15f && largest < 1e15f)) {
        u32 nan = 0;
        for (u32 c = lane; c < d; c += 32) nan |= v[c] != v[c];
        norm = ballot(nan != 0) ? __int_as_float(0x7fc00000) : largest * root * UP + 1.17549435e-38f;
        error = norm;
        for (u32 c = lane; c < width; c += 32) bytes[(u64)i * width + c] = 0;
    } else {
        scale = __fdiv_rn(largest, 127.0f);
        float inverse = __fdiv_rn(127.0f, largest), part[3] = {0.0f, 0.0f, 0.0f};
        // Sixteen lanes, as on the CPU; the upper half of the warp does the same, and its results are not used.
        for (u32 c = l; c < (d + 15) / 16 * 16; c += 16) {
            float t = c < d ? v[c] : 0.0f, shifted = t * inverse + SHIFT, near = (shifted - SHIFT) * scale, miss = t - near;
            part[0] += t * t, part[1] += near * near, part[2] += miss * miss;
            if (lane < 16 && c < width) bytes[(u64)i * width + c] = (signed char)(__float_as_int(shifted) - __float_as_int(SHIFT));
        }
        for (u32 c = (d + 15) / 16 * 16 + lane; c < width; c += 32) bytes[(u64)i * width + c] = 0;
        float norms[3];
        for (u32 p = 0; p < 3; p++) {
            float sum = 0.0f;
            for (u32 o = 0; o < 16; o++) sum += shuffle(part[p], o);
            norms[p] = __fsqrt_rn(sum) * UP;
        }
        norm = norms[0], hat = norms[1];
        error = norms[2] + root * (largest * (2.0f * EPSILON) + 2e-19f) + off * norm;
    }
    if (lane > 0) return;
    if (!bias) rows[i] = Rounded{scale, norm, error};
    else {
        float eps = __int2float_rn((d + 15) / 16 + 32) * EPSILON * 0.5f, above = 1.0f + 1.0f / 4096.0f;
        float b = bias[i], kappa = __fdiv_rn(fabsf(b), 1048576.0f) + 1e-30f;
        if (below) b -= below[i], kappa += __fdiv_rn(fabsf(below[i]), 1048576.0f);
        weights[i] = Weighed{scale, b, (error + eps * (norm + hat)) * above, hat * above, kappa};
    }
}

// A block has 128 rows x 128 latents, and a warp 64 x 32 of them: 4 x 4 fragments of 16 x 8. A stage of shared memory holds 64
// columns, in lines of 64 bytes whose parts of 16 bytes are swizzled, so that the eight rows of a fragment lie in different banks.
constexpr u32 BYTES = 64, S_STAGES = 4, S_STAGE = 256 * BYTES;
__device__ __forceinline__ u32 swizzled(u32 row, u32 part) { return row * BYTES + ((part ^ (row >> 1 & 3)) * 16); }

__device__ __forceinline__ void fill_bytes(unsigned char *stage, const signed char *p, const signed char *q, u32 i0, u32 j0, u32 n, u32 f, u32 width, u32 k) {
    for (u32 t = threadIdx.x; t < 256 * 4; t += 256) {
        u32 row = t / 4, part = t % 4;
        u32 at = row < 128 ? i0 + row : j0 + row - 128, most = row < 128 ? n : f;
        // A row that is not there is any row: its hits are dropped at the end.
        copy_async16(stage + swizzled(row, part), (row < 128 ? p : q) + (u64)(at < most ? at : most - 1) * width + k + part * 16);
    }
    copy_commit();
}

// Appends to the list of row i the latents whose pre-activation may exceed bar[i], where the gate is open: the latent, the upper
// end a + e of its interval, and a - share e, which it most probably exceeds. In no order; count[i] may pass `room`.
KERNEL(256) screen(const signed char *p, const signed char *q, const Rounded *rows, const Weighed *weights, const float *bar,
                    float share, Gate gate, u32 n, u32 f, u32 width, u32 room, u32 *count, u32 *index, float *upper, float *likely) {
    unsigned char *stages = dynamic_shared();
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    u32 i0 = blockIdx.y * 128, j0 = blockIdx.x * 128, row0 = warp / 4 * 64, latent0 = warp % 4 * 32;
    int acc[4][4][4] = {};
    u32 steps = width / BYTES;
    for (u32 s = 0; s < S_STAGES - 1; s++) {
        if (s < steps) fill_bytes(stages + s * S_STAGE, p, q, i0, j0, n, f, width, s * BYTES);
        else copy_commit();
    }
    for (u32 s = 0; s < steps; s++) {
        copy_wait<S_STAGES - 2>();
        __syncthreads();
        u32 next = s + S_STAGES - 1;
        if (next < steps) fill_bytes(stages + next % S_STAGES * S_STAGE, p, q, i0, j0, n, f, width, next * BYTES);
        else copy_commit();
        const unsigned char *here = stages + s % S_STAGES * S_STAGE;
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 a[4][4], b[4][2];
#pragma unroll
            for (u32 m = 0; m < 4; m++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) a[m][i] = *(const u32 *)(here + swizzled(row0 + m * 16 + group + i % 2 * 8, k * 2 + i / 2) + place * 4);
#pragma unroll
            for (u32 m = 0; m < 4; m++)
#pragma unroll
                for (u32 i = 0; i < 2; i++) b[m][i] = *(const u32 *)(here + swizzled(128 + latent0 + m * 8 + group, k * 2 + i) + place * 4);
#pragma unroll
            for (u32 m = 0; m < 4; m++)
#pragma unroll
                for (u32 o = 0; o < 4; o++) mma_s8(acc[m][o], a[m], b[o]);
        }
    }
    // The sums change hands in shared memory, 32 latents per row of a warp's tile, so that a lane has one latent of all 64 rows.
    // Their places are swizzled, so that the lanes that write together meet different banks.
    __syncthreads();
    int *sums = (int *)stages + warp * 64 * 32;
#pragma unroll
    for (u32 m = 0; m < 4; m++)
#pragma unroll
        for (u32 o = 0; o < 4; o++)
#pragma unroll
            for (u32 c = 0; c < 4; c++)
                sums[(m * 16 + group + c / 2 * 8) * 32 + ((o * 8 + place * 2 + c % 2) ^ (group % 4 * 8))] = acc[m][o][c];
    __syncwarp();
    u32 j = j0 + latent0 + lane, end = n - i0 - row0 < 64 ? n - i0 - row0 : 64;
    if (i0 + row0 >= n || j >= f) return;
    Weighed w = weights[j];
    for (u32 r = 0; r < end; r++) {
        u32 i = i0 + row0 + r;
        Rounded row = rows[i];
        float about = fma1(__int2float_rn(sums[r * 32 + (lane ^ (r % 4 * 8))]) * w.scale, row.scale, w.bias);
        float off = fma1(w.alpha, row.norm, fma1(w.beta, row.error, w.kappa));
        // The comparison is not "greater", since NaN must stay.
        if (about + off <= bar[i] || !is_open(gate, i, j)) continue;
        u32 at = atomicAdd(&count[i], 1);
        if (at < room) {
            u64 to = (u64)i * room + at;
            index[to] = j, upper[to] = about + off, likely[to] = fma1(off, -share, about);
        }
    }
}

// The exact products of the pairs that the screen left, one half-warp each. Those above bar[i], or above limits[j] where there
// are limits, are appended to the list of the row. One block per row, which stays in shared memory.
KERNEL(256) exact_above(const float *x, const float *w, const float *bias, const float *bar, const float *limits, u32 d, u32 room,
                         const u32 *found, const u32 *candidate, u32 *count, u32 *index, float *value) {
    float *xs = (float *)dynamic_shared();
    u32 i = blockIdx.x, half = threadIdx.x / 16, l = threadIdx.x % 16, end = (d + 15) / 16 * 16;
    for (u32 c = threadIdx.x; c < end; c += 256) xs[c] = c < d ? x[(u64)i * d + c] : 0.0f;
    __syncthreads();
    u32 pairs = found[i] < room ? found[i] : room;
    // Both halves of a warp go round together.
    for (u32 first = 0; first < pairs; first += 16) {
        u32 at = first + half;
        bool there = at < pairs;
        u32 j = there ? candidate[(u64)i * room + at] : 0;
        const float *row = w + (u64)j * d;
        float acc = 0.0f;
        if (there)
            for (u32 c = l; c < end; c += 16) acc = fma1(xs[c], c < d ? row[c] : 0.0f, acc);
        float u = tree16(acc);
        if (there && l == 0) {
            u += bias[j];
            if (u > (limits ? limits[j] : bar[i])) {
                u32 to = atomicAdd(&count[i], 1);
                index[(u64)i * room + to] = j, value[(u64)i * room + to] = u;
            }
        }
    }
}
