/* Preloaded into a process: its storage fails at a chosen call.
 *
  * The calls that change files below FAULT_ROOT are counted from 0. Half of call FAULT_AT is done; then
  * the process is killed (FAULT=kill), or the call fails as on a full disk (FAULT=full). The file
  * FAULT_REACHED is made when the process gets to that call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *root, *reached;
static int kills;
static long at;
static atomic_long calls;

__attribute__((constructor)) static void start(void) {
    root = getenv("FAULT_ROOT");
    reached = getenv("FAULT_REACHED");
    at = atol(getenv("FAULT_AT"));
    kills = strcmp(getenv("FAULT"), "kill") == 0;
    unsetenv("LD_PRELOAD");
}

static int below(const char *path) { return root && strncmp(path, root, strlen(root)) == 0; }

static int open_below(int fd) {
    char name[64], path[PATH_MAX + 1];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int is_it(void) { return atomic_fetch_add(&calls, 1) == at; }

static int fail(void) {
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = real_open(reached, O_CREAT | O_WRONLY, 0600);
    if (fd >= 0) close(fd);
    if (kills) kill(getpid(), SIGKILL);
    errno = ENOSPC;
    return -1;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    if (fd > 2 && open_below(fd) && is_it()) {
        real(fd, bytes, count / 2);
        return fail();
    }
    return real(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    REAL(pwrite64);
    if (open_below(fd) && is_it()) {
        real(fd, bytes, count / 2, offset);
        return fail();
    }
    return real(fd, bytes, count, offset);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return open_below(fd) && is_it() ? fail() : real(fd, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    REAL(fallocate64);
    return open_below(fd) && is_it() ? fail() : real(fd, mode, offset, length);
}

int fsync(int fd) {
    REAL(fsync);
    return open_below(fd) && is_it() ? fail() : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return open_below(fd) && is_it() ? fail() : real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && is_it() ? fail() : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return below(path) && is_it() ? fail() : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return below(path) && is_it() ? fail() : real(path, mode);
}
