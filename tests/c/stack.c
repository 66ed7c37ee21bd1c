/* How much stack the functions need in the thread of the caller: models of random weights whose sizes take each path (few
 * and many latents, with and without families, every activation), on a painted stack. usage: stack MOST_BYTES */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strata.h>

enum { STACK = 1 << 20, PAINT = 0x5a, ROWS = 300 };

typedef struct {
    size_t d, f1, f2;
    const char *activation;
    const char *gate;
} shape;

static unsigned char *stack;
static const shape *at;
static uint32_t weights;
static strata_model *model;
static strata_ctx *ctx;
static strata_rows x;
static strata_codes codes[2];

static void die(const char *what, const char *why) {
    fprintf(stderr, "stack: %s: %s\n", what, why);
    exit(1);
}

static void *memory(size_t n) {
    void *p = calloc(n, 1);
    if (!p) die("memory", "out of memory");
    return p;
}

/* A generator that gives the same numbers on every machine. */
static float number(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 23) - 1.0f;
}

static void *load(void *unused) {
    const shape *s = at;
    char cfg[1024], header[4096];
    int topk = !strcmp(s->activation, "topk");
    snprintf(cfg, sizeof cfg,
             "{\"format\":\"strata-sae\",\"version\":1,\"architecture\":{\"model\":\"tree\",\"d\":%zu,\"f1\":%zu,\"f2\":%zu,"
             "\"activation1\":\"%s\",\"activation2\":\"%s\",\"k1\":%s,\"k2\":%s,\"source\":\"x\",\"decoder\":\"cum\",\"gate\":\"%s\"},"
             "\"origin\":{\"model\":null,\"hook\":null,\"context\":null,\"dump\":null,\"steps\":0,\"rows\":0,\"seed\":0}}",
             s->d, s->f1, s->f2, s->activation, s->activation, topk ? "16.0" : "16.5", topk ? "16.0" : "16.5", s->gate);
    struct { const char *name; size_t rows, columns; int kind; } t[16];
    size_t n = 0, end = 0;
    size_t f[2] = {s->f1, s->f2};
    char names[2][4][32];
    t[n].name = "b_dec"; t[n].rows = s->d; t[n].columns = 0; t[n++].kind = 0;
    for (int l = 0; l < 2; l++) {
        if (!f[l]) continue;
        const char *kinds[4] = {"b_enc", "w_dec", "w_enc", "threshold"};
        for (int k = 0; k < (strcmp(s->activation, "jumprelu") ? 3 : 4); k++) {
            snprintf(names[l][k], sizeof names[l][k], "level%d.%s", l + 1, kinds[k]);
            t[n].name = names[l][k]; t[n].rows = f[l]; t[n].columns = k == 1 || k == 2 ? s->d : 0; t[n++].kind = k == 3 ? 2 : 0;
        }
    }
    if (!strcmp(s->gate, "hard")) { t[n].name = "parent"; t[n].rows = s->f2; t[n].columns = 0; t[n++].kind = 1; }
    const char *taus[2] = {"level1.tau", "level2.tau"};
    for (int l = 0; l < 2 && !strcmp(s->activation, "batchtopk"); l++) {
        t[n].name = taus[l]; t[n].rows = 1; t[n].columns = 0; t[n++].kind = 2;
    }
    size_t at = 0;
    at += (size_t)snprintf(header + at, sizeof header - at, "{");
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 4 * t[i].rows * (t[i].columns ? t[i].columns : 1);
        at += (size_t)snprintf(header + at, sizeof header - at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu", i ? "," : "", t[i].name,
                               t[i].kind == 1 ? "U32" : "F32", t[i].rows);
        if (t[i].columns) at += (size_t)snprintf(header + at, sizeof header - at, ",%zu", t[i].columns);
        at += (size_t)snprintf(header + at, sizeof header - at, "],\"data_offsets\":[%zu,%zu]}", end, end + bytes);
        end += bytes;
    }
    at += (size_t)snprintf(header + at, sizeof header - at, "}");
    while (at % 8) header[at++] = ' ';
    unsigned char *file = memory(8 + at + end);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)at >> (8 * i));
    memcpy(file + 8, header, at);
    unsigned char *to = file + 8 + at;
    for (size_t i = 0; i < n; i++) {
        size_t count = t[i].rows * (t[i].columns ? t[i].columns : 1);
        for (size_t j = 0; j < count; j++, to += 4) {
            float v = t[i].kind == 2 ? 0.5f : number() * 0.1f;
            uint32_t parent = j % 3 ? (uint32_t)(j % s->f1) : STRATA_ROOT;
            if (t[i].kind == 1) memcpy(to, &parent, 4);
            else memcpy(to, &v, 4);
        }
    }
    strata_error err = {sizeof err, 0, 0, {0}};
    strata_model_params params = {sizeof params, weights, 0};
    if (strata_model_load_buffers(cfg, strlen(cfg), file, 8 + at + end, &params, &model, &err)) die("model", err.message);
    free(file);
    return unused;
}

