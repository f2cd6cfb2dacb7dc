"""Entities: their ids, and which instances they mean."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.entities import (
    MAX_PATH_CHARS,
    Entity,
    EntityId,
    EntityKind,
    matching,
)

SEGMENTS = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True).filter(
    lambda segment: segment not in (".", "..")
)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join)
INSTANCES = st.lists(SEGMENTS, min_size=2, max_size=6).map("/".join)


@dataclass(frozen=True)
class Running:
    name: str


def running(*names: str) -> list[Running]:
    return [Running(name) for name in names]


# Computed with `b2sum --length 128`.
@pytest.mark.parametrize(
    ("path", "digits"),
    [
        ("forge", "f79580f74cee81bc7d2108f153aad511"),
        ("forge/captioner", "2a15d16b1ef686af642e7f3babedbf6c"),
        ("forge/captioner/1f3a9c20", "ff53ec46b7c19d923c5b7d050b9fb9e2"),
    ],
)
def test_ids_are_those_of_any_blake2b(path: str, digits: str) -> None:
    assert EntityId.of(path).hex == digits


@given(PATHS)
def test_an_id_reads_what_it_writes(path: str) -> None:
    made = EntityId.of(path)
    assert EntityId.parse(str(made)) == made
    assert EntityId(bytes(made)) == made
    assert hash(EntityId.of(path)) == hash(made)
    assert len(bytes(made)) == 16


@given(st.lists(PATHS, unique=True))
def test_ids_are_ordered_as_their_bytes(paths: list[str]) -> None:
    made = sorted(map(EntityId.of, paths))
    assert [bytes(one) for one in made] == sorted(bytes(one) for one in made)
    assert len(set(made)) == len(paths)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(PlaneError, match="no entity id") as caught:
        EntityId.parse(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_an_id_of_another_length() -> None:
    with pytest.raises(PlaneError, match="this one has 15"):
        EntityId(b"0" * 15)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "empty; one looks like"),
        ("/forge", "empty segment"),
        ("forge/", "empty segment"),
        ("forge//captioner", "empty segment"),
        ("forge/../captioner", "relative"),
        ("./forge", "relative"),
        ("forge/cap tioner", "holds ' '"),
        ("forge/*", r"holds '\*'"),
        ("forge/käse", "holds 'ä'"),
        ("forge\n", r"holds '\\n'"),
        ("x" * (MAX_PATH_CHARS + 1), f"{MAX_PATH_CHARS} are the most"),
    ],
)
def test_what_is_no_path(path: str, said: str) -> None:
    for make in (Entity, EntityId.of, Entity.instance):
        with pytest.raises(PlaneError, match=said) as caught:
            make(path)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert len(caught.value.message) < 300


def test_an_instance_is_of_a_component() -> None:
    with pytest.raises(PlaneError, match="names no instance") as caught:
        Entity.instance("forge")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_what_it_is_called() -> None:
    plain, named = Entity("forge/captioner"), Entity("forge/captioner", name="the captioner")
    assert (str(plain), str(named)) == ("forge/captioner", "the captioner")
    assert plain == named
    assert hash(plain) == hash(named)
    assert plain.id == named.id == EntityId.of("forge/captioner")
    assert plain != Entity.instance("forge/captioner")


@given(INSTANCES)
def test_parents_lead_to_the_top(path: str) -> None:
    entity: Entity | None = Entity.instance(path)
    whole = entity
    seen: list[str] = []
    while entity is not None:
        seen.append(entity.path)
        assert whole is not None
        assert entity.contains(whole)
        assert whole.contains(entity) == (entity == whole)
        entity = entity.parent
        assert entity is None or entity.kind is EntityKind.COLLECTION
    assert len(seen) == path.count("/") + 1


def test_names_that_begin_alike_are_not_inside() -> None:
    assert not Entity("forge/cap").contains(Entity("forge/captioner"))
    assert not Entity.instance("forge/a").contains(Entity("forge/a/b"))
    assert matching(Entity("forge/cap"), running("forge/captioner/1", "forge/cap")) == []


@given(PATHS, st.lists(INSTANCES, unique=True))
def test_what_a_collection_means(path: str, names: list[str]) -> None:
    among = running(*names, f"{path}/here", f"{path}/below/here")
    entity = Entity(path)
    meant = matching(entity, among)
    assert meant == [one for one in among if entity.contains(Entity.instance(one.name))]
    assert Running(f"{path}/below/here") in meant
    by_child = [one for child in entity.children(among) for one in matching(child, among)]
    assert set(by_child) == set(meant)
    assert len(by_child) == len(meant)


def test_an_instance_means_itself() -> None:
    among = running("forge/a/1", "forge/a/2")
    one = Entity.instance("forge/a/2")
    assert matching(one, among) == running("forge/a/2")
    assert matching(Entity.instance("forge/a/3"), among) == []
    assert one.children(among) == ()


def test_children() -> None:
    among = running("forge/b/1", "forge/a/2", "forge/a/1", "forge/9", "other/1")
    assert Entity("forge").children(among) == (
        Entity.instance("forge/9"),
        Entity("forge/a"),
        Entity("forge/b"),
    )
    assert Entity("forge/a").children(among) == (
        Entity.instance("forge/a/1"),
        Entity.instance("forge/a/2"),
    )
