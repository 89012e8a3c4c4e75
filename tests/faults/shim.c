/* Makes one call of a process fail, by standing before the C library (LD_PRELOAD).
 *
 *   FAULT=call:nth:how    the nth call (from 1 on) of a kind fails: with the errno `how`, or with half of what it was
 *                         to read or write where that is `short`. `nth+`: this one and all after it.
 *   FAULT=count           nothing fails.
 *   FAULT_LOG=file        gets `call number hash` for each call that could fail with FAULT=count, the hash being that
 *                         of the way which led to it; else `hit`, its descriptor, and where it was made.
 *   FAULT_RUNTIME=1       calls of ONNX Runtime and of the C++ library that it brings count too.
 *
 * Memory counts from 64 KiB on. What the C library does within itself, and what is no call of it (raw system calls),
 * is not seen.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call {
    MALLOC, MMAP, OPEN, READ, PREAD, WRITE, PWRITE, FSYNC, RENAME, FTRUNCATE, THREAD, RANDOM, STAT, LIST, LOCK, MODE,
    MKDIR, CONNECT, SEND, RECV, CALLS
};

static const char *const names[CALLS] = {
    "malloc", "mmap",   "open", "read", "pread", "write", "pwrite", "fsync",   "rename", "ftruncate",
    "thread", "random", "stat", "list", "lock",  "mode",  "mkdir",  "connect", "send",   "recv",
};

enum { LEAST = 64 * 1024, FRAMES = 40, SHORT = -1 };

static const struct { const char *name; int value; } errors[] = {
    {"EIO", EIO}, {"ENOMEM", ENOMEM}, {"ENOSPC", ENOSPC}, {"EINTR", EINTR}, {"EAGAIN", EAGAIN}, {"EACCES", EACCES},
    {"EMFILE", EMFILE}, {"ENOSYS", ENOSYS}, {"ENODEV", ENODEV}, {"EPERM", EPERM}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
    {"ENOLCK", ENOLCK}, {"ECONNREFUSED", ECONNREFUSED}, {"ECONNRESET", ECONNRESET}, {"ETIMEDOUT", ETIMEDOUT},
    {"short", SHORT},
};

/* Set before main, and not changed afterwards. */
static int counting, wanted = CALLS, how, onwards, with_runtime, log_file = -1;
static unsigned long nth;

static atomic_ulong counts[CALLS];
/* Within the shim itself, whose calls are not the program's. */
static __thread int inside __attribute__((tls_model("initial-exec")));

static void say(const char *text) {
    size_t length = strlen(text);
    if (log_file >= 0 && syscall(SYS_write, log_file, text, length) != (long)length) {
        _exit(97);
    }
}

/* Whether an address lies in ONNX Runtime, or in the library of C++, which no other code here uses. */
static int is_runtime(const void *address) {
    Dl_info about;
    if (dladdr(address, &about) == 0 || about.dli_fname == NULL) {
        return 0;
    }
    return strstr(about.dli_fname, "libonnxruntime") != NULL || strstr(about.dli_fname, "libstdc++") != NULL;
}

static void tell_frames(void *const *frames, int count) {
    char line[512];
    for (int i = 0; i < count; i++) {
        Dl_info about;
        if (dladdr(frames[i], &about) != 0 && about.dli_fname != NULL) {
            snprintf(line, sizeof line, "at %s +0x%lx\n", about.dli_fname,
                     (unsigned long)((uintptr_t)frames[i] - (uintptr_t)about.dli_fbase));
            say(line);
        }
    }
}

