/* Faults under one folder, at a chosen call into the file system: the process is killed, or the disk is full.
 *
 * Loaded before libc (LD_PRELOAD). Only calls that change something at or under the folder count. Armed by
 * faults_arm(folder, mode, n, log) through ctypes:
 *   KILL  the n-th such call from now on does not happen: SIGKILL; of a write, the first half happens.
 *   FULL  every call from the n-th on that needs room fails with ENOSPC; the first write among them is short.
 *   WATCH nothing fails.
 * With a log file, every call that counts is appended to it as "call path".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, WATCH, KILL, FULL };

static char folder[PATH_MAX];
static int mode = OFF, log_file = -1, shortened;
static long at, seen;

void faults_arm(const char *where, int how, long n, const char *log) {
    snprintf(folder, sizeof folder, "%s", where);
    at = n, seen = 0, shortened = 0;
    log_file = log && *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644) : -1;
    mode = how;
}

long faults_seen(void) { return seen; }

static int inside(const char *path) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == 0 || path[length] == '/');
}

/* The absolute path of `path` beside an open directory, or of an open file where `path` is NULL. */
static void absolute(char *to, int descriptor, const char *path) {
    char link[64], base[PATH_MAX] = "";
    if (path && path[0] == '/') {
        snprintf(to, PATH_MAX, "%s", path);
        return;
    }
    snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, base, sizeof base - 1);
    base[size > 0 ? size : 0] = 0;
    if (path)
        snprintf(to, PATH_MAX, "%.2000s/%.2000s", base, path);
    else
        snprintf(to, PATH_MAX, "%s", base);
}

/* 1 where the call must fail for want of room; of a write, *part is how much of it happens. */
static int struck(const char *call, int descriptor, const char *path, int needs_room, size_t *part) {
    char full[PATH_MAX];
    if (mode == OFF)
        return 0;
    int before = errno;
    absolute(full, descriptor, path);
    if (!inside(full)) {
        errno = before;
        return 0;
    }
    if (log_file >= 0) {
        char line[PATH_MAX + 32];
        int size = snprintf(line, sizeof line, "%s %s\n", call, full);
        syscall(SYS_write, log_file, line, (size_t)size);
    }
    seen++;
    errno = before;
    if (mode == KILL && seen == at) {
        if (part && *part > 1)
            syscall(SYS_write, descriptor, (const void *)part[1], *part / 2);
        kill(getpid(), SIGKILL);
    }
    if (mode == FULL && needs_room && seen >= at) {
        if (part && *part > 1 && !shortened) {
            shortened = 1;
            *part /= 2;
            return 0;
        }
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC)) != 0; }

#define OPEN(name)                                                                  \
    int name(const char *path, int flags, ...) {                                    \
        va_list more;                                                               \
        va_start(more, flags);                                                      \
        mode_t permissions = va_arg(more, mode_t);                                  \
        va_end(more);                                                               \
        if (changes(flags) && struck("open", AT_FDCWD, path, flags & O_CREAT, NULL)) \
            return -1;                                                              \
        return NEXT(name)(path, flags, permissions);                                \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                               \
    int name(int at_folder, const char *path, int flags, ...) {                    \
        va_list more;                                                              \
        va_start(more, flags);                                                     \
        mode_t permissions = va_arg(more, mode_t);                                 \
        va_end(more);                                                              \
        if (changes(flags) && struck("open", at_folder, path, flags & O_CREAT, NULL)) \
            return -1;                                                             \
        return NEXT(name)(at_folder, path, flags, permissions);                    \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size) {
    size_t part[2] = {size, (size_t)data};
    return struck("write", file, NULL, 1, part) ? -1 : NEXT(write)(file, data, part[0]);
}

#define PWRITE(name, offset_t)                                                                     \
    ssize_t name(int file, const void *data, size_t size, offset_t offset) {                       \
        size_t part[2] = {size, (size_t)data};                                                     \
        return struck("pwrite", file, NULL, 1, part) ? -1 : NEXT(name)(file, data, part[0], offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int file, const struct iovec *data, int count) {
    return struck("write", file, NULL, 1, NULL) ? -1 : NEXT(writev)(file, data, count);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    return struck("sendfile", to, NULL, 1, NULL) ? -1 : NEXT(sendfile)(to, from, offset, size);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    return struck("sendfile", to, NULL, 1, NULL) ? -1 : NEXT(sendfile64)(to, from, offset, size);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size, unsigned flags) {
    return struck("copy", to, NULL, 1, NULL) ? -1 : NEXT(copy_file_range)(from, from_offset, to, to_offset, size, flags);
}

int fsync(int file) { return struck("fsync", file, NULL, 0, NULL) ? -1 : NEXT(fsync)(file); }

int fdatasync(int file) { return struck("fsync", file, NULL, 0, NULL) ? -1 : NEXT(fdatasync)(file); }

int ftruncate(int file, off_t size) {
    return struck("truncate", file, NULL, size > 0, NULL) ? -1 : NEXT(ftruncate)(file, size);
}

int ftruncate64(int file, off64_t size) {
    return struck("truncate", file, NULL, size > 0, NULL) ? -1 : NEXT(ftruncate64)(file, size);
}

int mkdir(const char *path, mode_t permissions) {
    return struck("mkdir", AT_FDCWD, path, 1, NULL) ? -1 : NEXT(mkdir)(path, permissions);
}

int mkdirat(int at_folder, const char *path, mode_t permissions) {
    return struck("mkdir", at_folder, path, 1, NULL) ? -1 : NEXT(mkdirat)(at_folder, path, permissions);
}

int rename(const char *from, const char *to) {
    return struck("rename", AT_FDCWD, to, 0, NULL) ? -1 : NEXT(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return struck("rename", to_folder, to, 0, NULL) ? -1 : NEXT(renameat)(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return struck("rename", to_folder, to, 0, NULL) ? -1 : NEXT(renameat2)(from_folder, from, to_folder, to, flags);
}

int link(const char *from, const char *to) {
    return struck("link", AT_FDCWD, to, 1, NULL) ? -1 : NEXT(link)(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return struck("link", to_folder, to, 1, NULL) ? -1 : NEXT(linkat)(from_folder, from, to_folder, to, flags);
}

int symlink(const char *from, const char *to) {
    return struck("link", AT_FDCWD, to, 1, NULL) ? -1 : NEXT(symlink)(from, to);
}

int unlink(const char *path) { return struck("unlink", AT_FDCWD, path, 0, NULL) ? -1 : NEXT(unlink)(path); }

int unlinkat(int at_folder, const char *path, int flags) {
    return struck("unlink", at_folder, path, 0, NULL) ? -1 : NEXT(unlinkat)(at_folder, path, flags);
}

int rmdir(const char *path) { return struck("rmdir", AT_FDCWD, path, 0, NULL) ? -1 : NEXT(rmdir)(path); }
