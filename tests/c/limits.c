/* Under a limit on memory every call ends with a status: loading, contexts with and without threads, encoding, statistics and
 * dumps with rows up to the widest, each limit in a process of its own. usage: limits SAE_DIR SCRATCH_DIR */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strata.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *model_path;
static char dump_path[4096];

static void die(const char *what) {
    fprintf(stderr, "limits: %s\n", what);
    exit(1);
}

static rlim_t mapped(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lu", &pages) != 1) die("/proc/self/statm cannot be read");
    fclose(f);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static strata_status use_model(uint32_t weights, uint32_t n_threads) {
    strata_error err = {sizeof err, 0, 0, {0}};
    strata_model *model = NULL;
    strata_model_params how = {sizeof how, weights, 0};
    strata_status status = strata_model_load(model_path, &how, &model, &err);
    if (status) return status;
    strata_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    strata_model_get_info(model, &info);
    strata_ctx *ctx = NULL;
    strata_ctx_params params = {sizeof params, n_threads, 0};
    status = strata_ctx_new(model, &params, &ctx, &err);
    if (status) return status;
    float *data = calloc(64 * info.d, sizeof *data);
    if (!data) return STRATA_STATUS_MEMORY;
    for (size_t i = 0; i < 64 * info.d; i++) data[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    strata_rows x = {sizeof x, data, 64, info.d, info.d * sizeof *data, STRATA_DTYPE_F32, 0};
    strata_codes level1 = {sizeof level1, NULL, 0, NULL, NULL, 0, 0}, level2 = level1;
    status = strata_encode(ctx, &x, &level1, &level2);
    return status && status != STRATA_STATUS_CAPACITY ? status : strata_stats_update(ctx, &x);
}

static strata_status use_dump(size_t d) {
    strata_error err = {sizeof err, 0, 0, {0}};
    strata_dump_params params;
    strata_dump_params_init(&params);
    params.d = d;
    strata_dump *dump = NULL;
    strata_status status = strata_dump_create(dump_path, &params, &dump, &err);
    strata_dump_abandon(dump);
    return status;
}

/* Runs case `what` with a limit of `extra` MiB above what is mapped already. */
static strata_status run(int what, unsigned extra) {
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {mapped() + ((rlim_t)extra << 20), 0};
        limit.rlim_max = limit.rlim_cur;
        if (setrlimit(RLIMIT_AS, &limit)) _exit(98);
        _exit(what == 0 ? use_model(STRATA_WEIGHTS_F32, 1) : what == 1 ? use_model(STRATA_WEIGHTS_INT8, 4) : use_dump(what == 2 ? 4096 : 1u << 28));
    }
    int ended = 0;
    if (child < 0 || waitpid(child, &ended, 0) != child) die("fork");
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : -WTERMSIG(ended);
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: limits SAE_DIR SCRATCH_DIR");
    model_path = argv[1];
    snprintf(dump_path, sizeof dump_path, "%s/dump", argv[2]);
    static const char *names[] = {"one thread", "four threads and int8", "a dump of width 4096", "a dump of width 2^28"};
    for (int what = 0; what < 4; what++) {
        int memory = 0, fine = 0;
        for (unsigned extra = 1; extra < (what == 3 ? 6000 : 400); extra += what == 3 ? 97 : extra < 64 ? 1 : 13) {
            strata_status status = run(what, extra);
            memory += status == STRATA_STATUS_MEMORY;
            fine += status == STRATA_STATUS_OK;
            if (status == STRATA_STATUS_OK || status == STRATA_STATUS_MEMORY) continue;
            /* A mapped file counts as memory too: if the map is refused, the file is read, which then fails as well. */
            fprintf(stderr, "limits: %s, %u MiB: expected a status of memory, found %d (%s)\n", names[what], extra, status,
                    status < 0 ? "killed by that signal" : strata_status_name(status));
            return 1;
        }
        printf("%s: %d limits refused, %d enough\n", names[what], memory, fine);
        if (!memory || !fine) die("expected limits of both kinds");
    }
    return 0;
}
