// Lists of entries per row: their order, selection, and what level 2 and the host read of them.
//
// The list of row i begins at number i * room of `index` and `value`, and has count[i] entries. Kernels append in any order with
// integer atomics; `rows_in_order` then sorts by latent, and all others keep that order.
#pragma once
#include "products.cuh"

constexpr u32 NONE = ~0u;
// What a step that was queued as a whole may lack, as bits of one word: the host then gives it and queues the step again, and until
// then nothing that is learnt changes.
constexpr u32 NO_ROOM = 1, FLOOR_TOO_HIGH = 2;

// Words of 32 latents for which one sum of those before is kept.
constexpr u32 SPAN = 8;

// Returns the sum of the numbers of all threads before this one. All threads of the block must come.
template <u32 THREADS> __device__ __forceinline__ u32 sum_before(u32 mine, u32 &total) {
    SHARED u32 all[THREADS];
    __syncthreads();
    all[threadIdx.x] = mine;
    __syncthreads();
    u32 before = 0;
    total = 0;
    for (u32 t = 0; t < THREADS; t++) before += t < threadIdx.x ? all[t] : 0, total += all[t];
    return before;
}

// The k-th largest of those of m numbers that exceed `above`, which is at least 0; as bits, which are ordered as positive numbers
// are. `wanted` is how many of those equal to it belong to the k largest; it is 0, and so are the bits, if fewer than k exceed it.
struct Kth { u32 bits, wanted; };
template <u32 THREADS> __device__ Kth kth_largest(const float *v, u32 m, float above, u32 k) {
    SHARED u32 bins[256];
    SHARED Kth kth;
    __syncthreads();
    if (threadIdx.x == 0) kth.bits = 0, kth.wanted = k;
    for (u32 shift = 32; shift > 0;) {
        shift -= 8;
        for (u32 b = threadIdx.x; b < 256; b += THREADS) bins[b] = 0;
        __syncthreads();
        // Only numbers whose upper bits are those that were found so far count.
        u32 known = shift < 24 ? ~0u << (shift + 8) : 0, found = kth.bits;
        for (u32 e = threadIdx.x; e < m; e += THREADS) {
            u32 bits = (u32)__float_as_int(v[e]);
            if (v[e] > above && (bits & known) == (found & known)) atomicAdd(&bins[bits >> shift & 255], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0 && kth.wanted > 0) {
            u32 bin = 255, wanted = kth.wanted;
            while (bin > 0 && bins[bin] < wanted) wanted -= bins[bin--];
            if (bins[bin] < wanted) kth.bits = 0, kth.wanted = 0;
            else kth.bits |= bin << shift, kth.wanted = wanted;
        }
        __syncthreads();
    }
    return kth;
}

// bar[i] = the limit, or `ratio` times the norm of the row where a guess is made of the k-th largest.
KERNEL(256) start_bars(const Rounded *rows, float ratio, float limit, u32 n, float *bar) {
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    float start = ratio * rows[i].norm;
    bar[i] = ratio > 0.0f ? (start < 3e38f ? start : 0.0f) : limit;
}

// Raises the bar of each row to just below the k-th largest value that its hits most probably exceed, and appends the hits that may
// still exceed it to the second list.
KERNEL(128) raise_bars(u32 k, u32 room, const u32 *found, const u32 *index, const float *upper, const float *likely, float *bar,
                       u32 *left, u32 *index_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 m = found[blockIdx.x] < room ? found[blockIdx.x] : room;
    float start = bar[blockIdx.x];
    Kth kth = kth_largest<128>(likely + row, m, start, k);
    // A positive number less one unit of its last place is the number below it.
    float limit = kth.wanted > 0 ? __int_as_float((int)kth.bits - 1) : start;
    for (u32 e = threadIdx.x; e < m; e += 128)
        if (!(upper[row + e] <= limit)) index_out[row + atomicAdd(&left[blockIdx.x], 1)] = index[row + e];
    if (threadIdx.x == 0) bar[blockIdx.x] = limit;
}

// The largest of some counts goes to `most`; where it passes `room`, so that lists are not complete, `bad` says so.
KERNEL(256) most_found(u32 n, const u32 *found, u32 room, u32 *most, u32 *bad) {
    u32 own = 0;
    for (u32 i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) own = found[i] > own ? found[i] : own;
    for (u32 m = 16; m > 0; m /= 2) {
        u32 other = shuffle_xor(own, m);
        own = other > own ? other : own;
    }
    if (threadIdx.x % 32 > 0 || own == 0) return;
    atomicMax(most, own);
    if (own > room) atomicOr(bad, NO_ROOM);
}

// Lists the rows with fewer than k entries whose bar was above 0, so that there may be more below it; `which` has `room` places, of
// which the rest are NONE. `poor` is how many such rows there are. One block.
KERNEL(1024) poor_rows(u32 n, u32 k, const u32 *count, const float *bar, u32 room, u32 *which, u32 *poor, u32 *bad) {
    SHARED u32 found;
    if (threadIdx.x == 0) found = 0;
    for (u32 e = threadIdx.x; e < room; e += 1024) which[e] = NONE;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += 1024)
        if (count[i] < k && bar[i] > 0.0f) {
            u32 at = atomicAdd(&found, 1);
            if (at < room) which[at] = i;
        }
    __syncthreads();
    if (threadIdx.x > 0) return;
    *poor = found;
    if (found > room) atomicOr(bad, NO_ROOM);
}

