// Loaded before the C library into a replica (LD_PRELOAD): a wall clock that is wrong, a disk that fails, and an address
// that it connects from. A test tells what is wrong by files, so that it can change while the replica runs.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// The beginning of the file that the variable names; empty if there is none.
static void told(const char *variable, char *text, size_t size) {
    int before = errno;
    const char *path = getenv(variable);
    int file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = file < 0 ? 0 : syscall(SYS_read, file, text, size - 1);
    if (file >= 0) syscall(SYS_close, file);
    text[length < 0 ? 0 : length] = 0;
    errno = before;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char seconds[32];
        told("BRAMAH_FAULTS_CLOCK", seconds, sizeof seconds);
        now->tv_sec += atoll(seconds);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

// Whether calls of this kind, 's'ync or 'w'rite, fail now.
static int fails(char kind) {
    char text[2];
    told("BRAMAH_FAULTS_DISK", text, sizeof text);
    if (text[0] != kind) return 0;
    errno = EIO;
    return 1;
}

int fdatasync(int file) { return fails('s') ? -1 : syscall(SYS_fdatasync, file); }

int fsync(int file) { return fails('s') ? -1 : syscall(SYS_fsync, file); }

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    return fails('w') ? -1 : syscall(SYS_pwrite64, file, bytes, count, offset);
}

// Connections over IPv4 come from BRAMAH_FAULTS_SOURCE.
int connect(int file, const struct sockaddr *to, socklen_t length) {
    const char *source = getenv("BRAMAH_FAULTS_SOURCE");
    if (source && to->sa_family == AF_INET) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        int on = 1;
        // The port is chosen when the target is known: it may serve for connections to several.
        if (setsockopt(file, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) != 0 ||
            inet_pton(AF_INET, source, &from.sin_addr) != 1 ||
            bind(file, (struct sockaddr *)&from, sizeof from) != 0)
            return -1;
    }
    return syscall(SYS_connect, file, to, length);
}
