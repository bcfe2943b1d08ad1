/*
 * stormgen: devices that publish on a timetable, QoS 1, lose their connections all at once, and all come back at once.
 *
 * Each device makes --rate readings a second, evenly spread, whether it is connected or not; up to --window are
 * unanswered. A latency counts from the moment a reading was due to its PUBACK, so it contains the time without a
 * connection. After --steady seconds every socket is closed without a DISCONNECT (with --abandon it is not even closed,
 * as when an access point loses its power) and all devices connect again without waiting for each other; what was unanswered is sent again, as clients do. A connection that is refused or lost on the
 * way back is tried again after a pause, and counted. --after seconds after the last device is back no more readings
 * are made, and the run ends when all of them are answered: what a subscriber then has not had was acknowledged and lost.
 *
 * Standard output carries one JSON object a line: "connected", "steady" (before the cut), "back" (all devices are),
 * "result". The connections then stay open until standard input ends. PUBACKs have to come in the order of the
 * PUBLISHes [MQTT-4.6.0-2], so a device's state is three numbers, and its packet ids follow from the sequence.
 */
#define _GNU_SOURCE
#define PROGRAM "stormgen"
#include "latency.h"
#include "loader.h"
#include "packets.h"

#include <getopt.h>
#include <signal.h>

enum {
    MAX_WINDOW = 100,
    MAX_INPUT = 4 * MAX_WINDOW + 4,
    MAX_BYTES = MAX_WINDOW * (7 + MAX_TOPIC + 1024),
    RETRY_NS = 100000000, /* and as much again by the device's number, so that those refused do not return as one */
};

typedef struct {
    int port, connections, window, payload_bytes;
    double rate, steady_s, after_s, patience_s;
    bool persistent, abandon;
    const char *name, *leaf;
} Options;

typedef enum { DOWN, CONNECTING, GREETING, UP } State;

typedef struct {
    int fd, index;
    State state;
    uint64_t retry_ns;
    uint64_t due, sent, acked; /* readings so far: acked <= sent <= due; sent falls back to acked with the connection */
    uint64_t most_sent;
    Topic topic;
    size_t in_len;
    uint8_t in[MAX_INPUT];
} Device;

static Options options = {.connections = 5000, .window = 10, .payload_bytes = 120, .rate = 1, .steady_s = 5, .after_s = 5,
                          .patience_s = 60, .name = "dev", .leaf = "telemetry"};
static Device *devices;
static int epoll_fd, timer_fd, up, down;
static bool in_storm; /* from the cut on; before it a lost connection is an error */
static uint64_t start_ns, period_ns;
static uint64_t sent_total, acked_total, resent, retries;
static Latencies latencies;

/* --- connections ----------------------------------------------------------------------------------------------- */

static void lose(Device *d, const char *why)
{
    if (!in_storm)
        die("device %d: %s", d->index, why);
    up -= d->state == UP;
    close(d->fd);
    d->state = DOWN;
    d->retry_ns = now_ns() + RETRY_NS + RETRY_NS / (uint64_t)options.connections * (uint64_t)d->index;
    d->sent = d->acked;
    d->in_len = 0;
    down++;
    retries++;
}

