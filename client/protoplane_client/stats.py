"""The numbers of all instances of a collection, collected in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from protoplane.v1 import InstanceStats, Metrics, StatsRequest
from protoplane_base import Code, PlaneError
from protoplane_client.addressing import Whom, means, path_of, path_or_id
from protoplane_client.route import Route
from protoplane_runtime.entities import EntityId

TIMEOUT_S = 2.0
"""How long an instance has to answer."""

_STATS = Metrics.spec.methods["Stats"]


@dataclass(frozen=True, slots=True)
class CollectedStats:
    """What came of asking all instances of a collection.

    Attributes:
        stats: The numbers of those who answered, by the path of the instance, in its order.
        missing: Who did not answer, and why; by the path of the instance, or by its address where
            the path is not known.
    """

    stats: Mapping[str, InstanceStats]
    missing: Mapping[str, PlaneError]


async def collect(
    routes: Iterable[Route],
    unreached: Iterable[str] = (),
    entity: Whom | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> CollectedStats:
    """Ask instances for their numbers, all at once.

    Cancelling it cancels all questions.

    Args:
        routes: The ways to them.
        unreached: Names of instances that no way leads to.
        entity: Whom to ask: an instance or a collection; all of them where absent.
        timeout_s: Seconds that each has to answer.

    Raises:
        PlaneError: INVALID_ARGUMENT for what is no entity.
    """
    wanted = _wanted(entity)
    missing = {
        name: PlaneError(
            Code.UNAVAILABLE, f"no address of {name} can be used from here; see `protoplane ps`"
        )
        for name in unreached
        if wanted(name)
    }
    # Who is behind a mere address may be anybody; the answer says who it is.
    asked = [route for route in routes if _nameless(route) or wanted(route.name)]
    answers = await asyncio.gather(*(_ask(route, timeout_s) for route in asked))
    stats: dict[str, InstanceStats] = {}
    for route, answer in zip(asked, answers, strict=True):
        if isinstance(answer, PlaneError):
            missing[route.name] = answer
        elif not _nameless(route) or wanted(answer.instance):
            stats[answer.instance] = answer
    return CollectedStats(dict(sorted(stats.items())), dict(sorted(missing.items())))


async def _ask(route: Route, timeout_s: float) -> InstanceStats | PlaneError:
    try:
        answer = await route.unary(_STATS, StatsRequest(), {"timeout_s": timeout_s})
    except PlaneError as error:
        return error
    return answer.stats or InstanceStats()


def _wanted(entity: Whom | None) -> Callable[[str], bool]:
    if entity is None:
        return lambda _: True
    whom = path_or_id(entity)
    if isinstance(whom, EntityId):
        return lambda name: path_of(whom, [name]) is not None
    return partial(means, whom)


def _nameless(route: Route) -> bool:
    """Whether a route has the name of its address, which a path cannot have."""
    return ":" in route.name
