"""What every object store does; the tests of a store derive from `ObjectStoreSuite`."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectInfo, ObjectStore

MIB = 1024 * 1024
PATTERN = bytes(range(256)) * 4096
_numbers = itertools.count()

segments = st.text(
    st.characters(exclude_characters="/#?$*\\", exclude_categories=("C", "Z")),
    min_size=1,
    max_size=12,
).filter(lambda segment: segment not in (".", "..") and segment.isprintable())
keys = st.lists(segments, min_size=1, max_size=4).map("/".join)
# Each example gets keys of its own below a number, so one store does for all.
thorough = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


async def pieces(*some: bytes) -> AsyncGenerator[bytes, None]:
    for piece in some:
        yield piece


async def megabytes(count: int) -> AsyncGenerator[bytes, None]:
    """A large object that is never in memory as a whole."""
    for number in range(count):
        yield number.to_bytes(4, "big") + PATTERN[4:]


def megabytes_digest(count: int) -> str:
    found = hashlib.blake2b(digest_size=32)
    for number in range(count):
        found.update(number.to_bytes(4, "big") + PATTERN[4:])
    return found.hexdigest()


async def read(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    async with store.get(key, start=start, end=end) as body:
        return await body.read()


async def listed(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([info.key async for info in store.list(prefix)])


def fails(code: Code) -> pytest.RaisesExc[PlaneError]:
    return pytest.RaisesExc(PlaneError, check=lambda error: error.code is code)


class ObjectStoreSuite:
    """The cases; `store` gives an empty store."""

    pytestmark = pytest.mark.anyio
    large = 12
    """Megabytes of an object that is sent in parts."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self) -> AsyncIterator[ObjectStore]:
        raise NotImplementedError
        yield  # type: ignore[unreachable]  # noqa: PT022  # an override yields

    @pytest.mark.parametrize("data", [b"", b"x", PATTERN, PATTERN + b"x"])
    async def test_what_is_written_is_read(self, store: ObjectStore, data: bytes) -> None:
        info = await store.put("forge/a", data, metadata={"owner": "me"})
        assert (info.key, info.size, info.digest) == ("forge/a", len(data), digest_of(data))
        assert info.metadata == {"owner": "me"}
        async with store.get("forge/a") as body:
            assert (body.start, body.end) == (0, len(data))
            assert (body.info.digest, body.info.etag) == (info.digest, info.etag)
            assert body.info.metadata == {"owner": "me"}
            assert await body.read() == data

    async def test_head_knows_what_put_said(self, store: ObjectStore) -> None:
        info = await store.put("a", b"data", metadata={"note": "grün, 100 %"})
        known = await store.head("a")
        assert abs(known.modified_s - info.modified_s) < 60
        assert info == ObjectInfo(
            known.key, known.size, known.digest, known.etag, info.modified_s, known.metadata
        )
        assert known.metadata == {"note": "grün, 100 %"}

    async def test_pieces_of_any_size(self, store: ObjectStore) -> None:
        some = [b"", b"a", PATTERN * 3, b"", b"bc", PATTERN[:-1], b"d"]
        info = await store.put("a", pieces(*some))
        assert info.size == sum(map(len, some))
        assert await read(store, "a") == b"".join(some)

    async def test_large_object(self, store: ObjectStore) -> None:
        info = await store.put("a", megabytes(self.large), metadata={"kind": "large"})
        assert info.digest == megabytes_digest(self.large)
        sizes: list[int] = []
        async with store.get("a") as body:
            assert body.info.digest == info.digest
            assert body.info.metadata == {"kind": "large"}
            async for piece in body:
                sizes.append(len(piece))  # noqa: PERF401
        assert sum(sizes) == self.large * MIB
        assert max(sizes) <= 4 * MIB
        assert await read(store, "a", 5 * MIB, 5 * MIB + 4) == (5).to_bytes(4, "big")

    async def test_last_writer_wins(self, store: ObjectStore) -> None:
        first = await store.put("a", b"first", metadata={"n": "1"})
        second = await store.put("a", b"second")
        assert first.etag != second.etag
        assert (await store.head("a")).metadata == {}
        assert await read(store, "a") == b"second"

    async def test_many_writers_of_one_key(self, store: ObjectStore) -> None:
        texts = [bytes([number]) * (1 + 300_000 * number) for number in range(8)]
        await asyncio.gather(*(store.put("a/b", text) for text in texts))
        assert await read(store, "a/b") in texts
        assert await listed(store) == ["a/b"]

    async def test_reader_keeps_what_it_began(self, store: ObjectStore) -> None:
        await store.put("a", megabytes(self.large))
        async with store.get("a") as body:
            first = await anext(body)
            await store.put("a", b"other")
            try:
                rest = await body.read()
            except PlaneError as error:
                assert error.code in (Code.FAILED_PRECONDITION, Code.UNAVAILABLE)  # noqa: PT017
            else:
                assert digest_of(first + rest) == megabytes_digest(self.large)
        assert await read(store, "a") == b"other"

    @pytest.mark.parametrize("large", [False, True])
    async def test_expected_digest(self, store: ObjectStore, large: bool) -> None:
        count = self.large if large else 1
        good = megabytes_digest(count)
        await store.put("a", b"before")
        with fails(Code.INVALID_ARGUMENT):
            await store.put("a", megabytes(count), digest="0" * 64)
        assert await read(store, "a") == b"before"
        info = await store.put("a", megabytes(count), digest=good)
        assert info.digest == good == (await store.head("a")).digest

    @pytest.mark.parametrize("known", [False, True])
    @pytest.mark.parametrize("count", [0, 2, 12])
    async def test_source_that_fails_writes_nothing(
        self, store: ObjectStore, count: int, known: bool
    ) -> None:
        async def source() -> AsyncGenerator[bytes, None]:
            async for piece in megabytes(count):
                yield piece
            raise LookupError("no more")

        await store.put("a", b"before")
        for key in ("a", "b"):
            with pytest.raises(LookupError, match="no more"):
                await store.put(key, source(), digest="0" * 64 if known else None)
        assert await read(store, "a") == b"before"
        assert await listed(store) == ["a"]

    @pytest.mark.parametrize("known", [False, True])
    @pytest.mark.parametrize("count", [0, 2, 40])
    async def test_cancelled_writer_leaves_nothing(
        self, store: ObjectStore, count: int, known: bool
    ) -> None:
        waits, closed = asyncio.Event(), False

        async def source() -> AsyncGenerator[bytes, None]:
            nonlocal closed
            try:
                async for piece in megabytes(count):
                    yield piece
                waits.set()
                await asyncio.Event().wait()
            finally:
                closed = True

        putting = asyncio.create_task(store.put("a", source(), digest="0" * 64 if known else None))
        async with asyncio.timeout(30):
            await waits.wait()
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
        assert closed
        assert await listed(store) == []
        with fails(Code.NOT_FOUND):
            await store.head("a")

    async def test_cancelled_at_any_moment(self, store: ObjectStore) -> None:
        await store.put("a", b"before")
        for turns in range(0, 60, 3):
            putting = asyncio.create_task(store.put("a", megabytes(2)))
            for _ in range(turns):
                await asyncio.sleep(0)
            putting.cancel()
            with suppress(asyncio.CancelledError):
                await putting
            found = await read(store, "a")
            assert found == b"before" or digest_of(found) == megabytes_digest(2)
        assert await listed(store) == ["a"]

    async def test_source_of_something_else(self, store: ObjectStore) -> None:
        async def source() -> AsyncGenerator[bytes, None]:
            yield "text"  # type: ignore[misc]

        with fails(Code.INVALID_ARGUMENT):
            await store.put("a", source())
        assert await listed(store) == []

    async def test_ranges(self, store: ObjectStore) -> None:
        await store.put("a", b"0123456789")
        assert await read(store, "a", 3) == b"3456789"
        assert await read(store, "a", 3, 5) == b"34"
        assert await read(store, "a", 0, 4) == b"0123"
        assert await read(store, "a", 8, 99) == b"89"
        assert await read(store, "a", 4, 4) == b""
        assert await read(store, "a", 10) == b""
        async with store.get("a", start=8, end=99) as body:
            assert (body.start, body.end, body.info.size) == (8, 10, 10)
        with fails(Code.OUT_OF_RANGE):
            await read(store, "a", 11)
        for start, end in ((-1, None), (5, 4)):
            with fails(Code.INVALID_ARGUMENT):
                await read(store, "a", start, end)

    @thorough
    @given(
        data=st.binary(max_size=2000).map(lambda some: some * 700),
        start=st.floats(0, 1),
        end=st.floats(0, 1.5),
    )
    async def test_any_range(
        self, store: ObjectStore, data: bytes, start: float, end: float
    ) -> None:
        key = f"ranges/{next(_numbers)}"
        await store.put(key, data)
        first = int(start * len(data))
        last = max(first, int(end * len(data)))
        assert await read(store, key, first, last) == data[first:last]
        assert await read(store, key, first) == data[first:]

    async def test_resumed_read(self, store: ObjectStore) -> None:
        await store.put("a", megabytes(self.large))
        found = hashlib.blake2b(digest_size=32)
        async with store.get("a") as body:
            info, got = body.info, 0
            async for piece in body:
                found.update(piece)
                got += len(piece)
                if got > 3 * MIB:
                    break
        async with store.get("a", start=got, etag=info.etag, digest=info.digest) as body:
            async for piece in body:
                found.update(piece)
        assert found.hexdigest() == info.digest
        await store.put("a", megabytes(self.large + 1))
        for expected in ({"etag": info.etag}, {"digest": info.digest}):
            for start in (0, got):
                with fails(Code.FAILED_PRECONDITION):
                    async with store.get("a", start=start, **expected):  # type: ignore[arg-type]
                        pass

    async def test_absent(self, store: ObjectStore) -> None:
        await store.put("a/b", b"")
        for key in ("b", "a", "a/b/c", "a/bc"):
            with fails(Code.NOT_FOUND):
                await store.head(key)
            for start in (0, 1):
                with fails(Code.NOT_FOUND):
                    await read(store, key, start)
            await store.delete(key)
        assert await listed(store) == ["a/b"]

    async def test_delete(self, store: ObjectStore) -> None:
        for key in ("a", "a/b", "a/b/c"):
            await store.put(key, key.encode())
        await store.delete("a/b")
        with fails(Code.NOT_FOUND):
            await store.head("a/b")
        assert await listed(store) == ["a", "a/b/c"]
        await store.delete("a/b/c")
        await store.delete("a/b/c")
        assert await read(store, "a") == b"a"
        await store.put("a/b", b"again")
        assert await read(store, "a/b") == b"again"

    async def test_list(self, store: ObjectStore) -> None:
        assert await listed(store) == []
        made = {"forge", "forge/a", "forge/b/c", "forgery/a", "x", "Forge/a"}
        for key in made:
            await store.put(key, key.encode())
        assert await listed(store) == sorted(made)
        assert await listed(store, "forge") == ["forge/a", "forge/b/c"]
        assert await listed(store, "forge/b") == ["forge/b/c"]
        assert await listed(store, "forge/a") == await listed(store, "nowhere") == []
        [info] = [info async for info in store.list("forgery")]
        known = await store.head("forgery/a")
        assert (info.key, info.size, info.etag) == (known.key, known.size, known.etag)

    async def test_list_of_many(self, store: ObjectStore) -> None:
        made = [f"many/{number % 7}/{number}" for number in range(600)]
        for at in range(0, len(made), 50):
            await asyncio.gather(*(store.put(key, b"") for key in made[at : at + 50]))
        assert await listed(store, "many") == sorted(made)
        async for _ in store.list("many"):
            break

    @thorough
    @given(some=st.lists(keys, min_size=1, max_size=4, unique=True))
    async def test_any_keys(self, store: ObjectStore, some: list[str]) -> None:
        number = f"keys/{next(_numbers)}"
        made = [f"{number}/{key}" for key in some]
        for key in made:
            await store.put(key, key.encode())
        assert await listed(store, number) == sorted(made)
        for key in made:
            assert await read(store, key) == key.encode()
        await store.delete(made[0])
        assert await listed(store, number) == sorted(made[1:])

    async def test_keys_that_look_alike(self, store: ObjectStore) -> None:
        alike = ["a", "A", "!a", "%41", "a=", "a =", "a%3d", "é", "e\u0301", ".a", ".unfinished/a"]
        alike += ["x" * 300, "x" * 299 + "X", "x" * 299 + "y", "con", "a.", "~"]
        for key in alike:
            await store.put(key, key.encode())
        assert await listed(store) == sorted(alike)
        for key in alike:
            assert await read(store, key) == key.encode()

    async def test_longest_key(self, store: ObjectStore) -> None:
        for key in ("é" * 500, "/".join("A" * 20 for _ in range(45)), "ab/" * 300 + "c"):
            await store.put(key, b"long")
            assert await read(store, key) == b"long"
            assert await listed(store) == [key]
            await store.delete(key)

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "a/*", "a\nb", "a\\b", ".", "..", "a/../b", "é" * 513]
    )
    async def test_bad_keys(self, store: ObjectStore, key: str) -> None:
        with fails(Code.INVALID_ARGUMENT):
            await store.put(key, b"")
        with fails(Code.INVALID_ARGUMENT):
            await store.head(key)
        with fails(Code.INVALID_ARGUMENT):
            await store.delete(key)
        with fails(Code.INVALID_ARGUMENT):
            await store.presign(key)
        with fails(Code.INVALID_ARGUMENT):
            await read(store, key)
        if key:
            with fails(Code.INVALID_ARGUMENT):
                await listed(store, key)

    @pytest.mark.parametrize(
        "metadata",
        [{"": "a"}, {"A": "a"}, {"a-b": "c"}, {"1": "a"}, {"protoplane_x": "a"}, {"a": "é" * 200}],
    )
    async def test_bad_metadata(self, store: ObjectStore, metadata: dict[str, str]) -> None:
        with fails(Code.INVALID_ARGUMENT):
            await store.put("a", b"", metadata=metadata)

    async def test_most_metadata(self, store: ObjectStore) -> None:
        metadata = {f"n{number}": "é\n %\t" * 4 for number in range(10)}
        await store.put("a", b"", metadata=metadata)
        assert (await store.head("a")).metadata == metadata

    async def test_bad_digest(self, store: ObjectStore) -> None:
        for digest in ("", "0" * 63, "G" * 64):
            with fails(Code.INVALID_ARGUMENT):
                await store.put("a", b"", digest=digest)
            with fails(Code.INVALID_ARGUMENT):
                async with store.get("a", digest=digest):
                    pass

    async def test_presigned_time(self, store: ObjectStore) -> None:
        for expires_s in (0, -1, 8 * 24 * 3600, float("nan")):
            with fails(Code.INVALID_ARGUMENT):
                await store.presign("a", expires_s=expires_s)

    async def test_presign(self, store: ObjectStore) -> None:
        with fails(Code.UNIMPLEMENTED):
            await store.presign("a")

    async def test_nothing_is_left_running(self, store: ObjectStore) -> None:
        before = asyncio.all_tasks()
        await store.put("a", megabytes(self.large))
        async with store.get("a") as body:
            await anext(body)
        async with asyncio.timeout(30):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110  # nothing sets an event
                await asyncio.sleep(0.005)
