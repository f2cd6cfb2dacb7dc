"""``protoplane chat``, against a server that behaves as it is told to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.components.stack.chat_server import KEY, STORY, ChatServer, chat_server
from tests.components.stack.terminals import LIMIT_S, Terminal, terminal

from protoplane_components.commands.chat import chat
from protoplane_components.commands.chat_screen import MarkdownScreen, figures, settled
from protoplane_components.commands.chat_stream import Answer, Usage


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def said(server: ChatServer, *arguments: str, piped: str = "", **environment: str) -> Result:
    variables = {"OPENAI_API_KEY": None, "PROTOPLANE_API_KEY": None, **environment}
    return CliRunner().invoke(
        chat, ["--url", server.url, *arguments], input=piped, env=dict(variables)
    )


def test_one_message(server: ChatServer) -> None:
    done = said(server, "hello you", "--system", "be kind", "--max-tokens", "9", "--seed", "4")
    assert done.exit_code == 0, done.output
    assert done.stdout == "system: be kind | user: hello you \n"
    [asked] = server.asked
    assert asked["model"] == "echo"
    assert (asked["max_tokens"], asked["seed"], "temperature" in asked) == (9, 4, False)
    assert asked["stream_options"] == {"include_usage": True}


def test_what_is_piped_in_is_said(server: ChatServer) -> None:
    assert said(server, piped="a\nb\n").stdout == "user: a\nb \n"
    assert said(server, "Sum it up:", piped="a\nb\n").stdout == "user: Sum it up:\n\na\nb \n"
    assert said(server).exit_code == 2


def test_json_is_one_line(server: ChatServer) -> None:
    done = said(server, "hi", "--json", "--model", "echo")
    answer = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert answer["content"] == "user: hi "
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3}
    assert answer["finish_reason"] == "stop"
    assert answer["first_s"] >= 0


def test_a_key_is_shown(server: ChatServer) -> None:
    server.keyed = True
    refused = said(server, "hi")
    assert refused.exit_code == 1
    assert "Incorrect API key provided; give a key by --key" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert said(server, "hi", "--key", KEY).exit_code == 0
    assert said(server, "hi", PROTOPLANE_API_KEY=KEY).exit_code == 0
    assert said(server, "hi", OPENAI_API_KEY=KEY).exit_code == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("breaks", "UNAVAILABLE: the worker is gone"),
        ("cut", "ended the answer in its middle"),
        ("busy", "too many requests; try again in 7 s"),
        ("none", "NOT_FOUND: there is no model none"),
    ],
)
def test_a_failure_is_one_line(server: ChatServer, model: str, words: str) -> None:
    done = said(server, "hi", "--model", model)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    # What came before it is shown.
    assert done.stdout == ("user: hi \n" if model in ("breaks", "cut") else "")


def test_nobody_answers(server: ChatServer) -> None:
    url = server.url
    server.server_close()
    done = CliRunner().invoke(chat, ["--url", url, "hi"])
    assert done.exit_code == 1
    assert f"nothing answers at {url}: start it with protoplane up" in done.stderr


def test_no_stack_in_that_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(chat, ["--folder", str(tmp_path), "hi"])
    assert done.exit_code == 1
    assert f"start it with protoplane up --folder {tmp_path}" in done.stderr


def test_another_kind_of_server(server: ChatServer) -> None:
    # It answers with a page for people.
    for arguments in ((), ("--model", "echo")):
        done = CliRunner().invoke(chat, ["--url", f"{server.url}/page", "hi", *arguments])
        assert done.exit_code == 1
        assert "does not speak OpenAI's API" in done.stderr


@pytest.fixture
def dialogue(server: ChatServer) -> Iterator[Terminal]:
    with terminal("chat", "--url", server.url) as opened:
        yield opened


def test_a_dialogue(server: ChatServer, dialogue: Terminal) -> None:
    dialogue.until("› ")
    dialogue.type("one\n")
    assert "user: one" in dialogue.until("tokens/s")
    dialogue.type("two\n")
    # History is kept: the model is told all that was said.
    assert "user: two" in dialogue.until("tokens/s")
    assert [each["content"] for each in server.asked[1]["messages"]] == ["one", "user: one ", "two"]
    dialogue.type("/clear\n")
    dialogue.until("nothing was said")
    dialogue.type("three\n")
    dialogue.until("tokens/s")
    assert len(server.asked[2]["messages"]) == 1
    dialogue.type("/model\n")
    assert "● echo" in dialogue.until("busy")
    dialogue.type("/model busy\n")
    dialogue.until("busy answers now")
    dialogue.type("four\n")
    dialogue.until("too many requests")
    dialogue.type("/nothing\n")
    dialogue.until("there is no /nothing")
    dialogue.type("/help\n")
    dialogue.until("/quit")
    dialogue.type("/quit\n")
    assert dialogue.ends() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(
    server: ChatServer, dialogue: Terminal
) -> None:
    dialogue.until("› ")
    # readline prints the prompt a moment before it heeds signals.
    dialogue.until("/quit or Ctrl-D", again="\x03")
    # One more may still be on its way, and cuts the line that it meets.
    dialogue.until("/clear", again="/help\n")
    dialogue.type("/model endless\n")
    dialogue.until("answers now")
    dialogue.type("go on\n")
    dialogue.until("ever ever")
    dialogue.type("\x03")
    dialogue.until("stopped")
    assert server.hung_up.wait(LIMIT_S)
    dialogue.type("/model echo\n")
    dialogue.until("answers now")
    dialogue.type("again\n")
    dialogue.until("tokens/s")
    # What came before it was stopped stays said.
    assert server.asked[1]["messages"][1]["content"].startswith("for ever")
    dialogue.until("› ")
    dialogue.type("\x04")
    assert dialogue.ends() == 0


def test_ctrl_c_ends_one_message(server: ChatServer) -> None:
    with terminal("chat", "--url", server.url, "-m", "endless", "--plain", "go") as opened:
        opened.until("ever ever")
        opened.type("\x03")
        assert opened.ends() == 130
        assert server.hung_up.wait(LIMIT_S)


def test_markdown_is_shown_whole_in_the_end() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=60, height=10, color_system=None)
    with MarkdownScreen(console) as screen:
        for at in range(0, len(STORY), 5):
            screen.piece(STORY[at : at + 5])
    text = shown.getvalue()
    for part in ("A fox", "print('fox')", "print(2)", "• one", "• two"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a\n\nb", "a\n\n"),
        ("a\n\n", ""),
        ("a\nb", ""),
        ("- a\n\n- b\n", ""),
        ("1. a\n\n2. b\n\nc", "1. a\n\n2. b\n\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("```\n~~~\n\nb", ""),
    ],
)
def test_blocks_that_are_whole(text: str, whole: str) -> None:
    assert settled(text) == (whole, text.removeprefix(whole))


@given(st.text(st.sampled_from("ab \n`-~1."), max_size=60))
def test_no_text_is_lost(text: str) -> None:
    assert "".join(settled(text)) == text


def test_figures() -> None:
    answer = Answer(model="m", usage=Usage(prompt_tokens=5, completion_tokens=21), began=1.0)
    answer.first_at, answer.last_at, answer.finish_reason = 1.25, 2.25, "length"
    assert (
        figures(answer) == "m · 5 + 21 tokens · first after 250 ms · 20 tokens/s · ended by length"
    )
