/* Loads a model, encodes the rows of a file of floats, and prints the latents of the first rows.
 * usage: minimal RUN [ROWS.f32]        without a file: one row of ones
 * cc -std=c99 -Iinclude examples/minimal.c -lstrata -o minimal */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strata.h>

static int fail(const char *what, strata_status status, const strata_error *err) {
    fprintf(stderr, "%s: %s: %s\n", what, strata_status_name(status), err->message);
    return 1;
}

static strata_codes codes_new(size_t n_rows, size_t max_active) {
    strata_codes codes = {.struct_size = sizeof codes};
    codes.offsets_len = n_rows + 1;
    codes.offsets = calloc(codes.offsets_len, sizeof *codes.offsets);
    codes.capacity = n_rows * max_active;
    codes.index = calloc(codes.capacity + 1, sizeof *codes.index);
    codes.value = calloc(codes.capacity + 1, sizeof *codes.value);
    return codes;
}

static void codes_print(const char *name, const strata_codes *codes, size_t row) {
    printf("row %zu %s:", row, name);
    for (size_t e = codes->offsets[row]; e < codes->offsets[row + 1]; e++)
        printf(" %" PRIu32 "=%g", codes->index[e], (double)codes->value[e]);
    printf("\n");
}

static void codes_free(strata_codes *codes) {
    free(codes->offsets);
    free(codes->index);
    free(codes->value);
}

int main(int argc, char **argv) {
    strata_error err = {.struct_size = sizeof err};
    strata_model *model = NULL;
    strata_ctx *ctx = NULL;
    strata_model_info info = {.struct_size = sizeof info};
    strata_status status;

    if (argc < 2) return fputs("usage: minimal RUN [ROWS.f32]\n", stderr), 2;
    if (strata_abi_version() != STRATA_ABI_VERSION) return fputs("another strata than this was compiled for\n", stderr), 2;
    status = strata_model_load(argv[1], NULL, &model, &err);
    if (status) return fail(argv[1], status, &err);
    status = strata_model_get_info(model, &info);
    if (status) return fail("info", status, &err);
    status = strata_ctx_new(model, NULL, &ctx, &err);
    if (status) return fail("context", status, &err);
    strata_model_free(model); /* the context keeps it */

    enum { MOST_ROWS = 256 };
    float *data = calloc(MOST_ROWS * info.d, sizeof *data);
    size_t n = 1;
    if (argc > 2) {
        FILE *file = fopen(argv[2], "rb");
        if (!file) return perror(argv[2]), 1;
        n = fread(data, info.d * sizeof *data, MOST_ROWS, file);
        fclose(file);
    } else {
        for (size_t j = 0; j < info.d; j++) data[j] = 1.0f;
    }

    strata_rows x = {.struct_size = sizeof x, .data = data, .n_rows = n, .d = info.d};
    x.row_stride_bytes = info.d * sizeof *data;
    x.dtype = STRATA_DTYPE_F32;
    strata_codes level1 = codes_new(n, info.max_active1), level2 = codes_new(n, info.max_active2);
    status = strata_encode(ctx, &x, &level1, &level2);
    if (status) return fprintf(stderr, "encode: %s\n", strata_ctx_message(ctx)), 1;
    printf("d %zu, latents %zu and %zu; %zu rows, %zu and %zu codes\n", info.d, info.f1, info.f2, n, level1.n, level2.n);
    for (size_t row = 0; row < n && row < 3; row++) {
        codes_print("level 1", &level1, row);
        codes_print("level 2", &level2, row);
    }

    codes_free(&level1);
    codes_free(&level2);
    free(data);
    strata_ctx_free(ctx);
    return 0;
}
