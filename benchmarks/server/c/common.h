/*
 * What the load generators and the limit servers share: clock, addresses, big-endian
 * numbers, a histogram of latencies, the frames and datagrams that are spoken.
 *
 * A frame is  length (2 or 4) | kind (1 or 2) | ident (4) | body,  big-endian; the
 * length counts what follows it. A reply is the same with the kind's top bit set.
 * A datagram is  seq u32 | device u16 | kind u8 | flags u8 | value f64 | at i64 |
 * low u32 | high u32;  a reply is the same with the kind's top bit set.
 */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    DATAGRAM = 32,
    DATAGRAM_KIND = 3,
    REPLY_BIT = 0x80,
    LIFETIME = 900, /* seconds after which every program here ends by itself */
};

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(2);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline void put_number(uint8_t *at, uint64_t value, int width)
{
    while (width--) {
        at[width] = value & 0xff;
        value >>= 8;
    }
}

static inline uint64_t get_number(const uint8_t *at, int width)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

/* Say a line to whoever started this program, at once. */
static inline void say(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* Latencies: 32 steps for each power of two of nanoseconds, so within 3 %. */
enum { STEPS = 64 * 32 };
static uint64_t histogram[STEPS], histogram_count;

static inline void histogram_clear(void)
{
    memset(histogram, 0, sizeof histogram);
    histogram_count = 0;
}

static inline void histogram_add(uint64_t ns)
{
    int step = ns;
    if (ns >= 32) {
        int power = 63 - __builtin_clzll(ns);
        step = ((power - 4) << 5) + ((ns >> (power - 5)) & 31);
    }
    histogram[step]++;
    histogram_count++;
}

/* Microseconds below which a part of the latencies are. */
static inline double histogram_quantile(double part)
{
    uint64_t wanted = part * histogram_count, seen = 0;
    for (int i = 0; i < STEPS; i++) {
        seen += histogram[i];
        if (seen > wanted)
            return i < 32 ? i / 1e3
                          : ((32.5 + (i & 31)) * (1ull << ((i >> 5) - 1))) / 1e3;
    }
    return 0;
}

/* Show one measurement as JSON. */
static inline void report(uint64_t work, uint64_t bad, uint64_t lost, double seconds)
{
    printf("{\"work\": %llu, \"bad\": %llu, \"lost\": %llu, \"seconds\": %.6f, "
           "\"p50\": %.2f, \"p99\": %.2f}\n",
           (unsigned long long)work, (unsigned long long)bad, (unsigned long long)lost,
           seconds, histogram_quantile(.5), histogram_quantile(.99));
    fflush(stdout);
}

/* Measure for as many seconds as each line of the input says, until it ends. */
static inline int obey(void (*measure)(double))
{
    char line[64];
    say("ready");
    while (fgets(line, sizeof line, stdin))
        measure(atof(line));
    return 0;
}

static inline double argument(int count, char **words, int index, double otherwise)
{
    return count > index ? atof(words[index]) : otherwise;
}
#endif
