/*
 * Reads prompts, names their blocks and compares costs: what `portable.py` does, in a tenth of the
 * time.
 *
 * Hashes are XXH3-64 with a seed, written from xxHash's specification (doc/xxhash_spec.md, version
 * 0.2.0, "XXH3 Algorithm Overview" and what follows it). Every input here is a whole number of
 * 4-byte tokens, so what the specification says of less than 4 bytes is left out.
 *
 * The limited API makes one file do for every CPython from 3.11 on. Where this cannot be compiled
 * `portable.py` stands in.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__SIZEOF_INT128__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "needs 128-bit integers and a little-endian machine; Python does the work elsewhere"
#endif

/* From here on, in bytes, other threads run meanwhile; for less, changing over costs more. */
#define LARGE (1 << 18)

/* ---- words and bytes ---- */

static inline uint64_t word_at(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint32_t half_word_at(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

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

/* ---- XXH3-64 ---- */

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

/* ---- blocks ---- */

/* A hash for each full block; what is behind the last one has none. */
static void hash_each(const uint8_t *data, size_t blocks, size_t size, uint64_t seed,
                      uint8_t *hashes)
{
    uint8_t secret[SECRET_SIZE];
    derive_secret(secret, seed);
    for (size_t block = 0; block < blocks; block++, data += size) {
        uint64_t hash = size <= 8     ? hash_4_to_8(data, size, seed)
                        : size <= 16  ? hash_9_to_16(data, size, seed)
                        : size <= 128 ? hash_17_to_128(data, size, seed)
                        : size <= 240 ? hash_129_to_240(data, size, seed)
                                      : hash_241_and_more(data, size, secret);
        memcpy(hashes + 8 * block, &hash, sizeof hash);
    }
}

/* ---- numbers in JSON ---- */

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

/* ---- the index's keys, of which `hashing.py` tells ---- */

static const uint64_t ROOT = 0x9E3779B97F4A7C13;
static const uint64_t ADDED = 0xD1B54A32D192ED03;

/* A key for each hash, where `key` is that of the block before the first. */
static void put_keys(const uint8_t *hashes, size_t size, uint64_t key, uint8_t *keys)
{
    for (size_t at = 0; at < size; at += 8) {
        key = key * ROOT + word_at(hashes + at) + ADDED;
        memcpy(keys + at, &key, sizeof key);
    }
}

/* ---- what Python sees ---- */

static PyThreadState *leave(size_t bytes)
{
    return bytes < LARGE ? NULL : PyEval_SaveThread();
}

static void come_back(PyThreadState *left)
{
    if (left != NULL)
        PyEval_RestoreThread(left);
}

/* Bytes to be filled, and where they are. */
static PyObject *new_words(size_t count, uint8_t **words)
{
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * count));
    if (made != NULL)
        *words = (uint8_t *)PyBytes_AsString(made);
    return made;
}

/* Hashes of the full blocks of so many tokens. */
static PyObject *hashes_of(const void *tokens, size_t count, Py_ssize_t block_size, uint64_t seed)
{
    if (block_size < 1)
        return PyErr_Format(PyExc_ValueError, "a block has at least 1 token, not %zd", block_size);
    uint8_t *hashes;
    size_t blocks = count / (size_t)block_size;
    PyObject *made = new_words(blocks, &hashes);
    if (made != NULL) {
        PyThreadState *left = leave(4 * count);
        hash_each(tokens, blocks, 4 * (size_t)block_size, seed, hashes);
        come_back(left);
    }
    return made;
}

static PyObject *hash_blocks(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer tokens;
    Py_ssize_t block_size;
    unsigned long long seed;
    if (!PyArg_ParseTuple(args, "y*nK", &tokens, &block_size, &seed))
        return NULL;
    PyObject *made = hashes_of(tokens.buf, (size_t)tokens.len / 4, block_size, seed);
    PyBuffer_Release(&tokens);
    return made;
}

/* Hashes and keys of the full blocks of so many tokens, and how many these are. */
static PyObject *prompt_of(const uint32_t *tokens, size_t count, Py_ssize_t block_size,
                           uint64_t seed)
{
    uint8_t *words;
    PyObject *hashes = hashes_of(tokens, count, block_size, seed);
    if (hashes == NULL)
        return NULL;
    size_t size = (size_t)PyBytes_Size(hashes);
    PyObject *keys = new_words(size / 8, &words);
    if (keys == NULL) {
        Py_DECREF(hashes);
        return NULL;
    }
    put_keys((const uint8_t *)PyBytes_AsString(hashes), size, 0, words);
    return Py_BuildValue("(NNn)", hashes, keys, (Py_ssize_t)count);
}

