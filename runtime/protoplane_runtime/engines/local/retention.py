"""Durable events go from the database: by rules that no longer cover them, or purged by name."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.retention import Retention, floor_of, rule_of

__all__ = ["Retention", "floor", "purge", "rule_of", "set_rules", "sweep", "sweep_names"]

_SWEEP = 4096
_MIN_NAMES_SWEPT = 4096


def set_rules(connection: sqlite3.Connection, rules: Sequence[Retention]) -> bool:
    """Make ``rules`` those of the log, within a transaction.

    Returns:
        Whether they were others before.
    """
    wanted = {rule.prefix: rule for rule in (Retention(), *rules)}
    kept = "SELECT prefix, max_age_s, max_events, max_bytes FROM retention"
    if {row[0]: Retention(*row) for row in connection.execute(kept)} == wanted:
        return False
    (floor,) = connection.execute("SELECT max(floor) FROM retention").fetchone()
    for rule in wanted.values():
        # What others deleted is not told by rule any more, so a new one counts it as its own.
        connection.execute(
            "INSERT INTO retention (prefix, max_age_s, max_events, max_bytes, floor) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (prefix) DO UPDATE SET "
            "max_age_s = excluded.max_age_s, max_events = excluded.max_events, "
            "max_bytes = excluded.max_bytes",
            (rule.prefix, rule.max_age_s, rule.max_events, rule.max_bytes, floor),
        )
    for identity, prefix in connection.execute("SELECT id, prefix FROM retention").fetchall():
        if prefix not in wanted:
            connection.execute("UPDATE retention SET floor = ? WHERE prefix = ''", (floor,))
            connection.execute("DELETE FROM retention WHERE id = ?", (identity,))
    known = dict(connection.execute("SELECT prefix, id FROM retention").fetchall())
    keys = connection.execute("SELECT id, text FROM key").fetchall()
    connection.executemany(
        "UPDATE key SET rule = ? WHERE id = ?",
        [(rule_of(text, known), identity) for identity, text in keys],
    )
    connection.execute("UPDATE retention SET swept = 0, events = 0, bytes = 0")
    connection.execute(
        "UPDATE retention SET events = total.events, bytes = total.bytes FROM ("
        "SELECT key.rule AS rule, count(*) AS events, sum(event.size) AS bytes "
        "FROM event JOIN key ON key.id = event.key GROUP BY key.rule"
        ") AS total WHERE retention.id = total.rule"
    )
    return True


def sweep(connection: sqlite3.Connection) -> bool:
    """Delete some of what the rules no longer cover, within a transaction.

    Returns:
        Whether there is more to delete.
    """
    more = False
    (newest,) = connection.execute("SELECT coalesce(max(sequence), 0) FROM event").fetchone()
    for row in connection.execute(
        "SELECT id, max_age_s, max_events, max_bytes, events, bytes, swept FROM retention"
    ).fetchall():
        rule, max_age_s, max_events, max_bytes, events, size, swept = row
        cutoff = 0 if max_age_s is None else time.time_ns() - int(max_age_s * 1e9)
        over_events = 0 if max_events is None else max(0, events - max_events)
        over_bytes = 0 if max_bytes is None else max(0, size - max_bytes)
        if not (cutoff or over_events or over_bytes):
            continue
        # What goes is always the oldest part, so one place says it all.
        last = count = freed = 0
        place = newest
        oldest = connection.execute(
            "SELECT event.sequence, event.time_ns, event.size"
            " FROM event CROSS JOIN key ON key.id = event.key"
            " WHERE event.sequence > ? AND key.rule = ? ORDER BY event.sequence LIMIT ?",
            (swept, rule, _SWEEP + 1),
        )
        for sequence, time_ns, event_size in oldest:
            over = count < over_events or freed < over_bytes or time_ns < cutoff
            if not over or count == _SWEEP:
                more = more or over
                place = sequence - 1
                break
            last, count, freed = sequence, count + 1, freed + event_size
        oldest.close()
        if count:
            connection.execute(
                "DELETE FROM event WHERE sequence > ? AND sequence <= ?"
                " AND (SELECT rule FROM key WHERE id = event.key) = ?",
                (swept, last, rule),
            )
            connection.execute("UPDATE log SET purged = max(purged, ?)", (last,))
        # Else events of other rules are looked through each time; but looking alone writes seldom.
        if count or place - swept > _SWEEP:
            connection.execute(
                "UPDATE retention SET events = events - ?, bytes = bytes - ?,"
                " floor = max(floor, ?), swept = ? WHERE id = ?",
                (count, freed, last, place, rule),
            )
    return more


def purge(
    connection: sqlite3.Connection, match: KeyMatcher, place: int, until: int
) -> tuple[int, int]:
    """Delete some of the events that key expressions match, within a transaction.

    Args:
        connection: The database.
        match: The key expressions.
        place: Where to go on, 0 at first.
        until: Greatest sequence that may go.

    Returns:
        How many went, and where to go on; ``until`` where that was all.
    """
    rows = connection.execute(
        "SELECT event.sequence, event.size, key.text, key.rule FROM event"
        " CROSS JOIN key ON key.id = event.key"
        " WHERE event.sequence > ? AND event.sequence <= ? ORDER BY event.sequence LIMIT ?",
        (place, until, _SWEEP),
    ).fetchall()
    end = rows[-1][0] if len(rows) == _SWEEP else until
    gone = [(sequence, size, rule) for sequence, size, key, rule in rows if match.matches(key)]
    if not gone:
        return 0, end
    listed = ",".join(str(sequence) for sequence, _, _ in gone)
    connection.execute(
        "DELETE FROM event WHERE sequence IN (SELECT value FROM json_each(?))", (f"[{listed}]",)
    )
    for rule in {rule for _, _, rule in gone}:
        sizes = [size for _, size, of in gone if of == rule]
        last = max(sequence for sequence, _, of in gone if of == rule)
        connection.execute(
            "UPDATE retention SET events = events - ?, bytes = bytes - ?, floor = max(floor, ?)"
            " WHERE id = ?",
            (len(sizes), sum(sizes), last, rule),
        )
    connection.execute("UPDATE log SET purged = max(purged, ?)", (gone[-1][0],))
    return len(gone), end


def sweep_names(connection: sqlite3.Connection, table: str, known: int) -> int:
    """Delete the keys, or the publishers, that no event has any more, if they seem to be many.

    Args:
        connection: The database, within a transaction.
        table: ``key`` or ``publisher``.
        known: How many were left the last time.

    Returns:
        How many are left; negative where none was deleted.
    """
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    if count < max(2 * known, _MIN_NAMES_SWEPT):
        return -1
    connection.execute(
        f"DELETE FROM {table} WHERE id NOT IN"  # noqa: S608
        f" (SELECT {table} FROM event WHERE {table} IS NOT NULL)"
    )
    (left,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(left)


def floor(connection: sqlite3.Connection, match: KeyMatcher) -> int:
    """Greatest sequence of a deleted event that the expressions may have matched."""
    rows: list[tuple[str, int]] = connection.execute(
        "SELECT prefix, floor FROM retention"
    ).fetchall()
    return floor_of(match, dict(rows))
