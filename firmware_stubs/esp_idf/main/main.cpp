/* A sensor on an ESP32 that publishes over MQTT 3.1.1 with QoS 1: C++, ESP-IDF 5, its own MQTT client (esp_mqtt).
 *
 * NOT RUN, and not built by ESP-IDF: it was written from the documentation. The test suite compiles it against small
 * stand-ins for the headers that it uses, which finds slips of the pen and nothing else. Its ring.c and device.c are
 * run on Linux with the programs in ../c, which it resembles; its file system and its client are not.
 *
 * A reading is in the ring, on a FAT partition with wear levelling, until its PUBACK. At most WINDOW are on their way.
 * The client repeats what has no PUBACK, and gives up what is in its outbox for too long; that is published anew. A
 * reading whose PUBACK was lost comes twice, with the same `n` and `ts`: QoS 1 means at least once.
 *
 * The broker has the state retained in devices/DEVICE/status: {"online":true}, or false as the last will.
 */
#include "device.h"

#include <cstdio>
#include <cstring>

#include "esp_event.h"
#include "esp_netif.h"
#include "esp_netif_sntp.h"
#include "esp_random.h"
#include "esp_vfs_fat.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "nvs_flash.h"
#include "protocol_examples_common.h"

/* ---- what to change --------------------------------------------------------------------------------------------- */

static const char BROKER[] = "mqtt://192.168.1.10:1883";
static const char DEVICE[] = "esp-1";
static const char TOPIC[] = "devices/esp-1/telemetry";
static const char STATUS_TOPIC[] = "devices/esp-1/status";
static constexpr uint32_t EVERY_MS = 10000;

extern "C" size_t sensor_read(char *members, size_t size, uint32_t number)
{
    uint32_t tenths = 200 + number % 100; /* made up: read your sensor here */
    int length = snprintf(members, size, "\"temperature\":%u.%u", unsigned(tenths / 10), unsigned(tenths % 10));
    return length > 0 && size_t(length) < size ? size_t(length) : 0;
}

/* ----------------------------------------------------------------------------------------------------------------- */

static constexpr uint32_t WINDOW = 8;
static constexpr int ACKNOWLEDGED = 0, GIVEN_UP = -1;

struct Event {
    int id;   /* of the message */
    int what; /* ACKNOWLEDGED or GIVEN_UP */
};

static QueueHandle_t events;
static TaskHandle_t network;
static unsigned failures; /* in a row; of the client's task */

extern "C" uint32_t device_random(void)
{
    return esp_random();
}

static void on_event(void *, esp_event_base_t, int32_t kind, void *data)
{
    auto *event = static_cast<esp_mqtt_event_t *>(data);
    Event told{event->msg_id, kind == MQTT_EVENT_PUBLISHED ? ACKNOWLEDGED : GIVEN_UP};
    switch (kind) {
    case MQTT_EVENT_CONNECTED:
        failures = 0;
        esp_mqtt_client_enqueue(event->client, STATUS_TOPIC, "{\"online\":true}", 0, 1, 1, true);
        break;
    case MQTT_EVENT_DISCONNECTED: /* also after an attempt that failed */
        xTaskNotifyGive(network);
        break;
    case MQTT_EVENT_PUBLISHED:
    case MQTT_EVENT_DELETED:
        xQueueSend(events, &told, portMAX_DELAY);
        break;
    default:
        break;
    }
}

/* The network in a task of its own: a sensor measures also without one. */
static void keep_connected(void *client_handle)
{
    auto client = static_cast<esp_mqtt_client_handle_t>(client_handle);
    ESP_ERROR_CHECK(nvs_flash_init());
    ESP_ERROR_CHECK(esp_netif_init());
    ESP_ERROR_CHECK(esp_event_loop_create_default());
    while (example_connect() != ESP_OK) /* Wi-Fi or Ethernet, as menuconfig has it */
        vTaskDelay(pdMS_TO_TICKS(device_retry_ms(++failures)));
    esp_sntp_config_t sntp = ESP_NETIF_SNTP_DEFAULT_CONFIG("pool.ntp.org");
    esp_netif_sntp_init(&sntp);
    esp_mqtt_client_start(client);
    for (;;) {
        ulTaskNotifyTake(pdTRUE, portMAX_DELAY);
        vTaskDelay(pdMS_TO_TICKS(device_retry_ms(++failures)));
        esp_mqtt_client_reconnect(client);
    }
}