static PyObject *read_prompt(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer text;
    Py_ssize_t block_size;
    unsigned long long seed;
    if (!PyArg_ParseTuple(args, "y*nK", &text, &block_size, &seed))
        return NULL;
    const uint8_t *begin = text.buf;
    size_t size = (size_t)text.len;
    uint32_t *tokens = malloc((most_in(size) + 1) * sizeof *tokens);
    PyObject *found = NULL;
    if (tokens == NULL) {
        PyErr_NoMemory();
    } else {
        PyThreadState *left = leave(size);
        size_t count = size ? read_numbers(begin, begin + size, tokens) : 0;
        come_back(left);
        if (count)
            found = prompt_of(tokens, count, block_size, seed);
        else
            found = Py_NewRef(Py_None);
    }
    free(tokens);
    PyBuffer_Release(&text);
    return found;
}

static PyObject *sequence_hashes(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer hashes;
    PyObject *parent;
    unsigned long long seed;
    if (!PyArg_ParseTuple(args, "y*OK", &hashes, &parent, &seed))
        return NULL;
    int first = parent == Py_None;
    /* The last sequence hash and, behind it, the block hash: what is hashed lies as it is read. */
    uint64_t pair[2] = {first ? 0 : PyLong_AsUnsignedLongLongMask(parent), 0};
    uint8_t *chain;
    size_t size = (size_t)hashes.len / 8 * 8;
    PyObject *made = PyErr_Occurred() ? NULL : new_words(size / 8, &chain);
    if (made != NULL) {
        PyThreadState *left = leave(size);
        for (size_t at = 0; at < size; at += 8) {
            pair[1] = word_at((const uint8_t *)hashes.buf + at);
            pair[0] = first && !at ? pair[1] : hash_9_to_16((uint8_t *)pair, sizeof pair, seed);
            memcpy(chain + at, pair, 8);
        }
        come_back(left);
    }
    PyBuffer_Release(&hashes);
    return made;
}

static PyObject *prefix_keys(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer hashes;
    unsigned long long key;
    if (!PyArg_ParseTuple(args, "y*K", &hashes, &key))
        return NULL;
    uint8_t *keys;
    size_t size = (size_t)hashes.len / 8 * 8;
    PyObject *made = new_words(size / 8, &keys);
    if (made != NULL) {
        PyThreadState *left = leave(size);
        put_keys(hashes.buf, size, key, keys);
        come_back(left);
    }
    PyBuffer_Release(&hashes);
    return made;
}

/* ---- the cost of the policy `kv`, of which `cost.py` tells ---- */

/* The place of a row, NULL where there is none. */
static double *place_of(double *all, size_t count, Py_ssize_t row)
{
    if (row >= 0 && (size_t)row < count)
        return all + row;
    PyErr_Format(PyExc_IndexError, "there is no row %zd among %zu", row, count);
    return NULL;
}

/* Notes the tokens that one group need not compute. */
static int note_share(PyObject *share, double *saved, size_t count)
{
    PyObject *rows;
    double tokens;
    if (!PyTuple_Check(share)) {
        PyErr_SetString(PyExc_TypeError, "a share is tokens and rows");
        return 0;
    }
    if (!PyArg_ParseTuple(share, "dO", &tokens, &rows))
        return 0;
    if (PyLong_Check(rows)) {
        Py_ssize_t row = PyLong_AsSsize_t(rows);
        double *place = row == -1 && PyErr_Occurred() ? NULL : place_of(saved, count, row);
        if (place != NULL)
            *place = tokens;
        return place != NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE) < 0)
        return 0;
    const Py_ssize_t *each = view.buf, *end = each + (size_t)view.len / sizeof *each;
    double *place = saved;
    for (; place != NULL && each < end; each++)
        if ((place = place_of(saved, count, *each)) != NULL)
            *place = tokens;
    PyBuffer_Release(&view);
    return place != NULL;
}

/* What costs depend on but for the rows; a bias and the words of chance may be absent. */
typedef struct {
    const double *prefill_tokens, *decode_blocks, *requests, *bias;
    const uint8_t *words;
    double prefill, decode, active, fresh, tokens, blocks, spread;
} Given;

/* Each step is rounded, in the order in which `portable.py` takes it, so that both say the same. */
static void put_costs(const Given *given, const double *saved, double *costs, size_t count)
{
    for (size_t row = 0; row < count; row++) {
        double lacking = given->tokens - saved[row];
        double prefill = (given->prefill_tokens[row] + lacking * given->fresh) * given->prefill;
        double decode = (given->decode_blocks[row] + given->blocks) * given->decode;
        costs[row] = prefill + decode + given->requests[row] * given->active;
    }
    if (given->words == NULL) {
        for (size_t row = 0; given->bias != NULL && row < count; row++)
            costs[row] += given->bias[row];
        return;
    }
    for (size_t row = 0; row < count; row++) {
        double lacking = (given->tokens - saved[row]) * given->prefill;
        double bias = half_word_at(given->words + 4 * row) * lacking * given->spread;
        costs[row] += given->bias == NULL ? bias : given->bias[row] + bias;
    }
}

