/* The device's own backlog: a ring of records in one file of fixed size, which survives a power cut.
 *
 * A record gets the next number when it is kept, and leaves the ring only when `ring_done` says that it was
 * acknowledged. When RING_RECORDS wait, the ring is full: a new record is refused and the old ones stay. Numbers
 * begin at a random place, so that a device whose storage was wiped does not use the same ones again.
 *
 * The file, all numbers little endian, is slots of RING_SLOT_BYTES each. A write changes one slot and is synced; one
 * that a power cut tears has a wrong checksum. Slots 0 and 1 are written in turn, so that one of them is always whole:
 *
 *   mark    u32 generation | u32 done | u32 note | u32 CRC-32 of what is before it
 *
 * Record `number` is in slot 2 + number % RING_RECORDS:
 *
 *   record  u32 number | u32 boot | u64 at_ms | u16 length | u16 0 | u32 CRC-32 of what is before it, and the payload |
 *           payload
 *
 * If both marks are damaged, every record that is whole waits again: rather twice than never.
 *
 * Needs open, lseek, read, write and fsync, as POSIX has them. Not thread-safe: one task owns the ring.
 */
#ifndef RING_H
#define RING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef RING_RECORDS
#define RING_RECORDS 1024
#endif
#define RING_SLOT_BYTES 256
#define RING_HEAD_BYTES 24
#define RING_PAYLOAD_BYTES_MAX (RING_SLOT_BYTES - RING_HEAD_BYTES)

struct record {
    uint32_t number;
    uint32_t boot;   /* 0: at_ms is a date. Else: at_ms is the uptime within the boot with this random id */
    uint64_t at_ms;  /* when it was measured: milliseconds since 1970 UTC, 0 if nobody knows; or of uptime */
    uint16_t length;
    char payload[RING_PAYLOAD_BYTES_MAX + 1]; /* a 0 follows it */
};

struct ring {
    int fd;
    uint32_t generation;
    uint32_t done; /* up to this number everything was acknowledged, or could not be read any more */
    uint32_t last; /* the latest number; done + 1 ... last wait */
    uint32_t note; /* a number that the transport must not forget; the ring only keeps it */
};

/* Open the ring, or make it; `random` is where the numbers of a new one begin. 0, or -1 with errno. */
int ring_open(struct ring *ring, const char *path, uint32_t random);

/* How many records wait. */
uint32_t ring_waiting(const struct ring *ring);

/* Keep a record under the number last + 1. 0: it is durable; 1: the ring is full; -1 with errno: it is not kept. */
int ring_put(struct ring *ring, struct record *record);

/* Read a record. 0, or -1: it is damaged. */
int ring_get(const struct ring *ring, uint32_t number, struct record *record);

/* Everything up to `number` was acknowledged. 0: and that is durable; -1 with errno. */
int ring_done(struct ring *ring, uint32_t number);

/* Remember `note` instead of the one before. 0: and that is durable; -1 with errno. */
int ring_note(struct ring *ring, uint32_t note);

#ifdef __cplusplus
}
#endif
#endif
