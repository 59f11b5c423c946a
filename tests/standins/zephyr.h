/* What firmware_stubs/zephyr uses of Zephyr, declared as its documentation has it, so that a compiler can check the
 * program's types and names. Nothing here does anything, and nothing here proves that Zephyr has it so. */
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

int32_t k_msleep(int32_t);
uint32_t sys_rand32_get(void);

struct zsock_pollfd { int fd; short events; short revents; };
#define ZSOCK_POLLIN 1
#define ZSOCK_MSG_DONTWAIT 0x40
int zsock_socket(int, int, int);
int zsock_bind(int, const struct sockaddr *, socklen_t);
int zsock_connect(int, const struct sockaddr *, socklen_t);
int zsock_close(int);
ssize_t zsock_send(int, const void *, size_t, int);
ssize_t zsock_recv(int, void *, size_t, int);
int zsock_poll(struct zsock_pollfd *, int, int);
int zsock_inet_pton(sa_family_t, const char *, void *);

struct coap_packet { uint8_t *data; uint16_t offset; uint16_t max_len; };
struct coap_option;
#define COAP_VERSION_1 1U
#define COAP_TOKEN_MAX_LEN 8UL
enum coap_msgtype { COAP_TYPE_CON = 0 };
enum coap_method { COAP_METHOD_POST = 2 };
enum coap_option_num { COAP_OPTION_URI_PATH = 11, COAP_OPTION_CONTENT_FORMAT = 12 };
enum coap_content_format { COAP_CONTENT_FORMAT_APP_JSON = 50 };
enum coap_response_code { COAP_RESPONSE_CODE_BAD_REQUEST = 0x80 };
int coap_packet_init(struct coap_packet *, uint8_t *, uint16_t, uint8_t, uint8_t, uint8_t, const uint8_t *, uint8_t,
                     uint16_t);
int coap_packet_append_option(struct coap_packet *, uint16_t, const uint8_t *, uint16_t);
int coap_append_option_int(struct coap_packet *, uint16_t, unsigned int);
int coap_packet_append_payload_marker(struct coap_packet *);
int coap_packet_append_payload(struct coap_packet *, const uint8_t *, uint16_t);
int coap_packet_parse(struct coap_packet *, uint8_t *, uint16_t, struct coap_option *, uint8_t);
uint8_t coap_header_get_token(const struct coap_packet *, uint8_t *);
uint16_t coap_header_get_id(const struct coap_packet *);
uint8_t coap_header_get_code(const struct coap_packet *);
