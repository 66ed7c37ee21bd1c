/* The start of a program for Linux on x86-64, without a libc. */
typedef unsigned long size;

void *memcpy(void *to, const void *from, size n) {
    char *t = to;
    const char *f = from;
    for (size i = 0; i < n; i++) t[i] = f[i];
    return to;
}

void *memmove(void *to, const void *from, size n) {
    char *t = to;
    const char *f = from;
    if (t < f) return memcpy(to, from, n);
    while (n--) t[n] = f[n];
    return to;
}

void *memset(void *to, int byte, size n) {
    char *t = to;
    for (size i = 0; i < n; i++) t[i] = (char)byte;
    return to;
}

int memcmp(const void *a, const void *b, size n) {
    const unsigned char *x = a, *y = b;
    for (size i = 0; i < n; i++)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}

int bcmp(const void *a, const void *b, size n) { return memcmp(a, b, n); }

size strlen(const char *s) {
    size n = 0;
    while (s[n]) n++;
    return n;
}

static void call(long number, long a, long b, long c) {
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
}

__attribute__((noreturn)) void stop(int status) {
    call(60, status, 0, 0);
    __builtin_unreachable();
}

/* The model of tests/golden, as it lies in its files: no copy is made of the weights. */
__asm__(".section .rodata\n"
        ".balign 8\nweights: .incbin \"../golden/sae/sae_weights.safetensors\"\nweights_end:\n"
        "cfg: .incbin \"../golden/sae/cfg.json\"\ncfg_end:\n"
        ".text\n");
extern const char weights[], weights_end[], cfg[], cfg_end[];

typedef struct {
    void *memory;
    size memory_len;
    const char *cfg;
    size cfg_len;
    const char *weights;
    size weights_len;
    const float *row;
    size d;
    unsigned *index[2];
    float *value[2];
    size capacity, n[2], used;
} job;

int strata_no_std(job *);

enum { D = 6, CAPACITY = 3 };

static char memory[1 << 18];

/* What ffi/examples/minimal.expected says of a row of ones. */
static const unsigned expected_index[2][CAPACITY] = {{3, 4}, {4, 9, 12}};
static const float expected_value[2][CAPACITY] = {{0.7951f, 0.748905f}, {0.282764f, 0.0458805f, 0.0927892f}};
static const size expected_n[2] = {2, 3};

static int encodes_a_row(void) {
    static const float row[D] = {1, 1, 1, 1, 1, 1};
    unsigned index[2][CAPACITY];
    float value[2][CAPACITY];
    job j = {memory, sizeof memory, cfg, (size)(cfg_end - cfg), weights, (size)(weights_end - weights), row, D,
             {index[0], index[1]}, {value[0], value[1]}, CAPACITY, {0, 0}, 0};
    int status = strata_no_std(&j);
    if (status) return status;
    for (int l = 0; l < 2; l++) {
        if (j.n[l] != expected_n[l]) return 3;
        for (size e = 0; e < j.n[l]; e++) {
            float off = value[l][e] - expected_value[l][e];
            if (index[l][e] != expected_index[l][e] || off > 1e-6f || off < -1e-6f) return 4;
        }
    }
    /* Refusals, not accidents: a row of another width, a file that ends too early, codes that do not fit. */
    job bad = j;
    bad.d = D - 1;
    if (strata_no_std(&bad) != 2) return 5;
    bad = j, bad.weights_len--;
    if (strata_no_std(&bad) != 2) return 6;
    bad = j, bad.capacity = CAPACITY - 1;
    return strata_no_std(&bad) == 1 ? 0 : 7;
}

__attribute__((noreturn, force_align_arg_pointer)) void _start(void) {
    int status = encodes_a_row();
    if (status == 0) call(1, 1, (long)"no_std ok\n", 10);
    stop(status);
}
