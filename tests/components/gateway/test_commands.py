"""``protoplane gateway key``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from protoplane_components.commands.gateway import gateway
from protoplane_components.gateway.keys import KeyRing, read_keys


def test_keys_are_added_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    runner = CliRunner()
    first = runner.invoke(gateway, ["key", "alice", "--file", str(file)])
    assert first.exit_code == 0, first.output
    assert file.stat().st_mode & 0o077 == 0
    # As an editor may leave it.
    file.write_text(file.read_text().rstrip())
    limits = ["--requests", "60/minute", "--concurrent", "2", "--expires", "2099-01-01"]
    second = runner.invoke(
        gateway, ["key", "bob", "--file", str(file), "--model", "a-*", "--model", "b", *limits]
    )
    assert second.exit_code == 0, second.output
    ring = KeyRing(read_keys(file.read_text(), "keys.toml"))
    alice = ring.with_key(first.stdout.strip())
    bob = ring.with_key(second.stdout.strip())
    assert alice is not None
    assert bob is not None
    assert (alice.name, alice.models, alice.expires_at) == ("alice", (), None)
    assert (bob.models, bob.requests, bob.concurrent) == (("a-*", "b"), "60/minute", 2)
    assert bob.expires_at == 4070908800.0
    assert first.stdout.strip() not in file.read_text()


def test_without_a_file_it_says_what_to_add() -> None:
    done = CliRunner().invoke(gateway, ["key", "alice"])
    assert done.exit_code == 0
    ring = KeyRing(read_keys(done.stderr, "stderr"))
    assert ring.with_key(done.stdout.strip()) is ring.named("alice")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["alice"], "there twice"),
        (["a:b"], "keys.1.name"),
        (["bob", "--requests", "often"], "is no limit"),
    ],
)
def test_what_is_no_key_is_not_added(tmp_path: Path, arguments: list[str], says: str) -> None:
    file = tmp_path / "keys.toml"
    runner = CliRunner()
    assert runner.invoke(gateway, ["key", "alice", "--file", str(file)]).exit_code == 0
    before = file.read_text()
    done = runner.invoke(gateway, ["key", *arguments, "--file", str(file)])
    assert done.exit_code == 1
    assert says in done.stderr
    assert file.read_text() == before
