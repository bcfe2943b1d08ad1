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
 * The interval ends after --seconds, or earlier: when --messages are answered, or when the caller sends a line.
 */
#define _GNU_SOURCE
#define PROGRAM "loadgen"
#include "latency.h"
#include "loader.h"
#include "packets.h"

#include <getopt.h>
#include <signal.h>

enum {
    MAX_WINDOW = 65535,  /* packet ids are 16 bits, and 0 is none */
    MAX_DEVICE = 999999, /* six digits in a client id */
    INPUT_BYTES = 4096,
};

typedef struct {
    int port, connections, first_device, qos, window, payload_bytes;
    double warmup_s, seconds, rate, messages;
    const char *name, *leaf, *ledger;
} Options;

typedef struct {
    int fd, index;
    bool connected, wants_write;
    uint64_t sequence, due_ns;
    Topic topic;
    uint16_t *free_ids; /* a stack of the slots that are not in flight */
    int free_count;
    uint64_t *sent_ns;       /* by slot; 0 = not in flight */
    uint32_t *sent_sequence; /* by slot; of its last message */
    size_t in_len;
    uint8_t in[INPUT_BYTES];
    size_t out_len, out_done;
    uint8_t *out;
} Connection;

static Latencies latencies;
static Options options = {.connections = 100, .qos = 1, .window = 10, .payload_bytes = 120, .warmup_s = 2, .seconds = 10,
                          .name = "dev", .leaf = "telemetry"};
static Connection *connections;
static Connection caller; /* stands for standard input among the events */
static bool told_to_stop;
static int epoll_fd, timer_fd;
static FILE *ledger; /* NULL: none is kept */
static int slots;       /* answers a connection may be waiting for */
static int slot_weight; /* messages that one answer confirms */
static size_t packet_bytes, out_capacity;
static uint64_t sent_total, acked_total, skipped; /* skipped counts from the start of the measured interval */

/* --- writing --------------------------------------------------------------------------------------------------- */