/* The row with the least cost; where several have it, the one that chance names. */
static PyObject *cheapest(const double *costs, size_t count, const Py_ssize_t *rows, size_t among,
                          PyObject *chance)
{
    double least = INFINITY;
    size_t ties = 0, first = 0;
    for (size_t at = 0; at < among; at++) {
        if (rows[at] < 0 || (size_t)rows[at] >= count)
            return PyErr_Format(PyExc_IndexError, "there is no row %zd", rows[at]);
        double cost = costs[rows[at]];
        if (cost < least || !ties) {
            least = cost;
            first = at;
            ties = 0;
        }
        ties += cost == least;
    }
    if (!ties)
        return PyErr_Format(PyExc_ValueError, "there is no row that can be chosen");
    if (ties > 1) {
        PyObject *drawn = PyObject_CallFunction(chance, "n", (Py_ssize_t)ties);
        Py_ssize_t skipped = drawn == NULL ? -1 : PyLong_AsSsize_t(drawn);
        Py_XDECREF(drawn);
        if (skipped == -1 && PyErr_Occurred())
            return NULL;
        if (skipped < 0 || (size_t)skipped >= ties)
            return PyErr_Format(PyExc_ValueError, "%zd is not one of %zu", skipped, ties);
        for (; skipped; skipped--)
            while (costs[rows[++first]] != least)
                ;
    }
    return PyLong_FromSsize_t(rows[first]);
}

/* Memory of so many bytes; of none where the object is None. */
static int get_memory(PyObject *object, Py_buffer *view, size_t bytes)
{
    if (object == Py_None)
        return 1;
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) < 0)
        return 0;
    if ((size_t)view->len == bytes)
        return 1;
    PyErr_Format(PyExc_ValueError, "%zd bytes where %zu were to be", view->len, bytes);
    return 0;
}

static PyObject *least_cost(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *loads, *shares, *bias, *words, *rows, *chance;
    Given given;
    if (!PyArg_ParseTuple(args, "(O(dddd)ddO!OOd)OO", &loads, &given.prefill, &given.decode,
                          &given.active, &given.fresh, &given.tokens, &given.blocks, &PyList_Type,
                          &shares, &bias, &words, &given.spread, &rows, &chance))
        return NULL;
    Py_buffer work = {0}, warming = {0}, random = {0}, able = {0};
    double *saved = NULL;
    PyObject *found = NULL;
    if (PyObject_GetBuffer(loads, &work, PyBUF_STRIDES) < 0)
        return NULL;
    if (work.ndim != 2 || work.shape[0] != 3 || work.itemsize != sizeof(double) ||
        work.strides[1] != sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "loads are three rows of floats");
        goto done;
    }
    size_t count = (size_t)work.shape[1];
    if (!get_memory(bias, &warming, sizeof(double) * count) ||
        !get_memory(words, &random, 4 * count) ||
        PyObject_GetBuffer(rows, &able, PyBUF_SIMPLE) < 0)
        goto done;
    saved = PyMem_Calloc(2 * count + 1, sizeof *saved);
    if (saved == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t at = 0; at < PyList_Size(shares); at++)
        if (!note_share(PyList_GetItem(shares, at), saved, count))
            goto done;
    const uint8_t *first = work.buf;
    given.prefill_tokens = (const double *)first;
    given.decode_blocks = (const double *)(first + work.strides[0]);
    given.requests = (const double *)(first + 2 * work.strides[0]);
    given.bias = warming.buf;
    given.words = random.buf;
    double *costs = saved + count;
    put_costs(&given, saved, costs, count);
    found = cheapest(costs, count, able.buf, (size_t)able.len / sizeof(Py_ssize_t), chance);
done:
    PyMem_Free(saved);
    PyBuffer_Release(&work);
    PyBuffer_Release(&warming);
    PyBuffer_Release(&random);
    PyBuffer_Release(&able);
    return found;
}

/* ---- the module; `speedups.pyi` says what each function takes and gives ---- */

static PyMethodDef functions[] = {
    {"hash_blocks", hash_blocks, METH_VARARGS, NULL},
    {"least_cost", least_cost, METH_VARARGS, NULL},
    {"prefix_keys", prefix_keys, METH_VARARGS, NULL},
    {"read_prompt", read_prompt, METH_VARARGS, NULL},
    {"sequence_hashes", sequence_hashes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "speedups",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_speedups(void)
{
    return PyModuleDef_Init(&module);
}