static esp_mqtt_client_handle_t make_client()
{
    esp_mqtt_client_config_t config = {};
    config.broker.address.uri = BROKER;
    config.credentials.client_id = DEVICE;
    config.session.disable_clean_session = true;
    config.session.keepalive = 30;
    config.session.last_will.topic = STATUS_TOPIC;
    config.session.last_will.msg = "{\"online\":false}";
    config.session.last_will.qos = 1;
    config.session.last_will.retain = 1;
    config.session.message_retransmit_timeout = 3600 * 1000; /* on one connection a repetition is a second message */
    config.network.disable_auto_reconnect = true;             /* keep_connected has growing pauses */
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    esp_mqtt_client_register_event(client, MQTT_EVENT_ANY, on_event, nullptr);
    return client;
}

/* What is on its way: the records done + 1 ... sent, each with its message id, or with what became of it. */
class Window {
public:
    explicit Window(device &device) : device_(device), sent_(device.ring.done) {}

    void fill(esp_mqtt_client_handle_t client)
    {
        for (uint32_t number = device_.ring.done + 1; number != sent_ + 1; number++)
            if (id(number) == GIVEN_UP)
                publish(client, number);
        while (sent_ != device_.ring.last && sent_ - device_.ring.done < WINDOW && publish(client, sent_ + 1))
            sent_++;
    }

    void tell(const Event &event)
    {
        for (uint32_t number = device_.ring.done + 1; number != sent_ + 1; number++)
            if (id(number) == event.id)
                id(number) = event.what;
    }

    void settle()
    {
        uint32_t number = device_.ring.done;
        while (number != sent_ && id(number + 1) == ACKNOWLEDGED)
            number++;
        if (number != device_.ring.done)
            device_acknowledged(&device_, number);
    }

private:
    int &id(uint32_t number) { return ids_[number % WINDOW]; }

    bool publish(esp_mqtt_client_handle_t client, uint32_t number)
    {
        static char message[MESSAGE_BYTES_MAX];
        size_t length = device_message(&device_, number, message);
        int given = length ? esp_mqtt_client_enqueue(client, TOPIC, message, int(length), 1, 0, true) : ACKNOWLEDGED;
        if (given < 0) /* no memory: later */
            return false;
        id(number) = given;
        return true;
    }

    device &device_;
    uint32_t sent_;
    int ids_[WINDOW] = {};
};

extern "C" void app_main(void)
{
    esp_vfs_fat_mount_config_t mount = {};
    mount.format_if_mount_failed = true;
    mount.max_files = 2;
    wl_handle_t wear_levelling = WL_INVALID_HANDLE;
    ESP_ERROR_CHECK(esp_vfs_fat_spiflash_mount_rw_wl("/storage", "storage", &mount, &wear_levelling));

    static device device;
    if (device_open(&device, "/storage/ring.bin", EVERY_MS) < 0) {
        perror("/storage/ring.bin");
        abort();
    }
    events = xQueueCreate(4 * WINDOW, sizeof(Event));
    esp_mqtt_client_handle_t client = make_client();
    xTaskCreate(keep_connected, "network", 6144, client, 5, &network);

    Window window(device);
    for (;;) {
        device_measure(&device);
        if (device_may_send(&device))
            window.fill(client);
        Event event;
        TickType_t patience = pdMS_TO_TICKS(device_wait_ms(&device, 1000));
        while (xQueueReceive(events, &event, patience) == pdTRUE) {
            window.tell(event);
            patience = 0;
        }
        window.settle();
    }
}
