/* To be preloaded: maps of files fail where `NOMAP` is `shared` and they are shared, or always, as some file systems have
 * it. Without thread-safety or error handling that a test does not need. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *refused(int flags, int fd) {
    const char *which = getenv("NOMAP");
    int refuse = fd >= 0 && which && (strcmp(which, "shared") || (flags & MAP_SHARED));
    errno = ENODEV;
    return refuse ? MAP_FAILED : NULL;
}

typedef void *map(void *, size_t, int, int, int, off_t);

static map *next(const char *name) {
    map *found;
    void *symbol = dlsym(RTLD_NEXT, name);
    memcpy(&found, &symbol, sizeof found);
    return found;
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    void *no = refused(flags, fd);
    return no ? no : next("mmap")(at, len, prot, flags, fd, offset);
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    void *no = refused(flags, fd);
    return no ? no : next("mmap64")(at, len, prot, flags, fd, offset);
}
