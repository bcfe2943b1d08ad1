/*
 * subgen: MQTT 3.1.1 clients that receive, from one thread with one epoll set; without --filter they only stay connected.
 *
 * Each client checks every reading it is given against what it has had of that device: a place in the sequence that is
 * passed over is `missing`, one that was there before is `repeated` (a reading that arrives late counts as both).
 * Latency is from the time in the reading, in whole milliseconds. QoS 1 is acknowledged, all of one read in one write.
 *
 * --publish W adds a client that publishes, QoS 0, and waits for every other client: it keeps W readings under way, each
 * of them until all clients have it. A server can thus fan out as fast as it likes without being made to drop. A
 * reading that some client has not had for a second is given up, and the copies that were wanting count as `dropped`.
 *
 * Standard output carries one JSON object a line: "connected", when all are subscribed, and a "mark" for each line on
 * standard input: counts since the start, latencies since the last mark. It ends when standard input does, or with an
 * error after --seconds, whichever is first.
 */
#define _GNU_SOURCE
#define PROGRAM "subgen"
#include "latency.h"
#include "loader.h"
#include "packets.h"

#include <getopt.h>
#include <signal.h>

enum {
    MAX_DEVICES = 100000,
    MAX_COUNTERS = 1 << 25, /* clients x devices: 128 MiB */
    MAX_FILTER = 100,       /* keeps SUBSCRIBE's remaining length within one byte */
    MAX_WINDOW = 1000,
    READ_BYTES = 1 << 18,
    MAX_ACKS = READ_BYTES + MAX_PUBLISH, /* a PUBLISH of QoS 1 is longer than its PUBACK */
    GIVE_UP_NS = 1000000000,
};

typedef struct {
    int port, connections, devices, qos, publish, payload_bytes, keep_alive_s;
    bool persistent, resume;
    double seconds;
    const char *name, *filter;
} Options;

typedef struct {
    int fd, index;
    bool connected, ready, blocked;
    uint32_t *next; /* by device: the place in its sequence that comes next */
    uint8_t *rest;  /* a packet that came in part, exactly its length */
    size_t rest_len;
    uint8_t *unsent; /* what the socket would not take; nothing is read until it is gone */
    size_t unsent_len;
} Client;

static Options options = {.connections = 1, .devices = 1000, .payload_bytes = 120, .seconds = 600, .name = "sub"};
static Client *clients; /* with --publish the last one publishes */
static Client caller;   /* stands for standard input among the events */
static int epoll_fd, all_clients;
static bool ended;
static Latencies latencies;
static uint64_t delivered, missing, repeated, acked, published, dropped;
static int had_by[MAX_WINDOW]; /* with --publish: how many clients have each reading under way, by sequence % window */
static uint64_t oldest, sent_ns[MAX_WINDOW];

/* --- writing --------------------------------------------------------------------------------------------------- */

static void send_all(Client *c, const uint8_t *bytes, size_t length)
{
    ssize_t count = write(c->fd, bytes, length);
    if (count < 0 && errno != EAGAIN && errno != EINTR)
        die("client %d: the server closed it (%s on write)", c->index, strerror(errno));
    size_t done = count > 0 ? (size_t)count : 0;
    if (done == length)
        return;
    c->unsent_len = length - done;
    c->unsent = allocate(1, c->unsent_len);
    memcpy(c->unsent, bytes + done, c->unsent_len);
    c->blocked = true;
    epoll_set(epoll_fd, EPOLL_CTL_MOD, c->fd, EPOLLOUT, c);
}

