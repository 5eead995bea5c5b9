/* Lets one system call of a process fail. Tests preload it into the command, and set the fault by environment variables:
 *
 * SHIM_FOLDER  counts only calls on files below this folder, which ends with a slash
 * SHIM_CALL    open (for writing), list (open a folder), write, sync, lock, mode, owner, size, seek, unlink, rename
 * SHIM_AT      the number of the call that fails, from 1; all renames fail if it is 1 and none otherwise
 * SHIM_HOW     the number of an error; "short": half is written; "kill": SIGKILL before the call; "stop": SIGSTOP
 * SHIM_HIT     a file to create when the call is reached
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int below_folder(const char *path) {
    const char *folder = variable("SHIM_FOLDER");
    size_t length = strlen(folder);
    if (length == 0) return 0;
    /* The folder itself counts too. */
    return strncmp(path, folder, length) == 0 || (strlen(path) == length - 1 && strncmp(path, folder, length - 1) == 0);
}

static int file_is_below(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below_folder(path);
}

/* Returns 0 if this call must not fail, -1 if it must (with errno set), 1 if it must be cut short. */
static int fault(const char *call) {
    static int count;
    if (strcmp(call, variable("SHIM_CALL")) != 0) return 0;
    if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) != atoi(variable("SHIM_AT"))) return 0;
    long hit = syscall(SYS_openat, AT_FDCWD, variable("SHIM_HIT"), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    if (hit >= 0) syscall(SYS_close, hit);
    const char *how = variable("SHIM_HOW");
    if (strcmp(how, "short") == 0) return 1;
    if (strcmp(how, "kill") == 0) raise(SIGKILL);
    if (strcmp(how, "stop") == 0) {
        raise(SIGSTOP);
        return 0;
    }
    errno = atoi(how);
    return -1;
}

#define NEXT(name) __typeof__(name) *next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL_FILE(file, call) \
    if (file_is_below(file) && fault(call) != 0) return -1

static int open_call(const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    struct stat found;
    if (!below_folder(path)) return 0;
    if (writes) return fault("open");
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode) ? fault("list") : 0;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (open_call(path, flags) != 0) return -1;
    NEXT(open64);
    return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (open_call(path, flags) != 0) return -1;
    NEXT(open);
    return next(path, flags, mode);
}

ssize_t write(int file, const void *bytes, size_t length) {
    if (file_is_below(file)) {
        int found = fault("write");
        if (found < 0) return -1;
        if (found > 0 && length > 1) length /= 2;
    }
    NEXT(write);
    return next(file, bytes, length);
}

int fsync(int file) {
    FAIL_FILE(file, "sync");
    NEXT(fsync);
    return next(file);
}

int flock(int file, int operation) {
    FAIL_FILE(file, "lock");
    NEXT(flock);
    return next(file, operation);
}

int fchmod(int file, mode_t mode) {
    FAIL_FILE(file, "mode");
    NEXT(fchmod);
    return next(file, mode);
}

int fchown(int file, uid_t owner, gid_t group) {
    FAIL_FILE(file, "owner");
    NEXT(fchown);
    return next(file, owner, group);
}

int ftruncate64(int file, off64_t length) {
    FAIL_FILE(file, "size");
    NEXT(ftruncate64);
    return next(file, length);
}

off64_t lseek64(int file, off64_t offset, int from) {
    FAIL_FILE(file, "seek");
    NEXT(lseek64);
    return next(file, offset, from);
}

int unlink(const char *path) {
    if (below_folder(path) && fault("unlink") != 0) return -1;
    NEXT(unlink);
    return next(path);
}

/* The rename does not go through libc, so only a seccomp filter can refuse it. */
__attribute__((constructor)) static void refuse_rename(void) {
    if (strcmp(variable("SHIM_CALL"), "rename") != 0 || atoi(variable("SHIM_AT")) != 1) return;
    const char *how = variable("SHIM_HOW");
    unsigned answer = strcmp(how, "kill") == 0 ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | (unsigned)atoi(how);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_rename
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rename, 3, 0),
#else
        BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, answer),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        fputs("shim: the system filters no calls\n", stderr);
        _exit(70);
    }
}
