/* Watches eight latents of each level on rows of float from a file, one row per call, as an engine decodes.
 * usage: watch_rows RUN ROWS.f32
 * cc -std=c99 -Iinclude examples/watch_rows.c -lstrata -o watch_rows */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strata.h>

int main(int argc, char **argv) {
    if (argc != 3 || strata_abi_version() != STRATA_ABI_VERSION) return fputs("usage: watch_rows RUN ROWS.f32\n", stderr), 2;
    strata_error err = {.struct_size = sizeof err};
    strata_model *model;
    strata_ctx *ctx;
    strata_watch *watch;
    const uint32_t listed[] = {0, 1, 2, 3, 4, 5, 6, 7}; /* of both levels */
    if (strata_model_load(argv[1], NULL, &model, &err) || strata_ctx_new(model, NULL, &ctx, &err) ||
        strata_watch_new(model, listed, 8, listed, 8, &watch, &err))
        return fprintf(stderr, "%s\n", err.message), 1;
    strata_model_info info = {.struct_size = sizeof info};
    strata_model_get_info(model, &info);
    float *row = calloc(info.d, sizeof *row), value[2][8];
    uint32_t index[2][8];
    size_t offsets[2][2];
    strata_codes codes[2];
    for (int l = 0; l < 2; l++) codes[l] = (strata_codes){sizeof codes[l], offsets[l], 2, index[l], value[l], 8, 0};
    const strata_rows x = {sizeof x, row, 1, info.d, info.d * sizeof *row, STRATA_DTYPE_F32, 0};
    FILE *file = fopen(argv[2], "rb");
    if (!file || !row) return perror(argv[2]), 1;
    for (size_t i = 0; fread(row, sizeof *row, info.d, file) == info.d; i++) {
        if (strata_encode_watched(ctx, watch, &x, &codes[0], &codes[1]))
            return fprintf(stderr, "%s\n", strata_ctx_message(ctx)), 1;
        for (int l = 0; l < 2; l++)
            for (size_t e = 0; e < codes[l].n; e++)
                printf("row %zu: latent %d:%" PRIu32 " at %g\n", i, l + 1, index[l][e], (double)value[l][e]);
    }
    if (ferror(file)) return perror(argv[2]), 1;
    fclose(file), free(row);
    strata_watch_free(watch), strata_ctx_free(ctx), strata_model_free(model);
    return 0;
}
