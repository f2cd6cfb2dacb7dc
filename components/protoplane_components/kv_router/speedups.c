/*
 * Reads prompts and names their blocks: what `portable.py` does, in a tenth of the time.
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
    uint64_t pairs = (digits * 10 + (digits >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
    uint64_t fours = (pairs * 100 + (pairs >> 16)) & UINT64_C(0x0000FFFF0000FFFF);
    return (fours * 10000 + (fours >> 32)) & UINT32_MAX;
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
    list->at = at + 1;
    return *at == ',' ? MORE : FAULT;
}

/* Most numbers that a list can have: with its comma each takes two bytes. */
static size_t most_in(size_t bytes)
{
    return (bytes + 1) / 2;
}

/* Reads all numbers, `most_in` at most; gives how many there are, 0 where something else is there.

   Where a number begins is known when the one before is read, so a processor would wait more than
   work; with two halves of the list at a time it takes two thirds of the time. */
static size_t read_numbers(const uint8_t *begin, const uint8_t *end, uint32_t *numbers)
{
    const uint8_t *middle = begin + (end - begin) / 2;
    const uint8_t *comma = memchr(middle, ',', (size_t)(end - middle));
    List first = {begin, comma ? comma : end, numbers};
    uint32_t *rest = numbers + most_in((size_t)(first.end - begin));
    List second = {comma ? comma + 1 : end, end, rest};
    State one = MORE, other = comma ? MORE : OVER;
    while (one == MORE && other == MORE) {
        one = read_next(&first);
        other = read_next(&second);
    }
    while (one == MORE)
        one = read_next(&first);
    while (other == MORE)
        other = read_next(&second);
    if (one == FAULT || other == FAULT)
        return 0;
    size_t more = (size_t)(second.next - rest);
    memmove(first.next, rest, more * sizeof *rest);
    return (size_t)(first.next - numbers) + more;
}

/* ---- the index's keys, of which `hashing.py` tells ---- */

static const uint64_t ROOT = 0x9E3779B97F4A7C13;
static const uint64_t ADDED = 0xD1B54A32D192ED03;

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
        PyObject *hashes = count ? hashes_of(tokens, count, block_size, seed) : NULL;
        if (hashes != NULL)
            found = Py_BuildValue("(Nn)", hashes, (Py_ssize_t)count);
        else if (!count)
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
        for (size_t at = 0; at < size; at += 8) {
            key = key * ROOT + word_at((const uint8_t *)hashes.buf + at) + ADDED;
            memcpy(keys + at, &key, sizeof key);
        }
        come_back(left);
    }
    PyBuffer_Release(&hashes);
    return made;
}

/* ---- the module; `speedups.pyi` says what each function takes and gives ---- */

static PyMethodDef functions[] = {
    {"hash_blocks", hash_blocks, METH_VARARGS, NULL},
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
