/*
 * Load for stream servers:  load_tcp PORT CONNECTIONS DEPTH [PREFIX KIND KINDS BODY]
 *
 * Keeps DEPTH requests outstanding on each connection for the seconds that a line of
 * the input asks for, lets the last ones be answered, reports, and waits for the next
 * line; so the server is idle while others are measured. Every reply is compared with
 * what it has to be, byte by byte, and has to come in order.
 *
 * PREFIX and KIND are widths in bytes, KINDS the number of message types that take
 * turns, BODY the bytes after the header.
 */
#include "common.h"

struct connection {
    int fd;
    uint32_t sent, received;     /* idents: of the next request, of the next reply */
    uint64_t *sent_at;           /* by ident modulo depth */
    uint8_t *in, *out;           /* as long as all that may be outstanding */
    size_t in_size, out_size, out_done;
};

static struct connection *connections;
static int count, depth, prefix, kind_width, kinds, body, frame, poller;
static uint8_t *pattern, *expected;
static uint64_t answered, bad;

static void write_frame(uint8_t *at, uint32_t ident, int reply)
{
    int kind = 1 + ident % kinds;
    put_number(at, frame - prefix, prefix);
    put_number(at + prefix, kind | (reply ? 1 << (8 * kind_width - 1) : 0), kind_width);
    put_number(at + prefix + kind_width, ident, 4);
    memcpy(at + frame - body, pattern + (ident & 0xff), body);
}

static void await(struct connection *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush_out(struct connection *c)
{
    int waited = c->out_done > 0;
    while (c->out_done < c->out_size) {
        ssize_t n = send(c->fd, c->out + c->out_done, c->out_size - c->out_done,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            await(c, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0)
            die("send");
        c->out_done += n;
        waited |= c->out_done < c->out_size;
    }
    c->out_size = c->out_done = 0;
    if (waited)
        await(c, EPOLLIN);
}

static void request(struct connection *c, int requests)
{
    uint64_t now = now_ns();
    memmove(c->out, c->out + c->out_done, c->out_size - c->out_done);
    c->out_size -= c->out_done;
    c->out_done = 0;
    while (requests--) {
        c->sent_at[c->sent % depth] = now;
        write_frame(c->out + c->out_size, c->sent++, 0);
        c->out_size += frame;
    }
    flush_out(c);
}

/* Take the replies that one read gives; say how many. */
static int receive(struct connection *c)
{
    size_t room = (size_t)depth * frame - c->in_size, done = 0;
    ssize_t n = recv(c->fd, c->in + c->in_size, room, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0) {
        fprintf(stderr, "the server closed a connection (%s)\n",
                n ? strerror(errno) : "end of stream");
        exit(3);
    }
    uint64_t now = now_ns();
    int replies = 0;
    c->in_size += n;
    for (; c->in_size - done >= (size_t)frame; done += frame, replies++) {
        write_frame(expected, c->received, 1);
        bad += memcmp(expected, c->in + done, frame) != 0;
        histogram_add(now - c->sent_at[c->received++ % depth]);
    }
    memmove(c->in, c->in + done, c->in_size -= done);
    return replies;
}

static int outstanding(void)
{
    for (int i = 0; i < count; i++)
        if (connections[i].sent != connections[i].received)
            return 1;
    return 0;
}

static void measure(double seconds)
{
    uint64_t start = now_ns(), end = start + seconds * 1e9, last = end + 10000000000ull;
    uint64_t now = start;
    answered = bad = 0;
    histogram_clear();
    for (int i = 0; i < count; i++)
        request(&connections[i], depth);
    while (now < end || outstanding()) {
        struct epoll_event ready[256];
        int n = epoll_wait(poller, ready, 256, 100);
        now = now_ns();
        if (now > last) {
            fprintf(stderr, "requests were not answered within 10 s\n");
            exit(3);
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT)
                flush_out(c);
            int replies = receive(c);
            answered += replies;
            if (replies && now < end)
                request(c, replies);
        }
    }
    report(answered, bad, 0, (now - start) / 1e9);
}

static void connect_all(int port)
{
    struct sockaddr_in address = loopback(port);
    for (int i = 0, one = 1; i < count; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address))
            die("connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->sent_at = calloc(depth, sizeof *c->sent_at);
        c->in = malloc((size_t)depth * frame);
        c->out = malloc((size_t)depth * frame);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    }
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    count = argument(argc, argv, 2, 1);
    depth = argument(argc, argv, 3, 1);
    prefix = argument(argc, argv, 4, 2);
    kind_width = argument(argc, argv, 5, 1);
    kinds = argument(argc, argv, 6, 1);
    body = argument(argc, argv, 7, 8);
    frame = prefix + kind_width + 4 + body;
    expected = malloc(frame);
    pattern = malloc(256 + body);
    for (int i = 0; i < 256 + body; i++)
        pattern[i] = i * 7;
    poller = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    connect_all(argument(argc, argv, 1, 0));
    return obey(measure);
}
