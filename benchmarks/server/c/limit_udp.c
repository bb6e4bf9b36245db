/*
 * The machine's limit for datagrams: one thread that decodes every field.
 *
 * limit_udp ingest|answer batch|single|gro PORT EVERY BUFFER: takes datagrams by recvmmsg
 * or one at a time, and answers them or not; or lets the kernel put those of one peer
 * together (UDP_GRO), which are not answered. After every EVERY datagrams it says how
 * many there were and the last one's number. BUFFER is the socket's, in bytes.
 */
#include "common.h"
#include <netinet/udp.h>

enum { BATCH = 256, ROOM = 256, COALESCED = 65536 };

static uint8_t data[BATCH][ROOM];
static struct mmsghdr messages[BATCH];
static struct iovec bytes[BATCH];
static struct sockaddr_in sources[BATCH];
static uint64_t taken, every, next_report;
static uint32_t last;
static volatile double sum;

static void decode(const uint8_t *at, size_t size)
{
    uint64_t bits = get_number(at + 8, 8);
    double value;
    if (size != DATAGRAM)
        return;
    memcpy(&value, &bits, sizeof value);
    last = get_number(at, 4);
    sum += value + last + get_number(at + 4, 2) + at[6] + at[7]
           + (double)get_number(at + 16, 8) + get_number(at + 24, 4)
           + get_number(at + 28, 4);
}

static void account(int number)
{
    taken += number;
    if (every && taken >= next_report) {
        printf("%llu %u\n", (unsigned long long)taken, last);
        fflush(stdout);
        next_report += every;
    }
}

static void one_by_one(int fd, int answer)
{
    for (;;) {
        socklen_t size = sizeof sources[0];
        ssize_t n = recvfrom(fd, data[0], ROOM, 0, (void *)sources, &size);
        if (n < 0)
            continue;
        decode(data[0], n);
        if (answer) {
            data[0][6] |= REPLY_BIT;
            sendto(fd, data[0], n, 0, (void *)sources, size);
        }
        account(1);
    }
}

static void in_batches(int fd, int answer)
{
    for (int i = 0; i < BATCH; i++) {
        bytes[i] = (struct iovec){data[i], ROOM};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &bytes[i],
                                              .msg_iovlen = 1,
                                              .msg_name = &sources[i],
                                              .msg_namelen = sizeof sources[i]};
    }
    for (;;) {
        int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (n < 0)
            continue;
        for (int i = 0; i < n; i++)
            decode(data[i], messages[i].msg_len);
        if (answer) {
            for (int i = 0; i < n; i++) {
                data[i][6] |= REPLY_BIT;
                bytes[i].iov_len = messages[i].msg_len;
            }
            for (int done = 0; done < n;) {
                int some = sendmmsg(fd, messages + done, n - done, 0);
                done += some > 0 ? some : 1;
            }
            for (int i = 0; i < n; i++)
                bytes[i].iov_len = ROOM;
        }
        account(n);
    }
}

static void coalesced(int fd)
{
    static uint8_t rows[BATCH][COALESCED];
    static char control[BATCH][CMSG_SPACE(sizeof(int))];
    int on = 1;
    if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on))
        die("UDP_GRO");
    for (int i = 0; i < BATCH; i++) {
        bytes[i] = (struct iovec){rows[i], COALESCED};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &bytes[i],
                                              .msg_iovlen = 1,
                                              .msg_name = &sources[i],
                                              .msg_control = control[i]};
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            messages[i].msg_hdr.msg_namelen = sizeof sources[i];
            messages[i].msg_hdr.msg_controllen = sizeof control[i];
        }
        int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL), taken_now = 0;
        for (int i = 0; i < n; i++) {
            struct cmsghdr *c = CMSG_FIRSTHDR(&messages[i].msg_hdr);
            int length = messages[i].msg_len, each = length ? length : 1;
            if (c && c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
                memcpy(&each, CMSG_DATA(c), sizeof each);
            for (int at = 0; at < length; at += each, taken_now++)
                decode(rows[i] + at, length - at < each ? length - at : each);
        }
        account(taken_now);
    }
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    if (argc < 4)
        return 2;
    int answer = !strcmp(argv[1], "answer");
    struct sockaddr_in address = loopback(argument(argc, argv, 3, 0));
    int buffer = argument(argc, argv, 5, 0), fd = socket(AF_INET, SOCK_DGRAM, 0);
    next_report = every = argument(argc, argv, 4, 0);
    if (buffer && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(fd, (void *)&address, sizeof address))
        die("bind");
    say("ready");
    if (!strcmp(argv[2], "gro"))
        coalesced(fd);
    strcmp(argv[2], "batch") ? one_by_one(fd, answer) : in_batches(fd, answer);
}
