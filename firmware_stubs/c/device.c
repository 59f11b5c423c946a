/* See device.h. */
#include "device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SET_AFTER_MS 1704067200000 /* 2024-01-01: a clock before that was never set */

static uint64_t clock_ms(clockid_t which)
{
    struct timespec now;
    clock_gettime(which, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t device_uptime_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

int device_open(struct device *device, const char *path, uint32_t every_ms)
{
    memset(device, 0, sizeof *device);
    device->boot = device_random() | 1;
    device->every_ms = every_ms;
    device->opened_ms = device->due_ms = device_uptime_ms();
    return ring_open(&device->ring, path, device_random());
}

/* The date, 0 if the clock is not set. The first time that it is, this boot's beginning is known. */
static uint64_t date_ms(struct device *device)
{
    uint64_t now_ms = clock_ms(CLOCK_REALTIME);
    if (now_ms < SET_AFTER_MS)
        return 0;
    if (!device->began_ms && !device->undated)
        device->began_ms = now_ms - device_uptime_ms();
    return now_ms;
}

void device_measure(struct device *device)
{
    uint64_t up_ms = device_uptime_ms();
    if (up_ms < device->due_ms)
        return;
    device->due_ms += device->every_ms;
    if (device->due_ms <= up_ms) /* late by a whole period: do not catch up */
        device->due_ms = up_ms + device->every_ms;

    struct record record = {.at_ms = date_ms(device)};
    if (!record.at_ms) {
        record.boot = device->boot;
        record.at_ms = up_ms;
    }
    int length = 0;
    if (device->dropped)
        length = snprintf(record.payload, sizeof record.payload, "\"dropped\":%" PRIu32 ",", device->dropped);
    size_t read = sensor_read(record.payload + length, sizeof record.payload - (size_t)length, device->ring.last + 1);
    if (!read)
        return;
    record.length = (uint16_t)((size_t)length + read);
    device->measured++;
    int failed = ring_put(&device->ring, &record);
    device->dropped = failed ? device->dropped + 1 : 0;
    if (failed < 0)
        perror("the ring");
    else if (failed)
        printf("dropped a reading: the ring is full\n");
    else
        printf("kept %" PRIu32 "\n", record.number);
}

int device_wait_ms(const struct device *device, int ms_max)
{
    uint64_t up_ms = device_uptime_ms();
    if (up_ms >= device->due_ms)
        return 0;
    return device->due_ms - up_ms < (uint64_t)ms_max ? (int)(device->due_ms - up_ms) : ms_max;
}

bool device_may_send(struct device *device)
{
    if (!date_ms(device) && device_uptime_ms() - device->opened_ms >= CLOCK_WAIT_MS)
        device->undated = !device->began_ms;
    return device->began_ms || device->undated;
}

size_t device_message(const struct device *device, uint32_t number, char message[MESSAGE_BYTES_MAX])
{
    struct record record;
    if (ring_get(&device->ring, number, &record) < 0)
        return 0;
    uint64_t at_ms = record.at_ms;
    if (record.boot)
        at_ms = record.boot == device->boot && device->began_ms ? device->began_ms + at_ms : 0;
    char ts[32] = "";
    if (at_ms)
        snprintf(ts, sizeof ts, "\"ts\":%" PRIu64 ",", at_ms);
    return (size_t)snprintf(message, MESSAGE_BYTES_MAX, "{%s\"n\":%" PRIu32 ",%s}", ts, number, record.payload);
}

void device_acknowledged(struct device *device, uint32_t number)
{
    if (ring_done(&device->ring, number) == 0)
        printf("acknowledged %" PRIu32 "\n", number);
    else
        perror("the ring's mark"); /* the record stays and is sent again */
}

uint32_t device_retry_ms(unsigned failures)
{
    uint32_t ms = RETRY_MS_MIN;
    while (failures-- > 1 && ms < RETRY_MS_MAX)
        ms *= 2;
    ms = ms < RETRY_MS_MAX ? ms : RETRY_MS_MAX;
    return ms / 2 + device_random() % (ms / 2 + 1);
}
