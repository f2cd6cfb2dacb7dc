"""A chat of many messages, in a terminal."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping

from rich.console import Console

from protoplane_base import PlaneError
from protoplane_components.commands.chat_screen import Screen
from protoplane_components.commands.chat_stream import Answer, ChatServer, Message
from protoplane_runtime import terminal

_HELP = """\
/model [NAME]  another model, or which there are
/clear         forget what was said
/help          this
/quit          end, as Ctrl-D does; Ctrl-C stops an answer"""


class Chat:
    """What was said, and who answers.

    Args:
        server: Where the models are.
        model: Who answers.
        screen: Shows answers.
        system: What the model is told first.
        settings: More fields of each request.
    """

    def __init__(
        self,
        server: ChatServer,
        model: str,
        screen: Screen,
        *,
        system: str | None,
        settings: Mapping[str, float | int],
    ) -> None:
        self.server = server
        self.model = model
        self._screen = screen
        self._settings = settings
        self._first: list[Message] = (
            [] if system is None else [{"role": "system", "content": system}]
        )
        self.messages: list[Message] = [*self._first]

    def clear(self) -> None:
        """Forget what was said."""
        self.messages = [*self._first]

    def say(self, text: str) -> None:
        """Say something, and show the answer as it comes.

        What was said stays said where the answer was stopped; where it failed, it was not said.

        Raises:
            PlaneError: There is no answer.
            KeyboardInterrupt: It was stopped; it is shown as far as it came.
        """
        asked: Message = {"role": "user", "content": text}
        said = [*self.messages, asked]
        answer = Answer(model=self.model)
        try:
            with self._screen as screen:
                pieces = self.server.answer(answer, said, self.model, self._settings)
                for piece in pieces:
                    screen.piece(piece)
        except PlaneError:
            raise
        except KeyboardInterrupt:
            self._keep(asked, answer)
            self._screen.end(answer)
            raise
        self._keep(asked, answer)
        self._screen.end(answer)

    def _keep(self, asked: Message, answer: Answer) -> None:
        self.messages.append(asked)
        self.messages.append({"role": "assistant", "content": answer.text})


def converse(chat: Chat, console: Console) -> None:
    """Chat until the person ends it."""
    console.print(f"[bold]{chat.model}[/] at {chat.server.url}  [dim]/help says more[/]")
    _edit_lines()
    while True:
        try:
            line = input("› ").strip()
        except KeyboardInterrupt:
            console.print("\n[dim]/quit or Ctrl-D ends the chat[/]")
            continue
        except EOFError:
            console.print()
            return
        if line.startswith("/"):
            if not _command(chat, console, line):
                return
        elif line:
            _answered(chat, console, line)


def _answered(chat: Chat, console: Console, line: str) -> None:
    try:
        chat.say(line)
    except KeyboardInterrupt:
        # The screen has shown that it was stopped.
        pass
    except PlaneError as error:
        _complain(console, error)
    console.print()


def _command(chat: Chat, console: Console, line: str) -> bool:
    """Do what a line with a slash says; whether the chat goes on."""
    name, _, rest = line[1:].partition(" ")
    match name:
        case "quit" | "exit" | "q":
            return False
        case "clear":
            chat.clear()
            console.print("[dim]nothing was said[/]")
        case "model":
            _model(chat, console, rest.strip())
        case "help" | "?":
            console.print(_HELP, markup=False, highlight=False, style="dim")
        case _:
            console.print(f"there is no /{name}; /help says what there is", markup=False)
    return True


def _model(chat: Chat, console: Console, wanted: str) -> None:
    try:
        models = chat.server.models()
    except (PlaneError, KeyboardInterrupt) as error:
        if isinstance(error, PlaneError):
            _complain(console, error)
        return
    if wanted in models:
        chat.model = wanted
        console.print(f"[dim]{wanted} answers now[/]")
        return
    if wanted:
        console.print(f"there is no model {wanted!r}; there are:", markup=False, highlight=False)
    for model in models:
        mark = "●" if model == chat.model else " "
        console.print(f"{mark} {model}", markup=False, highlight=False)


def _complain(console: Console, error: PlaneError) -> None:
    console.print("error: ", style="bold red", end="")
    console.print(terminal.describe(error), markup=False, highlight=False, soft_wrap=True)


def _edit_lines() -> None:
    """Let ``input`` know keys for editing, and the lines before, where the system has them."""
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("readline")


def piped_text() -> str:
    """What was piped in."""
    return sys.stdin.read().strip()
