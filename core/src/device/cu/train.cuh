// One training step: selection over a batch, entries, residuals, gradients by latent, the decoder bias, and Adam.
#pragma once
#include "levels.cuh"

// ---- Selection over a batch -------------------------------------------------------------------------------------------------

// The `wanted` largest candidates of a batch, in four passes over the bits of their values, which are above 0 and so are ordered
// as integers are. Afterwards `bits` is the smallest value that is kept, and `wanted` is how many of those equal to it are: the
// first ones, in the order of rows and then of latents. If no more were found than are wanted, both are 0, and all are kept.
struct Cut { u32 bits, wanted, above_tau, found, least; };
KERNEL(256) start_cut(u32 wanted, Cut *cut, u32 *bins) {
    if (threadIdx.x == 0) *cut = Cut{0, wanted, 0, 0, ~0u};
    bins[threadIdx.x] = 0;
}
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
// One thread looks from the top for the bin that the last wanted value lies in, and empties the bins. Where `above` says that there
// may be candidates that were not collected, and fewer were found than are wanted, `bad` says so.
KERNEL(32) cut_pick(u32 shift, u32 above, Cut *cut, u32 *bins, u32 *bad) {
    if (threadIdx.x > 0) return;
    if (shift == 24 && above && cut->found < cut->wanted) atomicOr(bad, FLOOR_TOO_HIGH);
    if (shift == 24 && cut->found <= cut->wanted) cut->wanted = 0;
    if (cut->wanted > 0) {
        u32 bin = 255;
        while (bins[bin] < cut->wanted) cut->wanted -= bins[bin--];
        cut->bits |= bin << shift;
    }
    for (u32 b = 0; b < 256; b++) bins[b] = 0;
}
// Where row i of a level stands in the order of ties: chunks of 64 rows, of each the levels, of these the rows.
__device__ __forceinline__ u32 place_of_ties(u32 i, u32 n, u32 level, u32 levels) {
    u32 first = i / 64 * 64, rows = n - first < 64 ? n - first : 64;
    return first * levels + level * rows + i % 64;
}
KERNEL(128) count_ties(u32 level, u32 levels, u32 room, const u32 *count, const float *value, const Cut *cut, u32 *ties) {
    u32 equal = 0;
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) equal += (u32)__float_as_int(value[(u64)blockIdx.x * room + e]) == cut->bits;
    if (equal > 0) atomicAdd(&ties[place_of_ties(blockIdx.x, gridDim.x, level, levels)], equal);
}
// `before` are the sums of the ties before each: `scan` of them.
KERNEL(128) keep_cut(u32 level, u32 levels, u32 room, const u32 *count, const u32 *index, const float *value, const Cut *cut, const u32 *before,
                     u32 *count_out, u32 *index_out, float *value_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 m = count[blockIdx.x], limit = cut->bits, rows_before = before[place_of_ties(blockIdx.x, gridDim.x, level, levels)];
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

// The entries of each row: the candidates with pre-activations u and values z, with AuxK's values where it has picked them too, then
// AuxK's other picks with the value 0. Both lists ascend; picks are places in `dead`, and their latents go to `picked`. Without AuxK
// there are no picks and no v.
KERNEL(128) settle(u32 room_from, const u32 *candidates, const u32 *index, const float *u, const float *z, const u32 *dead, u32 room_picks,
                   const u32 *picks, const u32 *pick, const float *pick_value, u32 *picked, u32 room, u32 *count_out, u32 *index_out,
                   float *u_out, float *z_out, float *v_out) {
    u64 row = (u64)blockIdx.x * room_from, pick_row = (u64)blockIdx.x * room_picks, out = (u64)blockIdx.x * room;
    u32 m = candidates[blockIdx.x], a = picks ? picks[blockIdx.x] : 0;
    for (u32 e = threadIdx.x; e < m; e += 128) {
        index_out[out + e] = index[row + e], u_out[out + e] = u[row + e], z_out[out + e] = z[row + e];
        if (v_out) v_out[out + e] = 0.0f;
    }
    __syncthreads();
    u32 part = (a + 127) / 128, from = threadIdx.x * part, to = from + part < a ? from + part : a, silent = 0, total;
    for (u32 e = from; e < to; e++) {
        u32 j = dead[pick[pick_row + e]], at = place_of(index + row, 0, m, j);
        picked[pick_row + e] = j;
        if (at != NONE) v_out[out + at] = pick_value[pick_row + e];
        else silent++;
    }
    u32 place = m + sum_before<128>(silent, total);
    for (u32 e = from; e < to; e++) {
        u32 j = dead[pick[pick_row + e]];
        if (place_of(index + row, 0, m, j) != NONE) continue;
        float v = pick_value[pick_row + e];
        index_out[out + place] = j, u_out[out + place] = v, z_out[out + place] = 0.0f, v_out[out + place] = v, place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = m + total;
}

// ---- The containment loss ---------------------------------------------------------------------------------------------------

// Appends a silent entry to each row for every child of another list that has none, with a pre-activation below all others, and
// writes where the entries of all these children are: NONE for those of other shards, whose name is NONE. The entries of a row are two
// runs that ascend, the first as long as `first[i]`.
KERNEL(128) add_children(const u32 *first, u32 room_open, const u32 *open, const u32 *child, u32 *child_at, u32 room, u32 *count,
                         u32 *index, float *u, float *z, float *v) {
    u64 row = (u64)blockIdx.x * room, open_row = (u64)blockIdx.x * room_open;
    u32 m = first[blockIdx.x], all = count[blockIdx.x], children = open[blockIdx.x], missing = 0, total;
    u32 part = (children + 127) / 128, from = threadIdx.x * part, to = from + part < children ? from + part : children;
    for (u32 e = from; e < to; e++) {
        u32 j = child[open_row + e], at = place_of(index + row, 0, m, j);
        if (at == NONE) at = place_of(index + row, m, all, j);
        child_at[open_row + e] = at, missing += at == NONE && j != NONE;
    }
    u32 place = all + sum_before<128>(missing, total);
    for (u32 e = from; e < to; e++) {
        if (child_at[open_row + e] != NONE || child[open_row + e] == NONE) continue;
        index[row + place] = child[open_row + e], u[row + place] = __int_as_float((int)0xff800000), z[row + place] = 0.0f;
        if (v) v[row + place] = 0.0f;
        child_at[open_row + e] = place++;
    }
    if (threadIdx.x == 0) count[blockIdx.x] = all + total;
}

// Appends a silent entry to each row for the parent of every child of a list that has none, with its pre-activation, in the order in
// which the list names them first, and writes where the entries of all these parents are: NONE for ROOT. The entries of a row are two
// runs that ascend, the first as long as `first[i]`. Shared memory has a bit per parent.
KERNEL(128) add_parents(const float *x, const float *w, const float *bias, u32 d, u32 f, const u32 *parents, const u32 *first,
                        u32 room_open, const u32 *open, const u32 *child, u32 *parent_at, u32 room, u32 *count, u32 *index, float *u,
                        float *z, float *v) {
    u32 *set = (u32 *)dynamic_shared(), i = blockIdx.x, m = first[i], all = count[i], children = open[i];
    SHARED u32 end;
    u64 row = (u64)i * room, open_row = (u64)i * room_open;
    for (u32 word = threadIdx.x; word < (f + 31) / 32; word += 128) set[word] = 0;
    __syncthreads();
    for (u32 e = threadIdx.x; e < all; e += 128) atomicOr(&set[index[row + e] / 32], 1u << index[row + e] % 32);
    __syncthreads();
    if (threadIdx.x == 0) {
        end = all;
        for (u32 e = 0; e < children; e++) {
            u32 p = parents[child[open_row + e]];
            if (p == ROOT || set[p / 32] >> p % 32 & 1) continue;
            set[p / 32] |= 1u << p % 32, index[row + end++] = p;
        }
    }
    __syncthreads();
    for (u32 e = all + threadIdx.x / 32; e < end; e += 4) {
        u32 p = index[row + e];
        float s = warp_dot(w + (u64)p * d, x + (u64)i * d, d);
        if (threadIdx.x % 32 == 0) {
            u[row + e] = s + bias[p], z[row + e] = 0.0f;
            if (v) v[row + e] = 0.0f;
        }
    }
    for (u32 e = threadIdx.x; e < children; e += 128) {
        u32 p = parents[child[open_row + e]], at = NONE;
        if (p != ROOT) {
            at = place_of(index + row, 0, m, p);
            if (at == NONE) at = place_of(index + row, m, all, p);
            for (u32 c = all; at == NONE && c < end; c++) at = index[row + c] == p ? c : NONE;
        }
        parent_at[open_row + e] = at;
    }
    if (threadIdx.x == 0) count[i] = end;
}

// The pre-activations of entries of each row, whose places are NONE where there is none: 0 then.
KERNEL(128) values_at(u32 room_at, const u32 *count, const u32 *at, u32 room, const float *u, float *out) {
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) {
        u64 place = (u64)blockIdx.x * room_at + e;
        out[place] = at[place] == NONE ? 0.0f : u[(u64)blockIdx.x * room + at[place]];
    }
}

// The containment loss of each row, a thread each: adds its part to dL/du of the parents and of the children, and writes its value. Where
// parents and children may be of other shards, `known` has the pre-activations of all parents, infinity for ROOT, which always fires.
KERNEL(32) contain(u32 n, float down, float up, float margin, float scale, u32 room_open, const u32 *open, const float *value,
                   const float *known, const u32 *parent_at, const u32 *child_at, u32 room1, const float *u1, float *du1, u32 room2,
                   float *du2, double *sums) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    if (i >= n) return;
    double sum = 0.0;
    for (u32 e = 0; e < open[i]; e++) {
        u64 at = (u64)i * room_open + e;
        u32 of1 = parent_at[at], of2 = child_at[at];
        if (known ? (u32)__float_as_int(known[at]) == 0x7f800000 : of1 == NONE) continue;
        float u = known ? known[at] : u1[(u64)i * room1 + of1], v = value[at], lack = margin - u;
        float psi = __fdiv_rn(lack > 0.0f ? lack : 0.0f, margin);
        sum += (double)((down + up) * v * psi);
        if (of2 != NONE) du2[(u64)i * room2 + of2] += scale * down * psi;
        if (of1 != NONE && u < margin) du1[(u64)i * room1 + of1] -= __fdiv_rn(scale * up * v, margin);
    }
    sums[i] = (double)scale * sum;
}

