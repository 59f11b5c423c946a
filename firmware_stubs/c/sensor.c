/* The board: its sensor and its randomness. Here: a temperature made up from the number, and POSIX. Write your own. */
#define _DEFAULT_SOURCE /* getentropy */
#include "device.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

size_t sensor_read(char *members, size_t size, uint32_t number)
{
    uint32_t tenths = 200 + number % 100;
    int length = snprintf(members, size, "\"temperature\":%" PRIu32 ".%" PRIu32, tenths / 10, tenths % 10);
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

uint32_t device_random(void)
{
    uint32_t bits = 0;
    if (getentropy(&bits, sizeof bits) != 0)
        perror("no randomness"); /* then numbers of a wiped ring begin at 1 again */
    return bits;
}
