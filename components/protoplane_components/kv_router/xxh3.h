/*
 * XXH3-64 with a seed, written from xxHash's specification (doc/xxhash_spec.md, version 0.2.0, "XXH3
 * Algorithm Overview" and what follows it). Every input here is a whole number of 4-byte tokens, so
 * what the specification says of less than 4 bytes is left out.
 */
#ifndef XXH3_H
#define XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "words.h"

static inline uint64_t rotated(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

/* The halves of a 128-bit product, on top of each other. */
static inline uint64_t folded(uint64_t one, uint64_t other)
{
    unsigned __int128 product = (unsigned __int128)one * other;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

enum { SECRET_SIZE = 192, STRIPE = 64, LANES = 8, STRIPES = (SECRET_SIZE - STRIPE) / 8 };

static const uint64_t PRIME32_1 = 0x9E3779B1;
static const uint64_t PRIME32_2 = 0x85EBCA77;
static const uint64_t PRIME32_3 = 0xC2B2AE3D;
static const uint64_t PRIME64_1 = 0x9E3779B185EBCA87;
static const uint64_t PRIME64_2 = 0xC2B2AE3D27D4EB4F;
static const uint64_t PRIME64_3 = 0x165667B19E3779F9;
static const uint64_t PRIME64_4 = 0x85EBCA77C2B2AE63;
static const uint64_t PRIME64_5 = 0x27D4EB2F165667C5;
static const uint64_t PRIME_MX1 = 0x165667919E3779F9;
static const uint64_t PRIME_MX2 = 0x9FB21C651E98DF25;

static const uint8_t SECRET[SECRET_SIZE] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint64_t avalanche(uint64_t value)
{
    value = (value ^ value >> 37) * PRIME_MX1;
    return value ^ value >> 32;
}

static uint64_t hash_4_to_8(const uint8_t *data, size_t size, uint64_t seed)
{
    uint64_t swapped = seed ^ (uint64_t)__builtin_bswap32((uint32_t)seed) << 32;
    uint64_t ends = (uint64_t)half_word_at(data) << 32 | half_word_at(data + size - 4);
    uint64_t value = ((word_at(SECRET + 8) ^ word_at(SECRET + 16)) - swapped) ^ ends;
    value = (value ^ rotated(value, 49) ^ rotated(value, 24)) * PRIME_MX2;
    value = (value ^ ((value >> 35) + size)) * PRIME_MX2;
    return value ^ value >> 28;
}

static inline uint64_t hash_9_to_16(const uint8_t *data, size_t size, uint64_t seed)
{
    uint64_t low = ((word_at(SECRET + 24) ^ word_at(SECRET + 32)) + seed) ^ word_at(data);
    uint64_t high = (word_at(SECRET + 40) ^ word_at(SECRET + 48)) - seed;
    high ^= word_at(data + size - 8);
    return avalanche(size + __builtin_bswap64(low) + high + folded(low, high));
}

static inline uint64_t mixed(const uint8_t *data, size_t offset, uint64_t seed)
{
    return folded(word_at(data) ^ (word_at(SECRET + offset) + seed),
                  word_at(data + 8) ^ (word_at(SECRET + offset + 8) - seed));
}

static uint64_t hash_17_to_128(const uint8_t *data, size_t size, uint64_t seed)
{
    uint64_t sum = size * PRIME64_1;
    for (size_t at = 0; 2 * at < size; at += 16)
        sum += mixed(data + at, 2 * at, seed) + mixed(data + size - at - 16, 2 * at + 16, seed);
    return avalanche(sum);
}

static uint64_t hash_129_to_240(const uint8_t *data, size_t size, uint64_t seed)
{
    uint64_t sum = size * PRIME64_1;
    for (size_t at = 0; at < 128; at += 16)
        sum += mixed(data + at, at, seed);
    sum = avalanche(sum);
    for (size_t at = 128; at + 16 <= size; at += 16)
        sum += mixed(data + at, at - 128 + 3, seed);
    return avalanche(sum + mixed(data + size - 16, 119, seed));
}

/* Larger inputs mix the seed into the secret once, not into each step. */
static void derive_secret(uint8_t *derived, uint64_t seed)
{
    for (size_t at = 0; at < SECRET_SIZE; at += 16) {
        uint64_t words[2] = {word_at(SECRET + at) + seed, word_at(SECRET + at + 8) - seed};
        memcpy(derived + at, words, sizeof words);
    }
}

static inline void accumulate(uint64_t *lanes, const uint8_t *stripe, const uint8_t *secret)
{
    for (size_t lane = 0; lane < LANES; lane++) {
        uint64_t word = word_at(stripe + 8 * lane);
        uint64_t keyed = word ^ word_at(secret + 8 * lane);
        lanes[lane ^ 1] += word;
        lanes[lane] += (keyed & UINT32_MAX) * (keyed >> 32);
    }
}

static void scramble(uint64_t *lanes, const uint8_t *secret)
{
    for (size_t lane = 0; lane < LANES; lane++)
        lanes[lane] = (lanes[lane] ^ lanes[lane] >> 47 ^ word_at(secret + 8 * lane)) * PRIME32_1;
}

static uint64_t hash_241_and_more(const uint8_t *data, size_t size, const uint8_t *secret)
{
    uint64_t lanes[LANES] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3,
                             PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
    size_t stripes = (size - 1) / STRIPE;
    for (size_t stripe = 0; stripe < stripes; stripe++) {
        size_t place = stripe % STRIPES;
        accumulate(lanes, data + STRIPE * stripe, secret + 8 * place);
        if (place == STRIPES - 1)
            scramble(lanes, secret + SECRET_SIZE - STRIPE);
    }
    /* The last 64 bytes count as a stripe, also those that were in one. */
    accumulate(lanes, data + size - STRIPE, secret + SECRET_SIZE - STRIPE - 7);
    uint64_t sum = size * PRIME64_1;
    for (size_t lane = 0; lane < LANES; lane += 2)
        sum += folded(lanes[lane] ^ word_at(secret + 11 + 8 * lane),
                      lanes[lane + 1] ^ word_at(secret + 11 + 8 * lane + 8));
    return avalanche(sum);
}

#endif
