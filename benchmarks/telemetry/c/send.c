/* Sends datagrams from a file in turn, at a steady pace:
 *
 *     send PORT RATE COUNT FILE OFFSET STEP SOURCES FIRST
 *
 * RATE is in datagrams a second, 0 for as many as the kernel takes. FILE has the
 * datagrams, each behind its length (u32, the machine's order). With a STEP, the u32 at
 * OFFSET of each counts by it, as exporters number what they send. With SOURCES, sender i
 * is the address FIRST + i (a number, within 127.0.0.0/8), in turn, all from one socket.
 * At more than SEGMENTED a second, datagrams of one length leave together, and the kernel
 * cuts them apart (UDP_SEGMENT): sending is then no limit of what can be received.
 *
 * Prints how many datagrams were sent, and in how many seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 32, TOGETHER = 64, MOST = 4096, LONGEST = 65507, LIFETIME = 300, SHORT = 128 };
static const double SEGMENTED = 100e3;

static unsigned char *datagrams[MOST];
static uint32_t lengths[MOST];
static unsigned count;
static unsigned char room[BURST][LONGEST];
static struct iovec vectors[BURST];
static struct mmsghdr messages[BURST];
static char ancillary[BURST][CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(2)];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void load(const char *name)
{
    FILE *file = fopen(name, "rb");
    uint32_t length;
    while (file && count < MOST && fread(&length, 4, 1, file) == 1 && length <= LONGEST) {
        datagrams[count] = malloc(length);
        if (fread(datagrams[count], 1, length, file) != length)
            break;
        lengths[count++] = length;
    }
    if (!count) {
        fprintf(stderr, "%s: expected datagrams, found none\n", name);
        exit(2);
    }
}

static void control(struct msghdr *head, uint32_t source, uint16_t segment)
{
    char *at = head->msg_control;
    size_t used = 0;
    if (source) {
        struct cmsghdr *c = (void *)at;
        struct in_pktinfo from = {.ipi_spec_dst.s_addr = htonl(source)};
        c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof from);
        memcpy(CMSG_DATA(c), &from, sizeof from);
        used += CMSG_SPACE(sizeof from);
    }
    if (segment) {
        struct cmsghdr *c = (void *)(at + used);
        c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
        used += CMSG_SPACE(sizeof segment);
    }
    head->msg_controllen = used;
    if (!used)
        head->msg_control = NULL;
}

int main(int argc, char **argv)
{
    if (argc != 9)
        return 2;
    alarm(LIFETIME);
    double rate = atof(argv[2]);
    unsigned long total = strtoul(argv[3], NULL, 10), sent = 0;
    load(argv[4]);
    unsigned offset = atoi(argv[5]), step = atoi(argv[6]), sources = atoi(argv[7]);
    uint32_t first = strtoul(argv[8], NULL, 10), number = 0, widest = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int equal = 1;
    for (unsigned i = 0; i < count; i++) {
        equal &= lengths[i] == lengths[0];
        widest = lengths[i] > widest ? lengths[i] : widest;
    }
    int together = equal && !sources && widest <= SHORT && rate > SEGMENTED
                       ? TOGETHER : 1;
    double start = now(), at;
    while (sent < total) {
        int many = BURST;
        at = now() - start;
        if (rate > 0) {
            double due = (at * rate - (double)sent) / together;
            if (due < 1) {
                usleep(100);
                continue;
            }
            if (due < many)
                many = (int)due;
        }
        unsigned long left = (total - sent + together - 1) / together;
        if ((unsigned long)many > left)
            many = (int)left;
        for (int i = 0; i < many; i++) {
            size_t filled = 0;
            for (int j = 0; j < together; j++) {
                unsigned which = (sent + i * together + j) % count;
                unsigned char *to_fill = room[i] + filled;
                memcpy(to_fill, datagrams[which], lengths[which]);
                if (step) {
                    uint32_t big = htonl(number);
                    memcpy(to_fill + offset, &big, 4);
                    number += step;
                }
                filled += lengths[which];
            }
            vectors[i] = (struct iovec){room[i], filled};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i],
                                                  .msg_iovlen = 1,
                                                  .msg_name = &to,
                                                  .msg_namelen = sizeof to,
                                                  .msg_control = ancillary[i]};
            control(&messages[i].msg_hdr,
                    sources ? first + (uint32_t)((sent + i) % sources) : 0,
                    together > 1 ? (uint16_t)lengths[0] : 0);
        }
        for (int done = 0; done < many;) {
            int got = sendmmsg(fd, messages + done, (unsigned)(many - done), 0);
            if (got <= 0) {
                perror("sendmmsg");
                return 3;
            }
            done += got;
        }
        sent += (unsigned long)many * together;
    }
    printf("%lu %.6f\n", sent, now() - start);
    return 0;
}
