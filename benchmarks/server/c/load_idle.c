/*
 * Connections that do nothing:  load_idle PORT
 *
 * A line of the input says how many are to be open; each new one makes one request,
 * whose reply is checked, and then stays. The report says how many are open.
 */
#include "common.h"

enum { FRAME = 15, MOST = 100000 };

static int open_now, port;

static int open_one(int ident)
{
    struct sockaddr_in target = loopback(port);
    struct timeval patience = {5, 0};
    uint8_t request[FRAME], reply[FRAME];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (fd < 0 || connect(fd, (void *)&target, sizeof target))
        return 0;
    put_number(request, FRAME - 2, 2);
    request[2] = 1;
    put_number(request + 3, ident, 4);
    memset(request + 7, ident & 0xff, 8);
    if (send(fd, request, FRAME, MSG_NOSIGNAL) != FRAME
        || recv(fd, reply, FRAME, MSG_WAITALL) != FRAME)
        return 0;
    request[2] |= REPLY_BIT;
    if (memcmp(request, reply, FRAME)) {
        fprintf(stderr, "a wrong reply\n");
        exit(3);
    }
    return 1;
}

static void measure(double wanted)
{
    uint64_t start = now_ns(), last = start + 60000000000ull;
    while (open_now < wanted && open_now < MOST && now_ns() < last && open_one(open_now))
        open_now++;
    report(open_now, 0, wanted - open_now, (now_ns() - start) / 1e9);
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    port = argument(argc, argv, 1, 0);
    return obey(measure);
}