// The penalty on sparsity, summed over each chunk of 64 rows in the order of rows and entries, by one warp: of each latent that fires
// its value times the norm of its decoder row where there are norms, of each pre-activation above 0 itself where there is no z, and
// else of each latent that fires 1; all times the factor.
KERNEL(32) penalties(u32 n, float penalty, const float *norms, u32 room, const u32 *count, const u32 *index, const float *u,
                     const float *z, double *sums) {
    u32 to = blockIdx.x * 64 + 64 < n ? blockIdx.x * 64 + 64 : n;
    double sum = 0.0;
    for (u32 i = blockIdx.x * 64; i < to; i++)
        for (u32 first = 0; first < count[i]; first += 32) {
            u32 e = first + threadIdx.x, together = count[i] - first < 32 ? count[i] - first : 32;
            double term = 0.0;
            if (e < count[i]) {
                u64 at = (u64)i * room + e;
                if (!z) term = u[at] > 0.0f ? (double)penalty * (double)u[at] : 0.0;
                else if (z[at] > 0.0f) term = norms ? (double)penalty * (double)(z[at] * norms[index[at]]) : (double)penalty;
            }
            for (u32 lane = 0; lane < together; lane++) sum += shuffle(term, lane);
        }
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// ---- Gradients of entries ---------------------------------------------------------------------------------------------------

// squares[i] = |r_i|^2, or |r_i| where `root` says so; eight rows per block, a warp each.
KERNEL(256) row_squares(const float *r, u32 n, u32 d, u32 root, float *squares) {
    u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= n) return;
    float s = warp_dot(r + (u64)i * d, r + (u64)i * d, d);
    if (threadIdx.x % 32 == 0) squares[i] = root ? __fsqrt_rn(s) : s;
}

