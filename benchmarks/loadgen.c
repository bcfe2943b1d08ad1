/*
 * loadgen: MQTT 3.1.1 publish load over many connections, from one thread with one epoll set.
 *
 * Saturated (no --rate): a closed loop. Each connection keeps `window` messages unanswered and sends the next ones as
 * answers come in, all those of one read in one write. Paced (--rate R): each connection sends R messages a second,
 * evenly spread over the connections, and a latency counts from the moment the message was due, so that time which
 * the server or the loader loses is not hidden. When the window of a connection is full, its message is skipped and
 * counted.
 *
 * QoS 1 counts a message when its PUBACK arrives. QoS 0 has no answer, so PINGREQs stand in for it: a PINGREQ follows
 * every `window` messages (every message, when paced), and its PINGRESP says that the server has parsed what came
 * before. The window bounds all memory: packet ids, send times and output buffers.
 *
 * With --ledger FILE each acknowledged QoS 1 message is noted there as two uint32 in the machine's byte order, device and
 * sequence number, in the order of the answers; the file is whole when the process has ended by itself, also when that
 * was because the server hung up. With --first-device N devices are numbered from N.
 *
 * Standard output carries one JSON object a line: "connected", "measuring" (warm-up over), "result". After the result
 * the connections stay open until standard input ends, so that the caller can look at the server with its clients on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
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
    MIN_PAYLOAD = 110,       /* the fixed fields of a reading, with the longest numbers */
    MAX_PAYLOAD = 8192,      /* keeps a packet's remaining length within two bytes */
    MAX_WINDOW = 65535,      /* packet ids are 16 bits, and 0 is none */
    MAX_CONNECTIONS = 28000, /* the ephemeral ports of one loopback address */
    MAX_DEVICE = 999999,     /* six digits in a client id */
    CONNECTS_IN_FLIGHT = 64, /* below the listen backlog of common servers: a dropped SYN would cost a second */
    CONNECT_PATIENCE_MS = 30000,
    INPUT_BYTES = 4096,
    EVENTS = 1024,
    TICK_MS = 10, /* how late the end of a phase may be noticed when no event comes */
};

enum { CONNACK = 2, PUBACK = 4, PINGRESP = 13 }; /* [MQTT 3.1.1, table 2.1] */

typedef struct {
    int port, connections, first_device, qos, window, payload_bytes;
    double warmup_s, seconds, rate;
    const char *ledger;
} Options;

typedef struct {
    int fd, index;
    bool connected, wants_write;
    uint64_t sequence, due_ns;
    int topic_len;
    char topic[48];
    uint16_t *free_ids; /* a stack of the slots that are not in flight */
    int free_count;
    uint64_t *sent_ns;       /* by slot; 0 = not in flight */
    uint32_t *sent_sequence; /* by slot; of its last message */
    size_t in_len;
    uint8_t in[INPUT_BYTES];
    size_t out_len, out_done;
    uint8_t *out;
} Connection;

/* Latencies in microseconds, in buckets of less than 1 % width: exact below 256 us, then 128 to each doubling. */
enum { LINEAR = 256, STEPS = 128, BUCKETS = LINEAR + STEPS * 40 };
static uint64_t histogram[BUCKETS];
static uint64_t max_us;

static Options options = {.connections = 100, .qos = 1, .window = 10, .payload_bytes = 120, .warmup_s = 2, .seconds = 10};
static Connection *connections;
static int epoll_fd, timer_fd;
static FILE *ledger; /* NULL: none is kept */
static int slots;       /* answers a connection may be waiting for */
static int slot_weight; /* messages that one answer confirms */
static size_t packet_bytes, out_capacity;
static uint64_t sent_total, acked_total, skipped; /* skipped counts from the start of the measured interval */

static _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        die("out of memory for %zu x %zu bytes", count, size);
    return memory;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* --- latencies ------------------------------------------------------------------------------------------------- */

static int bucket_of(uint64_t us)
{
    if (us < LINEAR)
        return (int)us;
    int shift = 63 - __builtin_clzll(us) - 7; /* leaves us >> shift within 128..255 */
    int bucket = LINEAR + (shift - 1) * STEPS + (int)(us >> shift) - STEPS;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static uint64_t bucket_floor(int bucket)
{
    if (bucket < LINEAR)
        return (uint64_t)bucket;
    int shift = (bucket - LINEAR) / STEPS + 1;
    return (uint64_t)((bucket - LINEAR) % STEPS + STEPS) << shift;
}

static void record_latency(uint64_t us, uint64_t messages)
{
    histogram[bucket_of(us)] += messages;
    if (us > max_us)
        max_us = us;
}

static uint64_t percentile(double fraction)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += histogram[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (total > 0 && (double)seen >= fraction * (double)total)
            return bucket_floor(i);
    }
    return 0;
}

