"""A tab in which the console is looked at, as a person would: by what is there and what keys do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from tests.interop.chromium import Page

_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35,
}  # fmt: skip
_PATIENCE_S = 30


class Look:
    """A tab.

    Args:
        page: The tab.

    Attributes:
        forgiven: Status codes of answers that the test means to get.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.forgiven: set[int] = set()
        self._origin = ""
        self._met: list[str] = []
        for domain in ("Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        page.command("Emulation.setFocusEmulationEnabled", enabled=True)
        page.command("Page.enable")

    def at(self, url: str, route: str = "") -> None:
        """Open the console of a component, and wait until it is connected."""
        self.visit(url, route)
        self.until("document.querySelector('#connection')?.textContent.includes('connected')")

    def visit(self, url: str, route: str = "") -> None:
        """Open the console of a component."""
        self._origin = url
        self.page.visit(f"{url}/console{f'#{route}' if route else ''}")
        self.until("document.querySelector('[role=tab]')")

    def hurry(self, pause_ms: int) -> None:
        """Make one kind of pause short, in pages that are opened from now on."""
        self.page.command(
            "Page.addScriptToEvaluateOnNewDocument",
            source=f"""{{
                const later = window.setTimeout;
                window.setTimeout = (call, ms) => later(call, ms === {pause_ms} ? 300 : ms);
            }}""",
        )

    def go(self, route: str) -> None:
        """Go to another panel."""
        self.page.run(f"location.hash = {json.dumps(route)}")
        panel = route.partition("/")[0]
        self.until(f"!document.querySelector('#panel-{panel}').hidden")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.page.run(script)

    def until(self, script: str) -> Any:
        """Wait until an expression is true, and return it; of an element, that it is there."""
        found = f"((found) => found instanceof Node || found)({script})"
        return self.page.until(found, _PATIENCE_S)

    def text(self, selector: str) -> str:
        """What is written in an element that is there."""
        return str(self.until(f"document.querySelector({json.dumps(selector)})?.innerText"))

    def click(self, words: str, within: str = "main") -> None:
        """Press the button, or follow the link, with these words."""
        found = (
            f"[...document.querySelectorAll({json.dumps(f'{within} button, {within} a')})]"
            f".find((each) => each.checkVisibility()"
            f" && each.innerText.trim().startsWith({json.dumps(words)}))"
        )
        self.until(f"Boolean({found})")
        self.run(f"{found}.click()")

    def write(self, selector: str, value: str) -> None:
        """Give a field a value, as if it were typed or chosen."""
        self.until(f"Boolean(document.querySelector({json.dumps(selector)}))")
        self.run(f"""(() => {{
            const field = document.querySelector({json.dumps(selector)});
            field.value = {json.dumps(value)};
            for (const name of ["input", "change"]) {{
                field.dispatchEvent(new Event(name, {{ bubbles: true }}));
            }}
        }})()""")

    def press(self, key: str, *, ctrl: bool = False, shift: bool = False) -> None:
        """Press a key."""
        code = _KEYS.get(key, ord(key.upper()[0]))
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        common = {
            "key": key, "windowsVirtualKeyCode": code, "modifiers": 2 * ctrl + 8 * shift,
        }  # fmt: skip
        kind = "keyDown" if text and not ctrl else "rawKeyDown"
        self.page.command("Input.dispatchKeyEvent", type=kind, **common, **text)
        self.page.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def focused(self) -> str:
        """Which element has the focus: its id, else what is written in it."""
        return str(self.run("document.activeElement.id || document.activeElement.innerText.trim()"))

    def color_scheme(self, scheme: str) -> None:
        """Pretend that the system is light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.page.command("Emulation.setEmulatedMedia", features=[feature])

    def size(self, width: int, height: int) -> None:
        """Pretend that the window has this size."""
        self.page.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def at_peace(self) -> None:
        """Nothing failed in the page, and nobody but the component was asked for anything."""
        for name, told in self.page.heard():
            if name == "Runtime.exceptionThrown":
                self._met.append(str(told["exceptionDetails"]))
            elif name == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
                self._met.append(str(told["args"]))
            elif name == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                words = f"{told['entry']['text']} {told['entry'].get('url', '')}"
                if not any(f"status of {code} " in words for code in self.forgiven):
                    self._met.append(words)
            elif name == "Network.requestWillBeSent":
                url = urlsplit(str(told["request"]["url"]))
                asked = f"{url.scheme}://{url.netloc}"
                if url.scheme not in ("data", "blob", "about") and asked != self._origin:
                    self._met.append(f"asks {url.geturl()}")
        assert not self._met
