/*
 * What every loader needs of the system it runs on: a way to give up, clocks, checked options, sockets, its own CPU.
 * A program defines PROGRAM, the name it complains under, before it includes this.
 */
#ifndef LOADER_H
#define LOADER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 28000, /* the ephemeral ports of one loopback address */
    CONNECTS_IN_FLIGHT = 64, /* below the listen backlog of common servers: a dropped SYN would cost a second */
    CONNECT_PATIENCE_MS = 30000,
    EVENTS = 1024,
    TICK_MS = 10, /* how late the end of a phase may be noticed when no event comes */
};

static inline _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs(PROGRAM ": ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static inline void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        die("out of memory for %zu x %zu bytes", count, size);
    return memory;
}

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static inline uint64_t wall_ms(void)
{
    return clock_ns(CLOCK_REALTIME) / 1000000;
}

typedef struct {
    double user_s, system_s;
} Cpu;

static inline Cpu own_cpu(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (Cpu){.user_s = (double)used.ru_utime.tv_sec + (double)used.ru_utime.tv_usec / 1e6,
                 .system_s = (double)used.ru_stime.tv_sec + (double)used.ru_stime.tv_usec / 1e6};
}

/* --- options --------------------------------------------------------------------------------------------------- */

static inline double number(const char *name, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= low && value <= high))
        die("--%s %s: a number from %g to %g is wanted", name, text, low, high);
    return value;
}

static inline const char *short_text(const char *name, const char *text, size_t limit)
{
    if (*text == '\0' || strlen(text) > limit)
        die("--%s: a text of 1 to %zu bytes is wanted", name, limit);
    return text;
}

/* --- sockets --------------------------------------------------------------------------------------------------- */

static inline void allow_files(int connections)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur < (rlim_t)connections + 16)
        die("%d connections need as many open files; the hard limit is %llu", connections,
            (unsigned long long)files.rlim_max);
}

static inline int new_epoll(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        die("epoll_create1: %s", strerror(errno));
    return fd;
}

static inline void epoll_set(int epoll_fd, int operation, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll_fd, operation, fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

static inline int new_socket(int index, int extra_flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | extra_flags, 0), one = 1;
    if (fd < 0)
        die("socket %d: %s", index, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* A connected socket that does not block any more. */
static inline int dial(int port, int index)
{
    int fd = new_socket(index, 0);
    struct sockaddr_in address = loopback(port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect %d to 127.0.0.1:%d: %s", index, port, strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static inline int new_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd < 0)
        die("timerfd_create: %s", strerror(errno));
    return fd;
}

static inline void set_timer(int fd, uint64_t at_ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u), .tv_nsec = (long)(at_ns % 1000000000u)}};
    if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        die("timerfd_settime: %s", strerror(errno));
}

/* --- the caller ------------------------------------------------------------------------------------------------ */

/* Watches standard input, with `data` for its events. False where it cannot be watched (a file, /dev/null). */
static inline bool watch_caller(int epoll_fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0;
}

/* The lines that the caller sent, read once; -1 when it closed its end. */
static inline int lines_from_caller(void)
{
    char text[256];
    ssize_t count = read(STDIN_FILENO, text, sizeof text);
    if (count <= 0)
        return count < 0 && errno == EINTR ? 0 : -1;
    int lines = 0;
    for (ssize_t i = 0; i < count; i++)
        lines += text[i] == '\n';
    return lines;
}

static inline void wait_for_end_of_input(void)
{
    while (lines_from_caller() >= 0)
        continue;
}

#endif
