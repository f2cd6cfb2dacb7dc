"""The page ``/docs`` in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.interop.chromium import Chromium
from tests.interop.programs import Component

CAPTION = "/forge.captioner.v1.CaptionerService/Caption"
FIND = f"""[...document.querySelectorAll("details.op")]
    .find((each) => each.querySelector(".path").textContent === "{CAPTION}")"""


def test_it_shows_and_calls_the_api(chromium: Chromium, component: Component) -> None:
    with chromium.open(f"{component.url}/docs") as page:
        page.until(f"Boolean({FIND})")
        page.run(f"""(() => {{
            window.op = {FIND};
            op.open = true;
        }})()""")
        page.until("Boolean(op.querySelector('textarea'))")
        page.run("""(() => {
            op.querySelector("textarea").value = JSON.stringify({ prompt: "the sea", maxWords: 3 });
            op.querySelector("button").click();
        })()""")
        shown: str = page.until(
            "(({ textContent }) => textContent.includes('event: end') && textContent)"
            "(op.querySelector('pre'))"
        )
        assert shown.startswith("200 OK")
        assert shown.count("data: ") == 4
        asked = page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
        assert asked
        assert all(name.startswith(component.url) for name in asked), "it works offline"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_color_scheme(
    scheme: str, chromium: Chromium, component: Component, tmp_path: Path
) -> None:
    with chromium.open("about:blank#") as page:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.command("Emulation.setEmulatedMedia", features=[feature])
        page.visit(f"{component.url}/docs")
        page.until("document.querySelectorAll('details.op').length")
        colors: str = page.run("getComputedStyle(document.body).backgroundColor")
        bright = sum(int(part) for part in colors.strip("rgb()").split(",")) > 384
        assert bright is (scheme == "light")
        page.screenshot(tmp_path / f"docs-{scheme}.png")