/* --- writing --------------------------------------------------------------------------------------------------- */

static void watch(Connection *c, bool write_too)
{
    struct epoll_event event = {.events = EPOLLIN | (write_too ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
    c->wants_write = write_too;
}

static void flush(Connection *c)
{
    while (c->out_done < c->out_len) {
        ssize_t count = write(c->fd, c->out + c->out_done, c->out_len - c->out_done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN) {
            if (!c->wants_write)
                watch(c, true);
            return;
        }
        if (count < 0)
            die("connection %d: the server closed it (%s on write)", c->index, strerror(errno));
        c->out_done += (size_t)count;
    }
    c->out_len = c->out_done = 0;
    if (c->wants_write)
        watch(c, false);
}

static uint8_t *reserve(Connection *c, size_t bytes)
{
    if (c->out_len + bytes > out_capacity) { /* what is unanswered always fits once the written part is dropped */
        memmove(c->out, c->out + c->out_done, c->out_len - c->out_done);
        c->out_len -= c->out_done;
        c->out_done = 0;
    }
    if (c->out_len + bytes > out_capacity)
        die("connection %d: output of %zu bytes overflows its window", c->index, c->out_len + bytes);
    uint8_t *at = c->out + c->out_len;
    c->out_len += bytes;
    return at;
}

static char *put_text(char *at, const char *text, size_t length)
{
    memcpy(at, text, length);
    return at + length;
}

static char *put_number(char *at, uint64_t value, int min_digits)
{
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0 || count < min_digits);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

#define PUT(at, literal) put_text(at, literal, sizeof(literal) - 1)

/* One JSON reading of exactly payload_bytes; by hand, since printf would cost the loader more than its system calls. */
static void put_reading(char *at, uint64_t sequence, uint64_t time_ms)
{
    char *end = at + options.payload_bytes;
    at = put_number(PUT(at, "{\"ts\":"), time_ms, 1);
    at = put_number(PUT(at, ",\"seq\":"), sequence, 1);
    at = put_number(PUT(at, ",\"temperature\":"), 20 + sequence % 1000 / 100, 1);
    at = put_number(PUT(at, "."), sequence % 100, 2);
    at = put_number(PUT(at, ",\"vibration\":0."), sequence % 97 * 13, 4);
    at = put_number(PUT(at, ",\"rpm\":"), 1480 + sequence % 40, 1);
    at = PUT(at, ",\"status\":\"ok\",\"p\":\"");
    memset(at, 'x', (size_t)(end - at) - 2);
    PUT(end - 2, "\"}");
}

static void put_publish(Connection *c, uint16_t packet_id, uint64_t time_ms)
{
    size_t id_bytes = options.qos > 0 ? 2 : 0;
    size_t remaining = 2 + (size_t)c->topic_len + id_bytes + (size_t)options.payload_bytes;
    size_t length_bytes = remaining < 128 ? 1 : 2;
    uint8_t *at = reserve(c, 1 + length_bytes + remaining);
    *at++ = (uint8_t)(0x30 | options.qos << 1);
    if (length_bytes == 2)
        *at++ = (uint8_t)(remaining % 128 | 128);
    *at++ = (uint8_t)(length_bytes == 2 ? remaining / 128 : remaining);
    *at++ = 0;
    *at++ = (uint8_t)c->topic_len;
    memcpy(at, c->topic, (size_t)c->topic_len);
    at += c->topic_len;
    if (id_bytes > 0) {
        *at++ = (uint8_t)(packet_id >> 8);
        *at++ = (uint8_t)packet_id;
    }
    put_reading((char *)at, c->sequence++, time_ms);
    sent_total++;
}

/* Takes one free slot and sends what its answer will confirm. */
static void send_slot(Connection *c, uint64_t since_ns, uint64_t time_ms)
{
    uint16_t id = c->free_ids[--c->free_count];
    c->sent_ns[id] = since_ns;
    c->sent_sequence[id] = (uint32_t)c->sequence;
    for (int i = 0; i < slot_weight; i++)
        put_publish(c, id, time_ms);
    if (options.qos == 0)
        memcpy(reserve(c, 2), "\xC0\x00", 2); /* PINGREQ */
}

static void fill_window(Connection *c)
{
    uint64_t now = now_ns(), time_ms = clock_ns(CLOCK_REALTIME) / 1000000;
    while (c->free_count > 0)
        send_slot(c, now, time_ms);
    flush(c);
}

/* --- reading --------------------------------------------------------------------------------------------------- */

static void note_answer(const Connection *c, uint16_t id)
{
    uint32_t entry[2] = {(uint32_t)c->index, c->sent_sequence[id]};
    if (fwrite(entry, sizeof entry, 1, ledger) != 1)
        die("the ledger %s cannot be written: %s", options.ledger, strerror(errno));
}

static void confirm(Connection *c, uint16_t id, uint64_t now)
{
    if (id == 0 || id > slots || c->sent_ns[id] == 0)
        die("connection %d: an answer for packet id %u, which is not in flight", c->index, id);
    uint64_t since = c->sent_ns[id];
    record_latency(now > since ? (now - since) / 1000 : 0, (uint64_t)slot_weight);
    c->sent_ns[id] = 0;
    if (ledger != NULL)
        note_answer(c, id);
    c->free_ids[c->free_count++] = id;
    acked_total += (uint64_t)slot_weight;
}

static void on_packet(Connection *c, const uint8_t *packet, size_t length, uint64_t now)
{
    int type = packet[0] >> 4;
    if (!c->connected) {
        if (type != CONNACK || length != 4)
            die("connection %d: packet type %d where a CONNACK was due", c->index, type);
        if (packet[3] != 0)
            die("connection %d: CONNECT refused with return code %u", c->index, packet[3]);
        c->connected = true;
    } else if (type == PUBACK && length == 4 && options.qos == 1) {
        confirm(c, (uint16_t)(packet[2] << 8 | packet[3]), now);
    } else if (type == PINGRESP && length == 2 && options.qos == 0) {
        confirm(c, 1, now);
    } else {
        die("connection %d: unexpected packet of type %d and %zu bytes", c->index, type, length);
    }
}

/* Reads once; the rest of a packet that came in part is kept for the next time. */
static void read_answers(Connection *c)
{
    ssize_t count = read(c->fd, c->in + c->in_len, sizeof c->in - c->in_len);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        die("connection %d: the server closed it (%s) after %llu messages were answered", c->index,
            count == 0 ? "end of stream" : strerror(errno), (unsigned long long)acked_total);
    c->in_len += (size_t)count;
    uint64_t now = now_ns();
    size_t at = 0;
    while (c->in_len - at >= 2) {
        if (c->in[at + 1] & 0x80)
            die("connection %d: a packet of more than 127 bytes, which no answer is", c->index);
        size_t length = 2 + (size_t)c->in[at + 1];
        if (c->in_len - at < length)
            break;
        on_packet(c, c->in + at, length, now);
        at += length;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
}

/* --- connecting ------------------------------------------------------------------------------------------------ */

static void put_connect(Connection *c)
{
    char id[16];
    int id_len = snprintf(id, sizeof id, "dev-%06d", c->index);
    uint8_t *at = reserve(c, 14 + (size_t)id_len);
    *at++ = 0x10;
    *at++ = (uint8_t)(12 + id_len);
    memcpy(at, "\0\4MQTT\4\2\0\0", 10); /* level 4, clean session, no keep-alive */
    at += 10;
    *at++ = 0;
    *at++ = (uint8_t)id_len;
    memcpy(at, id, (size_t)id_len);
}

static void open_connection(Connection *c, int index)
{
    c->index = index;
    c->topic_len = snprintf(c->topic, sizeof c->topic, "devices/dev-%06d/telemetry", index);
    c->out = allocate(1, out_capacity);
    c->free_ids = allocate((size_t)slots, sizeof *c->free_ids);
    c->sent_ns = allocate((size_t)slots + 1, sizeof *c->sent_ns);
    c->sent_sequence = allocate((size_t)slots + 1, sizeof *c->sent_sequence);
    for (int i = 0; i < slots; i++)
        c->free_ids[i] = (uint16_t)(slots - i);
    c->free_count = slots;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket %d: %s", index, strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect %d to 127.0.0.1:%d: %s", index, options.port, strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
    put_connect(c);
    flush(c);
}

static void connect_all(void)
{
    struct epoll_event events[EVENTS];
    uint64_t give_up = now_ns() + (uint64_t)CONNECT_PATIENCE_MS * 1000000u;
    for (int opened = 0, up = 0; up < options.connections;) {
        while (opened < options.connections && opened - up < CONNECTS_IN_FLIGHT) {
            open_connection(connections + opened, options.first_device + opened);
            opened++;
        }
        int count = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            read_answers(c);
            up += c->connected;
        }
        if (now_ns() > give_up)
            die("only %d of %d connections had their CONNACK after %d s", up, options.connections,
                CONNECT_PATIENCE_MS / 1000);
    }
}

/* --- the run --------------------------------------------------------------------------------------------------- */

static void set_timer(uint64_t at_ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u), .tv_nsec = (long)(at_ns % 1000000000u)}};
    if (timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        die("timerfd_settime: %s", strerror(errno));
}

