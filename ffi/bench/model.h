/* Writes a model with random weights, in the files that a run has. */
#ifndef STRATA_BENCH_MODEL_H
#define STRATA_BENCH_MODEL_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    size_t d, f1, f2, k1, k2;
    /* 0: topk. Else relu, with so much taken from pre-activations, which have variance 1 on rows of normal numbers. */
    double threshold;
} bench_shape;

static void die(const char *what, const char *why) {
    fprintf(stderr, "host: %s: %s\n", what, why);
    exit(1);
}

/* Uniform in (0, 1), by xorshift64*. */
static double uniform(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return ((double)((state * 2685821657736338717u) >> 11) + 0.5) / 9007199254740992.0;
}

static float normal(void) { return (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform())); }

static FILE *create(const char *dir, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (!file) die("writing", path);
    return file;
}

/* Rows of norm 1; where a row is one number, that is `single`. */
static void write_rows(FILE *file, size_t rows, size_t width, float single) {
    float *row = calloc(width, sizeof *row);
    if (!row) die("writing", "no memory");
    for (size_t r = 0; r < rows; r++) {
        double squares = 0.0;
        if (width == 1) row[0] = single;
        for (size_t c = 0; width > 1 && c < width; c++) {
            row[c] = normal();
            squares += (double)row[c] * (double)row[c];
        }
        for (size_t c = 0; width > 1 && c < width; c++) row[c] /= (float)sqrt(squares);
        if (fwrite(row, sizeof *row, width, file) != width) die("writing", "sae_weights.safetensors");
    }
    free(row);
}

/* Flat where f2 is 0, else behind a hard gate, with families of eight. Returns the bytes of the weights. */
static size_t write_model(const char *dir, bench_shape s) {
    mkdir(dir, 0777);
    FILE *file = create(dir, "cfg.json");
    fprintf(file,
            "{\"format\":\"strata-sae\",\"version\":1,\"architecture\":{\"model\":\"tree\",\"d\":%zu,\"f1\":%zu,\"f2\":%zu,"
            "\"activation1\":\"%s\",\"activation2\":\"%s\",\"k1\":%zu,\"k2\":%zu,\"source\":\"x\",\"decoder\":\"cum\","
            "\"gate\":\"%s\"}}\n",
            s.d, s.f1, s.f2, s.threshold > 0 ? "relu" : "topk", s.threshold > 0 ? "relu" : "topk", s.k1, s.f2 ? s.k2 : 1, s.f2 ? "hard" : "none");
    if (fclose(file)) die("writing", "cfg.json");

    static const char *const names[] = {"b_dec",        "level1.w_enc", "level1.b_enc", "level1.w_dec",
                                        "level2.w_enc", "level2.b_enc", "level2.w_dec", "parent"};
    const size_t rows[] = {s.d, s.f1, s.f1, s.f1, s.f2, s.f2, s.f2, s.f2}, widths[] = {1, s.d, 1, s.d, s.d, 1, s.d, 1};
    const size_t n_tensors = s.f2 ? 8 : 4;
    char header[2048];
    size_t len = 0, at = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        size_t end = at + 4 * rows[i] * widths[i];
        char shape[64];
        snprintf(shape, sizeof shape, widths[i] > 1 ? "%zu,%zu" : "%zu", rows[i], widths[i]);
        len += (size_t)snprintf(header + len, sizeof header - len,
                                "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", i ? ',' : '{',
                                names[i], i == 7 ? "U32" : "F32", shape, at, end);
        at = end;
    }
    header[len++] = '}';
    while (len % 8) header[len++] = ' ';
    file = create(dir, "sae_weights.safetensors");
    uint64_t header_len = len; /* little-endian, as the machines of this bench are */
    if (fwrite(&header_len, 8, 1, file) != 1 || fwrite(header, 1, len, file) != len) die("writing", dir);
    for (size_t i = 0; i < n_tensors; i++) {
        if (i < 7) {
            write_rows(file, rows[i], widths[i], i == 2 || i == 5 ? (float)-s.threshold : 0.0f);
            continue;
        }
        for (uint32_t child = 0; child < s.f2; child++) {
            uint32_t parent = (uint32_t)(child / 8 % s.f1);
            if (fwrite(&parent, 4, 1, file) != 1) die("writing", dir);
        }
    }
    if (fclose(file)) die("writing", dir);
    return 8 + len + at;
}

#endif
