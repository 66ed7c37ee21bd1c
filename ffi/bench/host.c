/* What a host pays: the start-up of a model of 100 MiB, beside a read of the same file in the same run; the time of a call
 * of strata_encode with one row; and that of a watch-list of 64 latents beside it, in turn. Models have random weights and are
 * written into DIR. usage: host DIR
 * ffi/bench/run.sh builds and runs it. */
#define _POSIX_C_SOURCE 200809L
#include "model.h"
#include <fcntl.h>
#include <strata.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 9, ROWS = 256, MOST_CALLS = 20000 };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(double *values, size_t n) { qsort(values, n, sizeof *values, ascending); }

static void check(strata_status status, const char *what, const strata_error *err) {
    if (status) die(what, err ? err->message : strata_status_name(status));
}

static strata_model *load(const char *dir) {
    strata_error err = {.struct_size = sizeof err};
    strata_model *model = NULL;
    check(strata_model_load(dir, NULL, &model, &err), dir, &err);
    return model;
}

static void read_all(const char *dir, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/sae_weights.safetensors", dir);
    char *buffer = malloc(bytes);
    int fd = open(path, O_RDONLY);
    size_t at = 0;
    ssize_t n = 1;
    while (buffer && fd >= 0 && at < bytes && n > 0) at += (size_t)(n = read(fd, buffer + at, bytes - at));
    if (at != bytes) die("reading", path);
    close(fd);
    free(buffer);
}

/* In turn, so that both meet the same machine: the file is in the page cache. */
static void start_up(const char *dir) {
    bench_shape s = {.d = 768, .f1 = 1024, .f2 = 16042, .k1 = 16, .k2 = 16};
    size_t bytes = write_model(dir, s);
    double loads[ROUNDS], reads[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double start = now_us();
        strata_model *model = load(dir);
        loads[i] = now_us() - start;
        strata_model_free(model);
        start = now_us();
        read_all(dir, bytes);
        reads[i] = now_us() - start;
    }
    sort(loads, ROUNDS);
    sort(reads, ROUNDS);
    printf("start-up, %.1f MiB, median (fastest) of %d: strata_model_load %.1f ms (%.1f), read %.1f ms (%.1f)\n",
           (double)bytes / 1048576.0, ROUNDS, loads[ROUNDS / 2] / 1e3, loads[0] / 1e3, reads[ROUNDS / 2] / 1e3,
           reads[0] / 1e3);
}

/* Different rows, as tokens differ: what the caches hold of the weights is what a stream of tokens leaves there. */
static void latency(const char *dir, bench_shape s) {
    write_model(dir, s);
    strata_model *model = load(dir);
    strata_ctx *ctx = NULL;
    strata_model_info info = {.struct_size = sizeof info};
    check(strata_model_get_info(model, &info), "info", NULL);
    check(strata_ctx_new(model, NULL, &ctx, NULL), "context", NULL);
    float *data = calloc(ROWS * s.d, sizeof *data);
    size_t offsets1[2], offsets2[2];
    strata_codes codes[2] = {{.struct_size = sizeof codes[0], .offsets = offsets1, .offsets_len = 2},
                             {.struct_size = sizeof codes[1], .offsets = offsets2, .offsets_len = 2}};
    for (int l = 0; l < 2; l++) {
        codes[l].capacity = l ? info.max_active2 : info.max_active1;
        codes[l].index = calloc(codes[l].capacity + 1, sizeof *codes[l].index);
        codes[l].value = calloc(codes[l].capacity + 1, sizeof *codes[l].value);
    }
    for (size_t i = 0; i < ROWS * s.d; i++) data[i] = normal();
    static double times[MOST_CALLS];
    size_t calls = 0, codes_found = 0;
    double began = now_us();
    for (size_t i = 0; calls < MOST_CALLS && (now_us() - began < 2e6 || calls < 100); i++) {
        strata_rows x = {.struct_size = sizeof x, .data = data + i % ROWS * s.d, .n_rows = 1, .d = s.d};
        x.row_stride_bytes = s.d * sizeof *data;
        double start = now_us();
        strata_status status = strata_encode(ctx, &x, &codes[0], &codes[1]);
        double took = now_us() - start;
        check(status, "encode", NULL);
        codes_found += codes[0].n + codes[1].n;
        if (i >= 20) times[calls++] = took;
    }
    sort(times, calls);
    printf("encode, n = 1, d = %zu, %zu + %zu latents: median %.0f us, 99th percentile %.0f us (%zu calls, %.0f codes each)\n",
           s.d, s.f1, s.f2, times[calls / 2], times[calls * 99 / 100], calls, (double)codes_found / (double)(calls + 20));
    for (int l = 0; l < 2; l++) free(codes[l].index), free(codes[l].value);
    free(data);
    strata_ctx_free(ctx);
    strata_model_free(model);
}