static void *make_ctx(void *unused) {
    if (strata_ctx_new(model, NULL, &ctx, NULL)) die("context", "it cannot be made");
    return unused;
}

static void *encode(void *unused) {
    if (strata_encode(ctx, &x, &codes[0], &codes[1])) die("encode", strata_ctx_message(ctx));
    return unused;
}

static void *update(void *unused) {
    strata_stats stats = {sizeof stats, 0, 0, 0, 0, 0, 0, 0, 0};
    if (strata_stats_update(ctx, &x) || strata_stats_read(ctx, &stats)) die("statistics", strata_ctx_message(ctx));
    return unused;
}

static void *change(void *unused) {
    strata_rows_mut rows = {sizeof rows, (void *)(uintptr_t)x.data, x.n_rows, x.d, x.row_stride_bytes, x.dtype, 0};
    strata_edit edit = {1, 0, 1.0f, STRATA_EDIT_SET};
    if (strata_decode(ctx, &codes[0], &codes[1], &rows) || strata_steer(ctx, &rows, &edit, 1))
        die("decode and steer", strata_ctx_message(ctx));
    return unused;
}

static void *nothing(void *unused) { return unused; }

/* Returns the bytes of its stack that a thread with this body has written. */
static size_t used(void *(*body)(void *)) {
    pthread_attr_t attr;
    pthread_t thread;
    memset(stack, PAINT, STACK);
    if (pthread_attr_init(&attr) || pthread_attr_setstack(&attr, stack, STACK) || pthread_create(&thread, &attr, body, NULL))
        die("thread", "it cannot be started");
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    size_t untouched = 0;
    while (untouched < STACK && stack[untouched] == PAINT) untouched++;
    return STACK - untouched;
}

/* As above, compared with what the header promises. */
static void check(const char *what, void *(*body)(void *), size_t most, size_t *largest) {
    size_t bytes = used(body);
    if (bytes > *largest) *largest = bytes;
    if (bytes > most) {
        fprintf(stderr, "stack: %s: d %zu, f1 %zu, f2 %zu, %s, %s, weights %u, %zu rows: %zu bytes, expected at most %zu\n", what,
                at->d, at->f1, at->f2, at->activation, at->gate, (unsigned)weights, x.n_rows, bytes, most);
        exit(1);
    }
}

int main(int argc, char **argv) {
    static const shape shapes[] = {
        {64, 64, 256, "topk", "hard"},         {384, 4096, 0, "topk", "none"},       {384, 1024, 4096, "batchtopk", "hard"},
        {384, 1024, 4096, "jumprelu", "none"}, {768, 512, 2048, "topk", "hard"},     {384, 1024, 4096, "relu", "none"},
        {33, 20, 50, "batchtopk", "none"},
    };
    size_t most = argc > 1 ? strtoul(argv[1], NULL, 10) : STACK, largest = 0;
    if (posix_memalign((void **)&stack, 4096, STACK)) die("memory", "out of memory");
    printf("a thread that does nothing: %zu bytes\n", used(nothing));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (weights = 0; weights <= STRATA_WEIGHTS_INT8; weights++) {
            at = &shapes[i];
            check("load", load, most, &largest);
            check("ctx_new", make_ctx, most, &largest);
            size_t d = at->d, rows[2] = {ROWS, 1}, room[2] = {at->f1, at->f2 ? at->f2 : 1};
            float *data = memory(ROWS * d * sizeof *data);
            for (size_t j = 0; j < ROWS * d; j++) data[j] = number();
            for (int l = 0; l < 2; l++) {
                size_t n = ROWS * room[l];
                strata_codes c = {sizeof c, memory((ROWS + 1) * sizeof(size_t)), ROWS + 1, memory(n * 4), memory(n * 4), n, 0};
                codes[l] = c;
            }
            for (int r = 0; r < 2; r++) {
                strata_rows in = {sizeof in, data, rows[r], d, d * sizeof *data, STRATA_DTYPE_F32, 0};
                x = in;
                check("encode", encode, most, &largest);
                check("statistics", update, most, &largest);
                check("decode and steer", change, most, &largest);
            }
            for (int l = 0; l < 2; l++) free(codes[l].offsets), free(codes[l].index), free(codes[l].value);
            free(data);
            strata_ctx_free(ctx);
            strata_model_free(model);
        }
    printf("stack ok: %zu bytes\n", largest);
    free(stack);
    return 0;
}