static void watch(Connection *c, bool write_too)
{
    epoll_set(epoll_fd, EPOLL_CTL_MOD, c->fd, EPOLLIN | (write_too ? EPOLLOUT : 0), c);
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

static void publish(Connection *c, uint16_t packet_id, uint64_t time_ms)
{
    uint8_t *at = reserve(c, publish_bytes(&c->topic, options.qos, options.payload_bytes));
    put_publish(at, &c->topic, options.qos, false, packet_id, options.payload_bytes, c->sequence++, time_ms);
    sent_total++;
}

/* Takes one free slot and sends what its answer will confirm. */
static void send_slot(Connection *c, uint64_t since_ns, uint64_t time_ms)
{
    uint16_t id = c->free_ids[--c->free_count];
    c->sent_ns[id] = since_ns;
    c->sent_sequence[id] = (uint32_t)c->sequence;
    for (int i = 0; i < slot_weight; i++)
        publish(c, id, time_ms);
    if (options.qos == 0)
        memcpy(reserve(c, 2), "\xC0\x00", 2); /* PINGREQ */
}

static bool all_sent(void)
{
    return options.messages > 0 && (double)sent_total >= options.messages;
}

static void fill_window(Connection *c)
{
    uint64_t now = now_ns(), time_ms = wall_ms();
    while (c->free_count > 0 && !all_sent())
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
    record_latency(&latencies, now > since ? (now - since) / 1000 : 0, (uint64_t)slot_weight);
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

static void open_connection(Connection *c, int index)
{
    c->index = index;
    c->topic = topic_of(options.name, options.leaf, index);
    c->out = allocate(1, out_capacity);
    c->free_ids = allocate((size_t)slots, sizeof *c->free_ids);
    c->sent_ns = allocate((size_t)slots + 1, sizeof *c->sent_ns);
    c->sent_sequence = allocate((size_t)slots + 1, sizeof *c->sent_sequence);
    for (int i = 0; i < slots; i++)
        c->free_ids[i] = (uint16_t)(slots - i);
    c->free_count = slots;
    c->fd = dial(options.port, index);
    epoll_set(epoll_fd, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    c->out_len = put_connect(c->out, options.name, index, true, 0);
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

/* Connections have the same period and evenly spread phases, so they fall due in the order of their index, round and
 * round. Sends what is due and sets the timer for the next. */
static void publish_due(uint64_t now)
{
    static int next;
    uint64_t period_ns = (uint64_t)(1e9 / options.rate), time_ms = wall_ms();
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
    set_timer(timer_fd, connections[next].due_ns);
}

static void start_paced(uint64_t start)
{
    timer_fd = new_timer();
    epoll_set(epoll_fd, EPOLL_CTL_ADD, timer_fd, EPOLLIN, NULL);
    for (int i = 0; i < options.connections; i++)
        connections[i].due_ns = start + (uint64_t)(1e9 / options.rate * i / options.connections);
}

static void hear_caller(void)
{
    int lines = lines_from_caller();
    if (lines > 0)
        told_to_stop = true;
    if (lines < 0 && epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void serve_events(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
    for (int i = 0; i < count; i++) {
        Connection *c = events[i].data.ptr;
        if (c == NULL)
            continue; /* the timer: publish_due sets it anew */
        if (c == &caller) {
            hear_caller();
            continue;
        }
        if (events[i].events & EPOLLOUT)
            flush(c);
        if (events[i].events & ~(uint32_t)EPOLLOUT) {
            read_answers(c);
            if (options.rate == 0 && c->free_count > 0)
                fill_window(c);
        }
    }
}

static bool finished(bool measuring)
{
    bool all_answered = all_sent() && acked_total >= sent_total;
    return measuring && (told_to_stop || all_answered);
}

static void print_result(uint64_t interval_ns, uint64_t total_ns, double connect_s, uint64_t acked, Cpu before)
{
    Cpu after = own_cpu();
    double interval_s = (double)interval_ns / 1e9;
    printf("{\"event\":\"result\",\"interval_s\":%.6f,\"total_s\":%.6f,\"connect_s\":%.6f,\"acked\":%llu,"
           "\"acked_per_s\":%.1f,\"acked_total\":%llu,\"sent_total\":%llu,\"skipped\":%llu,\"p50_us\":%llu,"
           "\"p99_us\":%llu,\"max_us\":%llu,\"user_s\":%.6f,\"system_s\":%.6f}\n",
           interval_s, (double)total_ns / 1e9, connect_s, (unsigned long long)acked, (double)acked / interval_s,
           (unsigned long long)acked_total, (unsigned long long)sent_total, (unsigned long long)skipped,
           (unsigned long long)percentile(&latencies, 0.5), (unsigned long long)percentile(&latencies, 0.99),
           (unsigned long long)latencies.max_us, after.user_s - before.user_s, after.system_s - before.system_s);
}

static void run(double connect_s)
{
    uint64_t start = now_ns(), measure_from = start + (uint64_t)(options.warmup_s * 1e9), acked_before = 0;
    uint64_t end = measure_from + (uint64_t)(options.seconds * 1e9), now;
    Cpu before = {0};
    bool measuring = false;
    watch_caller(epoll_fd, &caller);
    if (options.rate > 0)
        start_paced(start);
    for (int i = 0; options.rate == 0 && i < options.connections; i++)
        fill_window(connections + i);
    while ((now = now_ns()) < end && !finished(measuring)) {
        if (!measuring && now >= measure_from) {
            measuring = true;
            measure_from = now;
            forget_latencies(&latencies);
            skipped = 0;
            acked_before = acked_total;
            before = own_cpu();
            puts("{\"event\":\"measuring\"}");
        }
        if (options.rate > 0)
            publish_due(now);
        serve_events();
    }
    print_result(now - measure_from, now - start, connect_s, acked_total - acked_before, before);
}

/* Waits until the caller closes our standard input, then takes leave of the server. */
static void hold_then_disconnect(void)
{
    wait_for_end_of_input();
    for (int i = 0; i < options.connections; i++) {
        Connection *c = connections + i;
        while (read(c->fd, c->in, sizeof c->in) > 0)
            continue; /* answers left unread would turn the close into a reset */
        bool between_packets = c->out_done == c->out_len;
        if (between_packets && write(c->fd, DISCONNECT, 2) < 0)
            continue; /* the server was faster to hang up; nothing is measured any more */
        close(c->fd);
    }
}

/* --- options --------------------------------------------------------------------------------------------------- */

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},          {"connections", required_argument, NULL, 'c'},
        {"qos", required_argument, NULL, 'q'},           {"window", required_argument, NULL, 'w'},
        {"payload-bytes", required_argument, NULL, 'b'}, {"warmup", required_argument, NULL, 'u'},
        {"seconds", required_argument, NULL, 's'},       {"rate", required_argument, NULL, 'r'},
        {"messages", required_argument, NULL, 'm'},      {"name", required_argument, NULL, 'n'},
        {"leaf", required_argument, NULL, 'l'},          {"first-device", required_argument, NULL, 'f'},
        {"ledger", required_argument, NULL, 'g'},
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
        case 'm': options.messages = number(name, optarg, 1, 1e9); break;
        case 'n': options.name = short_text(name, optarg, MAX_NAME); break;
        case 'l': options.leaf = short_text(name, optarg, MAX_NAME); break;
        case 'f': options.first_device = (int)number(name, optarg, 0, MAX_DEVICE - MAX_CONNECTIONS); break;
        case 'g': options.ledger = optarg; break;
        default: die("usage: loadgen --port N [--connections N] [--qos 0|1] [--window N] [--payload-bytes N]"
                     " [--warmup S] [--seconds S] [--rate MESSAGES_PER_S_AND_CONNECTION] [--messages N]"
                     " [--name DEVICES] [--leaf TOPIC_LEVEL] [--first-device N] [--ledger FILE]");
        }
    }
    if (options.port == 0 || optind != argc)
        die("--port is needed, and no other arguments than options");
    if (options.messages > 0 && (options.qos == 0 || options.rate > 0))
        die("--messages ends a saturated load of QoS 1 only");
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
    allow_files(options.connections);
    bool batched = options.qos == 0 && options.rate == 0;
    slots = options.qos == 0 ? 1 : options.window;
    slot_weight = batched ? options.window : 1;
    packet_bytes = 7 + MAX_TOPIC + (size_t)options.payload_bytes;
    out_capacity = packet_bytes * (size_t)slots * (size_t)slot_weight + 64; /* and a PINGREQ, or the CONNECT */
    connections = allocate((size_t)options.connections, sizeof *connections);
    epoll_fd = new_epoll();
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
