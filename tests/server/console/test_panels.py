"""The panels of the console in a real browser: what they show, and that it is live."""

from __future__ import annotations

import json

import httpx
import pytest
from tests.server.console.conftest import Site
from tests.server.console.looking import Look
from tests.server.console.served import KEY

CAPTION = "methods/forge.captioner.v1.CaptionerService/Caption"
SHOWN = "(document.querySelector('.answer:not([hidden])')?.innerText ?? '')"

BAD_REQUEST = "google.rpc.BadRequest"
FAULT = {"field": "max_words", "description": "it is too few"}


def field(name: str) -> str:
    """The selector of a field's input in the form of a method."""
    return f"#panel-methods .request [data-field={json.dumps(name)}] :is(input, textarea, select)"


def test_instances_come_and_go(look: Look, site: Site) -> None:
    look.hurry(5000)
    look.at(site.url)
    look.until("document.querySelector('[data-name=\"forge/captioner/site\"] .badge')")
    assert "this one" in look.text('[data-name="forge/captioner/site"]')
    assert look.run("document.title") == "forge/captioner/site · Protoplane"
    guest = "document.querySelector('[data-name=\"forge/captioner/guest\"]')"
    site.tell("join")
    where = site.where("joined")
    look.until(f"{guest} && !{guest}.classList.contains('gone')")
    assert look.run(f"{guest}.querySelector('a').href") == f"{where}/console"
    site.tell("leave")
    look.until(f"{guest}.classList.contains('gone')")
    look.until(f"!{guest}")
    told = look.text("#panel-instances .log")
    assert "joined" in told
    assert "left" in told


def test_a_form_calls_a_method_and_shows_what_streams(look: Look, site: Site) -> None:
    look.at(site.url, CAPTION)
    look.write(field("prompt"), "the sea")
    look.write(field("maxWords"), "3")
    look.click("Send")
    look.until(f"{SHOWN}.includes('ok')")
    replies = look.run(
        "[...document.querySelectorAll('#panel-methods .replies li')].map((each) => each.innerText)"
    )
    assert len(replies) == 3
    assert look.text("#panel-methods .status").startswith("ok 3 messages, ")
    look.run("document.querySelector('.request .switch input').click()")
    assert json.loads(look.run("document.querySelector('.request textarea.code').value")) == {
        "prompt": "the sea",
        "maxWords": 3,
    }


def test_an_error_is_shown_at_the_call_and_at_its_field(look: Look, site: Site) -> None:
    look.forgiven = {400}
    look.at(site.url, CAPTION)
    look.write(field("prompt"), "the sea")
    look.write(field("maxWords"), "-7")
    look.click("Send")
    look.until(f"{SHOWN}.includes('invalid_argument')")
    assert "(HTTP 400): max_words is -7" in look.run(SHOWN)
    # This component names no fields; one that does answers as this.
    details = [{"type": BAD_REQUEST, "debug": {"fieldViolations": [FAULT]}}]
    answer = {"code": "invalid_argument", "message": "it breaks a rule", "details": details}
    look.run(f"""window.fetch = async () => new Response(
        {json.dumps(json.dumps(answer))}, {{ status: 400 }})""")
    look.click("Send")
    problem = "document.querySelector('[data-field=maxWords] .problem')"
    look.until(f"{problem}.innerText === 'it is too few'")
    look.until("document.activeElement.closest('[data-field]')?.dataset.field === 'maxWords'")
    assert "max_words it is too few" in look.run(SHOWN)


def test_unary_streams_both_ways_and_curl(look: Look, site: Site) -> None:
    look.at(site.url, "methods/forge.captioner.v1.CaptionerService/ListStyles")
    look.click("Send")
    look.until(f"{SHOWN}.includes('STYLE_PLAIN')")
    look.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    look.click("Copy as curl")
    command = look.until("window.copied")
    assert f"{site.url}/forge.captioner.v1.CaptionerService/ListStyles'" in command
    assert "-d '{}'" in command
    look.go("methods/forge.captioner.v1.CaptionerService/Collect")
    look.until(f"{SHOWN} === ''")
    look.click("Add this message")
    look.click("Add this message")
    look.click("Send")
    look.until(f"{SHOWN}.includes('ok')")


