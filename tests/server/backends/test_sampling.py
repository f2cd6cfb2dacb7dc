"""How the next token is chosen."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane_server.backends.embedded.vocabulary import SIZE
from protoplane_server.backends.interface import Sampling
from protoplane_server.backends.sampling import Chooser, Rules


def chosen(
    scores: dict[int, float], count: int, sampling: Sampling, *, prompt: str = ""
) -> Counter[int]:
    """What is chosen by the same scores so many times."""
    chooser = Chooser(1)
    chooser.begin(0, Rules.of(sampling), [ord(letter) for letter in prompt])
    row = np.full((1, SIZE), -30, np.float32)
    for token, score in scores.items():
        row[0, token] = score
    return Counter(int(chooser.choose(np.array([0]), row)[0]) for _ in range(count))


def test_zero_takes_the_likeliest() -> None:
    assert chosen({3: 1.0, 7: 1.1}, 20, Sampling(temperature=0.0)) == {7: 20}


def test_chances_are_those_of_the_scores() -> None:
    counts = chosen({1: np.log(3), 2: 0.0}, 4000, Sampling(seed=1))
    assert counts[1] / 4000 == pytest.approx(0.75, abs=0.03)
    cooler = chosen({1: np.log(3), 2: 0.0}, 4000, Sampling(seed=1, temperature=0.5))
    assert cooler[1] / 4000 == pytest.approx(0.9, abs=0.03)


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    scores = {1: np.log(5), 2: np.log(3), 3: np.log(2)}
    assert set(chosen(scores, 500, Sampling(seed=1))) == {1, 2, 3}
    assert set(chosen(scores, 500, Sampling(seed=1, top_k=2))) == {1, 2}
    assert set(chosen(scores, 500, Sampling(seed=1, top_p=0.79))) == {1, 2}
    assert set(chosen(scores, 500, Sampling(seed=1, top_p=0.45))) == {1}
    assert set(chosen(scores, 500, Sampling(seed=1, top_p=0.0))) == {1}


def test_penalties_take_from_what_occurred() -> None:
    greedy = partial(Sampling, temperature=0.0)
    scores = {1: 2.0, 2: 1.5, 3: 1.0}
    assert chosen(scores, 3, greedy(presence_penalty=9)) == {1: 1, 2: 1, 3: 1}
    assert chosen(scores, 3, greedy(frequency_penalty=0.4))[1] == 2
    assert chosen(scores, 1, greedy(repetition_penalty=3), prompt="\x01") == {2: 1}
    assert chosen(scores, 1, greedy(presence_penalty=9), prompt="\x01") == {1: 1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=20), st.data())
def test_a_choice_depends_on_its_seed_alone(seeds: list[int], data: st.DataObject) -> None:
    random = np.random.default_rng(seeds[0])
    rows = random.normal(size=(len(seeds), SIZE)).astype(np.float32)
    together, apart = Chooser(len(seeds)), Chooser(len(seeds))
    for slot, seed in enumerate(seeds):
        sampling = Sampling(seed=seed, top_k=slot % 7, top_p=1 - slot / 40)
        together.begin(slot, Rules.of(sampling), [])
        apart.begin(slot, Rules.of(sampling), [])
    for _ in range(3):
        whole = together.choose(np.arange(len(seeds)), rows)
        order = data.draw(st.permutations(range(len(seeds))))
        for slot in order:
            assert apart.choose(np.array([slot]), rows[[slot]])[0] == whole[slot]
