/* Preloaded into a process: its storage fails at a chosen call.
 *
  * The calls that change files below FAULT_ROOT are counted from 0. Half of call FAULT_AT is done; then
 * the process is killed (FAULT=kill), or the call fails as on a full disk (FAULT=full). The file
 * FAULT_REACHED is made when the process gets to that call.
 *
 * With FAULT=hold no call fails: the first write of FAULT_AT bytes or more to a file of a core waits until
 * FAULT_REACHED is removed. */
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
static int kills, holds;
static long at;
static atomic_long calls;

__attribute__((constructor)) static void start(void) {
    root = getenv("FAULT_ROOT");
    reached = getenv("FAULT_REACHED");
    at = atol(getenv("FAULT_AT"));
    kills = strcmp(getenv("FAULT"), "kill") == 0;
    holds = strcmp(getenv("FAULT"), "hold") == 0;
    unsetenv("LD_PRELOAD");
}

static int below(const char *path) { return root && strncmp(path, root, strlen(root)) == 0; }

static int path_of(int fd, char path[PATH_MAX + 1]) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int open_below(int fd) {
    char path[PATH_MAX + 1];
    return path_of(fd, path) && below(path);
}

static int is_it(void) { return !holds && atomic_fetch_add(&calls, 1) == at; }

static void note_reached(void) {
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = real_open(reached, O_CREAT | O_WRONLY, 0600);
    if (fd >= 0) close(fd);
}

/* Waits, at most 300 s, until another process removes the file that it makes. */
static void hold(int fd, size_t count) {
    static atomic_int held;
    char path[PATH_MAX + 1];
    if (!holds || count < (size_t)at || !path_of(fd, path) || strstr(path, "/scratch/")) return;
    if (atomic_exchange(&held, 1)) return;
    note_reached();
    for (int waits = 0; waits < 30000 && access(reached, F_OK) == 0; waits++) usleep(10000);
}

static int fail(void) {
    note_reached();
    if (kills) kill(getpid(), SIGKILL);
    errno = ENOSPC;
    return -1;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    if (fd > 2 && open_below(fd)) hold(fd, count);
    if (fd > 2 && open_below(fd) && is_it()) {
        real(fd, bytes, count / 2);
        return fail();
    }
    return real(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    REAL(pwrite64);
    if (open_below(fd)) hold(fd, count);
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
