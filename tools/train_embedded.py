"""Trains the character model that ships with the embedded backend, on this project's own words.

    python tools/train_embedded.py [--minutes 10] [--out FILE]

The text is the prose of README.md, CONTRIBUTING.md and docs/, and the docstrings of the packages:
written for this project and under its licence (Apache-2.0), so the weights are too. It changes with
the project; the weights in the package were trained on that of the day they were made. numpy alone,
one core. It prints the loss in nats a character, on text that was kept aside for that.
"""

from __future__ import annotations

import argparse
import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoplane_server.backends.embedded.vocabulary import END, SIZE, encode

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "server/protoplane_server/backends/embedded/char_gru.npz"
PACKAGES = ("base", "runtime", "client", "server", "components", "codegen")

HIDDEN = 248
LANES = 48
STEPS = 48
RATE = 4e-3
CLIP = 1.0
DEFINED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Array = NDArray[np.float32]
Weights = dict[str, Array]


def paragraphs() -> Iterator[str]:
    """The prose of the project, without code and tables."""
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for block in text.split("\n\n"):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", block).replace("**", "").strip()
            if plain and not plain.startswith("|"):
                yield " ".join(plain.replace("`", "").split())
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                words = ast.get_docstring(node) if isinstance(node, DEFINED) else None
                for block in (words or "").split("\n\n"):
                    # Sections such as "Args:" keep their lines, sentences become one.
                    joined = re.sub(r"\n(?! )", " ", block.replace("`", ""))
                    if joined.strip():
                        yield re.sub(r"\n +", "\n", joined)