/* Connections have the same period and evenly spread phases, so they fall due in the order of their index, round and
 * round. Sends what is due and sets the timer for the next. */
static void publish_due(uint64_t now)
{
    static int next;
    uint64_t period_ns = (uint64_t)(1e9 / options.rate), time_ms = clock_ns(CLOCK_REALTIME) / 1000000;
    for (int walked = 0; walked < options.connections && connections[next].due_ns <= now; walked++) {
        Connection *c = connections + next;
        if (c->free_count > 0) {
            send_slot(c, c->due_ns, time_ms);
            flush(c);
        } else {
            skipped++;
        }
        c->due_ns += period_ns;
        next = (next + 1) % options.connections;
    }
    set_timer(connections[next].due_ns);
}

static void start_paced(uint64_t start)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event) != 0)
        die("timerfd: %s", strerror(errno));
    for (int i = 0; i < options.connections; i++)
        connections[i].due_ns = start + (uint64_t)(1e9 / options.rate * i / options.connections);
}

static void serve_events(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
    for (int i = 0; i < count; i++) {
        Connection *c = events[i].data.ptr;
        if (c == NULL)
            continue; /* the timer: publish_due sets it anew */
        if (events[i].events & EPOLLOUT)
            flush(c);
        if (events[i].events & ~(uint32_t)EPOLLOUT) {
            read_answers(c);
            if (options.rate == 0 && c->free_count > 0)
                fill_window(c);
        }
    }
}

