/* A sensor that publishes over MQTT 3.1.1 with QoS 1, for an RTOS with POSIX files and threads, on libmosquitto 2.
 *
 *   mqtt HOST PORT DEVICE RING_FILE [EVERY_MS [COUNT]]
 *
 * Compiled with gcc and run on Linux, x86-64, against Mosquitto 2.0.11 and the agent, by
 * tests/integration/test_stubs.py, which kills it, the agent, and restarts the broker. Not run on any RTOS.
 *
 * A reading is in the ring until its PUBACK. At most WINDOW are on their way. On the next connection libmosquitto
 * repeats what has no PUBACK; after a power cut it is in the ring, and is published anew. Either way a reading whose
 * PUBACK was lost comes twice, with the same `n` and `ts`: QoS 1 means at least once.
 *
 * Two threads. One keeps the connection, and only says which message was acknowledged, through a pipe (on an RTOS: a
 * queue). The other owns all the rest, and is never held up by the network: it hands messages over only while there is
 * a connection. libmosquitto 2.0.11 would take them before, and one that came while it looks up the broker's name was
 * never sent, one that came while it connects was sent before the CONNECT.
 *
 * The broker has DEVICE's state retained in devices/DEVICE/status: {"online":true}, or false as the last will.
 */
#include "device.h"

#include <fcntl.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 16
#define KEEPALIVE_S 30

static char topic[128], status_topic[128];
static const char *host;
static int port;
static unsigned failures;   /* in a row; of the connection's thread */
static int acknowledged[2]; /* a pipe of message ids */
static atomic_bool connected;
static pthread_mutex_t connecting = PTHREAD_MUTEX_INITIALIZER;

static void on_connect(struct mosquitto *client, void *context, int refused)
{
    (void)context;
    printf("%s\n", mosquitto_connack_string(refused));
    if (refused)
        return;
    failures = 0;
    connected = true;
    mosquitto_publish(client, NULL, status_topic, 15, "{\"online\":true}", 1, true);
}

static void on_publish(struct mosquitto *client, void *context, int id)
{
    (void)client, (void)context;
    if (write(acknowledged[1], &id, sizeof id) != (ssize_t)sizeof id) /* smaller than PIPE_BUF: whole or not at all */
        perror("pipe");
}

static void *keep_connected(void *client)
{
    for (;;) {
        pthread_mutex_lock(&connecting);
        int error = mosquitto_connect(client, host, port, KEEPALIVE_S);
        pthread_mutex_unlock(&connecting);
        while (!error)
            error = mosquitto_loop(client, 1000, 1);
        connected = false;
        uint32_t pause_ms = device_retry_ms(++failures);
        printf("%s, again in %" PRIu32 " ms\n", mosquitto_strerror(error), pause_ms);
        nanosleep(&(struct timespec){pause_ms / 1000, pause_ms % 1000 * 1000000L}, NULL);
    }
    return NULL;
}

static struct mosquitto *start(const char *device)
{
    pthread_t thread;
    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new(device, false, NULL);
    if (!client)
        return NULL;
    mosquitto_threaded_set(client, true);
    mosquitto_connect_callback_set(client, on_connect);
    mosquitto_publish_callback_set(client, on_publish);
    mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, WINDOW + 1); /* and the state */
    mosquitto_will_set(client, status_topic, 16, "{\"online\":false}", 1, true);
    /* For TLS: mosquitto_tls_set; for a password: mosquitto_username_pw_set. */
    return pthread_create(&thread, NULL, keep_connected, client) == 0 ? client : NULL;
}

/* What is on its way: the records done + 1 ... sent, each with its message id, 0 once that was acknowledged. */
struct window {
    uint32_t sent;
    int ids[WINDOW];
};

/* `connecting` is held meanwhile: what is handed over as the connection breaks is there before the next one is begun,
 * and goes over that. */
static void fill(struct window *window, struct device *device, struct mosquitto *client)
{
    char message[MESSAGE_BYTES_MAX];
    while (window->sent != device->ring.last && window->sent - device->ring.done < WINDOW) {
        int *id = &window->ids[++window->sent % WINDOW];
        size_t length = device_message(device, window->sent, message);
        *id = 0; /* stays 0 if the record is damaged: nothing to wait for */
        if (!length)
            continue;
        int error = mosquitto_publish(client, id, topic, (int)length, message, 1, false);
        if (error && error != MOSQ_ERR_NO_CONN) { /* it has just broken: libmosquitto keeps it for the next one */
            printf("publish: %s\n", mosquitto_strerror(error));
            window->sent--;
            return;
        }
    }
}

static void settle(struct window *window, struct device *device)
{
    int id;
    while (read(acknowledged[0], &id, sizeof id) == (ssize_t)sizeof id)
        for (uint32_t number = device->ring.done + 1; number - 1 != window->sent; number++)
            if (window->ids[number % WINDOW] == id)
                window->ids[number % WINDOW] = 0;
    uint32_t number = device->ring.done;
    while (number != window->sent && !window->ids[(number + 1) % WINDOW])
        number++;
    if (number != device->ring.done)
        device_acknowledged(device, number);
}

int main(int count, char **given)
{
    if (count < 5) {
        fprintf(stderr, "usage: %s HOST PORT DEVICE RING_FILE [EVERY_MS [COUNT]]\n", given[0]);
        return 2;
    }
    uint32_t every_ms = count > 5 ? (uint32_t)atoi(given[5]) : 1000;
    uint32_t count_max = count > 6 ? (uint32_t)atoi(given[6]) : UINT32_MAX;
    snprintf(topic, sizeof topic, "devices/%s/telemetry", given[3]);
    snprintf(status_topic, sizeof status_topic, "devices/%s/status", given[3]);
    host = given[1];
    port = atoi(given[2]);
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct device device;
    if (device_open(&device, given[4], every_ms) < 0) {
        perror(given[4]);
        return 1;
    }
    struct window window = {.sent = device.ring.done};
    if (pipe(acknowledged) < 0 || fcntl(acknowledged[0], F_SETFL, O_NONBLOCK) < 0) {
        perror("pipe");
        return 1;
    }
    struct mosquitto *client = start(given[3]);
    if (!client) {
        perror("libmosquitto");
        return 1;
    }
    while (device.measured < count_max || ring_waiting(&device.ring)) {
        if (device.measured < count_max)
            device_measure(&device);
        if (connected && device_may_send(&device) && pthread_mutex_trylock(&connecting) == 0) {
            fill(&window, &device, client);
            pthread_mutex_unlock(&connecting);
        }
        struct pollfd wake = {.fd = acknowledged[0], .events = POLLIN};
        poll(&wake, 1, device.measured < count_max ? device_wait_ms(&device, 1000) : 1000);
        settle(&window, &device);
    }
    return 0; /* without DISCONNECT: the broker says that the device has gone */
}
