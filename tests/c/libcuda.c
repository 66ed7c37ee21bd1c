/* A driver for tests, built as libcuda.so: as many GPUs as STRATA_FAKE_GPUS says, of the compute capability STRATA_FAKE_CAPABILITY (as
 * in 80). Where the library of the emulator is loaded before (LD_PRELOAD), they compute: memory is that of the process, and launches that
 * a GPU would refuse are refused. A process notes the GPU that it opens in the file STRATA_FAKE_LOG, with its rank. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, INVALID_DEVICE = 101, NO_CONTEXT = 201, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
/* Attributes of a device and of a kernel. */
enum { MAJOR = 75, MINOR = 76, SHARED_OPTIN = 97, STATIC_SHARED = 1, MOST_DYNAMIC_SHARED = 8 };
enum { SHARED_BYTES = 227 << 10, OWN_BYTES = 1 << 10, WITHOUT_ASKING = 48 << 10, ALIGNED = 256, MOST_KERNELS = 256, MOST_GPUS = 64 };

typedef int emulate_fn(const char *, const unsigned *, const unsigned *, unsigned, unsigned, void **, char *, size_t);
typedef struct { char name[64]; int most_shared; } kernel;

static int contexts[MOST_GPUS];
static kernel kernels[MOST_KERNELS];
static int n_kernels;
static const char *ptx;
static emulate_fn *emulate;
static __thread int *current;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

#define API __attribute__((visibility("default"))) int
API cuInit(unsigned flags) { (void)flags; return number("STRATA_FAKE_INIT", OK); }
API cuDeviceGetCount(int *count) { *count = number("STRATA_FAKE_GPUS", 0); return OK; }
API cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < MOST_GPUS && ordinal < number("STRATA_FAKE_GPUS", 0) ? OK : INVALID_DEVICE;
}

API cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("STRATA_FAKE_CAPABILITY", 70);
    (void)device;
    *value = attribute == MAJOR ? capability / 10 : attribute == MINOR ? capability % 10 : attribute == SHARED_OPTIN ? SHARED_BYTES : 0;
    return OK;
}

API cuDeviceGetName(char *name, int room, int device) { snprintf(name, (size_t)room, "emulated GPU %d", device); return OK; }

API cuDevicePrimaryCtxRetain(int **context, int device) {
    const char *log = getenv("STRATA_FAKE_LOG"), *rank = getenv("RANK");
    emulate = (emulate_fn *)(size_t)dlsym(dlopen(NULL, RTLD_NOW), "strata_emulate");
    if (log) {
        FILE *file = fopen(log, "a");
        if (!file) return perror(log), NOT_FOUND;
        fprintf(file, "rank %s: GPU %d\n", rank ? rank : "0", device);
        fclose(file);
    }
    *context = &contexts[device];
    return OK;
}

API cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
API cuCtxSetCurrent(int *context) { current = context; return OK; }
API cuCtxGetCurrent(int **context) { *context = current; return OK; }

/* The module is text, and has the kernels that it names. */
API cuModuleLoadData(void **module, const void *image) {
    if (!current) return NO_CONTEXT;
    free((char *)ptx), ptx = strdup(image), *module = (void *)ptx;
    return strstr(ptx, ".version") ? OK : INVALID_VALUE;
}

API cuModuleUnload(void *module) { (void)module; return OK; }

API cuModuleGetFunction(kernel **found, void *module, const char *name) {
    char entry[128];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (module != ptx || !strstr(ptx, entry) || n_kernels == MOST_KERNELS) return NOT_FOUND;
    *found = &kernels[n_kernels++];
    snprintf((*found)->name, sizeof (*found)->name, "%s", name);
    (*found)->most_shared = WITHOUT_ASKING - OWN_BYTES;
    return OK;
}

API cuFuncGetAttribute(int *value, int attribute, kernel *of) {
    *value = attribute == MOST_DYNAMIC_SHARED ? of->most_shared : attribute == STATIC_SHARED ? OWN_BYTES : 0;
    return OK;
}

API cuFuncSetAttribute(kernel *of, int attribute, int value) {
    if (attribute != MOST_DYNAMIC_SHARED || value > SHARED_BYTES - OWN_BYTES) return INVALID_VALUE;
    of->most_shared = value;
    return OK;
}

API cuMemGetInfo_v2(size_t *available, size_t *total) { *available = *total = (size_t)4 << 30; return current ? OK : NO_CONTEXT; }

/* What was never written is NaN. */
API cuMemAlloc_v2(size_t *address, size_t bytes) {
    size_t all = (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    void *block = NULL;
    if (!current) return NO_CONTEXT;
    if (!bytes) return INVALID_VALUE;
    if (posix_memalign(&block, ALIGNED, all)) return OUT_OF_MEMORY;
    memset(block, 0xff, all), *address = (size_t)block;
    return OK;
}

API cuMemFree_v2(size_t address) { free((void *)address); return current ? OK : NO_CONTEXT; }
API cuMemcpyHtoD_v2(size_t to, const void *from, size_t bytes) { return current ? memcpy((void *)to, from, bytes), OK : NO_CONTEXT; }
API cuMemcpyDtoH_v2(void *to, size_t from, size_t bytes) { return current ? memcpy(to, (void *)from, bytes), OK : NO_CONTEXT; }

API cuMemsetD8Async(size_t address, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    return current ? memset((void *)address, value, bytes), OK : NO_CONTEXT;
}

API cuStreamSynchronize(void *stream) { (void)stream; return current ? OK : NO_CONTEXT; }

API cuLaunchKernel(kernel *of, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned of_y, unsigned of_z, unsigned shared, void *stream,
                   void **parameters, void **extra) {
    const unsigned grid[3] = {x, y, z}, block[3] = {threads, of_y, of_z};
    char why[256];
    (void)stream, (void)extra;
    if (!current) return NO_CONTEXT;
    if (!x || !y || !z || x > 0x7fffffff || y > 65535 || z > 65535) return INVALID_VALUE;
    if (!threads || threads * of_y * of_z > 1024 || shared > (unsigned)of->most_shared || !emulate) return INVALID_VALUE;
    if (emulate(of->name, grid, block, shared, 0, parameters, why, sizeof why)) return fprintf(stderr, "%s\n", why), LAUNCH_FAILED;
    return OK;
}
