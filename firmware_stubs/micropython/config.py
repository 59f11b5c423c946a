"""What to change: where the messages go, what this device is called, and its sensor."""

TRANSPORT = "mqtt"  # or "coap"
HOST = "127.0.0.1"  # the device broker (mqtt) or the gateway (coap)
PORT = 1883  # mqtt; 5683 for coap
LOCAL_PORT = 56830  # coap: must stay the same, the gateway knows a repetition by it
DEVICE = "sensor-1"
USER = PASSWORD = None  # mqtt, e.g. "user" and "secret"
QOS = 2  # mqtt: 2, or 1 (half as many packets; a reading whose PUBACK is lost comes twice)

RING = "ring.bin"
EVERY_MS = 1_000
COUNT = 0  # end after so many measurements and the last acknowledgement; 0: never
CLOCK_WAIT_MS = 60_000  # 0: this device never has a clock
RETRY_MS_MIN, RETRY_MS_MAX = 1_000, 60_000
ACK_TIMEOUT_MS = 2_000  # coap: the first pause before a message is repeated (RFC 7252 4.8)


def read(number):
    """The reading: a dictionary of numbers, booleans and texts. Made up here, from the record's number."""
    return {"temperature": (200 + number % 100) / 10}
