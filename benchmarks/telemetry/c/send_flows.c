/* Sends NetFlow v5 datagrams at a steady pace: send_flows PORT RATE SECONDS [EXPORTERS]
 *
 * RATE is in datagrams a second, 0 for as many as the kernel takes. Each datagram has 30
 * flows; flow_sequence counts them. With several exporters, each is a socket of its own.
 * Prints how many datagrams were sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FLOWS = 30, SIZE = 24 + 48 * FLOWS, BURST = 32, MOST = 1024 };

static void put32(unsigned char *at, uint32_t value) {
    value = htonl(value);
    memcpy(at, &value, 4);
}

static void put16(unsigned char *at, uint16_t value) {
    value = htons(value);
    memcpy(at, &value, 2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fill(unsigned char *data) {
    memset(data, 0, SIZE);
    put16(data, 5);
    put16(data + 2, FLOWS);
    put32(data + 4, 100000);
    put32(data + 8, (uint32_t)time(NULL));
    for (int i = 0; i < FLOWS; i++) {
        unsigned char *flow = data + 24 + 48 * i;
        put32(flow, 0x0A000001 + (uint32_t)rand() % 4096);
        put32(flow + 4, 0xC0000201 + (uint32_t)rand() % 200);
        put16(flow + 12, 1);
        put16(flow + 14, 2);
        put32(flow + 16, 1 + (uint32_t)rand() % 100);
        put32(flow + 20, 40 + (uint32_t)rand() % 100000);
        put32(flow + 24, 90000 + (uint32_t)rand() % 5000);
        put32(flow + 28, 95000 + (uint32_t)rand() % 5000);
        put16(flow + 32, 1024 + (uint16_t)rand() % 60000);
        put16(flow + 34, 443);
        flow[37] = 0x18;
        flow[38] = 6;
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    int exporters = argc > 4 ? atoi(argv[4]) : 1;
    if (exporters < 1 || exporters > MOST) return 2;
    alarm((unsigned)seconds + 30);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    static int sockets[MOST];
    static uint32_t counts[MOST];
    for (int i = 0; i < exporters; i++) {
        sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (connect(sockets[i], (struct sockaddr *)&to, sizeof to)) return 3;
    }
    static unsigned char data[BURST][SIZE];
    static struct iovec vectors[BURST];
    static struct mmsghdr messages[BURST];
    for (int i = 0; i < BURST; i++) {
        fill(data[i]);
        vectors[i] = (struct iovec){data[i], SIZE};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    unsigned long sent = 0;
    double start = now(), at;
    for (int turn = 0; (at = now() - start) < seconds; turn = (turn + 1) % exporters) {
        int many = BURST;
        if (rate > 0) {
            double due = at * rate - (double)sent;
            if (due < 1) {
                usleep(200);
                continue;
            }
            if (due < many) many = (int)due;
        }
        for (int i = 0; i < many; i++) {
            put32(data[i] + 16, counts[turn]);
            counts[turn] += FLOWS;
        }
        for (int done = 0; done < many;) {
            int got = sendmmsg(sockets[turn], messages + done, (unsigned)(many - done), 0);
            if (got <= 0) got = 1; /* refused: nobody listens just now */
            done += got;
        }
        sent += (unsigned long)many;
    }
    printf("%lu\n", sent);
    return 0;
}