def tokens() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All of it in a random order: what to learn from, and the part that is kept aside."""
    found = list(dict.fromkeys(paragraphs()))
    order: list[int] = np.random.default_rng(1).permutation(len(found)).tolist()
    stream = [token for index in order for token in (*encode(found[index]), END)]
    cut = len(stream) * 19 // 20
    return np.array(stream[:cut]), np.array(stream[cut:])


def fresh() -> Weights:
    """Weights to begin with."""
    random = np.random.default_rng(2)

    def uniform(*shape: int) -> Array:
        bound = 1 / np.sqrt(HIDDEN)
        return random.uniform(-bound, bound, shape).astype(np.float32)

    return {
        "input": uniform(SIZE, 3 * HIDDEN),
        "recurrent": uniform(HIDDEN, 3 * HIDDEN),
        "candidate_bias": np.zeros(HIDDEN, np.float32),
        "output": uniform(HIDDEN, SIZE),
        "output_bias": np.zeros(SIZE, np.float32),
    }


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


def learn(
    w: Weights, inputs: NDArray[np.int64], targets: NDArray[np.int64], start: Array
) -> tuple[float, Weights, Array]:
    """Loss, gradients and last state of one window; inputs and targets are ``[steps, lanes]``."""
    steps, lanes = inputs.shape
    states = [start]
    kept: list[tuple[Array, Array, Array, Array]] = []
    for step in range(steps):
        before = states[-1]
        x = w["input"][inputs[step]]
        pushed = before @ w["recurrent"]
        gates = _sigmoid(np.add(x[:, : 2 * HIDDEN], pushed[:, : 2 * HIDDEN]))
        reset, keep = gates[:, :HIDDEN], gates[:, HIDDEN:]
        inner = pushed[:, 2 * HIDDEN :] + w["candidate_bias"]
        new = np.tanh(x[:, 2 * HIDDEN :] + reset * inner)
        states.append(new + keep * (before - new))
        kept.append((reset, keep, inner, new))
    outs = np.stack(states[1:]).reshape(steps * lanes, HIDDEN)
    logits = outs @ w["output"] + w["output_bias"]
    logits -= logits.max(1, keepdims=True)
    exps = np.exp(logits)
    chances = exps / exps.sum(1, keepdims=True)
    rows: NDArray[np.int64] = np.arange(steps * lanes, dtype=np.int64)
    wanted = targets.reshape(-1)
    loss = float(-np.log(chances[rows, wanted] + 1e-9).mean())

    error = chances
    error[rows, wanted] -= 1
    error /= steps * lanes
    g: Weights = {name: np.zeros_like(value) for name, value in w.items()}
    g["output"] = outs.T @ error
    g["output_bias"] = error.sum(0)
    from_outputs = (error @ w["output"].T).reshape(steps, lanes, HIDDEN)
    back = np.zeros_like(start)
    pushes = np.empty((steps, lanes, 3 * HIDDEN), np.float32)
    reads = np.empty((steps, lanes, 3 * HIDDEN), np.float32)
    for step in reversed(range(steps)):
        reset, keep, inner, new = kept[step]
        down = from_outputs[step] + back
        d_new = down * (1 - keep) * (1 - new * new)
        d_keep = down * (states[step] - new) * keep * (1 - keep)
        d_reset = d_new * inner * reset * (1 - reset)
        push, read = pushes[step], reads[step]
        push[:, :HIDDEN] = read[:, :HIDDEN] = d_reset
        push[:, HIDDEN : 2 * HIDDEN] = read[:, HIDDEN : 2 * HIDDEN] = d_keep
        push[:, 2 * HIDDEN :] = d_new * reset
        read[:, 2 * HIDDEN :] = d_new
        back = down * keep + push @ w["recurrent"].T
    flat = pushes.reshape(-1, 3 * HIDDEN)
    g["recurrent"] = np.stack(states[:-1]).reshape(-1, HIDDEN).T @ flat
    g["candidate_bias"] = flat[:, 2 * HIDDEN :].sum(0)
    np.add.at(g["input"], inputs.reshape(-1), reads.reshape(-1, 3 * HIDDEN))
    return loss, g, states[-1]


def main() -> None:
    """Train until the time is up, then write the weights."""
    parser = argparse.ArgumentParser(description="Trains the model of the embedded backend.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    text, aside = tokens()
    print(f"{len(text)} characters to learn from, {len(aside)} aside", flush=True)
    w = fresh()
    print(f"{sum(value.size for value in w.values())} parameters", flush=True)
    lanes = text[: len(text) // LANES * LANES].reshape(LANES, -1).T
    mean = {name: np.zeros_like(value) for name, value in w.items()}
    square = {name: np.zeros_like(value) for name, value in w.items()}
    state = np.zeros((LANES, HIDDEN), np.float32)
    began, limit, at, update = time.monotonic(), chosen.minutes * 60, 0, 0
    while (spent := (time.monotonic() - began) / limit) < 1:
        if at + STEPS >= len(lanes):
            at, state = 0, np.zeros_like(state)
        loss, g, state = learn(w, lanes[at : at + STEPS], lanes[at + 1 : at + STEPS + 1], state)
        at += STEPS
        update += 1
        length = np.sqrt(sum(float((each * each).sum()) for each in g.values()))
        rate = RATE * min(1.0, update / 100) * (0.5 * (1 + np.cos(np.pi * spent)) + 0.01)
        fix = np.sqrt(1 - 0.99**update) / (1 - 0.9**update)
        shorter = np.float32(min(1.0, CLIP / (length + 1e-9)))
        for name, gradient in g.items():
            each = gradient * shorter
            mean[name] += 0.1 * (each - mean[name])
            square[name] += 0.01 * (each * each - square[name])
            w[name] -= np.float32(rate * fix) * mean[name] / (np.sqrt(square[name]) + 1e-8)
        if update % 100 == 0:
            print(f"{spent:4.0%} update {update} loss {loss:.3f}", flush=True)
    short = {name: value.astype(np.float16) for name, value in w.items()}
    again = {name: value.astype(np.float32) for name, value in short.items()}
    start = np.zeros((1, HIDDEN), np.float32)
    kept, _, _ = learn(again, aside[:-1, None], aside[1:, None], start)
    print(f"loss on the text that was kept aside: {kept:.3f}")
    with chosen.out.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **short)


if __name__ == "__main__":
    main()
