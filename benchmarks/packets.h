/*
 * The few MQTT 3.1.1 packets that loaders send, and the reading that every PUBLISH carries.
 *
 * A device is a number; it publishes to devices/NAME-NNNNNN/LEAF. A reading begins with the time it was made and its
 * place in the device's sequence, {"ts":1800000000000,"seq":0,... , so that whoever receives it can tell what is
 * missing, repeated or out of order, and how long it took.
 */
#ifndef PACKETS_H
#define PACKETS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBACK = 9, PINGRESP = 13 }; /* [MQTT 3.1.1, table 2.1] */

enum {
    MIN_PAYLOAD = 110,  /* the fixed fields of a reading, with the longest numbers */
    MAX_PAYLOAD = 8192, /* keeps a packet's remaining length within two bytes */
    MAX_NAME = 16,      /* bytes of a device's name before its number, and of the last topic level */
    MAX_TOPIC = 64,
    MAX_PUBLISH = 7 + MAX_TOPIC + MAX_PAYLOAD,
    MAX_CONNECT = 14 + MAX_NAME + 16,
};

typedef struct {
    int length;
    char text[MAX_TOPIC];
} Topic;

static inline Topic topic_of(const char *name, const char *leaf, int device)
{
    Topic topic;
    topic.length = snprintf(topic.text, sizeof topic.text, "devices/%s-%06d/%s", name, device, leaf);
    return topic;
}

static inline char *put_text(char *at, const char *text, size_t length)
{
    memcpy(at, text, length);
    return at + length;
}

static inline char *put_number(char *at, uint64_t value, int min_digits)
{
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0 || count < min_digits);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

#define PUT(at, literal) put_text(at, literal, sizeof(literal) - 1)

/* One JSON reading of exactly payload_bytes; by hand, since printf would cost the loader more than its system calls. */
static inline void put_reading(char *at, int payload_bytes, uint64_t sequence, uint64_t time_ms)
{
    char *end = at + payload_bytes;
    at = put_number(PUT(at, "{\"ts\":"), time_ms, 1);
    at = put_number(PUT(at, ",\"seq\":"), sequence, 1);
    at = put_number(PUT(at, ",\"temperature\":"), 20 + sequence % 1000 / 100, 1);
    at = put_number(PUT(at, "."), sequence % 100, 2);
    at = put_number(PUT(at, ",\"vibration\":0."), sequence % 97 * 13, 4);
    at = put_number(PUT(at, ",\"rpm\":"), 1480 + sequence % 40, 1);
    at = PUT(at, ",\"status\":\"ok\",\"p\":\"");
    memset(at, 'x', (size_t)(end - at) - 2);
    PUT(end - 2, "\"}");
}

static inline size_t publish_bytes(const Topic *topic, int qos, int payload_bytes)
{
    size_t remaining = 2 + (size_t)topic->length + (qos > 0 ? 2 : 0) + (size_t)payload_bytes;
    return (remaining < 128 ? 2u : 3u) + remaining;
}

/* A PUBLISH of publish_bytes(). */
static inline void put_publish(uint8_t *at, const Topic *topic, int qos, bool dup, uint16_t packet_id, int payload_bytes,
                               uint64_t sequence, uint64_t time_ms)
{
    size_t remaining = 2 + (size_t)topic->length + (qos > 0 ? 2 : 0) + (size_t)payload_bytes;
    *at++ = (uint8_t)(0x30 | (dup ? 8 : 0) | qos << 1);
    if (remaining >= 128)
        *at++ = (uint8_t)(remaining % 128 | 128);
    *at++ = (uint8_t)(remaining >= 128 ? remaining / 128 : remaining);
    *at++ = 0;
    *at++ = (uint8_t)topic->length;
    memcpy(at, topic->text, (size_t)topic->length);
    at += topic->length;
    if (qos > 0) {
        *at++ = (uint8_t)(packet_id >> 8);
        *at++ = (uint8_t)packet_id;
    }
    put_reading((char *)at, payload_bytes, sequence, time_ms);
}

/* A CONNECT of client NAME-NNNNNN, at most MAX_CONNECT bytes; returns how many. */
static inline size_t put_connect(uint8_t *at, const char *name, int index, bool clean, int keep_alive_s)
{
    char id[MAX_NAME + 16];
    int length = snprintf(id, sizeof id, "%s-%06d", name, index);
    memcpy(at, "\x10\0\0\4MQTT\4\0\0\0\0", 13);
    at[1] = (uint8_t)(12 + length);
    at[9] = clean ? 2 : 0;
    at[10] = (uint8_t)(keep_alive_s >> 8);
    at[11] = (uint8_t)keep_alive_s;
    at[13] = (uint8_t)length;
    memcpy(at + 14, id, (size_t)length);
    return 14 + (size_t)length;
}

#define DISCONNECT "\xE0\x00"

#endif
