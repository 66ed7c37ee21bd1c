/* A driver for tests: as many GPUs as STRATA_FAKE_GPUS says, of the compute capability STRATA_FAKE_CAPABILITY (as in 70), and
 * nothing behind them. Built as libcuda.so. */
#include <stdlib.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int ordinal);
int cuDeviceGetAttribute(int *value, int attribute, int device);

int cuInit(unsigned flags) {
    (void)flags;
    return number("STRATA_FAKE_INIT", 0);
}

int cuDeviceGetCount(int *count) {
    *count = number("STRATA_FAKE_GPUS", 0);
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("STRATA_FAKE_CAPABILITY", 70);
    (void)device;
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
    return 0;
}