// The auxiliary reconstruction of each row: e = weight (v D - r), and |v D - r|^2, of the entries with v above 0; the weight is *aux
// where that is not null. Their order is that of the sum: AuxK's picks ascend, and a gated level has all of its entries, with their
// pre-activations as v. The sum goes on from `before` where that is not null, the sum of the shards before this one; without squares,
// e is the sum so far; without lists nothing is added to it.
KERNEL(256) aux_rows(const float *r, const float *before, const float *decoder, const float *aux, u32 d, u32 room, const u32 *count,
                     const u32 *index, const float *v, float *e, float *squares) {
    float *own = (float *)dynamic_shared();
    u32 i = blockIdx.x, m = count ? count[i] : 0;
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float acc = before ? before[(u64)i * d + c] : 0.0f;
        for (u32 p = 0; p < m; p++) acc = fma1(v[(u64)i * room + p] > 0.0f ? v[(u64)i * room + p] : 0.0f, decoder[(u64)index[(u64)i * room + p] * d + c], acc);
        if (squares) own[c] = acc - r[(u64)i * d + c];
        else e[(u64)i * d + c] = acc;
    }
    if (!squares) return;
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = warp_dot(own, own, d);
        if (threadIdx.x == 0) squares[i] = s;
    }
    for (u32 c = threadIdx.x; c < d; c += 256) e[(u64)i * d + c] = own[c] * (aux ? *aux : 1.0f);
}