static void send_rest(Client *c)
{
    uint8_t *unsent = c->unsent;
    c->blocked = false;
    epoll_set(epoll_fd, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    send_all(c, unsent, c->unsent_len);
    free(unsent);
}

static void subscribe(Client *c)
{
    uint8_t packet[7 + MAX_FILTER] = {0x82, 0, 0, 1, 0};
    size_t length = strlen(options.filter);
    packet[1] = (uint8_t)(5 + length);
    packet[5] = (uint8_t)length;
    memcpy(packet + 6, options.filter, length);
    packet[6 + length] = (uint8_t)options.qos;
    send_all(c, packet, 7 + length);
}

/* --- publishing ------------------------------------------------------------------------------------------------ */

static void publish_window(void)
{
    static uint8_t packets[MAX_WINDOW * (7 + MAX_TOPIC + 1024)];
    Client *publisher = clients + options.connections;
    Topic topic = topic_of("dev", "telemetry", 0);
    size_t each = publish_bytes(&topic, 0, options.payload_bytes), length = 0;
    uint64_t now = now_ns(), time_ms = wall_ms();
    if (publisher->blocked)
        return;
    for (; published < oldest + (uint64_t)options.publish; published++, length += each) {
        had_by[published % (uint64_t)options.publish] = 0;
        sent_ns[published % (uint64_t)options.publish] = now;
        put_publish(packets + length, &topic, 0, false, 0, options.payload_bytes, published, time_ms);
    }
    if (length > 0)
        send_all(publisher, packets, length);
}

static void had(uint64_t sequence)
{
    if (options.publish > 0 && sequence >= oldest && sequence < published)
        had_by[sequence % (uint64_t)options.publish]++;
}

/* Lets go of the readings that all clients have, and of those that some client never got; then sends new ones. */
static void go_on_publishing(void)
{
    uint64_t now = now_ns();
    for (; oldest < published; oldest++) {
        int slot = (int)(oldest % (uint64_t)options.publish);
        if (had_by[slot] < options.connections) {
            if (now - sent_ns[slot] < GIVE_UP_NS)
                break;
            dropped += (uint64_t)(options.connections - had_by[slot]);
        }
    }
    publish_window();
}

/* --- reading --------------------------------------------------------------------------------------------------- */

/* The digits that follow the first occurrence of `before`; -1 if there are none. */
static int64_t digits_after(const uint8_t *text, size_t length, const char *before)
{
    const uint8_t *at = memmem(text, length, before, strlen(before)), *end = text + length;
    if (at == NULL)
        return -1;
    int64_t value = -1;
    for (at += strlen(before); at < end && *at >= '0' && *at <= '9'; at++)
        value = (value < 0 ? 0 : value * 10) + (*at - '0');
    return value;
}

static void check_reading(Client *c, const uint8_t *topic, size_t topic_len, const uint8_t *payload, size_t length)
{
    static uint64_t asked_at_ns, time_ms;
    int64_t device = digits_after(topic, topic_len, "-"), sequence = digits_after(payload, length, ",\"seq\":");
    int64_t made_ms = digits_after(payload, length, "{\"ts\":");
    if (device < 0 || device >= options.devices || sequence < 0 || made_ms < 0)
        die("client %d: %.*s is no reading of a device below %d", c->index, (int)topic_len, topic, options.devices);
    uint64_t now = now_ns();
    if (now - asked_at_ns > 500000) { /* the wall clock is asked at most every half millisecond */
        asked_at_ns = now;
        time_ms = wall_ms();
    }
    delivered++;
    record_latency(&latencies, time_ms > (uint64_t)made_ms ? (time_ms - (uint64_t)made_ms) * 1000 : 0, 1);
    uint32_t *next = c->next + device;
    if ((uint32_t)sequence < *next) {
        repeated++;
        return;
    }
    missing += (uint32_t)sequence - *next;
    *next = (uint32_t)sequence + 1;
    had((uint64_t)sequence);
}

/* Returns the bytes of the PUBACK that was put at `ack`. */
static size_t on_publish(Client *c, uint8_t flags, const uint8_t *body, size_t length, uint8_t *ack)
{
    int qos = flags >> 1 & 3;
    size_t topic_len = length < 2 ? length : (size_t)(body[0] << 8 | body[1]), id_bytes = qos > 0 ? 2 : 0;
    if (qos > 1 || length < 2 + topic_len + id_bytes)
        die("client %d: a PUBLISH of QoS %d and %zu bytes, which was not to be expected", c->index, qos, length);
    const uint8_t *payload = body + 2 + topic_len + id_bytes;
    check_reading(c, body + 2, topic_len, payload, length - 2 - topic_len - id_bytes);
    if (qos == 0)
        return 0;
    memcpy(ack, "\x40\x02", 2);
    memcpy(ack + 2, payload - 2, 2);
    acked++;
    return 4;
}

static void on_connack(Client *c, const uint8_t *body, size_t length)
{
    if (length != 2 || body[1] != 0)
        die("client %d: CONNECT refused with return code %u", c->index, length == 2 ? body[1] : 0);
    if (options.resume && (body[0] & 1) == 0)
        die("client %d: the server knows nothing of its session", c->index);
    c->connected = true;
    bool subscribes = options.filter != NULL && !options.resume && c->index < options.connections;
    if (subscribes)
        subscribe(c);
    else
        c->ready = true;
}

static size_t on_packet(Client *c, uint8_t first, const uint8_t *body, size_t length, uint8_t *ack)
{
    int type = first >> 4;
    if (!c->connected && type == CONNACK) {
        on_connack(c, body, length);
    } else if (c->connected && type == PUBLISH) {
        return on_publish(c, first & 15, body, length, ack);
    } else if (c->connected && !c->ready && type == SUBACK && length == 3) {
        if (body[2] != options.qos)
            die("client %d: SUBSCRIBE to %s at QoS %d was answered with 0x%02x", c->index, options.filter, options.qos,
                body[2]);
        c->ready = true;
    } else {
        die("client %d: unexpected packet of type %d and %zu bytes", c->index, type, length);
    }
    return 0;
}

/* The bytes of the packet's fixed header, and those of its body; 0 while the header is not all there. */
static size_t fixed_header(const Client *c, const uint8_t *at, size_t available, size_t *body_bytes)
{
    *body_bytes = 0;
    for (size_t i = 1; i < available && i <= 4; i++) {
        *body_bytes |= (size_t)(at[i] & 127) << 7 * (i - 1);
        if ((at[i] & 128) == 0) {
            if (*body_bytes > MAX_PUBLISH)
                die("client %d: a packet of %zu bytes, larger than any reading", c->index, *body_bytes);
            return i + 1;
        }
    }
    if (available > 4)
        die("client %d: a remaining length of more than four bytes", c->index);
    return 0;
}

/* Handles all whole packets, keeps the rest, and sends the acknowledgements in one write. */
static void take(Client *c, const uint8_t *bytes, size_t length)
{
    static uint8_t acks[MAX_ACKS];
    size_t at = 0, ack_bytes = 0, header, body;
    while (length - at >= 2 && (header = fixed_header(c, bytes + at, length - at, &body)) > 0) {
        if (length - at < header + body)
            break;
        ack_bytes += on_packet(c, bytes[at], bytes + at + header, body, acks + ack_bytes);
        at += header + body;
    }
    c->rest_len = length - at;
    c->rest = c->rest_len > 0 ? memcpy(allocate(1, c->rest_len), bytes + at, c->rest_len) : NULL;
    if (ack_bytes > 0)
        send_all(c, acks, ack_bytes);
}

static void read_once(Client *c)
{
    static uint8_t chunk[MAX_PUBLISH + 5 + READ_BYTES];
    size_t kept = c->rest_len;
    ssize_t count = read(c->fd, chunk + kept, READ_BYTES);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        die("client %d: the server closed it (%s) after %llu readings", c->index,
            count == 0 ? "end of stream" : strerror(errno), (unsigned long long)delivered);
    if (kept > 0)
        memcpy(chunk, c->rest, kept);
    free(c->rest);
    take(c, chunk, kept + (size_t)count);
}

/* --- the run --------------------------------------------------------------------------------------------------- */

static void open_client(Client *c, int index)
{
    uint8_t packet[MAX_CONNECT];
    c->index = index;
    if (options.filter != NULL && index < options.connections)
        c->next = allocate((size_t)options.devices, sizeof *c->next);
    c->fd = dial(options.port, index);
    epoll_set(epoll_fd, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    send_all(c, packet, put_connect(packet, options.name, index, !options.persistent, options.keep_alive_s));
}

static void mark(void)
{
    Cpu cpu = own_cpu();
    printf("{\"event\":\"mark\",\"at_s\":%.6f,\"delivered\":%llu,\"missing\":%llu,\"repeated\":%llu,\"acked\":%llu,"
           "\"published\":%llu,\"dropped\":%llu,\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu,\"user_s\":%.6f,"
           "\"system_s\":%.6f}\n",
           (double)now_ns() / 1e9, (unsigned long long)delivered, (unsigned long long)missing,
           (unsigned long long)repeated, (unsigned long long)acked, (unsigned long long)published,
           (unsigned long long)dropped, (unsigned long long)percentile(&latencies, 0.5),
           (unsigned long long)percentile(&latencies, 0.99), (unsigned long long)latencies.max_us, cpu.user_s,
           cpu.system_s);
    forget_latencies(&latencies);
}

static void hear_caller(void)
{
    int lines = lines_from_caller();
    ended = lines < 0;
    for (; lines > 0; lines--)
        mark();
}

static void serve_events(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
    for (int i = 0; i < count; i++) {
        Client *c = events[i].data.ptr;
        if (c == &caller)
            hear_caller();
        else if (c->blocked)
            send_rest(c);
        else
            read_once(c);
    }
}

static void connect_all(void)
{
    uint64_t give_up = now_ns() + (uint64_t)CONNECT_PATIENCE_MS * 1000000u;
    for (int opened = 0, ready = 0; ready < all_clients;) {
        while (opened < all_clients && opened - ready < CONNECTS_IN_FLIGHT) {
            open_client(clients + opened, opened);
            opened++;
        }
        serve_events();
        while (ready < opened && clients[ready].ready)
            ready++;
        if (now_ns() > give_up)
            die("only %d of %d clients were ready after %d s", ready, all_clients, CONNECT_PATIENCE_MS / 1000);
    }
}

static void disconnect_all(void)
{
    for (int i = 0; i < all_clients; i++) {
        if (!clients[i].blocked && write(clients[i].fd, DISCONNECT, 2) < 0)
            continue; /* the server was faster to hang up */
        close(clients[i].fd);
    }
}

static void run(void)
{
    uint64_t give_up = now_ns() + (uint64_t)(options.seconds * 1e9);
    if (!watch_caller(epoll_fd, &caller))
        die("standard input is to be a pipe: its lines ask for marks, its end ends the run");
    while (!ended) {
        if (options.publish > 0)
            go_on_publishing();
        serve_events();
        if (now_ns() > give_up)
            die("nobody ended it within %g s", options.seconds);
    }
}

/* --- options --------------------------------------------------------------------------------------------------- */

static void check_options(void)
{
    if (options.port == 0)
        die("--port is needed");
    if (options.publish > 0 && (options.filter == NULL || options.qos != 0))
        die("--publish needs a --filter at --qos 0");
    if (options.filter != NULL && (int64_t)options.connections * options.devices > MAX_COUNTERS)
        die("%d clients x %d devices are more than %d counters", options.connections, options.devices, MAX_COUNTERS);
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},          {"connections", required_argument, NULL, 'c'},
        {"filter", required_argument, NULL, 'f'},        {"qos", required_argument, NULL, 'q'},
        {"devices", required_argument, NULL, 'd'},       {"publish", required_argument, NULL, 'w'},
        {"payload-bytes", required_argument, NULL, 'b'}, {"seconds", required_argument, NULL, 's'},
        {"keep-alive", required_argument, NULL, 'k'},    {"name", required_argument, NULL, 'n'},
        {"persistent", no_argument, NULL, 'P'},          {"resume", no_argument, NULL, 'R'},
        {NULL, 0, NULL, 0},
    };
    int flag, which;
    while ((flag = getopt_long(argc, argv, "", known, &which)) != -1) {
        const char *name = flag == '?' ? "" : known[which].name;
        switch (flag) {
        case 'p': options.port = (int)number(name, optarg, 1, 65535); break;
        case 'c': options.connections = (int)number(name, optarg, 1, MAX_CONNECTIONS - 1); break;
        case 'f': options.filter = short_text(name, optarg, MAX_FILTER); break;
        case 'q': options.qos = (int)number(name, optarg, 0, 1); break;
        case 'd': options.devices = (int)number(name, optarg, 1, MAX_DEVICES); break;
        case 'w': options.publish = (int)number(name, optarg, 1, MAX_WINDOW); break;
        case 'b': options.payload_bytes = (int)number(name, optarg, MIN_PAYLOAD, 1024); break;
        case 's': options.seconds = number(name, optarg, 0.1, 3600); break;
        case 'k': options.keep_alive_s = (int)number(name, optarg, 0, 65535); break;
        case 'n': options.name = short_text(name, optarg, MAX_NAME); break;
        case 'R': options.resume = true; /* fall through */
        case 'P': options.persistent = true; break;
        default: die("usage: subgen --port N [--connections N] [--filter FILTER] [--qos 0|1] [--devices N] [--publish W]"
                     " [--payload-bytes N] [--seconds S] [--keep-alive S] [--name CLIENTS] [--persistent | --resume]");
        }
    }
    if (optind != argc)
        die("no other arguments than options are taken");
    check_options();
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    all_clients = options.connections + (options.publish > 0 ? 1 : 0);
    allow_files(all_clients);
    clients = allocate((size_t)all_clients, sizeof *clients);
    epoll_fd = new_epoll();
    uint64_t before = now_ns();
    connect_all();
    printf("{\"event\":\"connected\",\"connections\":%d,\"connect_s\":%.6f}\n", all_clients,
           (double)(now_ns() - before) / 1e9);
    run();
    disconnect_all();
    return 0;
}
