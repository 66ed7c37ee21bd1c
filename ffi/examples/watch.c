/* Watches a few latents of two sequences, and scores both with the heads of a probe, one call each per decode step.
 * usage: watch RUN HEADS.safetensors        the heads are written by `strata probe RUN --save-head`
 * cc -std=c99 -Iinclude examples/watch.c -lstrata -o watch */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strata.h>

enum { STEPS = 3, SEQUENCES = 2 };

static strata_error err = {.struct_size = sizeof err};

static void check(strata_status status, const char *message) {
    if (status) fprintf(stderr, "%s: %s\n", strata_status_name(status), message), exit(1);
}

static void print(const char *name, const strata_codes *codes, size_t row) {
    printf(" %s", name);
    for (size_t e = codes->offsets[row]; e < codes->offsets[row + 1]; e++)
        printf(" %" PRIu32 "=%g", codes->index[e], (double)codes->value[e]);
}

int main(int argc, char **argv) {
    strata_model *model = NULL;
    strata_ctx *ctx = NULL;
    strata_watch *watch = NULL;
    strata_probe *probe = NULL;
    strata_probe_state *state = NULL;
    if (argc != 3) return fputs("usage: watch RUN HEADS.safetensors\n", stderr), 2;
    check(strata_model_load(argv[1], NULL, &model, &err), err.message);
    check(strata_ctx_new(model, NULL, &ctx, &err), err.message);
    strata_model_info info = {.struct_size = sizeof info};
    check(strata_model_get_info(model, &info), "info");

    /* The lists, what they cost, and the running scores of each sequence. */
    const uint32_t parents[] = {3, 5}, children[] = {4, 12};
    check(strata_watch_new(model, parents, 2, children, 2, &watch, &err), err.message);
    strata_watch_info cost = {.struct_size = sizeof cost};
    check(strata_watch_get_info(watch, &cost), "watch");
    printf("computed: %zu of %zu and %zu of %zu latents\n", cost.computed1, info.f1, cost.computed2, info.f2);
    check(strata_probe_load(argv[2], model, &probe, &err), err.message);
    strata_probe_state_params params;
    strata_probe_state_params_init(&params);
    params.n_sequences = SEQUENCES;
    check(strata_probe_state_new(probe, &params, &state, &err), err.message);

    size_t heads = strata_probe_heads(probe), offsets1[SEQUENCES + 1], offsets2[SEQUENCES + 1];
    uint32_t index1[2 * SEQUENCES], index2[2 * SEQUENCES];
    float value1[2 * SEQUENCES], value2[2 * SEQUENCES];
    strata_codes level1 = {sizeof level1, offsets1, SEQUENCES + 1, index1, value1, 2 * SEQUENCES, 0};
    strata_codes level2 = {sizeof level2, offsets2, SEQUENCES + 1, index2, value2, 2 * SEQUENCES, 0};
    float *hidden = calloc(SEQUENCES * info.d, sizeof *hidden);
    const uint32_t sequence_of_row[SEQUENCES] = {0, 1};
    for (int step = 0; step < STEPS; step++) {
        /* An engine has the rows of its batch here: one of each sequence. */
        for (size_t i = 0; i < SEQUENCES * info.d; i++) hidden[i] = (i < info.d ? 1.0f : -0.5f) * (float)(step + 1);
        strata_rows x = {sizeof x, hidden, SEQUENCES, info.d, info.d * sizeof *hidden, STRATA_DTYPE_F32, 0};
        if (strata_encode_watched(ctx, watch, &x, &level1, &level2) ||
            strata_probe_score(ctx, probe, state, &x, sequence_of_row, NULL, 0))
            return fprintf(stderr, "%s\n", strata_ctx_message(ctx)), 1;
        for (size_t row = 0; row < SEQUENCES; row++) {
            printf("step %d, sequence %zu:", step, row);
            print("parents", &level1, row);
            print("children", &level2, row);
            printf("\n");
        }
    }
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (size_t h = 0; h < heads; h++) {
            strata_probe_reading r = {.struct_size = sizeof r};
            strata_head_info head = {.struct_size = sizeof head};
            check(strata_probe_get_head(probe, h, &head), "head");
            check(strata_probe_state_read(state, s, h, &r), "reading");
            printf("sequence %" PRIu32 ", %s: mean %g, maximum %g at row %" PRIu64 ", %s\n", s, head.name, r.mean, r.max,
                   r.max_row, r.is_on ? "alarm" : "quiet");
        }
    free(hidden);
    strata_probe_state_free(state);
    strata_probe_free(probe);
    strata_watch_free(watch);
    strata_ctx_free(ctx);
    strata_model_free(model);
    return 0;
}
