"""The console by keyboard, on a small screen, and its forms with every kind of field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.server.console.conftest import Site
from tests.server.console.looking import Look

PANELS = ("instances", "methods", "events", "jobs", "chat", "metrics")
GENERATE = "methods/protoplane.inference.v1.InferenceService/Generate"

# What a form must be able to hold, each of a type that the site serves.
MESSAGES: list[tuple[str, dict[str, Any]]] = [
    (
        "protoplane.inference.v1.InferRequest",
        {
            "model": "lexical",
            "inputs": [
                {
                    "name": "TEXT",
                    "datatype": "DATA_TYPE_BYTES",
                    "shape": ["1", "-1"],
                    "contents": "AQAAAGE=",
                },
                {"datatype": "DATA_TYPE_INT8"},
            ],
            "outputs": ["a", ""],
            "priority": -3,
            "sequence": {"id": "s", "start": True, "end": False},
        },
    ),
    (
        "protoplane.inference.v1.GenerateRequest",
        {
            "conversation": {"messages": [{"role": "user", "content": "Say\nhello"}]},
            "sampling": {"temperature": 0.5, "seed": "18446744073709551615", "stop": ["."]},
        },
    ),
    ("protoplane.inference.v1.GenerateRequest", {"prompt": ""}),
    ("protoplane.inference.v1.GenerateRequest", {"sampling": {}, "progress": False}),
    (
        "protoplane.v1.Instance",
        {
            "name": "a/b",
            "metadata": {"one": "1", "two": ""},
            "load": "NaN",
            "startedAt": "2026-01-31T12:00:00.123456789Z",
            "entityId": "AAEC",
        },
    ),
    (
        "protoplane.jobs.v1.GenerateRequest",
        {"prompt": "x", "timeLimit": "1.5s", "guidanceScale": 7.5},
    ),
    (
        "inference.ModelInferRequest",
        {"parameters": {"a": {"boolParam": True}, "b": {"int64Param": "7"}}},
    ),
]


@pytest.mark.parametrize(("type_", "message"), MESSAGES)
def test_a_form_gives_what_it_was_given(
    type_: str, message: dict[str, Any], look: Look, site: Site
) -> None:
    look.at(site.url)
    given = look.run(f"""(async () => {{
        const {{ Schemas }} = await import("./console/schema.js");
        const {{ messageForm }} = await import("./console/form.js");
        const {{ schemas }} = await (await fetch("./console/api.json")).json();
        const known = new Schemas(schemas);
        const form = messageForm(known, known.message({json.dumps(type_)}));
        document.querySelector("main").replaceChildren(form.node);
        form.set({json.dumps(message)});
        return form.get();
    }})()""")
    assert given == message
    unnamed = look.run("""[...document.querySelectorAll("main :is(input, select, textarea)")]
        .filter((each) => each.tabIndex >= 0)
        .filter((each) => !each.labels?.length && !each.getAttribute("aria-label")).length""")
    assert unnamed == 0


def test_what_a_field_cannot_take_is_said_there(look: Look, site: Site) -> None:
    look.at(site.url, "methods/protoplane.jobs.v1.JobsService/Generate")
    steps = '[data-field="steps"]'
    look.write(f"{steps} input", "many")
    look.click("Send")
    look.until(
        f"""document.querySelector('{steps} .problem').innerText === 'a whole number is needed'"""
    )
    assert look.run(f"document.activeElement === document.querySelector('{steps} input')")
    assert (
        look.run(f"document.querySelector('{steps} input').getAttribute('aria-invalid')") == "true"
    )
    look.write(f"{steps} input", "5")
    assert look.run(f"document.querySelector('{steps} .problem').hidden")


def test_json_and_the_form_are_one(look: Look, site: Site) -> None:
    look.at(site.url, GENERATE)
    switch = "document.querySelector('.request .switch input')"
    raw = ".request textarea.code"
    look.until(switch)
    look.run(f"{switch}.click()")
    look.write(raw, '{"prompt": "a", "sampling": {"topK": 4}}')
    look.run(f"{switch}.click()")
    assert look.run("document.querySelector('.oneof select').value") == "prompt"
    assert look.run("document.querySelector('[data-field=topK] input').value") == "4"
    look.run(f"{switch}.click()")
    look.write(raw, '{"nobody": "knows this"}')
    look.run(f"{switch}.click()")
    assert look.run(f"{switch}.checked")
    assert "cannot show all of this" in look.text(".request > .problem")
    look.write(raw, "{")
    look.click("Send")
    look.until("document.querySelector('.request > .problem').innerText.includes('no JSON')")


def test_the_whole_page_is_reached_by_keys(look: Look, site: Site) -> None:
    look.at(site.url)
    look.press("Tab")
    assert look.focused() == "Skip to the content"
    walked: list[str] = []
    for _ in range(4):
        look.press("Tab")
        walked.append(look.focused())
    assert walked == ["API key", "Colours: as the system", "Keys", "tab-instances"]
    for panel in PANELS[1:]:
        look.press("ArrowRight")
        look.until(f"document.activeElement.id === 'tab-{panel}'")
        look.until(f"!document.querySelector('#panel-{panel}').hidden")
    look.press("ArrowRight")
    look.until("document.activeElement.id === 'tab-instances'")
    look.press("End")
    look.until("document.activeElement.id === 'tab-metrics'")
    look.until("!document.querySelector('#panel-metrics').hidden")
    # One stop for all tabs: the next is in the panel.
    look.press("Tab")
    assert look.focused() == "metrics-of"
    outline = look.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"


def test_keys_do_what_the_list_says(look: Look, site: Site) -> None:
    look.at(site.url)
    for number, panel in enumerate(PANELS, 1):
        look.press(str(number))
        look.until(f"!document.querySelector('#panel-{panel}').hidden")
    look.press("2")
    look.until("!document.querySelector('#panel-methods').hidden")
    look.press("/")
    look.until("document.activeElement.id === 'method-filter'")
    look.press("3")
    assert look.run("document.activeElement.value") == "3", "it is typed, not taken for a shortcut"
    look.press("Escape")
    look.until("document.activeElement === document.body")
    look.press("?", shift=True)
    look.until("document.querySelector('dialog[open]')")
    look.press("Escape")
    look.until("!document.querySelector('dialog[open]')")
    look.press("k")
    look.until("document.activeElement.id === 'api-key'")
    look.press("Escape")
    look.run("localStorage.setItem('protoplane.shortcuts', 'off')")
    look.press("1")
    assert look.run("document.querySelector('#panel-instances').hidden"), "they can be turned off"
    look.run("localStorage.clear()")


def test_a_call_is_sent_by_keys(look: Look, site: Site) -> None:
    look.at(site.url, "methods/protoplane.jobs.v1.JobsService/Ping")
    look.until("document.querySelector('.request [data-field=nonce] textarea')")
    look.run("document.querySelector('.request [data-field=nonce] textarea').focus()")
    look.press("7")
    look.press("Enter", ctrl=True)
    look.until(
        "document.querySelector('.answer:not([hidden])')?.innerText.includes('\"nonce\": \"7\"')"
    )


def test_nothing_is_wider_than_a_telephone(look: Look, site: Site) -> None:
    look.size(375, 740)
    look.at(site.url)
    for panel in (*PANELS, GENERATE):
        look.go(panel)
        look.until(
            f"document.querySelector('#panel-{panel.partition('/')[0]}').innerText.length > 20"
        )
        wide = look.run("""[document.documentElement.scrollWidth, ...[...document.querySelectorAll(
            "main :is(button, input, select, textarea, h2, h3, p, article, figure)")]
            .filter((each) => each.checkVisibility())
            .filter((each) => !each.closest(".scrolls, .json, .offscreen"))
            .map((each) => Math.round(each.getBoundingClientRect().right))]""")
        assert max(wide) <= 375, panel
    small = look.run("""[...document.querySelectorAll("[role=tab]")]
        .filter((each) => each.getBoundingClientRect().height < 40).length""")
    assert small == 0, "tabs are large enough for thumbs"


def test_nothing_moves_for_who_wants_none_of_it(look: Look, site: Site) -> None:
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    look.page.command("Emulation.setEmulatedMedia", features=[feature])
    look.at(site.url)
    look.until("document.querySelector('.instance')")
    moving = look.run("""[...document.querySelectorAll("*")].filter((each) => {
        const { animationName, transitionDuration } = getComputedStyle(each);
        return animationName !== "none" || transitionDuration !== "0s";
    }).length""")
    assert moving == 0
