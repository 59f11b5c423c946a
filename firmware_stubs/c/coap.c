/* A sensor that posts over CoAP (RFC 7252), one confirmable message each, for an RTOS with POSIX files, on libcoap 4.3.
 *
 *   coap GATEWAY_IP PORT DEVICE RING_FILE LOCAL_PORT [EVERY_MS [COUNT]]
 *
 * Compiled with gcc and run on Linux, x86-64, against the agent, by tests/integration/test_stubs.py, which kills it
 * and the agent. Not run on any RTOS.
 *
 * A reading is in the ring until the gateway has answered 2.04 (it is on the gateway's disk) or 4.00 (it never will be
 * a reading; the gateway keeps the bytes). libcoap repeats a message four times, with growing pauses; then this
 * program repeats it, for as long as it takes.
 *
 * After silence the gateway may have the reading all the same. It knows a repetition by address and port of the
 * sender, message id, token and content: so LOCAL_PORT is fixed, and id and token are made from the number in the
 * ring, which makes them the same also after a power cut of the device. The gateway remembers for four minutes: what
 * was repeated without success for longer may be there twice, with the same `n`.
 *
 * 5.03 is another matter: the gateway has not taken the message and remembers that answer, so the next attempt must be
 * a new message. The ring's note counts these: id = number + note.
 */
#include "device.h"

#include <arpa/inet.h>
#include <coap3/coap.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON 50
#define MAX_AGE_S 60 /* of a 5.03 without Max-Age (RFC 7252 5.10.5) */
#ifndef ACK_TIMEOUT_MS
#define ACK_TIMEOUT_MS 2000 /* the first pause before libcoap repeats a message (RFC 7252 4.8) */
#endif

/* The one message that is on its way. */
static struct {
    enum { IDLE, SENT, TAKEN, NOT_NOW, SILENCE } state;
    uint8_t token[8];
    uint32_t max_age_s;
} request;

static coap_response_t on_response(coap_session_t *session, const coap_pdu_t *sent, const coap_pdu_t *answer,
                                   coap_mid_t mid)
{
    (void)session, (void)sent, (void)mid;
    coap_bin_const_t token = coap_pdu_get_token(answer);
    if (request.state != SENT || token.length != sizeof request.token || memcmp(token.s, request.token, token.length))
        return COAP_RESPONSE_OK; /* a late one, of a message that is settled */
    coap_pdu_code_t code = coap_pdu_get_code(answer);
    if (COAP_RESPONSE_CLASS(code) == 2 || code == COAP_RESPONSE_CODE_BAD_REQUEST) {
        request.state = TAKEN;
    } else { /* not now; or a wrong path or a gateway's fault: somebody will repair it */
        coap_opt_iterator_t options;
        coap_opt_t *max_age = coap_check_option(answer, COAP_OPTION_MAXAGE, &options);
        request.max_age_s = MAX_AGE_S;
        if (max_age)
            request.max_age_s = coap_decode_var_bytes(coap_opt_value(max_age), coap_opt_length(max_age));
        request.state = NOT_NOW;
    }
    if (code != COAP_RESPONSE_CODE_CHANGED) {
        size_t length = 0;
        const uint8_t *why = NULL;
        coap_get_data(answer, &length, &why);
        const char *text = why ? (const char *)why : "";
        printf("answered %d.%02d %.*s\n", COAP_RESPONSE_CLASS(code), code & 31, (int)length, text);
    }
    return COAP_RESPONSE_OK;
}

static void on_silence(coap_session_t *session, const coap_pdu_t *sent, const coap_nack_reason_t reason, coap_mid_t mid)
{
    (void)session, (void)sent, (void)reason, (void)mid;
    if (request.state == SENT)
        request.state = SILENCE;
}

static bool address(coap_address_t *to, const char *ip, const char *port)
{
    struct in_addr v4;
    coap_address_init(to);
    if (inet_pton(AF_INET, ip, &v4) != 1)
        return false;
    to->size = sizeof to->addr.sin;
    to->addr.sin.sin_family = AF_INET;
    to->addr.sin.sin_addr = v4;
    to->addr.sin.sin_port = htons((uint16_t)atoi(port));
    return true;
}

static coap_session_t *open_session(coap_context_t *context, const coap_address_t *own, const coap_address_t *gateway)
{
    coap_session_t *session = coap_new_client_session(context, own, gateway, COAP_PROTO_UDP);
    if (session)
        coap_session_set_ack_timeout(session, (coap_fixed_point_t){ACK_TIMEOUT_MS / 1000, ACK_TIMEOUT_MS % 1000});
    return session;
}

