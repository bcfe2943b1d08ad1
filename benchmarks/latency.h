/*
 * Latencies in microseconds, in buckets of less than 1 % width: exact below 256 us, then 128 to each doubling.
 */
#ifndef LATENCY_H
#define LATENCY_H

#include <stdint.h>
#include <string.h>

enum { LINEAR = 256, STEPS = 128, BUCKETS = LINEAR + STEPS * 40 };

typedef struct {
    uint64_t counts[BUCKETS];
    uint64_t max_us;
} Latencies;

static inline int bucket_of(uint64_t us)
{
    if (us < LINEAR)
        return (int)us;
    int shift = 63 - __builtin_clzll(us) - 7; /* leaves us >> shift within 128..255 */
    int bucket = LINEAR + (shift - 1) * STEPS + (int)(us >> shift) - STEPS;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static inline uint64_t bucket_floor(int bucket)
{
    if (bucket < LINEAR)
        return (uint64_t)bucket;
    int shift = (bucket - LINEAR) / STEPS + 1;
    return (uint64_t)((bucket - LINEAR) % STEPS + STEPS) << shift;
}

static inline void record_latency(Latencies *latencies, uint64_t us, uint64_t messages)
{
    latencies->counts[bucket_of(us)] += messages;
    if (us > latencies->max_us)
        latencies->max_us = us;
}

static inline uint64_t percentile(const Latencies *latencies, double fraction)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += latencies->counts[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += latencies->counts[i];
        if (total > 0 && (double)seen >= fraction * (double)total)
            return bucket_floor(i);
    }
    return 0;
}

static inline void forget_latencies(Latencies *latencies)
{
    memset(latencies, 0, sizeof *latencies);
}

#endif
