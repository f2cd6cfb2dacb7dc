/*
 * Reads a list of plain numbers from JSON: a prompt's tokens, each below 2**32.
 */
#ifndef JSON_NUMBERS_H
#define JSON_NUMBERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "words.h"

#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The next eight bytes, the first of them lowest; zeros stand for those behind the end. */
static inline uint64_t next_word(const uint8_t *at, const uint8_t *end)
{
    uint64_t word = 0;
    if (end - at >= 8)
        return word_at(at);
    memcpy(&word, at, (size_t)(end - at));
    return word;
}

/* Eight digits, each in a byte, the first of them lowest: by pairs, by fours, all eight. */
static inline uint64_t number_of(uint64_t digits)
{
    uint64_t pairs = (digits * (1 + (10 << 8)) >> 8) & UINT64_C(0x00FF00FF00FF00FF);
    uint64_t fours = (pairs * (1 + (100 << 16)) >> 16) & UINT64_C(0x0000FFFF0000FFFF);
    return fours * (1 + (UINT64_C(10000) << 32)) >> 32;
}

/* Reads one number; gives the place behind it, NULL where there is none below 2**32. */
static inline const uint8_t *read_number(const uint8_t *at, const uint8_t *end, uint32_t *number)
{
    uint64_t word = next_word(at, end);
    /* All digits have the bit 0x10, and what may follow them has not: a comma, a blank, the end. */
    uint64_t others = ~word & EACH_BYTE(0x10);
    size_t count = others ? (size_t)__builtin_ctzll(others) / 8 : 8;
    if (count == 0 || (count > 1 && *at == '0'))
        return NULL;
    /* Up to the top, so that zeros come before them. */
    uint64_t digits = (word ^ EACH_BYTE('0')) << (64 - 8 * count);
    if (((digits + EACH_BYTE(0x7F - 9)) | digits) & EACH_BYTE(0x80))
        return NULL;
    at += count;
    uint64_t value = number_of(digits);
    /* A number below 2**32 has at most ten; behind them an eleventh is as wrong as a letter. */
    for (size_t more = 0; count == 8 && more < 2 && at < end && *at >= '0' && *at <= '9'; more++)
        value = 10 * value + (*at++ - '0');
    *number = (uint32_t)value;
    return value <= UINT32_MAX ? at : NULL;
}

static inline const uint8_t *behind_blanks(const uint8_t *at, const uint8_t *end)
{
    while (at < end && *at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* A list of numbers that is read one by one. */
typedef struct {
    const uint8_t *at, *end;
    uint32_t *next;
} List;

typedef enum { FAULT, OVER, MORE } State;

static inline State read_next(List *list)
{
    const uint8_t *end = list->end;
    const uint8_t *at = read_number(behind_blanks(list->at, end), end, list->next);
    if (at == NULL)
        return FAULT;
    list->next++;
    at = behind_blanks(at, end);
    if (at == end)
        return OVER;
    if (*at != ',')
        return FAULT;
    list->at = behind_blanks(at + 1, end);
    return MORE;
}

/* What is between two numbers in most lists: a comma, or a comma and a blank. */
typedef struct {
    uint8_t last, size;
} Between;

/* What most lists are made of: up to seven digits, and what is between them; else nothing is read. */
static inline int read_usual(List *list, const Between between)
{
    const uint8_t *at = list->at;
    if (list->end - at < 9)
        return 0;
    uint64_t word = word_at(at);
    uint64_t others = ~word & EACH_BYTE(0x10);
    size_t bits = others ? (size_t)__builtin_ctzll(others) & 56 : 0;
    if (bits == 0 || (bits > 8 && (uint8_t)word == '0'))
        return 0;
    uint64_t digits = (word ^ EACH_BYTE('0')) << (64 - bits);
    if (((digits + EACH_BYTE(0x7F - 9)) | digits) & EACH_BYTE(0x80))
        return 0;
    at += bits / 8;
    if (at[0] != ',' || at[between.size - 1] != between.last)
        return 0;
    list->at = at + between.size;
    *list->next++ = (uint32_t)number_of(digits);
    return 1;
}

/* Most numbers that a list can have: with its comma each takes two bytes. */
static size_t most_in(size_t bytes)
{
    return (bytes + 1) / 2;
}

enum { PARTS = 3 };

/* Reads all numbers, `most_in` at most; gives how many there are, 0 where something else is there.

   Where a number begins is known when the one before is read, so a processor would wait more than
   work; with three parts of the list at a time it takes half of the time. */
static size_t read_numbers(const uint8_t *begin, const uint8_t *end, uint32_t *numbers)
{
    List parts[PARTS];
    uint32_t *firsts[PARTS];
    Between between = {',', 1};
    size_t count = 0, size = (size_t)(end - begin);
    for (const uint8_t *at = begin, *comma = begin; comma != NULL; at = comma + 1, count++) {
        const uint8_t *from = begin + size / PARTS * (count + 1);
        if (from < at)
            from = at;
        comma = count < PARTS - 1 ? memchr(from, ',', (size_t)(end - from)) : NULL;
        firsts[count] = numbers + most_in((size_t)(at - begin));
        parts[count] = (List){at, comma ? comma : end, firsts[count]};
        if (comma != NULL && end - comma > 1 && comma[1] == ' ')
            between = (Between){' ', 2};
    }
    State states[PARTS] = {MORE, MORE, MORE};
    while (count == PARTS && states[0] + states[1] + states[2] == PARTS * MORE) {
        List one = parts[0], two = parts[1], three = parts[2];
        while (read_usual(&one, between) & read_usual(&two, between) & read_usual(&three, between))
            ;
        parts[0] = one, parts[1] = two, parts[2] = three;
        for (size_t part = 0; part < PARTS; part++)
            states[part] = read_next(parts + part);
    }
    uint32_t *next = numbers;
    for (size_t part = 0; part < count; part++) {
        while (states[part] == MORE)
            states[part] = read_next(parts + part);
        if (states[part] == FAULT)
            return 0;
        size_t found = (size_t)(parts[part].next - firsts[part]);
        memmove(next, firsts[part], found * sizeof *next);
        next += found;
    }
    return (size_t)(next - numbers);
}

#endif
