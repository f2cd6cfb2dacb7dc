"""The file that says what may be started."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoplane.agents.v1 import AgentSpec, Limits
from protoplane_base import Code, Duration, PlaneError
from protoplane_components.agents import AllowList, read_allow_list
from protoplane_components.agents.launching import checked_id, planned

WHOLE = """
commands = ["sh", "tools/mine"]
folders = ["work"]
inherit = ["PATH"]
variables = ["JOB_*"]
timeout_s = 60
max_timeout_s = 3600

[limits]
open_files = 64
cpu_seconds = 10

[kinds.one]
command = ["tools/mine", "--fast"]
working_folder = "work"
environment = {JOB_NAME = "one"}
takes_arguments = true
"""


@pytest.fixture
def whole(tmp_path: Path) -> AllowList:
    (tmp_path / "tools").mkdir()
    (tmp_path / "work" / "in").mkdir(parents=True)
    (tmp_path / "tools" / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "tools" / "mine").chmod(0o755)
    (tmp_path / "agents.toml").write_text(WHOLE)
    return read_allow_list(tmp_path / "agents.toml")


def test_paths_are_relative_to_the_file(whole: AllowList, tmp_path: Path) -> None:
    asked = AgentSpec(kind="one", arguments=["a"], environment={"JOB_NAME": "mine", "JOB_ID": "1"})
    launch = planned(asked, whole, {"PATH": "/bin", "SECRET": "x"})
    assert launch.process["argv"] == [str(tmp_path / "tools" / "mine"), "--fast", "a"]
    # What the kind says goes before what the caller says.
    assert launch.process["environment"] == {"PATH": "/bin", "JOB_NAME": "one", "JOB_ID": "1"}
    assert launch.process["folder"] == str(tmp_path / "work")
    assert launch.process["limits"] == {"open_files": 64, "cpu_seconds": 10}
    assert launch.process["timeout_s"] == 60
    assert launch.spec.timeout == Duration(60)


def test_what_a_caller_may_choose(whole: AllowList, tmp_path: Path) -> None:
    asked = AgentSpec(
        command=["mine"],
        working_folder=str(tmp_path / "work" / "in"),
        limits=Limits(open_files=8, memory_bytes=1 << 30),
        timeout=Duration(3600),
        grace=Duration(0),
    )
    process = planned(asked, whole, {}).process
    assert process["limits"] == {"open_files": 8, "cpu_seconds": 10, "memory_bytes": 1 << 30}
    assert (process["timeout_s"], process["grace_s"]) == (3600, 0)
    assert process["folder"] == str(tmp_path / "work" / "in")
    too_long = asked.model_copy(update={"timeout": Duration(3601)})
    with pytest.raises(PlaneError, match="at most 3600 s"):
        planned(too_long, whole, {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("commands = [", "no TOML"),
        ("programs = []", "programs"),
        ("max_agents = 0", "max_agents"),
        ("[kinds.x]\ncommand = []", r"kinds\.x\.command"),
        ("[limits]\nmemory_bytes = 'much'", r"limits\.memory_bytes"),
        ("commands = ['no-such-program']", "no-such-program"),
        ("[kinds.x]\ncommand = ['./nothing']", "nothing"),
    ],
)
def test_a_file_with_a_fault(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "agents.toml"
    path.write_text(text)
    with pytest.raises(PlaneError, match=told):
        read_allow_list(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PlaneError, match=r"agents\.toml cannot be read") as caught:
        read_allow_list(tmp_path / "agents.toml")
    assert caught.value.code is Code.NOT_FOUND


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_file_or_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "agents.toml"
    path.write_bytes(data)
    # Anything else that it raises fails the test.
    with contextlib.suppress(PlaneError):
        assert isinstance(read_allow_list(path), AllowList)


@given(text=st.text(max_size=70))
def test_an_id_is_one_name_of_a_folder(text: str) -> None:
    try:
        id_ = checked_id(text)
    except PlaneError:
        return
    assert Path("/x", id_).resolve().parent == Path("/x")
    assert id_ not in (".", "..")