/* Counts a call; whether it is to fail. */
static int fails(enum call call, int descriptor, const void *caller) {
    if (inside || (!counting && (int)call != wanted) || (!with_runtime && is_runtime(caller))) {
        return 0;
    }
    unsigned long number = atomic_fetch_add(&counts[call], 1) + 1;
    int hit = !counting && (number == nth || (onwards && number > nth));
    if (!counting && number != nth) {
        return hit;
    }
    inside = 1;
    int kept = errno;
    void *frames[FRAMES];
    char line[128];
    int count = backtrace(frames, FRAMES);
    if (counting) {
        uint64_t hash = 14695981039346656037u;
        for (int i = 0; i < count; i++) {
            hash = (hash ^ (uintptr_t)frames[i]) * 1099511628211u;
        }
        snprintf(line, sizeof line, "%s %lu %016llx\n", names[call], number, (unsigned long long)hash);
        say(line);
    } else {
        snprintf(line, sizeof line, "hit %d\n", descriptor);
        say(line);
        tell_frames(frames, count);
    }
    errno = kept;
    inside = 0;
    return hit;
}

__attribute__((constructor)) static void begin(void) {
    const char *fault = getenv("FAULT"), *log = getenv("FAULT_LOG");
    inside = 1;
    /* It loads the library that it unwinds with. */
    void *frame;
    backtrace(&frame, 1);
    with_runtime = getenv("FAULT_RUNTIME") != NULL;
    if (log != NULL) {
        log_file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
    char call[32] = "", error[32] = "", more[2] = "";
    if (fault != NULL && strcmp(fault, "count") == 0) {
        counting = 1;
    } else if (fault != NULL) {
        int read = sscanf(fault, "%31[a-z]:%lu:%31[A-Za-z]", call, &nth, error);
        if (read == 2) {
            read = sscanf(fault, "%31[a-z]:%lu%1[+]:%31[A-Za-z]", call, &nth, more, error) - 1;
        }
        onwards = more[0] != '\0';
        for (int i = 0; i < CALLS; i++) {
            wanted = strcmp(call, names[i]) == 0 ? i : wanted;
        }
        for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
            how = strcmp(error, errors[i].name) == 0 ? errors[i].value : how;
        }
        if (read != 3 || wanted == CALLS || how == 0) {
            fprintf(stderr, "FAULT=%s is not understood\n", fault);
            _exit(98);
        }
    }
    inside = 0;
}

static void *real(const char *name) {
    int outer = inside;
    inside = 1;
    void *found = dlsym(RTLD_NEXT, name);
    inside = outer;
    if (found == NULL) {
        _exit(96);
    }
    return found;
}

/* The function that the shim stands before. Found twice by two threads, it is the same. */
#define REAL(result, name, ...)                                                                                        \
    static result (*_Atomic function)(__VA_ARGS__);                                                                    \
    if (function == NULL) {                                                                                            \
        function = (result(*)(__VA_ARGS__))real(name);                                                                 \
    }

#define CALLER __builtin_return_address(0)

