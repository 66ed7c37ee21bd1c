/* Eight threads share a model, each with a context of its own; every second one has threads of its own too. All find
 * the same codes. Beside them two use the same context: it works or is busy. usage: threads SAE_DIR */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strata.h>

enum { THREADS = 8, ROWS = 150, ROUNDS = 25, MOST_CODES = ROWS * 64 };

static strata_model *model;
static strata_ctx *one;
static float data[ROWS * 64];
static strata_rows x = {sizeof x, data, ROWS, 0, 0, STRATA_DTYPE_F32, 0};

typedef struct {
    size_t offsets[2][ROWS + 1];
    uint32_t index[2][MOST_CODES];
    float value[2][MOST_CODES];
    strata_codes codes[2];
} buffers;

static void die(const char *what, strata_status status) {
    fprintf(stderr, "threads: %s: %s\n", what, strata_status_name(status));
    exit(1);
}

static buffers *buffers_new(void) {
    buffers *b = calloc(1, sizeof *b);
    if (!b) die("memory", STRATA_STATUS_MEMORY);
    for (int l = 0; l < 2; l++) {
        strata_codes codes = {sizeof codes, b->offsets[l], ROWS + 1, b->index[l], b->value[l], MOST_CODES, 0};
        b->codes[l] = codes;
    }
    return b;
}

static int same(const buffers *a, const buffers *b) {
    for (int l = 0; l < 2; l++) {
        size_t n = a->codes[l].n;
        if (n != b->codes[l].n || memcmp(a->offsets[l], b->offsets[l], sizeof a->offsets[l])) return 0;
        if (memcmp(a->index[l], b->index[l], n * 4) || memcmp(a->value[l], b->value[l], n * 4)) return 0;
    }
    return 1;
}

static void *own_context(void *number) {
    strata_ctx *ctx = NULL;
    strata_ctx_params params = {sizeof params, 0, 0};
    params.n_threads = *(int *)number % 2 ? 2 : 0;
    strata_status status = strata_ctx_new(model, &params, &ctx, NULL);
    if (status) die("context", status);
    buffers *b = buffers_new();
    for (int i = 0; i < ROUNDS; i++) {
        status = strata_encode(ctx, &x, &b->codes[0], &b->codes[1]);
        if (!status) status = strata_stats_update(ctx, &x);
        if (status) die("encode", status);
    }
    strata_ctx_free(ctx);
    return b;
}

static void *shared_context(void *unused) {
    (void)unused;
    buffers *b = buffers_new();
    for (int done = 0; done < ROUNDS;) {
        strata_status status = strata_encode(one, &x, &b->codes[0], &b->codes[1]);
        if (status && status != STRATA_STATUS_BUSY) die("encode", status);
        done += !status;
    }
    return b;
}

int main(int argc, char **argv) {
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    if (argc != 2) return fputs("usage: threads SAE_DIR\n", stderr), 2;
    strata_status status = strata_model_load(argv[1], NULL, &model, NULL);
    if (!status) status = strata_model_get_info(model, &info);
    if (!status) status = strata_ctx_new(model, NULL, &one, NULL);
    if (status || info.d > 64) die("model", status);
    for (size_t i = 0; i < ROWS * info.d; i++) data[i] = (float)((i * 7919) % 23) - 11.0f;
    x.d = info.d;
    x.row_stride_bytes = info.d * sizeof *data;
    buffers *expected = buffers_new();
    status = strata_encode(one, &x, &expected->codes[0], &expected->codes[1]);
    if (status) die("encode", status);

    pthread_t threads[THREADS + 2];
    int numbers[THREADS];
    for (int t = 0; t < THREADS; t++) {
        numbers[t] = t;
        if (pthread_create(&threads[t], NULL, own_context, &numbers[t])) die("thread", 0);
    }
    for (int t = THREADS; t < THREADS + 2; t++)
        if (pthread_create(&threads[t], NULL, shared_context, NULL)) die("thread", 0);
    for (int t = 0; t < THREADS + 2; t++) {
        void *found = NULL;
        pthread_join(threads[t], &found);
        if (!same(expected, found)) die("other codes", 0);
        free(found);
    }
    free(expected);
    strata_ctx_free(one);
    strata_model_free(model);
    printf("threads ok\n");
    return 0;
}
