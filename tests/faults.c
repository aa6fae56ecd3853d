/* Preloaded, it makes the n-th system call that concerns a folder fail, or kills the process there.

   Armed by faults_arm, which a child of a warm parent calls through ctypes, or by the environment in one rank of a job:
   FAULTS_RANK, FAULTS_FOLDER, FAULTS_AT, FAULTS_ACTION, FAULTS_MARK.

   With CLOCK_JUMP and CLOCK_WHEN in the environment, the clock of the day jumps by so many seconds when a file of that
   name is there. */
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
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(type, name) \
    static __typeof__(type) real; \
    if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

/* action: > 0 an errno; < 0 a signal to this process; PAUSE leaves a mark and waits for a while to be killed. */
#define PAUSE (-1000)
enum { ONCE, FROM_THEN_ON, SHORT };

static char folder[PATH_MAX], mark[PATH_MAX];
static long at, count;
static int action, manner, reads, armed;

void faults_arm(const char *where, long n, int what, int how, int of_reads)
{
    snprintf(folder, sizeof folder, "%s", where);
    at = n, action = what, manner = how, reads = of_reads, count = 0, armed = 1;
}

long faults_count(void)
{
    armed = 0;
    return count;
}

__attribute__((constructor)) static void from_environment(void)
{
    const char *rank = getenv("PMI_RANK"), *wanted = getenv("FAULTS_RANK");
    if (!rank) rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank || !wanted || strcmp(rank, wanted)) return;
    snprintf(mark, sizeof mark, "%s", getenv("FAULTS_MARK"));
    faults_arm(getenv("FAULTS_FOLDER"), atol(getenv("FAULTS_AT")), atoi(getenv("FAULTS_ACTION")), ONCE, 0);
}

static void leave_mark(void)
{
    armed = 0;
    int fd = open(mark, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0) close(fd);
}

/* Whether this call is to fail; -1 if a write is to write half. */
static int fails(int is_write)
{
    count++;
    if (!at || count < at || (count > at && manner == ONCE)) return 0;
    if (action == PAUSE) {
        leave_mark();
        /* A signal ends it sooner, and is then heeded. */
        sleep(5);
        return 0;
    }
    if (action < 0) {
        if (mark[0]) leave_mark();
        kill(getpid(), -action);
        return 0;
    }
    if (manner == SHORT && is_write && count == at) return -1;
    errno = action;
    return 1;
}

static int within(const char *path)
{
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

static int path_concerns(int dirfd, const char *path)
{
    char full[PATH_MAX * 2], base[PATH_MAX];
    if (!armed || !path) return 0;
    if (path[0] == '/') return within(path);
    if (dirfd == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    snprintf(full, sizeof full, "%s/%s", base, path);
    return within(full);
}

static int fd_concerns(int fd)
{
    char link[64], path[PATH_MAX];
    int kept = errno;
    if (!armed || fd < 3) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (n < 0) return 0;
    path[n] = 0;
    return within(path);
}

static int opens(int dirfd, const char *path, int flags)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    return path_concerns(dirfd, path) && (reads ? !writes : writes) && fails(0);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int (*)(const char *, int, ...), #name); \
        va_list more; \
        va_start(more, flags); \
        int mode = va_arg(more, int); \
        va_end(more); \
        return opens(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int dirfd, const char *path, int flags, ...) \
    { \
        REAL(int (*)(int, const char *, int, ...), #name); \
        va_list more; \
        va_start(more, flags); \
        int mode = va_arg(more, int); \
        va_end(more); \
        return opens(dirfd, path, flags) ? -1 : real(dirfd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(ssize_t (*)(int, const void *, size_t), "write");
    int f = !reads && fd_concerns(fd) ? fails(1) : 0;
    return f > 0 ? -1 : real(fd, data, f && n > 1 ? n / 2 : n);
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t n, off_t offset) \
    { \
        REAL(ssize_t (*)(int, const void *, size_t, off_t), #name); \
        int f = !reads && fd_concerns(fd) ? fails(1) : 0; \
        return f > 0 ? -1 : real(fd, data, f && n > 1 ? n / 2 : n, offset); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t read(int fd, void *data, size_t n)
{
    REAL(ssize_t (*)(int, void *, size_t), "read");
    return reads && fd_concerns(fd) && fails(0) ? -1 : real(fd, data, n);
}

#define PREAD(name) \
    ssize_t name(int fd, void *data, size_t n, off_t offset) \
    { \
        REAL(ssize_t (*)(int, void *, size_t, off_t), #name); \
        return reads && fd_concerns(fd) && fails(0) ? -1 : real(fd, data, n, offset); \
    }
PREAD(pread)
PREAD(pread64)

#define ON_FD(name) \
    int name(int fd) \
    { \
        REAL(int (*)(int), #name); \
        return !reads && fd_concerns(fd) && fails(0) ? -1 : real(fd); \
    }
ON_FD(fsync)
ON_FD(fdatasync)

int close(int fd)
{
    REAL(int (*)(int), "close");
    /* As Linux does it: the descriptor is gone, whatever close says. */
    int f = !reads && fd_concerns(fd) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY && fails(0);
    int kept = errno, done = real(fd);
    if (f) errno = kept;
    return f ? -1 : done;
}

#define TRUNCATE(name) \
    int name(int fd, off_t n) \
    { \
        REAL(int (*)(int, off_t), #name); \
        return !reads && fd_concerns(fd) && fails(0) ? -1 : real(fd, n); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define TWO_PATHS(name) \
    int name(const char *from, const char *to) \
    { \
        REAL(int (*)(const char *, const char *), #name); \
        return !reads && path_concerns(AT_FDCWD, to) && fails(0) ? -1 : real(from, to); \
    }
TWO_PATHS(rename)
TWO_PATHS(link)

int renameat(int a, const char *from, int b, const char *to)
{
    REAL(int (*)(int, const char *, int, const char *), "renameat");
    return !reads && path_concerns(b, to) && fails(0) ? -1 : real(a, from, b, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags)
{
    REAL(int (*)(int, const char *, int, const char *, int), "linkat");
    return !reads && path_concerns(b, to) && fails(0) ? -1 : real(a, from, b, to, flags);
}

int unlink(const char *path)
{
    REAL(int (*)(const char *), "unlink");
    /* It needs no room, so an error would be far-fetched; a death isn't. */
    if (!reads && action < 0 && path_concerns(AT_FDCWD, path)) fails(0);
    return real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int (*)(const char *, mode_t), "mkdir");
    return !reads && path_concerns(AT_FDCWD, path) && fails(0) ? -1 : real(path, mode);
}

static time_t jumped(void)
{
    static int has_jumped;
    const char *by = getenv("CLOCK_JUMP"), *when = getenv("CLOCK_WHEN");
    int kept = errno;
    if (by && when && !has_jumped) has_jumped = !access(when, F_OK);
    errno = kept;
    return has_jumped ? atol(by) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(int (*)(clockid_t, struct timespec *), "clock_gettime");
    int done = real(clock, now);
    if (!done && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jumped();
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    REAL(int (*)(struct timeval *, void *), "gettimeofday");
    int done = real(now, zone);
    if (!done && now) now->tv_sec += jumped();
    return done;
}

time_t time(time_t *to)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
