/* A sensor on Zephyr that posts over CoAP (RFC 7252), one confirmable message each, with Zephyr's CoAP packets.
 *
 * NOT RUN, and not built by Zephyr: it was written from the documentation. The test suite compiles it against small
 * stand-ins for the headers that it uses, which finds slips of the pen and nothing else. Its ring.c and device.c are
 * run on Linux with the programs in ../c, and ../c/coap.c posts by the same rules; its file system and its sockets are
 * not.
 *
 * A reading is in the ring until the gateway has answered 2.04 (it is on the gateway's disk) or 4.00 (it never will be
 * a reading; the gateway keeps the bytes). After silence the same message goes again, with growing pauses: same port,
 * message id and token, made from the number in the ring, by which the gateway knows a repetition for four minutes.
 * After any other answer it was not taken, and goes as another message: id = number + the ring's note.
 */
#include "device.h"

#include <stdio.h>
#include <string.h>
#include <zephyr/kernel.h>
#include <zephyr/net/coap.h>
#include <zephyr/net/socket.h>
#include <zephyr/random/random.h>

/* ---- what to change --------------------------------------------------------------------------------------------- */

#define GATEWAY "192.168.1.10"
#define GATEWAY_PORT 5683
#define LOCAL_PORT 56830 /* must stay the same */
#define DEVICE "zephyr-1"
#define RING_FILE "/lfs/ring.bin"
#define EVERY_MS 10000

size_t sensor_read(char *members, size_t size, uint32_t number)
{
    uint32_t tenths = 200 + number % 100; /* made up: read your sensor here */
    int length = snprintf(members, size, "\"temperature\":%u.%u", (unsigned)(tenths / 10), (unsigned)(tenths % 10));
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

/* ----------------------------------------------------------------------------------------------------------------- */

#define NOT_NOW_MS 10000

uint32_t device_random(void)
{
    return sys_rand32_get();
}

/* A UDP socket from LOCAL_PORT to the gateway, or -1. */
static int open_socket(void)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(LOCAL_PORT)};
    struct sockaddr_in gateway = {.sin_family = AF_INET, .sin_port = htons(GATEWAY_PORT)};
    zsock_inet_pton(AF_INET, GATEWAY, &gateway.sin_addr);
    int sock = zsock_socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    if (sock < 0)
        return -1;
    if (zsock_bind(sock, (struct sockaddr *)&own, sizeof own) == 0 &&
        zsock_connect(sock, (struct sockaddr *)&gateway, sizeof gateway) == 0)
        return sock;
    zsock_close(sock);
    return -1;
}

static uint16_t message_id(const struct device *device)
{
    return (uint16_t)(device->ring.done + 1 + device->ring.note);
}

static void make_token(const struct device *device, uint8_t token[COAP_TOKEN_MAX_LEN])
{
    uint32_t number = device->ring.done + 1, note = device->ring.note;
    memcpy(token, &number, 4);
    memcpy(token + 4, &note, 4);
}

/* Send the oldest record. False: it is damaged. */
static bool post(int sock, const struct device *device)
{
    static char message[MESSAGE_BYTES_MAX];
    static uint8_t bytes[MESSAGE_BYTES_MAX + 64];
    uint8_t token[COAP_TOKEN_MAX_LEN];
    struct coap_packet packet;
    size_t length = device_message(device, device->ring.done + 1, message);
    if (!length)
        return false;
    make_token(device, token);
    int error = coap_packet_init(&packet, bytes, sizeof bytes, COAP_VERSION_1, COAP_TYPE_CON, sizeof token, token,
                                 COAP_METHOD_POST, message_id(device));
    error |= coap_packet_append_option(&packet, COAP_OPTION_URI_PATH, (const uint8_t *)"telemetry", 9);
    error |= coap_packet_append_option(&packet, COAP_OPTION_URI_PATH, (const uint8_t *)DEVICE, sizeof DEVICE - 1);
    error |= coap_append_option_int(&packet, COAP_OPTION_CONTENT_FORMAT, COAP_CONTENT_FORMAT_APP_JSON);
    error |= coap_packet_append_payload_marker(&packet);
    error |= coap_packet_append_payload(&packet, (const uint8_t *)message, (uint16_t)length);
    if (error || zsock_send(sock, packet.data, packet.offset, 0) < 0)
        printf("not sent\n"); /* as if it were lost on the way */
    return true;
}

/* The code of an answer to the message on its way, or 0. */
static uint8_t answer(int sock, const struct device *device)
{
    static uint8_t bytes[256];
    uint8_t expected[COAP_TOKEN_MAX_LEN], token[COAP_TOKEN_MAX_LEN];
    struct coap_packet packet;
    ssize_t length = zsock_recv(sock, bytes, sizeof bytes, ZSOCK_MSG_DONTWAIT);
    if (length <= 0 || coap_packet_parse(&packet, bytes, (uint16_t)length, NULL, 0) < 0)
        return 0;
    make_token(device, expected);
    if (coap_header_get_token(&packet, token) != sizeof token || memcmp(token, expected, sizeof token) != 0)
        return 0;
    return coap_header_get_id(&packet) == message_id(device) ? coap_header_get_code(&packet) : 0;
}

int main(void)
{
    static struct device device;
    if (device_open(&device, RING_FILE, EVERY_MS) < 0) {
        perror(RING_FILE);
        return 1;
    }
    int sock = -1;
    unsigned attempts = 0; /* of this message */
    uint64_t next_ms = 0;
    for (;;) {
        device_measure(&device);
        if (sock < 0)
            sock = open_socket();
        bool waits = sock >= 0 && ring_waiting(&device.ring);
        if (waits && device_uptime_ms() >= next_ms && device_may_send(&device)) {
            if (!post(sock, &device)) {
                device_acknowledged(&device, device.ring.done + 1);
                continue;
            }
            next_ms = device_uptime_ms() + 2000 + device_retry_ms(++attempts);
        }
        struct zsock_pollfd wake = {.fd = sock, .events = ZSOCK_POLLIN};
        int wait_ms = device_wait_ms(&device, 100);
        if (sock < 0)
            k_msleep(wait_ms);
        else if (zsock_poll(&wake, 1, wait_ms) > 0) {
            uint8_t code = answer(sock, &device);
            if (!attempts)
                continue; /* a late one, of a message that is settled */
            if (code >> 5 == 2 || code == COAP_RESPONSE_CODE_BAD_REQUEST) {
                device_acknowledged(&device, device.ring.done + 1);
                attempts = 0;
                next_ms = 0;
            } else if (code) {
                if (ring_note(&device.ring, device.ring.note + 1) < 0)
                    perror("the ring's mark");
                attempts = 0;
                next_ms = device_uptime_ms() + NOT_NOW_MS + device_random() % 1000;
            }
        }
    }
}