// What an activation adds to the gradient of its entries. A gated one has slopes e^r, a jumprelu one thresholds, and others neither;
// `norms` are those of decoder rows, where the penalty weighs values by them.
struct Activation { const float *slope, *threshold, *norms; float penalty, bandwidth; };

// dL/du of the entries of each row, from what is there where `starts` says so and else from 0: the penalty on u of a gated level,
// AuxK's part e . D_j, the gated level's own part weight (a . D_j), and where the latent fires (0 - factor (r . D_j)) du/dz with the
// penalty on z. `through` receives what comes through level 2, from its residual r2 and from what its encoder reads, ds; p0 and p1 the
// gradients of the activation's parameters. What a level does not have is null. One block per row, whose vectors stay in shared
// memory; a warp per entry.
KERNEL(256) entry_gradients(const float *r, float factor, const float *r2, float factor2, const float *ds, const float *e,
                            const float *aux, const float *a, float weight, const float *decoder, u32 d, Activation by, u32 own_only, u32 starts, u32 room,
                            const u32 *count, const u32 *index, const float *u, const float *z, const float *v, float *du,
                            float *through, float *p0, float *p1) {
    // AuxK has no part where its weight is 0.
    if (e && !(*aux > 0.0f)) e = nullptr;
    float *rs = (float *)dynamic_shared(), *r2s = rs + d, *dss = r2s + (r2 ? d : 0), *es = dss + (ds ? d : 0), *as = es + (e ? d : 0);
    u32 i = blockIdx.x, m = count[i];
    for (u32 c = threadIdx.x; c < d; c += 256) {
        u64 at = (u64)i * d + c;
        rs[c] = r[at];
        if (r2) r2s[c] = r2[at];
        if (ds) dss[c] = ds[at];
        if (e) es[c] = e[at];
        if (a) as[c] = a[at];
    }
    __syncthreads();
    for (u32 at = threadIdx.x / 32; at < m; at += 8) {
        u64 place = (u64)i * room + at;
        u32 j = index[place];
        const float *row = decoder + (u64)j * d;
        // All lanes of a warp have the same entry.
        bool fires = z[place] > 0.0f;
        float pre = u[place], slope = by.slope ? by.slope[j] : 1.0f, own = 0.0f, other = 0.0f;
        if (fires || by.threshold) {
            own = 0.0f - factor * warp_dot(row, rs, d);
            if (ds) other = 0.0f - warp_dot(row, dss, d);
            if (r2) other = other - factor2 * warp_dot(row, r2s, d);
        }
        float g = starts ? du[place] : 0.0f;
        if (by.slope && by.penalty != 0.0f && pre > 0.0f) g += by.penalty;
        if (by.norms && by.penalty != 0.0f && fires) own += by.penalty * by.norms[j];
        if (e && v[place] > 0.0f) g += warp_dot(row, es, d);
        if (a && pre > 0.0f) g += weight * warp_dot(row, as, d);
        if (fires) g += own * slope;
        if (threadIdx.x % 32 > 0) continue;
        du[place] = g;
        if (through) through[place] = fires ? 0.0f + other * slope : 0.0f;
        float seen = own_only ? own : own + other;
        if (by.threshold) {
            float theta = by.threshold[j], off = pre - theta, half = 0.5f * by.bandwidth;
            p0[place] = off < half && off > -half ? __fdiv_rn(-(theta * seen + by.penalty), by.bandwidth) : 0.0f;
        } else if (by.slope) {
            p0[place] = fires ? seen * (slope * pre) : 0.0f;
            p1[place] = fires ? seen : 0.0f;
        }
    }
}

// ---- Entries by latent ------------------------------------------------------------------------------------------------------

