/*
 * The machine's limit for streams: one thread, epoll, all frames of a read answered in
 * place by one write.  limit_tcp PORT
 */
#include "common.h"

enum { HEAD = 7, BUFFER = 1 << 16, LONGEST = 64, DESCRIPTORS = 1 << 16 };

struct rest {
    int size;
    uint8_t data[LONGEST];
};

static uint8_t buffer[BUFFER];

static void accept_all(int listener, int poller, struct rest *rests)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        rests[fd].size = 0;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Answer what one read delivers; say whether the connection goes on. */
static int answer(int fd, struct rest *rest)
{
    memcpy(buffer, rest->data, rest->size);
    ssize_t n = recv(fd, buffer + rest->size, BUFFER - rest->size, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    size_t size = n + rest->size, at = 0;
    while (size - at >= HEAD) {
        size_t length = get_number(buffer + at, 2) + 2;
        if (length > LONGEST)
            return 0;
        if (size - at < length)
            break;
        buffer[at + 2] |= REPLY_BIT;
        at += length;
    }
    if (at && send(fd, buffer, at, MSG_NOSIGNAL) != (ssize_t)at)
        return 0;
    rest->size = size - at;
    memcpy(rest->data, buffer + at, rest->size);
    return 1;
}

int main(int argc, char **argv)
{
    alarm(LIFETIME);
    struct sockaddr_in address = loopback(argument(argc, argv, 1, 0));
    struct rest *rests = calloc(DESCRIPTORS, sizeof *rests);
    int one = 1, poller = epoll_create1(0);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    say("ready");
    for (;;) {
        struct epoll_event ready[256];
        int n = epoll_wait(poller, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener)
                accept_all(listener, poller, rests);
            else if (!answer(fd, &rests[fd]))
                close(fd);
        }
    }
}