// Puts the list of each row in ascending order of the latent. Shared memory has a bit per latent, and how many latents lie before
// every SPAN words of them.
KERNEL(128) rows_in_order(u32 f, u32 room, const u32 *count, const u32 *index, const float *value, u32 *count_out, u32 *index_out,
                          float *value_out) {
    u32 words = (f + 31) / 32, spans = (words + SPAN - 1) / SPAN, *set = (u32 *)dynamic_shared(), *before = set + spans * SPAN;
    u64 row = (u64)blockIdx.x * room;
    u32 m = count[blockIdx.x] < room ? count[blockIdx.x] : room;
    for (u32 w = threadIdx.x; w < spans * SPAN; w += 128) set[w] = 0;
    __syncthreads();
    for (u32 e = threadIdx.x; e < m; e += 128) atomicOr(&set[index[row + e] / 32], 1u << index[row + e] % 32);
    __syncthreads();
    u32 part = (spans + 127) / 128, from = threadIdx.x * part, to = from + part < spans ? from + part : spans, own = 0, total;
    for (u32 s = from; s < to; s++)
        for (u32 w = 0; w < SPAN; w++) own += __popc(set[s * SPAN + w]);
    u32 sum = sum_before<128>(own, total);
    for (u32 s = from; s < to; s++) {
        before[s] = sum;
        for (u32 w = 0; w < SPAN; w++) sum += __popc(set[s * SPAN + w]);
    }
    __syncthreads();
    for (u32 e = threadIdx.x; e < m; e += 128) {
        u32 j = index[row + e], place = before[j / 32 / SPAN];
        for (u32 w = j / 32 / SPAN * SPAN; w < j / 32; w++) place += __popc(set[w]);
        place += __popc(set[j / 32] & ((1u << j % 32) - 1));
        index_out[row + place] = j, value_out[row + place] = value[row + e];
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = m;
}

// Leaves the k largest of the list of each row, of equal ones those with the lower latent, in lists with other room. All values are
// above 0. least[i] is the smallest of them, or 0 where there are fewer than k.
KERNEL(128) keep_largest(u32 k, u32 room, const u32 *count, const u32 *index, const float *value, u32 room_out, u32 *count_out,
                         u32 *index_out, float *value_out, float *least) {
    u64 row = (u64)blockIdx.x * room, to_row = (u64)blockIdx.x * room_out;
    u32 m = count[blockIdx.x] < room ? count[blockIdx.x] : room;
    Kth kth = kth_largest<128>(value + row, m, 0.0f, k);
    u32 part = (m + 127) / 128, from = threadIdx.x * part, to = from + part < m ? from + part : m, above = 0, equal = 0, total;
    // Fewer than k are kept as they are: all of them are above bits of 0.
    for (u32 e = from; e < to; e++) {
        u32 bits = (u32)__float_as_int(value[row + e]);
        above += bits > kth.bits, equal += bits == kth.bits;
    }
    u32 rank = sum_before<128>(equal, total), place = sum_before<128>(above, total) + (rank < kth.wanted ? rank : kth.wanted);
    for (u32 e = from; e < to; e++) {
        u32 bits = (u32)__float_as_int(value[row + e]);
        bool kept = bits > kth.bits || (bits == kth.bits && rank < kth.wanted);
        rank += bits == kth.bits;
        if (kept) index_out[to_row + place] = index[row + e], value_out[to_row + place] = value[row + e], place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = total + kth.wanted, least[blockIdx.x] = __int_as_float((int)kth.bits);
}

// The value of a pre-activation u above 0: max(e^r u + b, 0) where there are slopes e^r, else u where it exceeds the threshold.
__device__ __forceinline__ float value_of(const float *slope, const float *offset, const float *threshold, u32 j, float u) {
    float z = slope ? slope[j] * u + offset[j] : u > threshold[j] ? u : 0.0f;
    return z > 0.0f ? z : 0.0f;
}

// Leaves of the list of each row the latents that fire, with their values, or with their pre-activations where `keep_u` says so.
// `z_out` receives the value of every entry of the list, 0 where it does not fire, unless it is null.
KERNEL(128) activate(const float *slope, const float *offset, const float *threshold, u32 keep_u, u32 room, const u32 *count,
                     const u32 *index, const float *value, float *z_out, u32 *count_out, u32 *index_out, float *value_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 m = count[blockIdx.x] < room ? count[blockIdx.x] : room;
    u32 part = (m + 127) / 128, from = threadIdx.x * part, to = from + part < m ? from + part : m, fire = 0, total;
    for (u32 e = from; e < to; e++) fire += value_of(slope, offset, threshold, index[row + e], value[row + e]) > 0.0f;
    u32 place = sum_before<128>(fire, total);
    for (u32 e = from; e < to; e++) {
        float u = value[row + e], z = value_of(slope, offset, threshold, index[row + e], u);
        if (z_out) z_out[row + e] = z;
        if (z > 0.0f) index_out[row + place] = index[row + e], value_out[row + place] = keep_u ? u : z, place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = total;
}

// Where latent j is among index[low..high), which ascends; NONE where it is not.
__device__ __forceinline__ u32 place_of(const u32 *index, u32 low, u32 high, u32 j) {
    u32 end = high;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (index[middle] < j) low = middle + 1;
        else high = middle;
    }
    return low < end && index[low] == j ? low : NONE;
}

// Leaves of the list of each row those of the latents `dead`, which ascend, as places in `dead`.
KERNEL(128) keep_dead(const u32 *dead, u32 n_dead, u32 room, const u32 *count, const u32 *index, const float *value, u32 *count_out,
                      u32 *index_out, float *value_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 m = count[blockIdx.x] < room ? count[blockIdx.x] : room;
    u32 part = (m + 127) / 128, from = threadIdx.x * part, to = from + part < m ? from + part : m, kept = 0, total;
    for (u32 e = from; e < to; e++) kept += place_of(dead, 0, n_dead, index[row + e]) != NONE;
    u32 place = sum_before<128>(kept, total);
    for (u32 e = from; e < to; e++) {
        u32 at = place_of(dead, 0, n_dead, index[row + e]);
        if (at != NONE) index_out[row + place] = at, value_out[row + place] = value[row + e], place++;
    }
    if (threadIdx.x == 0) count_out[blockIdx.x] = total;
}

// Sets the bits of the latents of each row that fire.
KERNEL(128) mark_active(u32 room, const u32 *count, const u32 *index, const float *value, u32 words, u32 *active) {
    u64 row = (u64)blockIdx.x * room;
    u32 *own = active + (u64)blockIdx.x * words;
    for (u32 w = threadIdx.x; w < words; w += 128) own[w] = 0;
    __syncthreads();
    for (u32 e = threadIdx.x; e < count[blockIdx.x]; e += 128)
        if (value[row + e] > 0.0f) atomicOr(&own[index[row + e] / 32], 1u << index[row + e] % 32);
}

// offsets[j] = sum of counts[..j], by one block: 1024 sums, then each thread its own part. `next` is a copy of all but the last. Where
// there are `bad` and more than `most` in all, `bad` says so, and all offsets are 0; `total` receives the sum in any case.
KERNEL(1024) scan(u32 n, const u32 *counts, u32 *offsets, u32 *next, u32 most, u32 *total, u32 *bad) {
    SHARED u32 sums[1024];
    u32 part = (n + 1023) / 1024, from = threadIdx.x * part, to = from + part < n ? from + part : n, sum = 0;
    for (u32 j = from; j < to; j++) sum += counts[j];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (u32 step = 1; step < 1024; step *= 2) {
        u32 v = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += v;
        __syncthreads();
    }
    u32 at = threadIdx.x > 0 ? sums[threadIdx.x - 1] : 0;
    bool fits = !bad || sums[1023] <= most;
    for (u32 j = from; j < to; j++) {
        offsets[j] = fits ? at : 0;
        if (next) next[j] = at;
        at += counts[j];
    }
    if (threadIdx.x < 1023) return;
    offsets[n] = fits ? sums[1023] : 0;
    if (total) *total = sums[1023];
    if (!fits) atomicOr(bad, NO_ROOM);
}

// Copies the lists of all rows one behind the other.
KERNEL(128) pack_rows(u32 room, const u32 *offsets, const u32 *index, const float *value, u32 *index_out, float *value_out) {
    u64 row = (u64)blockIdx.x * room;
    u32 from = offsets[blockIdx.x], m = offsets[blockIdx.x + 1] - from;
    for (u32 e = threadIdx.x; e < m; e += 128) index_out[from + e] = index[row + e], value_out[from + e] = value[row + e];
}

// Copies the rows `which`, one block each; NONE is no row.
KERNEL(128) gather_rows(const u32 *which, const float *x, u32 d, float *out) {
    if (which[blockIdx.x] == NONE) return;
    for (u32 c = threadIdx.x; c < d; c += 128) out[(u64)blockIdx.x * d + c] = x[(u64)which[blockIdx.x] * d + c];
}
KERNEL(128) gather_words(const u32 *which, const u32 *active, u32 words, u32 *out) {
    if (which[blockIdx.x] == NONE) return;
    for (u32 w = threadIdx.x; w < words; w += 128) out[(u64)blockIdx.x * words + w] = active[(u64)which[blockIdx.x] * words + w];
}
// Puts the lists of some rows in the places of the rows `which` of lists with other room.
KERNEL(128) scatter_lists(const u32 *which, u32 room, const u32 *count, const u32 *index, const float *value, u32 room_out,
                          u32 *count_out, u32 *index_out, float *value_out) {
    if (which[blockIdx.x] == NONE) return;
    u64 from = (u64)blockIdx.x * room, to = (u64)which[blockIdx.x] * room_out;
    u32 m = count[blockIdx.x];
    for (u32 e = threadIdx.x; e < m; e += 128) index_out[to + e] = index[from + e], value_out[to + e] = value[from + e];
    if (threadIdx.x == 0) count_out[which[blockIdx.x]] = m;
}