/* Encoding everything, and watch-lists of 64 parents and of 64 children, in turn. */
static void watching(const char *dir, bench_shape s, size_t n_rows) {
    enum { KINDS = 3, LISTED = 64, CALLS = 2000 };
    write_model(dir, s);
    strata_model *model = load(dir);
    strata_ctx *ctx = NULL;
    strata_model_info info = {.struct_size = sizeof info};
    check(strata_model_get_info(model, &info), "info", NULL);
    check(strata_ctx_new(model, NULL, &ctx, NULL), "context", NULL);
    uint32_t lists[2][LISTED];
    for (uint32_t i = 0; i < LISTED; i++) {
        lists[0][i] = i * (uint32_t)(s.f1 / LISTED);
        lists[1][i] = i * (uint32_t)(s.f2 / LISTED);
    }
    strata_watch *watches[KINDS] = {NULL};
    check(strata_watch_new(model, lists[0], LISTED, NULL, 0, &watches[1], NULL), "watch", NULL);
    check(strata_watch_new(model, NULL, 0, lists[1], LISTED, &watches[2], NULL), "watch", NULL);
    size_t blocks = n_rows > 1 ? 8 : ROWS;
    float *data = malloc(blocks * n_rows * s.d * sizeof *data);
    for (size_t i = 0; i < blocks * n_rows * s.d; i++) data[i] = normal();
    strata_codes codes[2] = {{.struct_size = sizeof codes[0]}, {.struct_size = sizeof codes[1]}};
    for (int l = 0; l < 2; l++) {
        codes[l].offsets_len = n_rows + 1;
        codes[l].capacity = n_rows * 512;
        codes[l].offsets = calloc(codes[l].offsets_len, sizeof *codes[l].offsets);
        codes[l].index = calloc(codes[l].capacity, sizeof *codes[l].index);
        codes[l].value = calloc(codes[l].capacity, sizeof *codes[l].value);
    }
    static double times[KINDS][CALLS];
    size_t calls = 0, found[KINDS] = {0};
    double began = now_us();
    for (size_t i = 0; calls < CALLS && (now_us() - began < 4e6 || calls < 50); i++) {
        strata_rows x = {.struct_size = sizeof x, .data = data + i % blocks * n_rows * s.d, .n_rows = n_rows, .d = s.d};
        x.row_stride_bytes = s.d * sizeof *data;
        for (int kind = 0; kind < KINDS; kind++) {
            double start = now_us();
            strata_status status = kind ? strata_encode_watched(ctx, watches[kind], &x, &codes[0], &codes[1])
                                        : strata_encode(ctx, &x, &codes[0], &codes[1]);
            double took = now_us() - start;
            check(status, "encode", NULL);
            if (i >= 5) times[kind][calls] = took, found[kind] += codes[0].n + codes[1].n;
        }
        calls += i >= 5;
    }
    static const char *const names[KINDS] = {"all latents", "64 parents", "64 children"};
    for (int kind = 0; kind < KINDS; kind++) {
        sort(times[kind], calls);
        double rows = (double)n_rows;
        printf("watch, n = %zu, d = %zu, %zu + %zu latents: %s: median %.2f us per row (fastest %.2f), %.2f codes\n", n_rows,
               s.d, s.f1, s.f2, names[kind], times[kind][calls / 2] / rows, times[kind][0] / rows,
               (double)found[kind] / ((double)calls * rows));
    }
    for (int l = 0; l < 2; l++) free(codes[l].offsets), free(codes[l].index), free(codes[l].value);
    free(data);
    strata_watch_free(watches[1]);
    strata_watch_free(watches[2]);
    strata_ctx_free(ctx);
    strata_model_free(model);
}

int main(int argc, char **argv) {
    if (argc != 2) return fputs("usage: host DIR\n", stderr), 2;
    start_up(argv[1]);
    latency(argv[1], (bench_shape){.d = 384, .f1 = 6144, .k1 = 32});
    latency(argv[1], (bench_shape){.d = 384, .f1 = 1024, .f2 = 8192, .k1 = 16, .k2 = 16});
    latency(argv[1], (bench_shape){.d = 768, .f1 = 12288, .k1 = 32});
    latency(argv[1], (bench_shape){.d = 768, .f1 = 1536, .f2 = 24576, .k1 = 16, .k2 = 16});
    /* The width of SmolLM2-135M; about 16 parents fire. */
    watching(argv[1], (bench_shape){.d = 576, .f1 = 1024, .f2 = 8192, .k1 = 16, .k2 = 16, .threshold = 2.15}, 1);
    watching(argv[1], (bench_shape){.d = 576, .f1 = 1024, .f2 = 8192, .k1 = 16, .k2 = 16, .threshold = 2.15}, 512);
    return 0;
}
