/* Calls that no program should make: each gives the status that the manual says, and nothing else happens. Buffers are
 * of exactly the size that is needed, so that a memory checker sees a step beyond. usage: hostile SAE_DIR HEADS.safetensors */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strata.h>
#include <unistd.h>

static int failures;

#define EXPECT(call, expected)                                                                                       \
    do {                                                                                                             \
        strata_status got_ = (call);                                                                                 \
        if (got_ != (expected)) {                                                                                    \
            printf("line %d: expected %s, found %s\n", __LINE__, #expected, strata_status_name(got_));               \
            failures++;                                                                                              \
        }                                                                                                            \
    } while (0)
#define CHECK(what)                                                                                                  \
    do {                                                                                                             \
        if (!(what)) printf("line %d: not so: %s\n", __LINE__, #what), failures++;                                   \
    } while (0)

typedef struct {
    unsigned char *bytes;
    size_t len;
} file;

static void *copy(const void *from, size_t len) {
    void *to = malloc(len ? len : 1);
    if (!to) exit(2);
    if (len) memcpy(to, from, len);
    return to;
}

static file read_file(const char *dir, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) exit(2);
    unsigned char buffer[1 << 16];
    size_t len = fread(buffer, 1, sizeof buffer, f);
    fclose(f);
    file out = {copy(buffer, len), len};
    return out;
}

static strata_codes codes_new(size_t n_rows, size_t capacity) {
    strata_codes codes = {sizeof codes, NULL, n_rows + 1, NULL, NULL, capacity, 0};
    codes.offsets = malloc((n_rows + 1) * sizeof *codes.offsets);
    codes.index = malloc(capacity * sizeof *codes.index);
    codes.value = malloc(capacity * sizeof *codes.value);
    return codes;
}

static void codes_free(strata_codes *codes) {
    free(codes->offsets);
    free(codes->index);
    free(codes->value);
}

static strata_rows rows(const void *data, size_t n, size_t d) {
    strata_rows x = {sizeof x, data, n, d, d * sizeof(float), STRATA_DTYPE_F32, 0};
    return x;
}

/* Loads the two files, whatever they are, and uses what comes out. */
static strata_status load_and_use(file cfg, file weights) {
    strata_error err = {sizeof err, 0, 0, {0}};
    strata_model *model = NULL;
    strata_status status =
        strata_model_load_buffers(cfg.bytes, cfg.len, weights.bytes, weights.len, NULL, &model, &err);
    if (status) {
        CHECK(!model && err.status == status && err.message[0] && status >= 20 && status < 40);
        return status;
    }
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    EXPECT(strata_model_get_info(model, &info), STRATA_STATUS_OK);
    strata_ctx *ctx = NULL;
    EXPECT(strata_ctx_new(model, NULL, &ctx, NULL), STRATA_STATUS_OK);
    strata_model_free(model);
    float *data = malloc(info.d * sizeof *data);
    for (size_t i = 0; i < info.d; i++) data[i] = (float)(i + 1);
    strata_rows x = rows(data, 1, info.d);
    strata_codes level1 = codes_new(1, info.max_active1), level2 = codes_new(1, info.max_active2);
    EXPECT(strata_encode(ctx, &x, &level1, &level2), STRATA_STATUS_OK);
    strata_rows_mut x_hat = {sizeof x_hat, data, 1, info.d, info.d * sizeof(float), STRATA_DTYPE_F32, 0};
    status = strata_decode(ctx, &level1, &level2, &x_hat);
    CHECK(status == STRATA_STATUS_OK || status == STRATA_STATUS_NOT_FINITE);
    codes_free(&level1);
    codes_free(&level2);
    free(data);
    strata_ctx_free(ctx);
    return STRATA_STATUS_OK;
}

/* Dumps that a host abandons, and vocabularies that are not valid. */
static void dumps(size_t d) {
    char dir[] = "/tmp/strata-hostile-XXXXXX", path[sizeof dir + 8];
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/dump", dir);
    float *data = calloc(d, sizeof *data);
    const char *vocab[] = {"a", NULL, "\xff"};
    uint32_t token = 2, unknown = 3;
    strata_rows x = rows(data, 1, d);
    strata_dump_params params;
    strata_dump_params_init(&params);
    params.d = d;
    strata_dump *dump = NULL;
    EXPECT(strata_dump_create(path, &params, &dump, NULL), STRATA_STATUS_OK);
    EXPECT(strata_dump_set_vocab(dump, NULL, 3, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_set_vocab(dump, vocab, 0, NULL), STRATA_STATUS_SHAPE);
    EXPECT(strata_dump_set_vocab(dump, vocab, 3, NULL), STRATA_STATUS_OK);
    EXPECT(strata_dump_set_vocab(dump, vocab, 3, NULL), STRATA_STATUS_PARAMS);
    EXPECT(strata_dump_mark_special(dump, NULL, 1, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_mark_special(dump, &token, 1, NULL), STRATA_STATUS_OK);
    EXPECT(strata_dump_append(dump, &x, &unknown, NULL), STRATA_STATUS_INDEX);
    EXPECT(strata_dump_append(dump, &x, &token, NULL), STRATA_STATUS_OK);
    strata_dump_abandon(dump);
    CHECK(!rmdir(dir)); /* it is empty */
    free(data);
}

static void damaged_files(const char *dir) {
    file cfg = read_file(dir, "cfg.json"), weights = read_file(dir, "sae_weights.safetensors");
    EXPECT(load_and_use(cfg, weights), STRATA_STATUS_OK);
    for (size_t len = 0; len < weights.len; len++) {
        file part = {copy(weights.bytes, len), len};
        CHECK(load_and_use(cfg, part) != STRATA_STATUS_OK);
        free(part.bytes);
    }
    for (size_t len = 0; len + 2 < cfg.len; len++) {
        file part = {copy(cfg.bytes, len), len};
        CHECK(load_and_use(part, weights) != STRATA_STATUS_OK);
        free(part.bytes);
    }
    uint64_t state = 1;
    for (int i = 0; i < 2000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        file *damaged = i % 2 ? &cfg : &weights;
        size_t at = (size_t)(state >> 33) % damaged->len;
        unsigned char bit = (unsigned char)(1u << (state >> 29 & 7u));
        damaged->bytes[at] ^= bit;
        load_and_use(cfg, weights);
        damaged->bytes[at] ^= bit;
    }
    free(cfg.bytes);
    free(weights.bytes);
}

static void nothing_where_something_is_needed(strata_model *model, strata_ctx *ctx, size_t d) {
    float *data = calloc(d, sizeof *data);
    strata_rows x = rows(data, 1, d);
    strata_rows_mut to = {sizeof to, data, 1, d, d * sizeof(float), STRATA_DTYPE_F32, 0};
    strata_codes codes = codes_new(1, 64), hollow = codes;
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    strata_stats stats = {sizeof stats, 0, 0, 0, 0, 0, 0, 0, 0};
    strata_model *model2 = NULL;
    strata_ctx *ctx2 = NULL;
    strata_dump *dump = NULL;
    strata_edit edit = {1, 0, 1.0f, STRATA_EDIT_ADD};
    uint32_t parent = 7;
    EXPECT(strata_model_load(NULL, NULL, &model2, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_load("x", NULL, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_load_buffers(NULL, 1, NULL, 1, NULL, &model2, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_load_buffers(NULL, 0, NULL, 0, NULL, &model2, NULL), STRATA_STATUS_FORMAT);
    EXPECT(strata_model_get_info(NULL, &info), STRATA_STATUS_NULL);
    EXPECT(strata_model_get_info(model, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_parent(NULL, 0, &parent), STRATA_STATUS_NULL);
    EXPECT(strata_model_parent(model, 0, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_decoder_row(NULL, 1, 0, data, d), STRATA_STATUS_NULL);
    EXPECT(strata_model_decoder_row(model, 1, 0, NULL, d), STRATA_STATUS_NULL);
    EXPECT(strata_ctx_new(NULL, NULL, &ctx2, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_ctx_new(model, NULL, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_encode(NULL, &x, &codes, &codes), STRATA_STATUS_NULL);
    EXPECT(strata_encode(ctx, NULL, &codes, &codes), STRATA_STATUS_NULL);
    EXPECT(strata_encode(ctx, &x, NULL, &codes), STRATA_STATUS_NULL);
    EXPECT(strata_encode(ctx, &x, &codes, NULL), STRATA_STATUS_NULL);
    hollow.offsets = NULL;
    EXPECT(strata_encode(ctx, &x, &hollow, &codes), STRATA_STATUS_NULL);
    hollow = codes, hollow.value = NULL;
    EXPECT(strata_encode(ctx, &x, &hollow, &codes), STRATA_STATUS_NULL);
    EXPECT(strata_decode(NULL, &codes, &codes, &to), STRATA_STATUS_NULL);
    EXPECT(strata_decode(ctx, &codes, &codes, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_reconstruct(NULL, &x, NULL, NULL, &to), STRATA_STATUS_NULL);
    EXPECT(strata_reconstruct(ctx, NULL, NULL, NULL, &to), STRATA_STATUS_NULL);
    EXPECT(strata_reconstruct(ctx, &x, NULL, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_reconstruct(ctx, &x, NULL, &codes, &to), STRATA_STATUS_NULL);
    CHECK(!strata_model_notes(NULL)[0] && !strata_model_notes(model)[0]);
    EXPECT(strata_steer(NULL, &to, &edit, 1), STRATA_STATUS_NULL);
    EXPECT(strata_steer(ctx, NULL, &edit, 1), STRATA_STATUS_NULL);
    EXPECT(strata_steer(ctx, &to, NULL, 1), STRATA_STATUS_NULL);
    EXPECT(strata_steer(ctx, &to, NULL, 0), STRATA_STATUS_OK);
    EXPECT(strata_stats_update(NULL, &x), STRATA_STATUS_NULL);
    EXPECT(strata_stats_update(ctx, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_stats_read(NULL, &stats), STRATA_STATUS_NULL);
    EXPECT(strata_stats_read(ctx, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_stats_merge(NULL, ctx), STRATA_STATUS_NULL);
    EXPECT(strata_stats_merge(ctx, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_stats_merge(ctx, ctx), STRATA_STATUS_PARAMS);
    EXPECT(strata_model_parents(NULL, &parent, 1), STRATA_STATUS_NULL);
    EXPECT(strata_model_parents(model, NULL, 64), STRATA_STATUS_NULL);
    EXPECT(strata_model_parents(model, &parent, 1), STRATA_STATUS_CAPACITY);
    EXPECT(strata_model_get_metadata(NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_model_get_metadata(model, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_create(NULL, NULL, &dump, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_create("x", NULL, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_create("x", NULL, &dump, NULL), STRATA_STATUS_SHAPE);
    EXPECT(strata_dump_append(NULL, &x, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_close(NULL, NULL), STRATA_STATUS_OK);
    strata_dump_abandon(NULL);
    EXPECT(strata_dump_set_vocab(NULL, NULL, 0, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_dump_mark_special(NULL, NULL, 0, NULL), STRATA_STATUS_NULL);
    CHECK(strata_ctx_message(NULL)[0]);
    strata_model_free(NULL);
    strata_ctx_free(NULL);
    strata_model_params_init(NULL);
    strata_ctx_params_init(NULL);
    strata_dump_params_init(NULL);
    CHECK(!model2 && !ctx2 && !dump && parent == 7);
    codes_free(&codes);
    free(data);
}

static void rows_and_buffers(strata_ctx *ctx, strata_model_info info) {
    size_t n = 67, d = info.d, bytes = n * d * sizeof(float);
    float *data = malloc(bytes);
    for (size_t i = 0; i < n * d; i++) data[i] = (float)((i * 7919) % 23) - 11.0f;
    strata_rows x = rows(data, n, d), bad = x;
    strata_codes a = codes_new(n, n * info.max_active1), b = codes_new(n, n * info.max_active2);
    EXPECT(strata_encode(ctx, &x, &a, &b), STRATA_STATUS_OK);

    /* The same rows at an odd address, every row at another alignment, in exactly as many bytes as are needed. */
    size_t stride = d * sizeof(float) + 3, needed = (n - 1) * stride + d * sizeof(float);
    char *odd = calloc(needed + 1, 1);
    for (size_t i = 0; i < n; i++) memcpy(odd + 1 + i * stride, data + i * d, d * sizeof(float));
    strata_rows off = x;
    off.data = odd + 1;
    off.row_stride_bytes = stride;
    strata_codes c = codes_new(n, a.n), e = codes_new(n, b.n);
    EXPECT(strata_encode(ctx, &off, &c, &e), STRATA_STATUS_OK);
    CHECK(c.n == a.n && e.n == b.n && !memcmp(a.offsets, c.offsets, (n + 1) * sizeof *a.offsets));
    CHECK(!memcmp(a.index, c.index, a.n * sizeof *a.index) && !memcmp(a.value, c.value, a.n * sizeof *a.value));
    strata_rows_mut to = {sizeof to, odd + 1, n, d, stride, STRATA_DTYPE_F32, 0};
    EXPECT(strata_decode(ctx, &c, &e, &to), STRATA_STATUS_OK);
    char *decoded = malloc(needed);
    memcpy(decoded, odd + 1, needed);
    for (size_t i = 0; i < n; i++) memcpy(odd + 1 + i * stride, data + i * d, d * sizeof(float));
    EXPECT(strata_reconstruct(ctx, &off, NULL, NULL, &to), STRATA_STATUS_OK); /* in place */
    CHECK(!memcmp(decoded, odd + 1, needed));
    free(decoded);
    strata_edit edits[] = {{1, 0, 1.0f, STRATA_EDIT_SET}, {2, 1, -1.0f, STRATA_EDIT_ADD}};
    EXPECT(strata_steer(ctx, &to, edits, 2), STRATA_STATUS_OK);
    EXPECT(strata_stats_update(ctx, &off), STRATA_STATUS_OK);

    /* Each buffer in turn has one element too few. */
    size_t need[] = {a.n, b.n};
    strata_codes small = codes_new(n, need[0] - 1);
    EXPECT(strata_encode(ctx, &x, &small, &e), STRATA_STATUS_CAPACITY);
    CHECK(small.n == need[0] && e.n == need[1]);
    codes_free(&small);
    small = codes_new(n, need[1] - 1);
    EXPECT(strata_encode(ctx, &x, &c, &small), STRATA_STATUS_CAPACITY);
    CHECK(small.n == need[1]);
    codes_free(&small);
    small = codes_new(n - 1, need[0]);
    EXPECT(strata_encode(ctx, &x, &small, &e), STRATA_STATUS_CAPACITY);
    CHECK(small.n == need[0]);
    codes_free(&small);
    strata_codes ask1 = {sizeof ask1, NULL, 0, NULL, NULL, 0, 0}, ask2 = ask1;
    EXPECT(strata_encode(ctx, &x, &ask1, &ask2), STRATA_STATUS_CAPACITY);
    CHECK(ask1.n == need[0] && ask2.n == need[1]);
    EXPECT(strata_model_decoder_row(NULL, 1, 0, data, d - 1), STRATA_STATUS_NULL);

    /* Invalid rows. */
    bad = x, bad.d = d - 1;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_SHAPE);
    CHECK(strstr(strata_ctx_message(ctx), "x: d: expected "));
    bad = x, bad.d = 0;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_SHAPE);
    bad = x, bad.row_stride_bytes = 1;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_SHAPE);
    bad = x, bad.n_rows = SIZE_MAX / 2;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_SHAPE);
    bad = x, bad.dtype = 77;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_DTYPE);
    bad = x, bad.reserved = 1;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_PARAMS);
    bad = x, bad.n_rows = 0, bad.data = NULL;
    EXPECT(strata_encode(ctx, &bad, &a, &b), STRATA_STATUS_OK);
    CHECK(a.n == 0 && b.n == 0 && a.offsets[0] == 0);
    static const float not_finite[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        float kept = data[n * d - 1];
        data[n * d - 1] = not_finite[i];
        EXPECT(strata_encode(ctx, &x, &a, &b), STRATA_STATUS_NOT_FINITE);
        EXPECT(strata_stats_update(ctx, &x), STRATA_STATUS_NOT_FINITE);
        data[n * d - 1] = kept;
    }

    /* Invalid codes. */
    EXPECT(strata_encode(ctx, &x, &c, &e), STRATA_STATUS_OK);
    uint32_t latent = c.index[0];
    c.index[0] = (uint32_t)info.f1;
    EXPECT(strata_decode(ctx, &c, &e, &to), STRATA_STATUS_INDEX);
    c.index[0] = latent;
    size_t offset = c.offsets[1];
    c.offsets[1] = SIZE_MAX;
    EXPECT(strata_decode(ctx, &c, &e, &to), STRATA_STATUS_SHAPE);
    c.offsets[1] = offset;
    c.offsets[n] = c.capacity + 1;
    EXPECT(strata_decode(ctx, &c, &e, &to), STRATA_STATUS_SHAPE);
    codes_free(&a), codes_free(&b), codes_free(&c), codes_free(&e);
    free(odd);
    free(data);
}

/* Lists, states and numbers of sequences that are wrong, and arrays of exactly as many elements as are needed. */
static void watches(strata_model *model, strata_ctx *ctx, strata_model_info info) {
    strata_watch *watch = NULL;
    uint32_t *one = malloc(2 * sizeof *one), *two = malloc(sizeof *two);
    one[0] = 3, one[1] = 0, two[0] = (uint32_t)info.f2 - 1;
    EXPECT(strata_watch_new(NULL, one, 2, two, 1, &watch, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_watch_new(model, NULL, 2, two, 1, &watch, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_watch_new(model, one, 2, NULL, 1, &watch, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_watch_new(model, one, 2, two, 1, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_watch_new(model, one, SIZE_MAX / 2, two, 1, &watch, NULL), STRATA_STATUS_PARAMS);
    two[0]++;
    EXPECT(strata_watch_new(model, one, 2, two, 1, &watch, NULL), STRATA_STATUS_INDEX);
    two[0]--, one[1] = 3;
    EXPECT(strata_watch_new(model, one, 2, two, 1, &watch, NULL), STRATA_STATUS_PARAMS);
    CHECK(!watch);
    one[1] = 0;
    EXPECT(strata_watch_new(model, one, 2, two, 1, &watch, NULL), STRATA_STATUS_OK);
    free(one), free(two);
    EXPECT(strata_watch_get_info(watch, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_watch_get_info(NULL, NULL), STRATA_STATUS_NULL);

    size_t n = 67, d = info.d;
    float *data = malloc(n * d * sizeof *data);
    for (size_t i = 0; i < n * d; i++) data[i] = (float)((i * 7919) % 23) - 11.0f;
    strata_rows x = rows(data, n, d);
    strata_codes a = codes_new(n, n * 2), b = codes_new(n, n);
    EXPECT(strata_encode_watched(ctx, NULL, &x, &a, &b), STRATA_STATUS_NULL);
    EXPECT(strata_encode_watched(NULL, watch, &x, &a, &b), STRATA_STATUS_NULL);
    EXPECT(strata_encode_watched(ctx, watch, NULL, &a, &b), STRATA_STATUS_NULL);
    EXPECT(strata_encode_watched(ctx, watch, &x, NULL, &b), STRATA_STATUS_NULL);
    EXPECT(strata_encode_watched(ctx, watch, &x, &a, &b), STRATA_STATUS_OK);
    CHECK(a.n > 0 && a.n <= 2 * n);
    strata_codes small = codes_new(n, a.n - 1);
    EXPECT(strata_encode_watched(ctx, watch, &x, &small, &b), STRATA_STATUS_CAPACITY);
    CHECK(small.n == a.n);
    codes_free(&small), codes_free(&a), codes_free(&b);
    free(data);
    strata_watch_free(watch);
    strata_watch_free(NULL);
}

static void probes(strata_model *model, strata_ctx *ctx, size_t d, const char *file) {
    strata_probe *probe = NULL;
    strata_probe_state *state = NULL;
    EXPECT(strata_probe_load(NULL, model, &probe, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_load(file, NULL, &probe, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_load(file, model, NULL, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_load("/nonexistent", model, &probe, NULL), STRATA_STATUS_IO);
    CHECK(!probe && strata_probe_heads(NULL) == 0);
    EXPECT(strata_probe_load(file, model, &probe, NULL), STRATA_STATUS_OK);
    size_t heads = strata_probe_heads(probe), n = 5, sequences = 3;
    strata_head_info head = {sizeof head, NULL, 0, 0, 0};
    EXPECT(strata_probe_get_head(probe, heads, &head), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_get_head(probe, SIZE_MAX, &head), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_get_head(probe, 0, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_get_head(NULL, 0, &head), STRATA_STATUS_NULL);
    EXPECT(strata_probe_get_head(probe, 0, &head), STRATA_STATUS_OK);
    CHECK(head.name[0] && head.n > 0);

    double *on = calloc(heads, sizeof *on), *off = calloc(heads, sizeof *off);
    strata_probe_state_params params;
    strata_probe_state_params_init(&params);
    strata_probe_state_params_init(NULL);
    params.n_sequences = 0;
    EXPECT(strata_probe_state_new(probe, &params, &state, NULL), STRATA_STATUS_PARAMS);
    params.n_sequences = SIZE_MAX;
    EXPECT(strata_probe_state_new(probe, &params, &state, NULL), STRATA_STATUS_MEMORY);
    params.n_sequences = sequences, params.on = on, params.off = off;
    off[heads - 1] = 1;
    EXPECT(strata_probe_state_new(probe, &params, &state, NULL), STRATA_STATUS_PARAMS);
    off[heads - 1] = NAN;
    EXPECT(strata_probe_state_new(probe, &params, &state, NULL), STRATA_STATUS_PARAMS);
    off[heads - 1] = -1;
    EXPECT(strata_probe_state_new(NULL, &params, &state, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_new(probe, &params, NULL, NULL), STRATA_STATUS_NULL);
    CHECK(!state);
    EXPECT(strata_probe_state_new(probe, &params, &state, NULL), STRATA_STATUS_OK);
    free(on), free(off);

    float *data = calloc(n * d, sizeof *data);
    uint32_t *of_row = calloc(n, sizeof *of_row);
    double *scores = calloc(n * heads, sizeof *scores);
    uint8_t *alarms = calloc(sequences * heads, 1);
    strata_rows x = rows(data, n, d);
    of_row[n - 1] = (uint32_t)sequences;
    EXPECT(strata_probe_score(ctx, probe, state, &x, of_row, scores, n * heads), STRATA_STATUS_INDEX);
    of_row[n - 1] = (uint32_t)sequences - 1;
    EXPECT(strata_probe_score(ctx, probe, state, &x, of_row, scores, n * heads - 1), STRATA_STATUS_CAPACITY);
    EXPECT(strata_probe_score(ctx, probe, NULL, &x, of_row, scores, n * heads), STRATA_STATUS_PARAMS);
    EXPECT(strata_probe_score(ctx, NULL, state, &x, of_row, scores, n * heads), STRATA_STATUS_NULL);
    EXPECT(strata_probe_score(NULL, probe, state, &x, of_row, scores, n * heads), STRATA_STATUS_NULL);
    EXPECT(strata_probe_score(ctx, probe, state, NULL, of_row, scores, n * heads), STRATA_STATUS_NULL);
    EXPECT(strata_probe_score(ctx, probe, state, &x, of_row, scores, n * heads), STRATA_STATUS_OK);
    EXPECT(strata_probe_score(ctx, probe, state, &x, NULL, NULL, 0), STRATA_STATUS_OK);
    EXPECT(strata_probe_score(ctx, probe, NULL, &x, NULL, scores, n * heads), STRATA_STATUS_OK);
    strata_probe_reading reading = {sizeof reading, 0, 0, 0, 0, 0, 0, 0, 0};
    EXPECT(strata_probe_state_read(state, 0, 0, &reading), STRATA_STATUS_OK);
    CHECK(reading.rows == n - 1 + n);
    EXPECT(strata_probe_state_read(state, (uint32_t)sequences, 0, &reading), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_state_read(state, UINT32_MAX, SIZE_MAX, &reading), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_state_read(state, 0, heads, &reading), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_state_read(state, 0, 0, NULL), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_read(NULL, 0, 0, &reading), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_alarms(state, alarms, sequences * heads - 1), STRATA_STATUS_CAPACITY);
    EXPECT(strata_probe_state_alarms(state, NULL, sequences * heads), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_alarms(NULL, alarms, 1), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_alarms(state, alarms, sequences * heads), STRATA_STATUS_OK);
    EXPECT(strata_probe_state_reset(state, (uint32_t)sequences), STRATA_STATUS_INDEX);
    EXPECT(strata_probe_state_reset(NULL, 0), STRATA_STATUS_NULL);
    EXPECT(strata_probe_state_reset(state, 0), STRATA_STATUS_OK);
    data[d] = INFINITY;
    EXPECT(strata_probe_score(ctx, probe, state, &x, of_row, scores, n * heads), STRATA_STATUS_NOT_FINITE);
    strata_probe_free(probe); /* before its state */
    EXPECT(strata_probe_state_read(state, 0, 0, &reading), STRATA_STATUS_OK);
    CHECK(reading.rows == 0 && isnan(reading.max));
    strata_probe_state_free(state);
    strata_probe_state_free(NULL);
    strata_probe_free(NULL);
    free(data), free(of_row), free(scores), free(alarms);
}

/* Structs of exactly as many bytes as they say. */
static void structs_of_other_sizes(strata_model *model, strata_ctx *ctx, size_t d) {
    float *data = calloc(d, sizeof *data);
    strata_rows x = rows(data, 1, d);
    strata_codes a = codes_new(1, 64), b = codes_new(1, 64);
    for (size_t size = sizeof(size_t); size <= sizeof x; size += sizeof(size_t)) {
        strata_rows *cut = copy(&x, size);
        cut->struct_size = size;
        int whole = size > offsetof(strata_rows, row_stride_bytes);
        strata_status expected = whole ? STRATA_STATUS_OK : STRATA_STATUS_SHAPE; /* d or the stride is 0 */
        EXPECT(strata_encode(ctx, cut, &a, &b), expected);
        free(cut);
    }
    for (size_t size = 0; size < sizeof(size_t); size++) {
        size_t only = size;
        EXPECT(strata_encode(ctx, (const strata_rows *)&only, &a, &b), STRATA_STATUS_PARAMS);
    }
    unsigned char *longer = calloc(1, sizeof x + 16);
    x.struct_size = sizeof x + 16;
    memcpy(longer, &x, sizeof x);
    EXPECT(strata_encode(ctx, (strata_rows *)longer, &a, &b), STRATA_STATUS_OK);
    longer[sizeof x + 15] = 1;
    EXPECT(strata_encode(ctx, (strata_rows *)longer, &a, &b), STRATA_STATUS_PARAMS);
    free(longer);
    size_t *short_info = malloc(2 * sizeof *short_info);
    short_info[0] = 2 * sizeof *short_info;
    EXPECT(strata_model_get_info(model, (strata_model_info *)short_info), STRATA_STATUS_OK);
    CHECK(short_info[0] == 2 * sizeof *short_info && short_info[1] == d);
    for (size_t size = 0; size <= sizeof(strata_error); size++) {
        size_t *err = calloc(1, size < sizeof *err ? sizeof *err : size);
        *err = size;
        strata_model *out = NULL;
        EXPECT(strata_model_load("/nonexistent", NULL, &out, (strata_error *)err), STRATA_STATUS_IO);
        free(err);
    }
    strata_ctx *other = NULL;
    strata_ctx_params params = {sizeof params, 1025, 0};
    EXPECT(strata_ctx_new(model, &params, &other, NULL), STRATA_STATUS_PARAMS);
    params.n_threads = UINT32_MAX;
    EXPECT(strata_ctx_new(model, &params, &other, NULL), STRATA_STATUS_PARAMS);
    CHECK(!other);
    free(short_info);
    codes_free(&a), codes_free(&b);
    free(data);
}

int main(int argc, char **argv) {
    if (argc != 3) return fputs("usage: hostile SAE_DIR HEADS.safetensors\n", stderr), 2;
    strata_model *model = NULL;
    strata_ctx *ctx = NULL;
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    EXPECT(strata_model_load(argv[1], NULL, &model, NULL), STRATA_STATUS_OK);
    EXPECT(strata_model_get_info(model, &info), STRATA_STATUS_OK);
    EXPECT(strata_ctx_new(model, NULL, &ctx, NULL), STRATA_STATUS_OK);
    if (failures) return 1;
    nothing_where_something_is_needed(model, ctx, info.d);
    rows_and_buffers(ctx, info);
    watches(model, ctx, info);
    probes(model, ctx, info.d, argv[2]);
    structs_of_other_sizes(model, ctx, info.d);
    dumps(info.d);
    strata_model_free(model); /* before its context */
    strata_ctx_free(ctx);
    damaged_files(argv[1]);
    if (!failures) printf("hostile ok\n");
    return failures ? 1 : 0;
}