static void dial_again(Device *d)
{
    struct sockaddr_in address = loopback(options.port);
    d->fd = new_socket(d->index, SOCK_NONBLOCK);
    d->state = CONNECTING;
    d->in_len = 0;
    d->sent = d->acked;
    epoll_set(epoll_fd, EPOLL_CTL_ADD, d->fd, EPOLLOUT, d);
    if (connect(d->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        lose(d, strerror(errno));
}

/* What a device writes is below any socket's buffer, as the window bounds what the server may not have read yet. */
static void write_whole(Device *d, const uint8_t *bytes, size_t length)
{
    ssize_t count = write(d->fd, bytes, length);
    if (count < 0 && errno != EAGAIN)
        lose(d, strerror(errno));
    else if (count != (ssize_t)length)
        die("device %d: the socket took %zd of %zu bytes", d->index, count, length);
}

static void greet(Device *d)
{
    uint8_t packet[MAX_CONNECT];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        lose(d, strerror(error));
        return;
    }
    d->state = GREETING;
    epoll_set(epoll_fd, EPOLL_CTL_MOD, d->fd, EPOLLIN, d);
    write_whole(d, packet, put_connect(packet, options.name, d->index, !options.persistent, 0));
}

/* --- readings -------------------------------------------------------------------------------------------------- */

static uint64_t due_ns(const Device *d, uint64_t sequence)
{
    uint64_t phase = period_ns * (uint64_t)d->index / (uint64_t)options.connections;
    return start_ns + phase + sequence * period_ns;
}

static uint16_t packet_id(uint64_t sequence)
{
    return (uint16_t)(sequence % 65535 + 1);
}

/* Sends what is due and fits the window, in one write. */
static void pump(Device *d)
{
    static uint8_t bytes[MAX_BYTES];
    size_t each = publish_bytes(&d->topic, 1, options.payload_bytes), length = 0;
    uint64_t time_ms = wall_ms();
    if (d->state != UP)
        return;
    for (; d->sent < d->due && d->sent - d->acked < (uint64_t)options.window; d->sent++, length += each) {
        bool again = d->sent < d->most_sent;
        bool dup = again && options.persistent; /* a new session has never seen it [MQTT-3.3.1-1] */
        put_publish(bytes + length, &d->topic, 1, dup, packet_id(d->sent), options.payload_bytes, d->sent, time_ms);
        resent += again;
        sent_total += !again;
    }
    if (d->sent > d->most_sent)
        d->most_sent = d->sent;
    if (length > 0)
        write_whole(d, bytes, length);
}

static void on_puback(Device *d, uint16_t id, uint64_t now)
{
    if (d->acked >= d->sent || id != packet_id(d->acked))
        die("device %d: a PUBACK for packet id %u, which was not the next to be answered", d->index, id);
    uint64_t due = due_ns(d, d->acked++);
    record_latency(&latencies, now > due ? (now - due) / 1000 : 0, 1);
    acked_total++;
}

static void on_packet(Device *d, const uint8_t *packet, uint64_t now)
{
    int type = packet[0] >> 4;
    if (packet[1] != 2)
        die("device %d: a packet of type %d with %u bytes, which no answer has", d->index, type, packet[1]);
    if (d->state == UP && type == PUBACK) {
        on_puback(d, (uint16_t)(packet[2] << 8 | packet[3]), now);
    } else if (d->state == GREETING && type == CONNACK) {
        if (packet[3] != 0 && in_storm) {
            lose(d, "CONNECT refused");
            return;
        }
        if (packet[3] != 0)
            die("device %d: CONNECT refused with return code %u", d->index, packet[3]);
        d->state = UP;
        up++;
    } else {
        die("device %d: unexpected packet of type %d", d->index, type);
    }
}

static void read_answers(Device *d)
{
    ssize_t count = read(d->fd, d->in + d->in_len, sizeof d->in - d->in_len);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        lose(d, count == 0 ? "the server closed the connection" : strerror(errno));
        return;
    }
    size_t at = 0, length = d->in_len + (size_t)count;
    uint64_t now = now_ns();
    for (; length - at >= 4 && d->state != DOWN; at += 4)
        on_packet(d, d->in + at, now);
    if (d->state == DOWN)
        return;
    memmove(d->in, d->in + at, length - at);
    d->in_len = length - at;
    pump(d);
}

/* --- the run --------------------------------------------------------------------------------------------------- */

static void serve_events(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
    for (int i = 0; i < count; i++) {
        Device *d = events[i].data.ptr;
        if (d == NULL)
            continue; /* the timer: make_due sets it anew */
        if (d->state == CONNECTING)
            greet(d);
        else if (d->state != DOWN)
            read_answers(d);
    }
}

/* Devices fall due in the order of their index, round and round (they share one period, their phases are spread). */
static void make_due(uint64_t now)
{
    static int next;
    while (due_ns(devices + next, devices[next].due) <= now) {
        devices[next].due++;
        pump(devices + next);
        next = (next + 1) % options.connections;
    }
    set_timer(timer_fd, due_ns(devices + next, devices[next].due));
}

static void retry_those_down(uint64_t now)
{
    for (int i = 0; i < options.connections && down > 0; i++) {
        if (devices[i].state == DOWN && devices[i].retry_ns <= now) {
            down--;
            dial_again(devices + i);
        }
    }
}

static void connect_gently(void)
{
    uint64_t give_up = now_ns() + (uint64_t)CONNECT_PATIENCE_MS * 1000000u;
    for (int opened = 0; up < options.connections;) {
        while (opened < options.connections && opened - up < CONNECTS_IN_FLIGHT) {
            Device *d = devices + opened;
            d->index = opened++;
            d->topic = topic_of(options.name, options.leaf, d->index);
            dial_again(d);
        }
        serve_events();
        if (now_ns() > give_up)
            die("only %d of %d devices had their CONNACK after %d s", up, options.connections, CONNECT_PATIENCE_MS / 1000);
    }
}

static void publish_until(uint64_t end_ns)
{
    uint64_t now;
    while ((now = now_ns()) < end_ns) {
        make_due(now);
        serve_events();
        if (down > 0)
            retry_those_down(now);
    }
}

static void cut_all(void)
{
    in_storm = true;
    for (int i = 0; i < options.connections; i++) {
        if (options.abandon) /* left to the process's end: the server hears nothing of it until the client is back */
            epoll_set(epoll_fd, EPOLL_CTL_DEL, devices[i].fd, 0, NULL);
        else
            close(devices[i].fd);
    }
    up = 0;
    for (int i = 0; i < options.connections; i++)
        dial_again(devices + i);
}