KERNEL(128) count_latents(u32 room, const u32 *count, const u32 *index, u32 *per_latent) {
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) atomicAdd(&per_latent[index[(u64)blockIdx.x * room + e]], 1);
}
// Where each entry goes, in any order within its latent; there are `most` places.
KERNEL(128) place_entries(u32 room, const u32 *count, const u32 *index, u32 most, u32 *next, u32 *row_at, u32 *entry_at) {
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128) {
        u32 to = atomicAdd(&next[index[(u64)blockIdx.x * room + e]], 1);
        if (to < most) row_at[to] = blockIdx.x, entry_at[to] = e;
    }
}
// Puts the entries of each latent in the order of rows, with those of their values that are not null: z, AuxK's v, both gradients and
// those of the activation's parameters. One block per latent; shared memory has a bit per row, and how many lie before every SPAN words of them.
KERNEL(128) order_entries(u32 n, u32 room, const u32 *offsets, const u32 *row_at, const u32 *entry_at, const float *z, const float *v,
                          const float *g0, const float *g1, const float *p0, const float *p1, u32 *rows, float *z_out, float *v_out,
                          float *g0_out, float *g1_out, float *p0_out, float *p1_out) {
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
        rows[place] = i;
        if (z) z_out[place] = z[entry];
        if (g0) g0_out[place] = g0[entry];
        if (v) v_out[place] = v[entry];
        if (g1) g1_out[place] = g1[entry];
        if (p0) p0_out[place] = p0[entry];
        if (p1) p1_out[place] = p1[entry];
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

// dD_j = -recon sum z r + sum v e + the penalty on its norm, and for level 1 of two levels mixed with -through sum z r2 - sum z ds.
// `stats` receives the squares of both parts before ds, AuxK and the penalty, and their product. One block per latent.
KERNEL(256) decoder_gradients(const float *r, float recon, const float *e, const float *aux, const float *r2, float through, const float *ds, u32 two,
                              u32 own_only, u32 d, float penalty, const float *norms, const float *decoder, const u32 *offsets,
                              const u32 *rows, const float *z, const float *v, float *grad, float *stats) {
    float *own = (float *)dynamic_shared(), *other = own + d;
    SHARED float shrink;
    u32 j = blockIdx.x, from = offsets[j], to = offsets[j + 1];
    if (e && !(*aux > 0.0f)) e = nullptr;
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
    if (norms && threadIdx.x / 32 == 3) {
        float s = warp_sum(z + from, to - from), norm = norms[j];
        if (threadIdx.x % 32 == 0) shrink = __fdiv_rn(penalty * s, norm > 1e-12f ? norm : 1e-12f);
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < d; c += 256) {
        float g = own[c], part = two ? other[c] : 0.0f;
        if (ds) part = -column(ds, d, c, rows, z, from, to, -part);
        if (e) g = column(e, d, c, rows, v, from, to, g);
        if (norms) g = fma1(shrink, decoder[(u64)j * d + c], g);
        if (two) g = fma1(1.0f, own_only ? 0.0f : part, g);
        grad[(u64)j * d + c] = g;
    }
}

// The sum of the values of each latent in the order of rows; a warp per latent.
KERNEL(256) latent_sums(u32 f, const u32 *offsets, const float *value, float *sums) {
    u32 j = blockIdx.x * 8 + threadIdx.x / 32;
    if (j >= f) return;
    float s = warp_sum(value + offsets[j], offsets[j + 1] - offsets[j]);
    if (threadIdx.x % 32 == 0) sums[j] = s;
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

struct AdamStep { float lr, beta1, beta2, eps, correction2; };

// The gradient times *scale; nothing where *ok is 0. One block per row of `width` numbers, which has norm 1 afterwards where `unit` says so, or no number below 0 where `positive` does. With `norms` a unit row moves as one of that norm without the constraint would, and its norm follows.
KERNEL(256) adam_rows(AdamStep step, const float *scale, const u32 *ok, u32 width, u64 numbers, u32 unit, u32 positive, const float *grad, float *p, float *m, float *v, float *norms) {
    float *row = (float *)dynamic_shared();
    SHARED float norm;
    if (*ok == 0) return;
    u64 at = (u64)blockIdx.x * width;
    u32 len = numbers - at < width ? (u32)(numbers - at) : width;
    float rest1 = 1.0f - step.beta1, rest2 = 1.0f - step.beta2;
    float lr = norms ? __fdiv_rn(step.lr, norms[blockIdx.x]) : step.lr;
    for (u32 c = threadIdx.x; c < len; c += 256) {
        float g = grad[at + c] * *scale;
        float m1 = fma1(step.beta1, m[at + c], rest1 * g);
        float v1 = fma1(step.beta2, v[at + c], rest2 * g * g);
        m[at + c] = m1, v[at + c] = v1;
        float next = p[at + c] - __fdiv_rn(lr * m1, __fsqrt_rn(v1 * step.correction2) + step.eps);
        row[c] = positive && !(next > 0.0f) ? 0.0f : next;
    }
    __syncthreads();
    if (unit && threadIdx.x < 32) {
        float s = warp_dot(row, row, len);
        if (threadIdx.x == 0) norm = __fsqrt_rn(s);
    }
    __syncthreads();
    if (norms && threadIdx.x == 0) norms[blockIdx.x] *= norm;
    for (u32 c = threadIdx.x; c < len; c += 256) p[at + c] = unit && norm != 0.0f ? __fdiv_rn(row[c], norm) : row[c];
}