/* Post a record: the same message whenever it is asked to with the same note. */
static void post(coap_session_t *session, const struct device *device, uint32_t number, const char *name)
{
    char message[MESSAGE_BYTES_MAX];
    size_t length = device_message(device, number, message);
    uint32_t note = device->ring.note;
    if (!length) { /* damaged: nothing to send */
        request.state = TAKEN;
        return;
    }
    for (int i = 0; i < 4; i++) {
        request.token[i] = (uint8_t)(number >> (8 * i));
        request.token[4 + i] = (uint8_t)(note >> (8 * i));
    }
    coap_mid_t id = (coap_mid_t)((number + note) & 0xFFFF);
    coap_pdu_t *pdu = coap_pdu_init(COAP_MESSAGE_CON, COAP_REQUEST_CODE_POST, id, coap_session_max_pdu_size(session));
    const uint8_t json = JSON;
    bool whole = pdu && coap_add_token(pdu, sizeof request.token, request.token) &&
                 coap_add_option(pdu, COAP_OPTION_URI_PATH, 9, (const uint8_t *)"telemetry") &&
                 coap_add_option(pdu, COAP_OPTION_URI_PATH, strlen(name), (const uint8_t *)name) &&
                 coap_add_option(pdu, COAP_OPTION_CONTENT_FORMAT, 1, &json) &&
                 coap_add_data(pdu, length, (const uint8_t *)message);
    if (!whole) {
        coap_delete_pdu(pdu);
        return;
    }
    request.state = SENT;
    if (coap_send(session, pdu) == COAP_INVALID_MID)
        request.state = SILENCE;
}

/* Whatever became of the message: what follows, and when the next may be sent. */
static uint64_t settle(struct device *device, unsigned *failures)
{
    uint32_t pause_ms = 0;
    if (request.state == TAKEN) {
        device_acknowledged(device, device->ring.done + 1);
        *failures = 0;
    } else if (request.state == NOT_NOW) {
        if (ring_note(&device->ring, device->ring.note + 1) < 0)
            perror("the ring's mark");
        pause_ms = request.max_age_s * 1000 + device_random() % 1000;
    } else {
        pause_ms = device_retry_ms(++*failures);
        printf("silence, again in %" PRIu32 " ms\n", pause_ms);
    }
    request.state = IDLE;
    return device_uptime_ms() + pause_ms;
}

int main(int count, char **given)
{
    coap_address_t gateway, own;
    if (count < 6 || !address(&gateway, given[1], given[2]) || !address(&own, "0.0.0.0", given[5])) {
        fprintf(stderr, "usage: %s GATEWAY_IP PORT DEVICE RING_FILE LOCAL_PORT [EVERY_MS [COUNT]]\n", given[0]);
        return 2;
    }
    uint32_t every_ms = count > 6 ? (uint32_t)atoi(given[6]) : 1000;
    uint32_t count_max = count > 7 ? (uint32_t)atoi(given[7]) : UINT32_MAX;
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct device device;
    if (device_open(&device, given[4], every_ms) < 0) {
        perror(given[4]);
        return 1;
    }
    coap_startup();
    coap_set_log_level(LOG_ERR);
    coap_context_t *context = coap_new_context(NULL);
    coap_register_response_handler(context, on_response);
    coap_register_nack_handler(context, on_silence);

    coap_session_t *session = NULL;
    uint64_t again_ms = 0;
    unsigned failures = 0;
    while (device.measured < count_max || ring_waiting(&device.ring)) {
        if (device.measured < count_max)
            device_measure(&device);
        bool due = request.state == IDLE && ring_waiting(&device.ring) && device_uptime_ms() >= again_ms;
        if (due && device_may_send(&device)) {
            request.state = SILENCE; /* unless it gets on its way */
            if (!session) /* after silence: a new socket, with the same port */
                session = open_session(context, &own, &gateway);
            if (session)
                post(session, &device, device.ring.done + 1, given[3]);
        }
        if (request.state <= SENT)
            coap_io_process(context, device.measured < count_max ? (uint32_t)device_wait_ms(&device, 50) + 1 : 50);
        if (request.state > SENT) {
            if (request.state == SILENCE && session) {
                coap_session_release(session);
                session = NULL;
            }
            again_ms = settle(&device, &failures);
        }
    }
    if (session)
        coap_session_release(session);
    coap_free_context(context);
    coap_cleanup();
    return 0;
}
