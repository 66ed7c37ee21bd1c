/* Two static libraries in Rust, each with a standard library of its own, in one program. */
#include <stdio.h>
#include <strata.h>

int other_sum(int x);

int main(void) {
    printf("%s %d\n", strata_version(), other_sum(10));
    return other_sum(10) != 45;
}
