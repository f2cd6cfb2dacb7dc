/*
 * Reads prompts, names their blocks, finds who has them and compares costs: what `portable.py` does, in a tenth of the
 * time.
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

#include "json_numbers.h"
#include "prefix_walk.h"
#include "words.h"
#include "xxh3.h"

/* From here on, in bytes, other threads run meanwhile; for less, changing over costs more. */
#define LARGE (1 << 18)

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

/* ---- how deep owners have a prompt ---- */

static PyObject *reached(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *parts, *alive;
    Py_buffer keys;
    if (!PyArg_ParseTuple(args, "O!y*O", &PyList_Type, &parts, &keys, &alive))
        return NULL;
    Keys prompt = {keys.buf, (size_t)keys.len / 8};
    PyObject *found = walk_along(parts, prompt, alive == Py_None ? NULL : alive);
    PyBuffer_Release(&keys);
    return found;
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
    {"reached", reached, METH_VARARGS, NULL},
    {"read_prompt", read_prompt, METH_VARARGS, NULL},
    {"sequence_hashes", sequence_hashes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *Py_UNUSED(module))
{
    return name_attributes();
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, prepare}, {0, NULL}};

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