static double cpu_s(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void run(double connect_s)
{
    uint64_t start = now_ns(), measure_from = start + (uint64_t)(options.warmup_s * 1e9), acked_before = 0;
    uint64_t end = measure_from + (uint64_t)(options.seconds * 1e9), now;
    struct rusage before = {0}, after;
    bool measuring = false;
    if (options.rate > 0)
        start_paced(start);
    for (int i = 0; options.rate == 0 && i < options.connections; i++)
        fill_window(connections + i);
    while ((now = now_ns()) < end) {
        if (!measuring && now >= measure_from) {
            measuring = true;
            measure_from = now;
            memset(histogram, 0, sizeof histogram);
            max_us = skipped = 0;
            acked_before = acked_total;
            getrusage(RUSAGE_SELF, &before);
            puts("{\"event\":\"measuring\"}");
        }
        if (options.rate > 0)
            publish_due(now);
        serve_events();
    }
    getrusage(RUSAGE_SELF, &after);
    double interval_s = (double)(now - measure_from) / 1e9;
    printf("{\"event\":\"result\",\"interval_s\":%.6f,\"total_s\":%.6f,\"connect_s\":%.6f,\"acked\":%llu,"
           "\"acked_per_s\":%.1f,\"acked_total\":%llu,\"sent_total\":%llu,\"skipped\":%llu,\"p50_us\":%llu,"
           "\"p99_us\":%llu,\"max_us\":%llu,\"user_s\":%.6f,\"system_s\":%.6f}\n",
           interval_s, (double)(now - start) / 1e9, connect_s, (unsigned long long)(acked_total - acked_before),
           (double)(acked_total - acked_before) / interval_s, (unsigned long long)acked_total,
           (unsigned long long)sent_total, (unsigned long long)skipped, (unsigned long long)percentile(0.5),
           (unsigned long long)percentile(0.99), (unsigned long long)max_us,
           cpu_s(after.ru_utime) - cpu_s(before.ru_utime), cpu_s(after.ru_stime) - cpu_s(before.ru_stime));
}

/* Waits until the caller closes our standard input, then takes leave of the server. */
static void hold_then_disconnect(void)
{
    char ignored[64];
    while (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
        continue;
    for (int i = 0; i < options.connections; i++) {
        Connection *c = connections + i;
        while (read(c->fd, c->in, sizeof c->in) > 0)
            continue; /* answers left unread would turn the close into a reset */
        bool between_packets = c->out_done == c->out_len;
        if (between_packets && write(c->fd, "\xE0\x00", 2) < 0) /* DISCONNECT */
            continue; /* the server was faster to hang up; nothing is measured any more */
        close(c->fd);
    }
}

/* --- options --------------------------------------------------------------------------------------------------- */

static double number(const char *name, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= low && value <= high))
        die("--%s %s: a number from %g to %g is wanted", name, text, low, high);
    return value;
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},          {"connections", required_argument, NULL, 'c'},
        {"qos", required_argument, NULL, 'q'},           {"window", required_argument, NULL, 'w'},
        {"payload-bytes", required_argument, NULL, 'b'}, {"warmup", required_argument, NULL, 'u'},
        {"seconds", required_argument, NULL, 's'},       {"rate", required_argument, NULL, 'r'},
        {"first-device", required_argument, NULL, 'f'},  {"ledger", required_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    int flag, which;
    while ((flag = getopt_long(argc, argv, "", known, &which)) != -1) {
        const char *name = flag == '?' ? "" : known[which].name;
        switch (flag) {
        case 'p': options.port = (int)number(name, optarg, 1, 65535); break;
        case 'c': options.connections = (int)number(name, optarg, 1, MAX_CONNECTIONS); break;
        case 'q': options.qos = (int)number(name, optarg, 0, 1); break;
        case 'w': options.window = (int)number(name, optarg, 1, MAX_WINDOW); break;
        case 'b': options.payload_bytes = (int)number(name, optarg, MIN_PAYLOAD, MAX_PAYLOAD); break;
        case 'u': options.warmup_s = number(name, optarg, 0, 3600); break;
        case 's': options.seconds = number(name, optarg, 0.1, 3600); break;
        case 'r': options.rate = number(name, optarg, 0, 100000); break;
        case 'f': options.first_device = (int)number(name, optarg, 0, MAX_DEVICE - MAX_CONNECTIONS); break;
        case 'l': options.ledger = optarg; break;
        default: die("usage: loadgen --port N [--connections N] [--qos 0|1] [--window N] [--payload-bytes N]"
                     " [--warmup S] [--seconds S] [--rate MESSAGES_PER_S_AND_CONNECTION] [--first-device N]"
                     " [--ledger FILE]");
        }
    }
    if (options.port == 0 || optind != argc)
        die("--port is needed, and no other arguments than options");
    if (options.ledger != NULL && options.qos == 0)
        die("--ledger: QoS 0 has no acknowledgements to note");
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (options.ledger != NULL && (ledger = fopen(options.ledger, "ab")) == NULL)
        die("the ledger %s cannot be opened: %s", options.ledger, strerror(errno));
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur < (rlim_t)options.connections + 16)
        die("%d connections need as many open files; the hard limit is %llu", options.connections,
            (unsigned long long)files.rlim_max);
    bool batched = options.qos == 0 && options.rate == 0;
    slots = options.qos == 0 ? 1 : options.window;
    slot_weight = batched ? options.window : 1;
    packet_bytes = 7 + sizeof connections->topic + (size_t)options.payload_bytes;
    out_capacity = packet_bytes * (size_t)slots * (size_t)slot_weight + 64; /* and a PINGREQ, or the CONNECT */
    connections = allocate((size_t)options.connections, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1: %s", strerror(errno));
    uint64_t before = now_ns();
    connect_all();
    double connect_s = (double)(now_ns() - before) / 1e9;
    printf("{\"event\":\"connected\",\"connections\":%d,\"connect_s\":%.6f}\n", options.connections, connect_s);
    run(connect_s);
    hold_then_disconnect();
    if (ledger != NULL && fclose(ledger) != 0)
        die("the ledger %s cannot be written: %s", options.ledger, strerror(errno));
    return 0;
}