def test_events_arrive_live_and_can_be_held(look: Look, site: Site) -> None:
    look.at(site.url, "events/forge/looks/**")
    look.until("document.querySelector('#panel-events .badge').innerText === 'live'")
    keys = "[...document.querySelectorAll('.events .key')].map((each) => each.innerText).join()"
    publish(site, "one")
    look.until(f"{keys} === 'forge/looks/one'")
    look.press("p")
    look.until("document.querySelector('#event-pause').innerText === 'Resume'")
    publish(site, "two")
    look.press("p")
    look.until(f"{keys} === 'forge/looks/two,forge/looks/one'")
    look.run("document.querySelector('.events summary').click()")
    look.until("document.querySelector('.events .json')?.innerText.includes('\"two\"')")
    look.write("#event-filter", "LOOKS/ONE")
    look.until(f"{keys} === 'forge/looks/one'")


def publish(site: Site, name: str) -> None:
    answer = httpx.post(
        f"{site.url}/events/forge/looks/{name}?type=forge.captioner.v1.CaptionFinished",
        json={"requestId": name, "words": 3},
        timeout=20,
    )
    answer.raise_for_status()


def test_a_list_of_events_stays_bounded(look: Look, site: Site) -> None:
    look.at(site.url, "events/forge/flood")
    look.until("document.querySelector('#panel-events .badge').innerText === 'live'")
    site.tell("flood")
    look.until("document.querySelector('#panel-events .bar .dim').innerText.startsWith('520 ')")
    assert look.run("document.querySelectorAll('.events > li').length") == 500
    assert '"words":519' in look.text(".events > li .peek")


def test_jobs_show_previews_and_their_image(look: Look, site: Site) -> None:
    look.at(site.url, "jobs")
    look.write("#job-prompt", "a red fox")
    look.write("#job-steps", "12")
    look.click("Submit")
    card = "document.querySelector('.job')"
    look.until(f"{card}?.querySelector('img').src.startsWith('data:image/png')")
    look.until(f"{card}.querySelector('img').src.startsWith('blob:')")
    look.until(f"{card}.querySelector('img').naturalWidth > 0")
    assert "a red fox" in look.text(".job")
    assert "succeeded" in look.text(".job")
    assert look.run(f"{card}.querySelector('a').download").endswith(".png")
    look.until("document.querySelector('#panel-jobs .summary').innerText.includes('1 finished')")


def test_a_job_is_cancelled(look: Look, site: Site) -> None:
    look.at(site.url, "jobs")
    look.write("#job-prompt", "an owl at night")
    look.write("#job-steps", "1000")
    look.click("Submit")
    card = (
        "[...document.querySelectorAll('.job')]"
        ".find((each) => each.innerText.includes('an owl at night'))"
    )
    look.until(f"{card}?.querySelector('progress').checkVisibility()")
    assert "sampling" in look.until(f"{card}.innerText.includes('sampling') && {card}.innerText")
    look.run(f"{card}.querySelector('button').click()")
    look.until(f"{card}.innerText.includes('cancelled')")
    assert not look.run(f"{card}.querySelector('progress').checkVisibility()")


def test_a_chat_streams_and_stops(look: Look, site: Site) -> None:
    look.at(site.url, "chat")
    look.until("document.querySelector('#chat-model').value === 'char-gru'")
    look.write("#chat-limit", "5")
    look.write("#chat-words", "The client ")
    look.click("Send")
    foot = "(document.querySelector('.turn.assistant:last-child .foot')?.innerText ?? '')"
    look.until(f"{foot}.includes('5 written') || {foot}.includes('stop')")
    said = look.run("document.querySelector('.turn.assistant .content').textContent")
    assert said
    # As a slow model would, so that there is something to stop.
    look.run("""(() => {
        const fetched = window.fetch;
        window.fetch = (url, options) => (String(url).endsWith("/Generate")
            ? new Promise((_, reject) => options.signal.addEventListener("abort",
                () => reject(new DOMException("", "AbortError"))))
            : fetched(url, options));
    })()""")
    look.write("#chat-words", "Again")
    look.run("document.querySelector('#chat-words').focus()")
    look.press("Enter")
    look.until("document.querySelectorAll('.turn').length === 4")
    look.press("Escape")
    look.until(f"{foot}.includes('stopped')")
    assert not look.run("document.querySelector('.say .main').disabled")