/* A function of a result that is an int, or a size, and -1 where it fails. */
#define STANDS_BEFORE(call, descriptor, result, name, parameters, arguments, ...)                                      \
    result name parameters {                                                                                           \
        REAL(result, #name, __VA_ARGS__)                                                                               \
        if (fails(call, descriptor, CALLER)) {                                                                         \
            errno = how == SHORT ? EIO : how;                                                                          \
            return -1;                                                                                                 \
        }                                                                                                              \
        return function arguments;                                                                                     \
    }

/* One that moves `count` bytes or pieces; a short call moves `fewer` of several. */
#define MOVES_FEWER(fewer, call, name, parameters, arguments, ...)                                                     \
    ssize_t name parameters {                                                                                          \
        REAL(ssize_t, #name, __VA_ARGS__)                                                                              \
        if (fails(call, descriptor, CALLER)) {                                                                         \
            if (how != SHORT) {                                                                                        \
                errno = how;                                                                                           \
                return -1;                                                                                             \
            }                                                                                                          \
            count = count > 1 ? (fewer) : count;                                                                       \
        }                                                                                                              \
        return function arguments;                                                                                     \
    }

/* Of bytes it is half of them, of pieces the first alone. */
#define MOVES(...) MOVES_FEWER(count / 2, __VA_ARGS__)
#define MOVES_PIECES(...) MOVES_FEWER(1, __VA_ARGS__)

/* ---- Memory -------------------------------------------------------------------------------------------------- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
size_t malloc_usable_size(void *old);

static int refused(size_t size, const void *caller) { return size >= LEAST && fails(MALLOC, -1, caller); }

void *malloc(size_t size) {
    if (refused(size, CALLER)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    if (size != 0 && count <= SIZE_MAX / size && refused(count * size, CALLER)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    /* It is never refused to give back a part. */
    if ((old == NULL || malloc_usable_size(old) < size) && refused(size, CALLER)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size) {
    if (refused(size, CALLER)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    if (refused(size, CALLER)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *memory = refused(size, CALLER) ? NULL : __libc_memalign(alignment, size);
    if (memory == NULL) {
        return ENOMEM;
    }
    *out = memory;
    return 0;
}

/* The stack of a signal's handler, for which Rust's library maps memory in every thread that it starts, is left out:
 * it panics where it gets none. */
#define MAPS(name, offset_type)                                                                                        \
    void *name(void *at, size_t length, int protection, int flags, int descriptor, offset_type offset) {               \
        REAL(void *, #name, void *, size_t, int, int, int, offset_type)                                                \
        if ((flags & MAP_STACK) == 0 && fails(MMAP, descriptor, CALLER)) {                                             \
            errno = how;                                                                                               \
            return MAP_FAILED;                                                                                         \
        }                                                                                                              \
        return function(at, length, protection, flags, descriptor, offset);                                           \
    }
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)

/* ---- Files --------------------------------------------------------------------------------------------------- */

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, #name, const char *, int, ...)                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;                                 \
        va_end(rest);                                                                                                  \
        if (fails(OPEN, -1, CALLER)) {                                                                                 \
            errno = how;                                                                                               \
            return -1;                                                                                                 \
        }                                                                                                              \
        return function(path, flags, mode);                                                                            \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                                                 \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(int, #name, int, const char *, int, ...)                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;                                 \
        va_end(rest);                                                                                                  \
        if (fails(OPEN, -1, CALLER)) {                                                                                 \
            errno = how;                                                                                               \
            return -1;                                                                                                 \
        }                                                                                                              \
        return function(folder, path, flags, mode);                                                                    \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

MOVES(READ, read, (int descriptor, void *to, size_t count), (descriptor, to, count), int, void *, size_t)
MOVES(WRITE, write, (int descriptor, const void *from, size_t count), (descriptor, from, count), int, const void *,
      size_t)
MOVES(PREAD, pread, (int descriptor, void *to, size_t count, off_t at), (descriptor, to, count, at), int, void *,
      size_t, off_t)
MOVES(PREAD, pread64, (int descriptor, void *to, size_t count, off64_t at), (descriptor, to, count, at), int, void *,
      size_t, off64_t)
MOVES(PWRITE, pwrite, (int descriptor, const void *from, size_t count, off_t at), (descriptor, from, count, at), int,
      const void *, size_t, off_t)
MOVES(PWRITE, pwrite64, (int descriptor, const void *from, size_t count, off64_t at), (descriptor, from, count, at),
      int, const void *, size_t, off64_t)
MOVES_PIECES(READ, readv, (int descriptor, const struct iovec *to, int count), (descriptor, to, count), int,
             const struct iovec *, int)
MOVES_PIECES(WRITE, writev, (int descriptor, const struct iovec *from, int count), (descriptor, from, count), int,
             const struct iovec *, int)
MOVES_PIECES(PREAD, preadv, (int descriptor, const struct iovec *to, int count, off_t at),
             (descriptor, to, count, at), int, const struct iovec *, int, off_t)
MOVES_PIECES(PREAD, preadv64, (int descriptor, const struct iovec *to, int count, off64_t at),
             (descriptor, to, count, at), int, const struct iovec *, int, off64_t)

STANDS_BEFORE(FSYNC, file, int, fsync, (int file), (file), int)
STANDS_BEFORE(FSYNC, file, int, fdatasync, (int file), (file), int)
STANDS_BEFORE(RENAME, -1, int, rename, (const char *from, const char *to), (from, to), const char *, const char *)
STANDS_BEFORE(RENAME, -1, int, renameat, (int f, const char *from, int t, const char *to), (f, from, t, to), int,
              const char *, int, const char *)
STANDS_BEFORE(RENAME, -1, int, renameat2, (int f, const char *from, int t, const char *to, unsigned flags),
              (f, from, t, to, flags), int, const char *, int, const char *, unsigned)
STANDS_BEFORE(RENAME, -1, int, link, (const char *from, const char *to), (from, to), const char *, const char *)
STANDS_BEFORE(RENAME, -1, int, symlink, (const char *from, const char *to), (from, to), const char *, const char *)
STANDS_BEFORE(FTRUNCATE, file, int, ftruncate, (int file, off_t length), (file, length), int, off_t)
STANDS_BEFORE(FTRUNCATE, file, int, ftruncate64, (int file, off64_t length), (file, length), int, off64_t)
STANDS_BEFORE(STAT, file, int, fstat, (int file, struct stat *about), (file, about), int, struct stat *)
STANDS_BEFORE(STAT, file, int, fstat64, (int file, struct stat64 *about), (file, about), int, struct stat64 *)
STANDS_BEFORE(STAT, -1, int, stat, (const char *path, struct stat *about), (path, about), const char *, struct stat *)
STANDS_BEFORE(STAT, -1, int, stat64, (const char *path, struct stat64 *about), (path, about), const char *,
              struct stat64 *)
STANDS_BEFORE(STAT, -1, int, lstat64, (const char *path, struct stat64 *about), (path, about), const char *,
              struct stat64 *)
STANDS_BEFORE(LOCK, file, int, flock, (int file, int operation), (file, operation), int, int)
STANDS_BEFORE(MODE, -1, int, chmod, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
STANDS_BEFORE(MODE, file, int, fchmod, (int file, mode_t mode), (file, mode), int, mode_t)
STANDS_BEFORE(MKDIR, -1, int, mkdir, (const char *path, mode_t mode), (path, mode), const char *, mode_t)

/* Rust's library asks with no path at all whether the call is there, which the header's declaration forbids. */
int stands_before_statx(int, const char *, int, unsigned, struct statx *) __asm__("statx");
int stands_before_statx(int folder, const char *path, int flags, unsigned mask, struct statx *about) {
    REAL(int, "statx", int, const char *, int, unsigned, struct statx *)
    if (path != NULL && fails(STAT, folder, CALLER)) {
        errno = how;
        return -1;
    }
    return function(folder, path, flags, mask, about);
}

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *)
    if (fails(LIST, -1, CALLER)) {
        errno = how;
        return NULL;
    }
    return function(path);
}

struct dirent64 *readdir64(DIR *folder) {
    REAL(struct dirent64 *, "readdir64", DIR *)
    if (fails(LIST, -1, CALLER)) {
        errno = how;
        return NULL;
    }
    return function(folder);
}

/* ---- The rest ------------------------------------------------------------------------------------------------ */

int pthread_create(pthread_t *thread, const pthread_attr_t *about, void *(*body)(void *), void *argument) {
    REAL(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)
    if (fails(THREAD, -1, CALLER)) {
        return how;
    }
    return function(thread, about, body, argument);
}

ssize_t getrandom(void *to, size_t count, unsigned flags) {
    REAL(ssize_t, "getrandom", void *, size_t, unsigned)
    if (fails(RANDOM, -1, CALLER)) {
        if (how != SHORT) {
            errno = how;
            return -1;
        }
        count = count > 1 ? count / 2 : count;
    }
    return function(to, count, flags);
}

STANDS_BEFORE(CONNECT, -1, int, connect, (int socket, const struct sockaddr *to, socklen_t length),
              (socket, to, length), int, const struct sockaddr *, socklen_t)
MOVES(SEND, send, (int descriptor, const void *from, size_t count, int flags), (descriptor, from, count, flags), int,
      const void *, size_t, int)
MOVES(RECV, recv, (int descriptor, void *to, size_t count, int flags), (descriptor, to, count, flags), int, void *,
      size_t, int)
