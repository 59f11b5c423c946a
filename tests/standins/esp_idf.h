/* What firmware_stubs/esp_idf uses of ESP-IDF 5, declared as its documentation has it, so that a compiler can check the
 * program's types and names. Nothing here does anything, and nothing here proves that ESP-IDF has it so. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>

typedef int esp_err_t;
constexpr esp_err_t ESP_OK = 0;
#define ESP_ERROR_CHECK(call) do { if ((call) != ESP_OK) abort(); } while (0)
uint32_t esp_random();
esp_err_t nvs_flash_init();
esp_err_t esp_netif_init();
esp_err_t esp_event_loop_create_default();
esp_err_t example_connect();
struct esp_sntp_config_t { const char *server; };
#define ESP_NETIF_SNTP_DEFAULT_CONFIG(name) {name}
esp_err_t esp_netif_sntp_init(const esp_sntp_config_t *);

typedef int32_t wl_handle_t;
constexpr wl_handle_t WL_INVALID_HANDLE = -1;
struct esp_vfs_fat_mount_config_t { bool format_if_mount_failed; int max_files; size_t allocation_unit_size; };
esp_err_t esp_vfs_fat_spiflash_mount_rw_wl(const char *, const char *, const esp_vfs_fat_mount_config_t *,
                                           wl_handle_t *);

typedef uint32_t TickType_t;
typedef int BaseType_t;
typedef unsigned UBaseType_t;
typedef struct QueueDefinition *QueueHandle_t;
typedef struct tskTaskControlBlock *TaskHandle_t;
constexpr BaseType_t pdTRUE = 1;
constexpr TickType_t portMAX_DELAY = 0xFFFFFFFF;
#define pdMS_TO_TICKS(ms) ((TickType_t)(ms))
QueueHandle_t xQueueCreate(UBaseType_t, UBaseType_t);
BaseType_t xQueueSend(QueueHandle_t, const void *, TickType_t);
BaseType_t xQueueReceive(QueueHandle_t, void *, TickType_t);
BaseType_t xTaskCreate(void (*)(void *), const char *, uint32_t, void *, UBaseType_t, TaskHandle_t *);
void vTaskDelay(TickType_t);
BaseType_t xTaskNotifyGive(TaskHandle_t);
uint32_t ulTaskNotifyTake(BaseType_t, TickType_t);

typedef const char *esp_event_base_t;
typedef void (*esp_event_handler_t)(void *, esp_event_base_t, int32_t, void *);
typedef struct esp_mqtt_client *esp_mqtt_client_handle_t;
enum esp_mqtt_event_id_t {
    MQTT_EVENT_ANY = -1, MQTT_EVENT_ERROR, MQTT_EVENT_CONNECTED, MQTT_EVENT_DISCONNECTED, MQTT_EVENT_SUBSCRIBED,
    MQTT_EVENT_UNSUBSCRIBED, MQTT_EVENT_PUBLISHED, MQTT_EVENT_DATA, MQTT_EVENT_BEFORE_CONNECT, MQTT_EVENT_DELETED,
};
struct esp_mqtt_event_t { esp_mqtt_event_id_t event_id; esp_mqtt_client_handle_t client; int msg_id; };
struct esp_mqtt_client_config_t {
    struct { struct { const char *uri; } address; } broker;
    struct { const char *client_id; } credentials;
    struct {
        struct { const char *topic; const char *msg; int msg_len; int qos; int retain; } last_will;
        bool disable_clean_session;
        int keepalive;
        int message_retransmit_timeout;
    } session;
    struct { int reconnect_timeout_ms; bool disable_auto_reconnect; } network;
};
esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *);
esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t, esp_mqtt_event_id_t, esp_event_handler_t, void *);
esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t);
esp_err_t esp_mqtt_client_reconnect(esp_mqtt_client_handle_t);
int esp_mqtt_client_enqueue(esp_mqtt_client_handle_t, const char *, const char *, int, int, int, bool);
