/*
 * Load of connections that are made, used for one request, and closed:
 * load_churn PORT CONCURRENT
 *
 * CONCURRENT of them are under way at a time, from 200 source addresses, so that the
 * ports do not run out. Otherwise as load_tcp, whose smallest frame is sent.
 */
#include "common.h"

enum { FRAME = 15, SOURCES = 200 };

struct connection {
    int fd, connected;
    uint32_t ident;
    uint64_t begun;
};

static struct connection *connections;
static int concurrent, poller, port, open_now;
static uint32_t made;
static uint64_t answered, bad;

static void write_frame(uint8_t *at, uint32_t ident, int reply)
{
    put_number(at, FRAME - 2, 2);
    at[2] = 1 | (reply ? REPLY_BIT : 0);
    put_number(at + 3, ident, 4);
    memset(at + 7, ident & 0xff, 8);
}

static void begin(struct connection *c)
{
    struct sockaddr_in target = loopback(port), source = {.sin_family = AF_INET};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    source.sin_addr.s_addr = htonl(0x7f000002 + made % SOURCES);
    if (bind(c->fd, (void *)&source, sizeof source))
        die("bind");
    c->connected = 0;
    c->ident = made++;
    c->begun = now_ns();
    if (connect(c->fd, (void *)&target, sizeof target) && errno != EINPROGRESS)
        die("connect");
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    open_now++;
}

/* Go a step on; say whether the connection is done. */
static int go_on(struct connection *c)
{
    uint8_t data[64], expected[FRAME];
    if (!c->connected) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        write_frame(data, c->ident, 0);
        if (send(c->fd, data, FRAME, MSG_NOSIGNAL) != FRAME)
            die("send");
        c->connected = 1;
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
        return 0;
    }
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    write_frame(expected, c->ident, 1);
    bad += n != FRAME || memcmp(data, expected, FRAME) != 0;
    histogram_add(now_ns() - c->begun);
    answered++;
    close(c->fd);
    open_now--;
    return 1;
}

static void measure(double seconds)
{
    uint64_t start = now_ns(), end = start + seconds * 1e9, last = end + 10000000000ull;
    uint64_t now = start;
    answered = bad = 0;
    histogram_clear();
    for (int i = 0; i < concurrent; i++)
        begin(&connections[i]);
    while (open_now) {
        struct epoll_event ready[64];
        int n = epoll_wait(poller, ready, 64, 100);
        now = now_ns();
        if (now > last) {
            fprintf(stderr, "requests were not answered within 10 s\n");
            exit(3);
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (go_on(c) && now < end)
                begin(c);
        }
    }
    report(answered, bad, 0, (now - start) / 1e9);
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    port = argument(argc, argv, 1, 0);
    concurrent = argument(argc, argv, 2, 16);
    poller = epoll_create1(0);
    connections = calloc(concurrent, sizeof *connections);
    return obey(measure);
}
