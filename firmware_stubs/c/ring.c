/* See ring.h. */
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MARKS 2
#define MARK_BYTES 16

static void put_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static uint32_t crc32_of(uint32_t crc, const uint8_t *bytes, size_t length)
{
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1u));
    }
    return ~crc;
}

static int read_slot(const struct ring *ring, uint32_t slot, uint8_t *bytes, size_t length)
{
    if (lseek(ring->fd, (off_t)slot * RING_SLOT_BYTES, SEEK_SET) < 0)
        return -1;
    return read(ring->fd, bytes, length) == (ssize_t)length ? 0 : -1;
}

static int write_slot(const struct ring *ring, uint32_t slot, const uint8_t *bytes, size_t length)
{
    if (lseek(ring->fd, (off_t)slot * RING_SLOT_BYTES, SEEK_SET) < 0)
        return -1;
    ssize_t written = write(ring->fd, bytes, length);
    if (written >= 0 && (size_t)written < length)
        errno = ENOSPC;
    return written == (ssize_t)length ? fsync(ring->fd) : -1;
}

static int write_mark(struct ring *ring, uint32_t done, uint32_t note)
{
    uint8_t mark[MARK_BYTES];
    uint32_t generation = ring->generation + 1;
    put_u32(mark, generation);
    put_u32(mark + 4, done);
    put_u32(mark + 8, note);
    put_u32(mark + 12, crc32_of(0, mark, 12));
    if (write_slot(ring, generation % MARKS, mark, sizeof mark) < 0)
        return -1;
    ring->generation = generation;
    ring->done = done;
    ring->note = note;
    return 0;
}

/* Read the latest mark that is whole; whether there is one. */
static int read_mark(struct ring *ring)
{
    uint8_t mark[MARK_BYTES];
    int found = 0;
    for (uint32_t slot = 0; slot < MARKS; slot++) {
        if (read_slot(ring, slot, mark, sizeof mark) < 0 || get_u32(mark + 12) != crc32_of(0, mark, 12))
            continue;
        if (found && get_u32(mark) < ring->generation)
            continue;
        ring->generation = get_u32(mark);
        ring->done = get_u32(mark + 4);
        ring->note = get_u32(mark + 8);
        found = 1;
    }
    return found;
}

/* Read the record of a slot, whatever its number. 0, or -1: there is no whole one. */
static int read_record(const struct ring *ring, uint32_t index, struct record *record)
{
    uint8_t bytes[RING_SLOT_BYTES];
    if (read_slot(ring, MARKS + index, bytes, sizeof bytes) < 0)
        return -1;
    record->number = get_u32(bytes);
    record->boot = get_u32(bytes + 4);
    record->at_ms = get_u32(bytes + 8) | (uint64_t)get_u32(bytes + 12) << 32;
    uint32_t length = get_u32(bytes + 16);
    if (length == 0 || length > RING_PAYLOAD_BYTES_MAX || record->number % RING_RECORDS != index)
        return -1;
    if (get_u32(bytes + 20) != crc32_of(crc32_of(0, bytes, 20), bytes + RING_HEAD_BYTES, length))
        return -1;
    record->length = (uint16_t)length;
    memcpy(record->payload, bytes + RING_HEAD_BYTES, length);
    record->payload[length] = 0;
    return 0;
}

static int write_record(const struct ring *ring, const struct record *record)
{
    uint8_t bytes[RING_SLOT_BYTES];
    if (record->length == 0 || record->length > RING_PAYLOAD_BYTES_MAX) {
        errno = EMSGSIZE;
        return -1;
    }
    put_u32(bytes, record->number);
    put_u32(bytes + 4, record->boot);
    put_u32(bytes + 8, (uint32_t)record->at_ms);
    put_u32(bytes + 12, (uint32_t)(record->at_ms >> 32));
    put_u32(bytes + 16, record->length);
    memset(bytes + RING_HEAD_BYTES, 0, RING_PAYLOAD_BYTES_MAX);
    memcpy(bytes + RING_HEAD_BYTES, record->payload, record->length);
    put_u32(bytes + 20, crc32_of(crc32_of(0, bytes, 20), bytes + RING_HEAD_BYTES, record->length));
    return write_slot(ring, MARKS + record->number % RING_RECORDS, bytes, sizeof bytes);
}

/* Find the numbers that wait. Without a mark: those of all whole records; whether there are any. */
static int find_records(struct ring *ring, int marked)
{
    struct record record;
    uint32_t first = 0, last = 0;
    for (uint32_t index = 0; index < RING_RECORDS; index++) {
        if (read_record(ring, index, &record) < 0 || (marked && record.number <= ring->done))
            continue;
        if (!first || record.number < first)
            first = record.number;
        if (record.number > last)
            last = record.number;
    }
    if (!marked && first)
        ring->done = first - 1;
    ring->last = last ? last : ring->done;
    return first != 0;
}

/* Give the file its size and its first mark. */
static int make(struct ring *ring, uint32_t random)
{
    static const uint8_t empty[RING_SLOT_BYTES];
    if (lseek(ring->fd, 0, SEEK_SET) < 0)
        return -1;
    for (uint32_t slot = 0; slot < MARKS + RING_RECORDS; slot++)
        if (write(ring->fd, empty, sizeof empty) != (ssize_t)sizeof empty)
            return -1;
    ring->last = random >> 1; /* 2^31 numbers at least before they end */
    return write_mark(ring, ring->last, 0);
}

int ring_open(struct ring *ring, const char *path, uint32_t random)
{
    memset(ring, 0, sizeof *ring);
    ring->fd = open(path, O_RDWR | O_CREAT, 0600);
    if (ring->fd < 0)
        return -1;
    int marked = read_mark(ring);
    if (!find_records(ring, marked) && !marked)
        return make(ring, random);
    return marked ? 0 : write_mark(ring, ring->done, 0);
}

uint32_t ring_waiting(const struct ring *ring)
{
    return ring->last - ring->done;
}

int ring_put(struct ring *ring, struct record *record)
{
    if (ring_waiting(ring) >= RING_RECORDS)
        return 1;
    record->number = ring->last + 1;
    if (write_record(ring, record) < 0)
        return -1;
    ring->last = record->number;
    return 0;
}

int ring_get(const struct ring *ring, uint32_t number, struct record *record)
{
    int found = read_record(ring, number % RING_RECORDS, record) == 0 && record->number == number;
    return found ? 0 : -1;
}

int ring_done(struct ring *ring, uint32_t number)
{
    return write_mark(ring, number, ring->note);
}

int ring_note(struct ring *ring, uint32_t note)
{
    return write_mark(ring, ring->done, note);
}
