"""Routes of ``google.api.http``: templates, queries, bodies."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.server.http.board import running

from forge.captioner.v1 import CaptionFinished, CaptionRequest
from protoplane_base import Code, PlaneError
from protoplane_server.http.parameters import descriptor_of, fill
from protoplane_server.http.templates import parse_template


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/styles", "/v1/styles", {}),
        ("/v1/styles", "/v1/styles/", None),
        ("/v1/{name}", "/v1/a%20b%2Fc", {"name": "a b/c"}),
        ("/v1/{name}", "/v1/a/b", None),
        ("/v1/{name}", "/v1/", None),
        ("/v1/{name=models/*}", "/v1/models/x", {"name": "models/x"}),
        ("/v1/{name=models/*}:load", "/v1/models/x:load", {"name": "models/x"}),
        ("/v1/{name=models/*}:load", "/v1/models/x:drop", None),
        ("/v1/{name=**}", "/v1/a/b%2Fc/d%20e", {"name": "a/b%2Fc/d e"}),
        ("/v1/{a.b}/x/{c}", "/v1/1/x/2", {"a.b": "1", "c": "2"}),
        ("/v1/*/end", "/v1/any/end", {}),
        ("/v1/**", "/v1/any/end", {}),
        ("/v1.0/x", "/v1a0/x", None),
    ],
)
def test_templates(template: str, path: str, values: dict[str, str] | None) -> None:
    assert parse_template(template).match(path) == values


@pytest.mark.parametrize("template", ["v1", "/v1/{name", "/v1/name}", "/v1/a*", "/{a={b}}"])
def test_malformed_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="path template"):
        parse_template(template)


def test_the_more_specific_template_weighs_more() -> None:
    templates = ["/v1/{a=**}", "/v1/{a}", "/v1/{a=models/*}", "/v1/{a=models/*}:load", "/v1/x/{a}"]
    weights = [parse_template(text).weight for text in templates]
    assert weights[0] == min(weights)
    assert weights[3] == max(weights)


def test_parameters_become_protojson() -> None:
    document: dict[str, Any] = {}
    parameters = [
        ("prompt", "1"),
        ("max_words", "7"),
        ("seed", "18446744073709551615"),
        ("style", "2"),
    ]
    fill(document, descriptor_of(CaptionRequest), parameters)
    assert document == {
        "prompt": "1", "maxWords": "7", "seed": "18446744073709551615", "style": 2
    }  # fmt: skip
    document = {}
    fill(document, descriptor_of(CaptionFinished), [("finishedAt", "2026-01-01T00:00:00Z")])
    assert document == {"finishedAt": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("path", ["nope", "prompt.x", "a.b", ""])
def test_an_unknown_parameter_is_named(path: str) -> None:
    with pytest.raises(PlaneError) as caught:
        fill({}, descriptor_of(CaptionRequest), [(path, "1")])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.details


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verb", "path", "body", "expected"),
    [
        ("POST", "/v1/say", {"prompt": "a"}, {"text": "a"}),
        ("GET", "/v1/prompts/7:say?max_words=2", None, {"text": "prompts/7", "chunks": 2}),
        ("GET", "/v1/prompts/7:say?style=STYLE_VIVID", None, {"text": "prompts/7", "chunks": 2}),
        ("GET", "/v1/deep/a/b", None, "a/b"),
        ("PUT", "/v1/plain/p?seed=3", 5, {"text": "p", "chunks": 5}),
        (
            "GET",
            "/v1/finish/r?words=2&finished_at=2026-01-01T00%3A00%3A00Z",
            None,
            {"requestId": "r", "words": 2, "finishedAt": "2026-01-01T00:00:00Z"},
        ),
    ],
)
async def test_routes(verb: str, path: str, body: Any, expected: Any) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.request(verb, path, json=body) if body else await http.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verb", "path", "status", "says"),
    [
        ("GET", "/v1/prompts/7:say?nope=2", 400, "no field 'nope'"),
        ("GET", "/v1/prompts/7:say?max_words=many", 400, "maxWords"),
        ("GET", "/v1/prompts/fail:say", 200, ""),
        ("DELETE", "/v1/say", 405, "POST"),
        ("POST", "/v1/say?seed=1", 400, "cannot be in the query"),
        ("GET", "/v2/none", 404, "nothing is served"),
    ],
)
async def test_bad_requests_of_routes(verb: str, path: str, status: int, says: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.request(verb, path)
        assert answer.status_code == status, answer.text
        assert says in answer.text


@pytest.mark.anyio
async def test_a_streaming_route_answers_as_events() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        answer = await http.get("/v1/tell/a%20b")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.startswith('data: {"text":"a"}\n\n')
