/*
 * Load for datagram servers.
 *
 * load_udp answer PORT SOCKETS WINDOW: keeps WINDOW requests outstanding on each
 * socket for the seconds that a line of the input says. Every reply is compared with
 * what it has to be, and has to come once; what has no reply within a second is lost.
 *
 * load_udp fill PORT SOCKETS: sends as many datagrams as a line says, at once.
 */
#include "common.h"

enum { BATCH = 64, RING = 1 << 16 };

struct peer {
    int fd, outstanding;
    uint32_t next;
    uint64_t heard;
    uint64_t sent_at[RING]; /* 0: not outstanding */
};

static struct peer *peers;
static int count, window, poller;
static uint32_t filled;
static uint8_t sent[BATCH][DATAGRAM], received[BATCH][2 * DATAGRAM];
static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_bytes[BATCH], in_bytes[BATCH];
static uint64_t answered, bad, lost;

static void write_datagram(uint8_t *at, uint32_t seq, int reply)
{
    double value = 1.5 + seq % 1000;
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_number(at, seq, 4);
    put_number(at + 4, seq & 63, 2);
    at[6] = DATAGRAM_KIND | (reply ? REPLY_BIT : 0);
    at[7] = 1;
    put_number(at + 8, bits, 8);
    put_number(at + 16, 1700000000000ull + seq, 8);
    put_number(at + 24, seq ^ 0x5a5a5a5a, 4);
    put_number(at + 28, 2, 4);
}

static void send_some(struct peer *p, int number)
{
    uint64_t now = now_ns();
    for (int i = 0; i < number; i++) {
        p->sent_at[p->next % RING] = now;
        write_datagram(sent[i], p->next++, 0);
    }
    for (int done = 0; done < number;) {
        int n = sendmmsg(p->fd, out + done, number - done, 0);
        if (n < 0)
            die("sendmmsg");
        done += n;
    }
    p->outstanding += number;
    p->heard = now;
}

static void check(struct peer *p, const uint8_t *data, size_t size, uint64_t now)
{
    uint8_t expected[DATAGRAM];
    uint32_t seq = get_number(data, 4);
    uint64_t *sent_at = &p->sent_at[seq % RING];
    write_datagram(expected, seq, 1);
    if (size != DATAGRAM || !*sent_at || memcmp(expected, data, DATAGRAM)) {
        bad++;
        return;
    }
    histogram_add(now - *sent_at);
    *sent_at = 0;
    answered++;
    p->outstanding--;
}

static int receive(struct peer *p)
{
    int n = recvmmsg(p->fd, in, BATCH, MSG_DONTWAIT, NULL);
    uint64_t now = now_ns();
    for (int i = 0; i < n; i++)
        check(p, received[i], in[i].msg_len, now);
    if (n > 0)
        p->heard = now;
    return n > 0 ? n : 0;
}

static int outstanding(void)
{
    int total = 0;
    for (int i = 0; i < count; i++)
        total += peers[i].outstanding;
    return total;
}

static void give_up_lost(uint64_t now)
{
    for (int i = 0; i < count; i++) {
        struct peer *p = &peers[i];
        if (p->outstanding && now > p->heard + 1000000000ull) {
            lost += p->outstanding;
            p->outstanding = 0;
            memset(p->sent_at, 0, sizeof p->sent_at);
        }
    }
}

static void measure_answers(double seconds)
{
    uint64_t start = now_ns(), end = start + seconds * 1e9, now = start;
    answered = bad = lost = 0;
    histogram_clear();
    for (int i = 0; i < count; i++)
        send_some(&peers[i], window);
    while (now < end || outstanding()) {
        struct epoll_event ready[64];
        int n = epoll_wait(poller, ready, 64, 50);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            struct peer *p = ready[i].data.ptr;
            receive(p);
            if (now < end && p->outstanding < window)
                send_some(p, window - p->outstanding);
        }
        if (!n)
            give_up_lost(now);
        if (!n && now >= end && !outstanding())
            break;
    }
    report(answered, bad, lost, (now - start) / 1e9);
}

static void fill(double number)
{
    uint64_t start = now_ns();
    uint64_t left = number;
    histogram_clear();
    for (int turn = 0; left; turn++) {
        int some = left < BATCH ? left : BATCH;
        for (int i = 0; i < some; i++)
            write_datagram(sent[i], filled++, 0);
        for (int done = 0; done < some;) {
            int n = sendmmsg(peers[turn % count].fd, out + done, some - done, 0);
            if (n < 0)
                die("sendmmsg");
            done += n;
        }
        left -= some;
    }
    report(number, 0, 0, (now_ns() - start) / 1e9);
}

static void prepare(int port)
{
    struct sockaddr_in target = loopback(port);
    for (int i = 0; i < BATCH; i++) {
        out_bytes[i] = (struct iovec){sent[i], DATAGRAM};
        in_bytes[i] = (struct iovec){received[i], 2 * DATAGRAM};
        out[i].msg_hdr = (struct msghdr){.msg_iov = &out_bytes[i], .msg_iovlen = 1};
        in[i].msg_hdr = (struct msghdr){.msg_iov = &in_bytes[i], .msg_iovlen = 1};
    }
    poller = epoll_create1(0);
    peers = calloc(count, sizeof *peers);
    for (int i = 0; i < count; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &peers[i]};
        peers[i].fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (peers[i].fd < 0 || connect(peers[i].fd, (void *)&target, sizeof target))
            die("connect");
        epoll_ctl(poller, EPOLL_CTL_ADD, peers[i].fd, &e);
    }
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    int filling = argc > 1 && !strcmp(argv[1], "fill");
    count = argument(argc, argv, 3, 1);
    window = argument(argc, argv, 4, 8);
    if (window > BATCH)
        window = BATCH;
    prepare(argument(argc, argv, 2, 0));
    return obey(filling ? fill : measure_answers);
}
