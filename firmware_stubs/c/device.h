/* What every one of these programs does, whatever it speaks: measure in time, keep in the ring, say what to send.
 *
 * A message is one JSON object. The device adds to what the sensor says:
 *
 *   ts       when it was measured, milliseconds since 1970 UTC; left out if nobody knows (the gateway then takes the
 *            time of arrival and marks it so)
 *   n        the record's number in the ring: a repetition has the same one
 *   dropped  only if the ring was full before this one: how many readings it refused (a power cut forgets the count)
 *
 * Without a clock. Until the clock is set a record has the uptime, and nothing is sent for CLOCK_WAIT_MS. Once it is
 * set (SNTP), what this boot measured before gets its date. What an earlier boot could not date, or if the clock does
 * not come in time, goes without `ts`. A device that never has a clock sets CLOCK_WAIT_MS to 0.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "ring.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef CLOCK_WAIT_MS
#define CLOCK_WAIT_MS 60000
#endif
#ifndef RETRY_MS_MIN
#define RETRY_MS_MIN 1000
#define RETRY_MS_MAX 60000
#endif
#define MESSAGE_BYTES_MAX (RING_PAYLOAD_BYTES_MAX + 64)

struct device {
    struct ring ring;
    uint32_t boot;      /* a random id of this run, not 0 */
    uint32_t every_ms;
    uint64_t opened_ms; /* of uptime */
    uint64_t due_ms;    /* of uptime: when to measure next */
    uint64_t began_ms;  /* when this boot began, milliseconds since 1970 UTC; 0: unknown yet */
    bool undated;       /* the clock did not come in time */
    uint32_t dropped;   /* readings refused since the last one that was kept */
    uint32_t measured;  /* since the start */
};

/* ---- to write for your board; sensor.c has both for POSIX -------------------------------------------------------- */

/* The members of a JSON object, `"temperature":21.5,"state":"ok"`: at most `size` - 1 bytes and a 0. 0: no reading. */
size_t sensor_read(char *members, size_t size, uint32_t number);

/* 32 random bits that differ at every boot and on every device. */
uint32_t device_random(void);

/* ------------------------------------------------------------------------------------------------------------------ */

/* Open the ring at `path` and begin. 0, or -1 with errno. */
int device_open(struct device *device, const char *path, uint32_t every_ms);

/* Measure if it is time, and keep the reading in the ring. */
void device_measure(struct device *device);

/* How long until the next measurement, at most `ms_max`. */
int device_wait_ms(const struct device *device, int ms_max);

/* Whether it is time to send at all: see "Without a clock". */
bool device_may_send(struct device *device);

/* The message of record `number`: the same bytes whenever this boot is asked. Its length, or 0: it is damaged. */
size_t device_message(const struct device *device, uint32_t number, char message[MESSAGE_BYTES_MAX]);

/* Everything up to `number` was acknowledged. */
void device_acknowledged(struct device *device, uint32_t number);

/* The pause after so many failures in a row: doubled each time up to RETRY_MS_MAX, a random part of it left out, so
 * that a fleet that lost its gateway does not come back as one. */
uint32_t device_retry_ms(unsigned failures);

uint64_t device_uptime_ms(void);

#ifdef __cplusplus
}
#endif
#endif
