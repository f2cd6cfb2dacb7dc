"""What all processes know of the rules of retention: an entry in a KV bucket of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.nats.bucket import Bucket
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.stream import NO_MESSAGE, NOT_FOUND, refused
from protoplane_runtime.engines.nats.subjects import subject_of
from protoplane_runtime.engines.retention import Retention, check_rules, format_rule, parse

_KEY = "rules"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules, and how far they were carried out.

    Attributes:
        rules: The rule of each prefix; "" is among them.
        floors: Greatest number of a message that was deleted under each.
        swept: Up to which number each has no message any more.
        epoch: Epoch of the stream that these numbers are of.
        bound: Newest message when somebody last looked: what came later stays for now.
        due_ns: When somebody is to look again, in nanoseconds since 1970.
    """

    rules: Mapping[str, Retention]
    floors: Mapping[str, int]
    swept: Mapping[str, int]
    epoch: int = 0
    bound: int = 0
    due_ns: int = 0

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read what `format` wrote.

        Raises:
            PlaneError: FAILED_PRECONDITION where somebody else wrote it.
        """
        try:
            found: Any = json.loads(text)
            rules = check_rules([parse(each) for each in found["rules"]])
            floors = {prefix: int(found["floors"].get(prefix, 0)) for prefix in rules}
            swept = {prefix: int(found["swept"].get(prefix, 0)) for prefix in rules}
            epoch, bound, due_ns = (int(found[name]) for name in ("epoch", "bound", "due_ns"))
        except (ValueError, KeyError, TypeError, AttributeError, PlaneError) as error:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"the rules of retention in NATS cannot be read ({error}); delete the bucket "
                "<stream>-retention, and open the engine with rules again",
            ) from error
        return cls(rules, floors, swept, epoch, bound, due_ns)

    def format(self) -> bytes:
        """Write them as JSON."""
        # A rule without bounds is the one that all other keys are under.
        rules = [format_rule(rule) for rule in self.rules.values() if rule != Retention()]
        return json.dumps(
            {
                "rules": rules,
                "floors": dict(self.floors),
                "swept": dict(self.swept),
                "epoch": self.epoch,
                "bound": self.bound,
                "due_ns": self.due_ns,
            }
        ).encode()

    def with_rules(self, wanted: Sequence[Retention]) -> Rules:
        """The same with other rules."""
        rules = check_rules(wanted)
        if rules == self.rules:
            return self
        # What was deleted is not told by rule any more, so a new one counts it as its own.
        most = max(self.floors.values(), default=0)
        gone = not self.rules.keys() <= rules.keys()
        floors = {prefix: self.floors.get(prefix, most) for prefix in rules}
        if gone:
            floors[""] = most
        return replace(self, rules=rules, floors=floors, swept=dict.fromkeys(rules, 0), due_ns=0)

    def on(self, epoch: int) -> Rules:
        """The same for a stream of some epoch: of another one's messages nothing is known."""
        if self.epoch == epoch:
            return self
        none = dict.fromkeys(self.rules, 0)
        return replace(self, epoch=epoch, floors=none, swept=none, bound=0)


class Ledger:
    """The entry, and how it is changed.

    The bucket is ``<stream>-retention``; there is none where nobody ever gave rules.

    Args:
        connection: The way to the server, which it closes too.
        settings: What the engine's URL says.
    """

    def __init__(self, connection: Connection, settings: NatsSettings) -> None:
        self._connection = connection
        self._bucket = Bucket(connection, settings, "retention", "Rules of retention")

    async def read(self) -> tuple[Rules, int] | None:
        """The rules and the revision of their entry; ``None`` where there are none.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        bucket = self._bucket
        asked = {"last_by_subj": subject_of(bucket.subjects, _KEY)}
        try:
            # Not as the bucket does it: that makes itself where it is missing.
            found = await self._connection.ask(f"STREAM.MSG.GET.{bucket.name}", asked)
        except JetStreamError as error:
            if error.code in (NO_MESSAGE, NOT_FOUND):
                return None
            raise refused(error, bucket.name) from error
        message = found["message"]
        value = base64.b64decode(message.get("data") or "")
        return (Rules.parse(value), int(message["seq"])) if value else None

    async def write(self, rules: Rules, expected: int) -> int:
        """Put the rules in the place of a revision, and return the new one.

        Raises:
            PlaneError: ABORTED where somebody else changed them, UNAVAILABLE.
        """
        return await self._bucket.put(_KEY, rules.format(), expected=expected)

    async def give(self, wanted: Sequence[Retention]) -> None:
        """Make ``wanted`` the rules for all who use the stream.

        Raises:
            PlaneError: UNAVAILABLE, or RESOURCE_EXHAUSTED where the server has no room.
        """
        await self._bucket.made()
        while True:
            item = await self._bucket.last(_KEY)
            before = Rules({}, {}, {})
            if item is not None and item.value:
                before = Rules.parse(item.value)
            rules = before.with_rules(wanted)
            if rules is before:
                return
            try:
                await self.write(rules, 0 if item is None else item.revision)
            except PlaneError as error:
                if error.code is not Code.ABORTED:
                    raise
            else:
                return

    async def close(self) -> None:
        """Let go of the connection."""
        await self._bucket.close()