def test_a_gateway_is_talked_to_in_the_words_of_openai(look: Look, site: Site) -> None:
    look.forgiven = {401}
    look.visit(site.gateway, "chat")
    look.until("document.querySelector('dialog[open] #api-key')")
    look.write("#api-key", KEY)
    look.click("Use it", within="dialog[open]")
    look.until("document.querySelector('#connection').innerText.includes('connected')")
    look.until("document.querySelector('#chat-model').value")
    look.write("#chat-model", "char-gru")
    look.write("#chat-limit", "5")
    look.write("#chat-words", "The client ")
    look.click("Send")
    foot = "(document.querySelector('.turn.assistant .foot')?.innerText ?? '')"
    look.until(f"{foot}.includes('written')")
    assert look.run("document.querySelector('.turn.assistant .content').textContent")
    asked = look.run("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert f"{site.gateway}/v1/chat/completions" in asked


def test_metrics_are_drawn_and_told(look: Look, site: Site) -> None:
    look.at(site.url, "metrics")
    with httpx.Client(base_url=site.url, timeout=20) as http:
        for _ in range(20):
            http.get("/v1/styles").raise_for_status()
        look.until("document.querySelector('.line-0[d^=M]')")
        http.get("/v1/styles").raise_for_status()
    look.until(
        "document.querySelector('#panel-metrics figcaption').innerText.startsWith('calls: now')"
    )
    look.until("document.querySelector('#panel-metrics table')?.innerText.includes('ListStyles')")
    look.run("document.querySelector('.as-table summary').click()")
    look.until("document.querySelectorAll('.as-table table tr').length > 2")
    look.until("document.querySelector('#metrics-of').options.length > 2")


def test_what_is_elsewhere_is_linked(look: Look, site: Site) -> None:
    look.forgiven = {401}
    look.visit(site.guarded, "chat")
    look.until("document.querySelector('dialog[open] #api-key')")
    look.write("#api-key", "open-sesame")
    look.click("Use it", within="dialog[open]")
    look.until("document.querySelector('#connection').innerText.includes('connected')")
    link = "document.querySelector('#panel-chat .note a')"
    assert look.until(f"{link}?.href") == f"{site.gateway}/console#chat"
    look.go("jobs")
    assert look.until("document.querySelector('#panel-jobs .note a')?.href").endswith(
        "/console#jobs"
    )
    assert look.run("sessionStorage.getItem('protoplane.key')") == "open-sesame"
    assert not look.run("JSON.stringify(localStorage)").count("sesame")


def test_without_an_engine_it_says_so(look: Look, site: Site) -> None:
    look.at(site.alone)
    assert "has no engine" in look.text("#panel-instances .note")
    look.go("metrics")
    look.until("document.querySelectorAll('.line-0[d^=M]').length")


def test_it_comes_back_by_itself(look: Look, site: Site) -> None:
    look.at(site.fickle, "events/forge/looks/**")
    state = "document.querySelector('#connection').innerText"
    site.tell("away")
    site.until(lambda lines: "gone" in lines)
    look.until(f"{state}.includes('reconnecting')")
    site.tell("back")
    site.where("back")
    look.until(f"{state}.includes('connected')")
    look.until("document.querySelector('#panel-events .badge').innerText === 'live'")
    publish(site, "again")
    look.until("document.querySelector('.events .key')?.innerText === 'forge/looks/again'")
    assert "started anew" in look.text(".anew:not([hidden])")
    look.page.heard()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_and_a_switch(scheme: str, look: Look, site: Site) -> None:
    look.color_scheme(scheme)
    look.at(site.alone)

    def bright() -> bool:
        color: str = look.run("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.strip("rgb()").split(",")[:3]) > 384

    try:
        assert bright() is (scheme == "light")
        look.press("t")
        assert bright() is (scheme == "dark")
        look.visit(site.alone)
        assert bright() is (scheme == "dark"), "it is remembered"
    finally:
        look.run("localStorage.clear()")
