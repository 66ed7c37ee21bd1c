/* Encodes with a model in memory: what the library does that only encodes (ffi/small.sh), in a whole program. Prints the latents of
 * one row of ones, and on stderr what starting costs.
 * usage: buffers RUN/sae [CALLS]
 * cc -std=c99 -Iinclude examples/buffers.c libstrata.so -o buffers */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strata.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

static void *read_all(const char *dir, const char *name, size_t *len) {
    char path[4096], *bytes = NULL;
    long end = -1;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "rb");
    if (file && !fseek(file, 0, SEEK_END)) end = ftell(file);
    if (end > 0 && !fseek(file, 0, SEEK_SET)) bytes = malloc((size_t)end);
    if (!bytes || fread(bytes, 1, (size_t)end, file) != (size_t)end) exit(fail(path, "cannot be read"));
    fclose(file);
    *len = (size_t)end;
    return bytes;
}

static strata_codes codes_new(size_t max_active) {
    strata_codes codes = {.struct_size = sizeof codes};
    codes.offsets_len = 2;
    codes.offsets = calloc(2, sizeof *codes.offsets);
    codes.capacity = max_active;
    codes.index = calloc(max_active + 1, sizeof *codes.index);
    codes.value = calloc(max_active + 1, sizeof *codes.value);
    return codes;
}

static void print(const char *name, const strata_codes *codes) {
    printf("row 0 %s:", name);
    for (size_t e = 0; e < codes->n; e++) printf(" %" PRIu32 "=%g", codes->index[e], (double)codes->value[e]);
    printf("\n");
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

int main(int argc, char **argv) {
    strata_error err = {.struct_size = sizeof err};
    strata_model *model = NULL;
    strata_ctx *ctx = NULL;
    strata_model_info info = {.struct_size = sizeof info};

    if (argc < 2) return fail("usage", "buffers RUN/sae [CALLS]");
    if (strata_abi_version() != STRATA_ABI_VERSION) return fail("buffers", "another strata than this was compiled for");
    size_t cfg_len, weights_len, calls = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    if (calls == 0) return fail("CALLS", "expected a number above 0");
    void *cfg = read_all(argv[1], "cfg.json", &cfg_len), *weights = read_all(argv[1], "sae_weights.safetensors", &weights_len);
    double start = now();
    if (strata_model_load_buffers(cfg, cfg_len, weights, weights_len, NULL, &model, &err)) return fail(argv[1], err.message);
    double loaded = now();
    free(cfg);
    free(weights);
    if (strata_model_get_info(model, &info)) return fail("info", "no sizes");
    if (strata_ctx_new(model, NULL, &ctx, &err)) return fail("context", err.message);
    strata_model_free(model); /* the context keeps it */
    double made = now();

    float *data = calloc(info.d, sizeof *data);
    double *times = calloc(calls + 1, sizeof *times);
    strata_rows x = {.struct_size = sizeof x, .data = data, .n_rows = 1, .d = info.d};
    x.row_stride_bytes = info.d * sizeof *data;
    x.dtype = STRATA_DTYPE_F32;
    strata_codes level1 = codes_new(info.max_active1), level2 = codes_new(info.max_active2);
    for (size_t i = 0; i <= calls; i++) {
        /* The first row is of ones; later ones differ, as tokens do. */
        for (size_t j = 0; j < info.d; j++) data[j] = i ? (float)((j * 37 + i * 101) % 64) / 16.0f - 2.0f : 1.0f;
        double begin = now();
        if (strata_encode(ctx, &x, &level1, &level2)) return fail("encode", strata_ctx_message(ctx));
        times[i] = now() - begin;
        if (i) continue;
        printf("d %zu, latents %zu and %zu; 1 rows, %zu and %zu codes\n", info.d, info.f1, info.f2, level1.n, level2.n);
        print("level 1", &level1);
        print("level 2", &level2);
    }
    double first = times[0];
    qsort(times + 1, calls, sizeof *times, ascending);
    fprintf(stderr, "load %.0f us, context %.0f us, first row %.1f us, later rows %.1f us (median of %zu)\n", loaded - start,
            made - loaded, first, times[1 + (calls - 1) / 2], calls);

    free(level1.offsets), free(level1.index), free(level1.value);
    free(level2.offsets), free(level2.index), free(level2.value);
    free(data), free(times);
    strata_ctx_free(ctx);
    return 0;
}
