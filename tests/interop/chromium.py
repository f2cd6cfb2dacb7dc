"""Chromium without a window, driven by the DevTools protocol over a pipe.

Source: https://chromedevtools.github.io/devtools-protocol/. With ``--remote-debugging-pipe`` the
browser reads commands from file descriptor 3 and writes answers to 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

_AT_THREE_AND_FOUR = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A test makes its certificates itself.
    "--ignore-certificate-errors",
    "--remote-debugging-pipe",
]


class Chromium:
    """A browser, until it is left.

    Args:
        path: The program.
        folder: Where it keeps what it knows.
    """

    def __init__(self, path: str, folder: Path) -> None:
        reads, self._commands = os.pipe()
        self._answers, writes = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _AT_THREE_AND_FOUR, *map(str, ends)),
                    *(path, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=ends,
                start_new_session=True,
            )
        for end in (reads, writes, *ends):
            os.close(end)
        self._log = folder / "log"
        self._unread = b""
        self._last = 0
        self._heard: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.command("Browser.close")
            self._process.wait(5)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)
        os.close(self._commands)
        os.close(self._answers)

    def command(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._last += 1
        command: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._read(time.monotonic() + 20)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self._heard.append(answer)

    def heard(self, session: str) -> list[tuple[str, dict[str, Any]]]:
        """What a tab told by itself since the last time, of what it was enabled to tell."""
        told = [each for each in self._heard if each.get("sessionId") == session]
        self._heard = [each for each in self._heard if each.get("sessionId") != session]
        return [(each["method"], each["params"]) for each in told]

    def open(self, url: str) -> Page:
        """Open a page in a tab of its own, and wait until it is there."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, target, attached["sessionId"])
        page.visit(url)
        return page

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            some = os.read(self._answers, 1 << 20) if ready else b""
            assert some, f"chromium says nothing; its log:\n{self._log.read_text()[-2000:]}"
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Page:
    """A tab; get one from `Chromium.open`, and leave it to close it."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.command("Target.closeTarget", targetId=self._target)

    def visit(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        went = self.command("Page.navigate", url=url)
        assert "errorText" not in went, went
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this tab and wait for its answer."""
        return self._browser.command(method, self._session, **parameters)

    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        """What the tab told by itself since the last time: name and parameters of each event."""
        return self._browser.heard(self._session)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, timeout_s: float = 10) -> Any:
        """Wait until an expression is true, or whatever counts as true, and return it."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"it does not come true: {script}"
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path) -> None:
        """Write what the tab looks like as a PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))
