/*
 * How deep owners have a prompt: a walk along the few extents that lead along it; see `extents.py`.
 */
#ifndef PREFIX_WALK_H
#define PREFIX_WALK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#include "words.h"

/* What is looked at of an extent. */
enum { KEYS, WHOLE, ENDS, ATTRIBUTES };
static const char *const ATTRIBUTE[ATTRIBUTES] = {"keys", "whole", "ends"};
static PyObject *attribute[ATTRIBUTES];

static int name_attributes(void)
{
    for (int each = 0; each < ATTRIBUTES; each++)
        if (attribute[each] == NULL &&
            (attribute[each] = PyUnicode_InternFromString(ATTRIBUTE[each])) == NULL)
            return -1;
    return 0;
}

/* Keys that follow each other, of an extent or of a prompt. */
typedef struct {
    const uint8_t *first;
    size_t count;
} Keys;

/* How many keys are the same, of two rows whose first ones are: what is equal is equal up to there. */
static size_t in_common(Keys mine, Keys prompt)
{
    size_t begin = 0, end = mine.count < prompt.count ? mine.count : prompt.count;
    if (word_at(mine.first + 8 * (end - 1)) == word_at(prompt.first + 8 * (end - 1)))
        return end;
    for (end--; end - begin > 1;) {
        size_t middle = (begin + end) / 2;
        if (word_at(mine.first + 8 * middle) == word_at(prompt.first + 8 * middle))
            begin = middle;
        else
            end = middle;
    }
    return end;
}

/* The extent that begins with a key, borrowed; NULL where there is none, or an error. */
static PyObject *extent_at(PyObject *parts, uint64_t key)
{
    Py_ssize_t lower = PyList_Size(parts) - 1;
    PyObject *part = PyList_GetItem(parts, (Py_ssize_t)(key & (uint64_t)lower));
    PyObject *number = part == NULL ? NULL : PyLong_FromUnsignedLongLong(key);
    PyObject *extent = number == NULL ? NULL : PyDict_GetItemWithError(part, number);
    Py_XDECREF(number);
    return extent;
}

/* How many keys of a prompt an extent has, the first of which is its own; 0 after an error. */
static size_t common_with(PyObject *extent, Keys prompt)
{
    Py_buffer view;
    size_t common = 0;
    PyObject *keys = PyObject_GetAttr(extent, attribute[KEYS]);
    if (keys != NULL && PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE) == 0) {
        Keys mine = {view.buf, (size_t)view.len / 8};
        if (mine.count)
            common = in_common(mine, prompt);
        else
            PyErr_SetString(PyExc_ValueError, "an extent in the tree has keys");
        PyBuffer_Release(&view);
    }
    Py_XDECREF(keys);
    return common;
}

static int note_depth(PyObject *found, size_t depth, PyObject *owners)
{
    PyObject *pair = Py_BuildValue("(nO)", (Py_ssize_t)depth, owners);
    int noted = pair == NULL ? -1 : PyList_Append(found, pair);
    Py_XDECREF(pair);
    return noted;
}

/* Puts a new value in the place of one that is given back; tells whether there is one. */
static int replace(PyObject **place, PyObject *value)
{
    Py_XDECREF(*place);
    *place = value;
    return value != NULL;
}

/* Those of some owners that count; NULL stands for all that there are. */
static PyObject *among(PyObject *owners, PyObject *some)
{
    return some == NULL ? Py_NewRef(owners) : PyNumber_And(owners, some);
}

/* Walks along one extent.

   Owners whose way ends in it are noted with the depth that they reached; gives those that go on.
   `here` are those who came to it, NULL at the beginning, where all may; then `alive` are those who
   count, NULL for all. */
static PyObject *walk(PyObject *found, PyObject *extent, PyObject *here, PyObject *alive, size_t at,
                      size_t common)
{
    PyObject *left = NULL, *some = NULL, *further = NULL, *end, *owners;
    PyObject *whole = PyObject_GetAttr(extent, attribute[WHOLE]);
    PyObject *ends = PyObject_GetAttr(extent, attribute[ENDS]);
    int done = 0, rest = 1;
    if (whole == NULL || ends == NULL || !replace(&further, among(whole, here ? here : alive)))
        goto done;
    if (here != NULL)
        rest = replace(&left, PyNumber_Xor(here, further)) ? PyObject_IsTrue(left) : -1;
    if (rest < 0)
        goto done;
    if (rest && PyDict_Check(ends)) {
        for (Py_ssize_t next = 0; PyDict_Next(ends, &next, &end, &owners);) {
            size_t depth = PyLong_AsSize_t(end);
            if (depth == (size_t)-1 || !replace(&some, among(owners, here ? left : alive)))
                goto done;
            if (!PyObject_IsTrue(some))
                continue;
            if (here != NULL && !replace(&left, PyNumber_Xor(left, some)))
                goto done;
            if (depth < common) {
                if (note_depth(found, at + depth, some) < 0)
                    goto done;
            } else if (!replace(&further, PyNumber_Or(further, some))) {
                goto done;
            }
        }
    }
    if (left != NULL && PyObject_IsTrue(left) && note_depth(found, at, left) < 0)
        goto done;
    done = 1;
done:
    Py_XDECREF(whole);
    Py_XDECREF(ends);
    Py_XDECREF(left);
    Py_XDECREF(some);
    if (!done)
        replace(&further, NULL);
    return further;
}

/* The depths that owners reached along a prompt. */
static PyObject *walk_along(PyObject *parts, Keys prompt, PyObject *alive)
{
    PyObject *found = PyList_New(0), *here = NULL, *extent;
    size_t at = 0;
    int on = found != NULL;
    while (on > 0 && at < prompt.count) {
        extent = extent_at(parts, word_at(prompt.first + 8 * at));
        if (extent == NULL) {
            on = PyErr_Occurred() ? -1 : 0;
            break;
        }
        size_t common = common_with(extent, (Keys){prompt.first + 8 * at, prompt.count - at});
        PyObject *further = common ? walk(found, extent, here, alive, at, common) : NULL;
        on = replace(&here, further) ? PyObject_IsTrue(here) : -1;
        at += common;
    }
    if (on >= 0 && here != NULL && PyObject_IsTrue(here) && note_depth(found, at, here) < 0)
        on = -1;
    Py_XDECREF(here);
    if (on < 0)
        replace(&found, NULL);
    return found;
}

#endif
