/* Threads of a context: they have ended when strata_ctx_free returns; in the child of a fork the context says that they are
 * missing instead of waiting for them for ever. usage: leave SAE_DIR */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strata.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "leave: %s\n", what);
    exit(1);
}

static int threads(void) {
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) die("/proc/self/task cannot be read");
    while (readdir(tasks)) n++;
    closedir(tasks);
    return n;
}

int main(int argc, char **argv) {
    strata_error err = {sizeof err, 0, 0, {0}};
    strata_model *model = NULL;
    if (argc < 2 || strata_model_load(argv[1], NULL, &model, &err)) die(err.message);
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    strata_model_get_info(model, &info);
    float *data = calloc(64 * info.d, sizeof *data);
    if (!data) die("out of memory");
    strata_rows x = {sizeof x, data, 64, info.d, info.d * sizeof *data, STRATA_DTYPE_F32, 0};
    size_t offsets[2][65];
    strata_codes codes[2] = {{sizeof codes[0], offsets[0], 65, NULL, NULL, 0, 0}, {sizeof codes[0], offsets[1], 65, NULL, NULL, 0, 0}};
    strata_ctx_params params = {sizeof params, 8, 0};
    for (int round = 0; round < 50; round++) {
        strata_ctx *ctx = NULL;
        int before = threads();
        if (strata_ctx_new(model, &params, &ctx, &err)) die(err.message);
        if (threads() != before + 8) die("expected 8 threads more");
        strata_status status = strata_encode(ctx, &x, &codes[0], &codes[1]);
        if (status && status != STRATA_STATUS_CAPACITY) die(strata_ctx_message(ctx));
        if (round == 0) {
            pid_t child = fork();
            if (child == 0) {
                alarm(20);
                if (strata_encode(ctx, &x, &codes[0], &codes[1]) != STRATA_STATUS_BUSY) _exit(2);
                if (!strstr(strata_ctx_message(ctx), "fork")) _exit(3);
                strata_ctx_free(ctx);
                strata_ctx *own = NULL;
                if (strata_ctx_new(model, &params, &own, NULL)) _exit(4);
                status = strata_encode(own, &x, &codes[0], &codes[1]);
                _exit(status && status != STRATA_STATUS_CAPACITY ? 5 : 0);
            }
            int ended = 0;
            if (child < 0 || waitpid(child, &ended, 0) != child) die("fork");
            if (!WIFEXITED(ended) || WEXITSTATUS(ended)) die("in the child of a fork: expected BUSY with a sentence, then codes");
        }
        strata_ctx_free(ctx);
        if (threads() != before) die("strata_ctx_free has returned before the threads have ended");
    }
    free(data);
    strata_model_free(model);
    puts("leave ok");
    return 0;
}