static void publish_until_all_are_back(uint64_t cut_ns)
{
    uint64_t give_up = cut_ns + (uint64_t)(options.patience_s * 1e9);
    while (up < options.connections) {
        publish_until(now_ns() + 1000000);
        if (now_ns() > give_up)
            die("only %d of %d devices were back after %g s", up, options.connections, options.patience_s);
    }
}

static uint64_t unanswered(void)
{
    uint64_t count = 0;
    for (int i = 0; i < options.connections; i++)
        count += devices[i].due - devices[i].acked;
    return count;
}

static void wait_for_all_answers(void)
{
    uint64_t give_up = now_ns() + (uint64_t)(options.patience_s * 1e9);
    while (unanswered() > 0) {
        serve_events();
        retry_those_down(now_ns());
        if (now_ns() > give_up)
            die("%llu readings were not answered within %g s", (unsigned long long)unanswered(), options.patience_s);
    }
}

static void report(const char *event, uint64_t since_ns)
{
    Cpu cpu = own_cpu();
    printf("{\"event\":\"%s\",\"elapsed_s\":%.6f,\"sent_total\":%llu,\"acked_total\":%llu,\"resent\":%llu,\"retries\":%llu,"
           "\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu,\"user_s\":%.6f,\"system_s\":%.6f}\n",
           event, (double)(now_ns() - since_ns) / 1e9, (unsigned long long)sent_total, (unsigned long long)acked_total,
           (unsigned long long)resent, (unsigned long long)retries, (unsigned long long)percentile(&latencies, 0.5),
           (unsigned long long)percentile(&latencies, 0.99), (unsigned long long)latencies.max_us, cpu.user_s,
           cpu.system_s);
}

/* "back" and "result" have the latencies since the cut; their times count from the cut, too. */
static void run(void)
{
    start_ns = now_ns();
    epoll_set(epoll_fd, EPOLL_CTL_ADD, timer_fd, EPOLLIN, NULL);
    publish_until(start_ns + (uint64_t)(options.steady_s * 1e9));
    report("steady", start_ns);
    forget_latencies(&latencies);
    uint64_t cut_ns = now_ns();
    cut_all();
    publish_until_all_are_back(cut_ns);
    report("back", cut_ns);
    publish_until(now_ns() + (uint64_t)(options.after_s * 1e9));
    wait_for_all_answers();
    report("result", cut_ns);
}

static void disconnect_all(void)
{
    for (int i = 0; i < options.connections; i++) {
        if (devices[i].state == UP && write(devices[i].fd, DISCONNECT, 2) < 0)
            continue; /* the server was faster to hang up */
        close(devices[i].fd);
    }
}

/* --- options --------------------------------------------------------------------------------------------------- */

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},          {"connections", required_argument, NULL, 'c'},
        {"window", required_argument, NULL, 'w'},        {"payload-bytes", required_argument, NULL, 'b'},
        {"rate", required_argument, NULL, 'r'},          {"steady", required_argument, NULL, 's'},
        {"after", required_argument, NULL, 'a'},         {"patience", required_argument, NULL, 'y'},
        {"persistent", no_argument, NULL, 'P'},          {"abandon", no_argument, NULL, 'A'},
        {NULL, 0, NULL, 0},
    };
    int flag, which;
    while ((flag = getopt_long(argc, argv, "", known, &which)) != -1) {
        const char *name = flag == '?' ? "" : known[which].name;
        switch (flag) {
        case 'p': options.port = (int)number(name, optarg, 1, 65535); break;
        case 'c': options.connections = (int)number(name, optarg, 1, MAX_CONNECTIONS / 2); break; /* old and new ports */
        case 'w': options.window = (int)number(name, optarg, 1, MAX_WINDOW); break;
        case 'b': options.payload_bytes = (int)number(name, optarg, MIN_PAYLOAD, 1024); break;
        case 'r': options.rate = number(name, optarg, 0.01, 1000); break;
        case 's': options.steady_s = number(name, optarg, 0.1, 3600); break;
        case 'a': options.after_s = number(name, optarg, 0, 3600); break;
        case 'y': options.patience_s = number(name, optarg, 1, 3600); break;
        case 'P': options.persistent = true; break;
        case 'A': options.abandon = true; break;
        default: die("usage: stormgen --port N [--connections N] [--window N] [--payload-bytes N] [--rate R] [--steady S]"
                     " [--after S] [--patience S] [--persistent] [--abandon]");
        }
    }
    if (options.port == 0 || optind != argc)
        die("--port is needed, and no other arguments than options");
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    allow_files(2 * options.connections);
    period_ns = (uint64_t)(1e9 / options.rate);
    devices = allocate((size_t)options.connections, sizeof *devices);
    epoll_fd = new_epoll();
    timer_fd = new_timer();
    uint64_t before = now_ns();
    connect_gently();
    printf("{\"event\":\"connected\",\"connections\":%d,\"connect_s\":%.6f}\n", options.connections,
           (double)(now_ns() - before) / 1e9);
    run();
    wait_for_end_of_input();
    disconnect_all();
    return 0;
}
