/* Watches some latents and scores the heads of a probe on rows of float from a file, one row per call, as an engine decodes.
 * usage: score RUN HEADS.safetensors ROWS.f32        the heads are written by `strata probe RUN --save-head`
 * cc -std=c99 -Iinclude examples/score.c -lstrata -o score */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strata.h>

static strata_error err = {.struct_size = sizeof err};

static void check(strata_status status, const char *why) {
    if (status) fprintf(stderr, "%s: %s\n", strata_status_name(status), why), exit(1);
}

int main(int argc, char **argv) {
    strata_model *model;
    strata_ctx *ctx;
    strata_watch *watch;
    strata_probe *probe;
    strata_probe_state *state;
    if (argc != 4 || strata_abi_version() != STRATA_ABI_VERSION) return fputs("usage: score RUN HEADS ROWS\n", stderr), 2;
    check(strata_model_load(argv[1], NULL, &model, &err), err.message);
    check(strata_ctx_new(model, NULL, &ctx, &err), err.message);
    const uint32_t listed[] = {0, 1, 2, 3, 4, 5, 6, 7}; /* of both levels */
    check(strata_watch_new(model, listed, 8, listed, 8, &watch, &err), err.message);
    check(strata_probe_load(argv[2], model, &probe, &err), err.message);
    check(strata_probe_state_new(probe, NULL, &state, &err), err.message);

    strata_model_info info = {.struct_size = sizeof info};
    check(strata_model_get_info(model, &info), "sizes");
    float *row = calloc(info.d, sizeof *row), value[2][8];
    uint32_t index[2][8];
    size_t offsets[2][2];
    strata_codes codes[2];
    for (int l = 0; l < 2; l++) codes[l] = (strata_codes){sizeof codes[l], offsets[l], 2, index[l], value[l], 8, 0};
    const strata_rows x = {sizeof x, row, 1, info.d, info.d * sizeof *row, STRATA_DTYPE_F32, 0};
    FILE *file = fopen(argv[3], "rb");
    for (size_t i = 0; file && fread(row, sizeof *row, info.d, file) == info.d; i++) {
        check(strata_encode_watched(ctx, watch, &x, &codes[0], &codes[1]), strata_ctx_message(ctx));
        check(strata_probe_score(ctx, probe, state, &x, NULL, NULL, 0), strata_ctx_message(ctx));
        for (int l = 0; l < 2; l++)
            for (size_t e = 0; e < codes[l].n; e++)
                printf("row %zu: latent %d:%" PRIu32 " at %g\n", i, l + 1, index[l][e], (double)value[l][e]);
    }
    for (size_t h = 0; h < strata_probe_heads(probe); h++) {
        strata_head_info head = {.struct_size = sizeof head};
        strata_probe_reading is = {.struct_size = sizeof is};
        check(strata_probe_get_head(probe, h, &head), "head");
        check(strata_probe_state_read(state, 0, h, &is), "state");
        printf("%s: %" PRIu64 " rows, mean %g, largest %g at row %" PRIu64 "\n", head.name, is.rows, is.mean, is.max, is.max_row);
    }
    if (file) fclose(file);
    free(row);
    strata_probe_state_free(state), strata_probe_free(probe), strata_watch_free(watch), strata_ctx_free(ctx), strata_model_free(model);
    return 0;
}
