// Runs the kernels of this folder on a CPU: for tests on machines without a GPU. Slow, but every bit is that of a GPU.
//
// Threads of a block are fibers that hand over at barriers, so that one thread of the system runs a block. What CUDA leaves
// undefined is an error here: a barrier that some threads of a warp or block never reach ends the launch with a message. The
// caller chooses the order in which threads and blocks run; a correct kernel gives the same bits in every order. In two orders
// each warp runs ahead of the others as far as it can, which shows errors that stay hidden while warps keep in step.
//
// The dialect: barriers and warp functions take the whole warp or block; atomics are integers; shared memory is SHARED or
// dynamic_shared(); inline PTX only in device.cuh, each with a twin here; no float atomics, no clocks, no device printf.
//
// Launches of several threads of the system do not disturb each other: all state is thread_local.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>
#include <setjmp.h>
#include <ucontext.h>

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct float4 { float x, y, z, w; };
struct int4 { int x, y, z, w; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };

namespace emulate {
constexpr unsigned WARP = 32;
// A page beside a power of two, and some lines: the stacks of a block would share the same places of a cache otherwise.
constexpr size_t STACK = (1 << 16) + 4096 + 5 * 64;
enum Wait : unsigned char { RUNS, AT_WARP, AT_BLOCK, DONE };
struct Copy { void *to; const void *from; unsigned bytes, group; };
// What the lanes of a warp show each other, in two places that take turns: a lane may be one exchange ahead of another.
struct Warp { unsigned char slot[2][WARP][32]; };
struct Fiber { jmp_buf place; bool begun; Wait *wait; Warp *peers; unsigned lane, turn, group; dim3 thread; std::vector<Copy> copies; };
inline thread_local dim3 grid, block, at;
inline thread_local std::vector<unsigned char> pool, stacks;
inline thread_local std::vector<Fiber> fibers;
inline thread_local std::vector<Wait> waits;
inline thread_local std::vector<Warp> warps;
// What kernels read in their loops is plain: a thread_local of a class asks at each use whether it is there already.
inline thread_local Fiber *self;
inline thread_local unsigned char *dynamic;
inline thread_local jmp_buf back;
inline thread_local void (*body)(void **);
inline thread_local void **arguments;

// A context begins a fiber, once; from then on jumps, which ask nothing of the system, go to and fro, from block to block.
inline void hand_over(Wait wait) { *self->wait = wait; if (!_setjmp(self->place)) _longjmp(back, 1); }
inline void start() { for (;;) body(arguments), hand_over(DONE); }
inline void go_on(Fiber &f, unsigned char *stack) {
    self = &f;
    if (_setjmp(back)) return;
    if (f.begun) _longjmp(f.place, 1);
    f.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack, context.uc_stack.ss_size = STACK, context.uc_link = nullptr;
    makecontext(&context, start, 0);
    setcontext(&context);
}

// Shows `mine` to the warp; returns what every lane has shown, until this lane shows something twice more. All lanes must come.
typedef const unsigned char (*Shown)[32];
template <class T> inline Shown exchange(const T &mine) {
    static_assert(sizeof(T) <= 32, "a slot holds 32 bytes");
    auto &slot = self->peers->slot[self->turn++ & 1];
    memcpy(slot[self->lane], &mine, sizeof(T));
    hand_over(AT_WARP);
    return slot;
}
template <class T> inline T shown(Shown all, unsigned lane) { T v; memcpy(&v, all[lane], sizeof(T)); return v; }

// Orders of n things: 0 and 2 ascending, 1 descending, others shuffled by this seed. With 1 and 2 each warp runs up to the next
// barrier of the block before another warp does anything.
struct Order {
    unsigned seed;
    bool far() const { return seed == 1 || seed == 2; }
    bool shuffles() const { return seed > 2; }
    void fill(std::vector<unsigned> &out, unsigned n) {
        out.resize(n);
        for (unsigned i = 0; i < n; i++) out[i] = seed == 1 ? n - 1 - i : i;
        if (shuffles())
            for (unsigned i = n; i-- > 1;) { seed = seed * 1664525u + 1013904223u; if (seed < 3) seed += 3; std::swap(out[i], out[(seed >> 8) % (i + 1)]); }
    }
};

// Runs one block. Returns what is wrong, or nothing.
inline std::string run_block(Order &order) {
    unsigned n = block.x * block.y * block.z, n_warps = (n + WARP - 1) / WARP;
    // Memory only grows: the launches of a test have blocks of many sizes. Fibers whose stacks are taken away begin anew.
    if (fibers.size() < n) {
        fibers.resize(n), waits.resize(n), warps.resize(n_warps), stacks.resize(n * STACK);
        for (Fiber &f : fibers) f.begun = false;
    }
    Fiber *all = fibers.data();
    Wait *wait = waits.data();
    Warp *peers = warps.data();
    unsigned char *stack = stacks.data();
    for (unsigned i = 0; i < n; i++) {
        Fiber &f = all[i];
        f.thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        f.wait = &wait[i], f.peers = &peers[i / WARP], f.lane = i % WARP, f.turn = 0, f.copies.clear(), f.group = 0;
        wait[i] = RUNS;
    }
    memset(pool.data(), 0xff, pool.size());  // NaN: no thread may read what none has written
    std::vector<unsigned> turn;
    // Opens the barrier of a warp if all of its threads are there.
    auto open = [&](unsigned warp) {
        unsigned from = warp * WARP, to = from + WARP < n ? from + WARP : n;
        for (unsigned i = from; i < to; i++)
            if (wait[i] != AT_WARP) return false;
        std::fill(wait + from, wait + to, RUNS);
        return true;
    };
    for (;;) {
        if (turn.empty() || order.shuffles()) order.fill(turn, n);
        for (unsigned place = 0; place < n; place++) {
            unsigned i = turn[place];
            if (wait[i] == RUNS) go_on(all[i], stack + i * STACK);
            // Once the last thread of a warp has run, its threads run again if all have met.
            unsigned first = i / WARP * WARP, last = std::min(first + WARP, n) - 1;
            if (order.far() && i == (order.seed == 1 ? first : last) && open(i / WARP)) place -= last - first + 1;
        }
        // All threads wait or are done. A barrier opens when all that take part in it are there.
        unsigned at_block = 0, done = 0, opened = 0;
        for (unsigned i = 0; i < n; i++) at_block += wait[i] == AT_BLOCK, done += wait[i] == DONE;
        if (done == n) return "";
        if (at_block == n) { std::fill_n(wait, n, RUNS); continue; }
        for (unsigned w = 0; w < n_warps; w++) opened += open(w);
        if (opened) continue;
        // They are in the middle of this block, and never come back from it.
        for (Fiber &f : fibers) f.begun = false;
        return "a barrier that " + std::to_string(done) + " of " + std::to_string(n) + " threads never reach";
    }
}

inline std::string launch(void (*f)(void **), void **args, const unsigned *g, const unsigned *b, unsigned bytes, unsigned seed) {
    grid = {g[0], g[1], g[2]}, block = {b[0], b[1], b[2]}, body = f, arguments = args;
    pool.resize(bytes), dynamic = pool.data();
    Order order{seed};
    std::vector<unsigned> blocks;
    order.fill(blocks, grid.x * grid.y * grid.z);
    for (unsigned i : blocks) {
        at = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
        if (std::string why = run_block(order); !why.empty()) return why;
    }
    return "";
}

template <class... A, size_t... I> inline void call(void (*f)(A...), void **args, std::index_sequence<I...>) { f(*static_cast<A *>(args[I])...); }
template <auto F> struct Thunk;
template <class... A, void (*F)(A...)> struct Thunk<F> { static void run(void **args) { call(F, args, std::index_sequence_for<A...>()); } };
}  // namespace emulate

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define SHARED static thread_local
#define threadIdx (emulate::self->thread)
#define blockIdx (emulate::at)
#define blockDim (emulate::block)
#define gridDim (emulate::grid)
inline unsigned char *dynamic_shared() { return emulate::dynamic; }
inline void __syncthreads() { emulate::hand_over(emulate::AT_BLOCK); }
inline void __syncwarp() { emulate::hand_over(emulate::AT_WARP); }
template <class T> inline T shuffle_xor(T v, unsigned mask) { return emulate::shown<T>(emulate::exchange(v), emulate::self->lane ^ mask); }
template <class T> inline T shuffle(T v, unsigned lane) { return emulate::shown<T>(emulate::exchange(v), lane & 31); }
inline unsigned ballot(bool v) {
    emulate::Shown all = emulate::exchange(unsigned(v));
    unsigned bits = 0;
    for (unsigned l = 0; l < 32; l++) bits |= emulate::shown<unsigned>(all, l) << l;
    return bits;
}
inline unsigned atomicAdd(unsigned *p, unsigned v) { unsigned was = *p; *p += v; return was; }
inline unsigned atomicMin(unsigned *p, unsigned v) { unsigned was = *p; if (v < was) *p = v; return was; }
inline unsigned atomicMax(unsigned *p, unsigned v) { unsigned was = *p; if (v > was) *p = v; return was; }
inline unsigned atomicOr(unsigned *p, unsigned v) { unsigned was = *p; *p |= v; return was; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __float_as_int(float a) { int b; memcpy(&b, &a, 4); return b; }
inline float __int_as_float(int a) { float b; memcpy(&b, &a, 4); return b; }
inline float __int2float_rn(int a) { return float(a); }

// mma.m16n8k32 of signed bytes: the layout of the fragments is that of the PTX manual, "Matrix fragments for mma.m16n8k32".
inline void mma_s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    struct Show { unsigned a[4], b[2]; } mine;
    memcpy(mine.a, a, 16), memcpy(mine.b, b, 8);
    emulate::Shown all = emulate::exchange(mine);
    unsigned group = emulate::self->lane / 4, place = emulate::self->lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = group + (i < 2 ? 0 : 8), column = place * 2 + i % 2;
        for (unsigned word = 0; word < 2; word++)  // which register has this half of k
            for (unsigned lane = 0; lane < 4; lane++) {
                const signed char *x = (const signed char *)all[row % 8 * 4 + lane] + (word * 2 + row / 8) * 4;
                const signed char *y = (const signed char *)all[column * 4 + lane] + 16 + word * 4;
                for (unsigned k = 0; k < 4; k++) c[i] += x[k] * y[k];
            }
    }
}
// Copies happen when they are waited for; until then there is NaN at their target.
inline void copy_async(void *shared, const void *global, unsigned bytes) {
    if ((uintptr_t(shared) | uintptr_t(global)) % bytes) abort();  // the GPU would too
    memset(shared, 0xff, bytes);
    emulate::self->copies.push_back({shared, global, bytes, emulate::self->group});
}
inline void copy_async16(void *shared, const void *global) { copy_async(shared, global, 16); }
inline void copy_async4(void *shared, const void *global) { copy_async(shared, global, 4); }
inline void copy_commit() { emulate::self->group++; }
template <int LEFT> inline void copy_wait() {
    auto &all = emulate::self->copies;
    size_t n = 0;
    for (; n < all.size() && all[n].group + LEFT < emulate::self->group; n++) memcpy(all[n].to, all[n].from, all[n].bytes);
    all.erase(all.begin(), all.begin() + n);
}
