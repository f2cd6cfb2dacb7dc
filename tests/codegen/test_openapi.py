"""OpenAPI documents: legal, complete, and with the paths that google.api.http means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from tests.codegen.documents import Schema, references, resolve

from protoplane_codegen.api import Api
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.render.openapi import render_openapi
from protoplane_codegen.render.transcoding import parse_path

CompileApi = Callable[[dict[str, str]], Api]

HEAD = """
    syntax = "proto3";
    package acme.store.v1;
    import "google/api/annotations.proto";
    import "google/protobuf/empty.proto";
    import "google/protobuf/field_mask.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    import "protoplane/v1/annotations.proto";
    """

STORE = {
    "acme/store/v1/store.proto": "// A store of models."
    + HEAD
    + """
    // Keeps models. Loads them too.
    service ModelStore {
      option (protoplane.v1.component).name = "acme/store";

      // Finds one model. It has to exist.
      rpc GetModel(GetModelRequest) returns (Model) {
        option idempotency_level = NO_SIDE_EFFECTS;
        option (google.api.http) = {
          get: "/v1/{name=models/*}"
          additional_bindings { get: "/v1/{name=shelves/*/models/*}" response_body: "labels" }
        };
      }

      rpc LoadModel(LoadModelRequest) returns (google.protobuf.Empty) {
        option deprecated = true;
        option (google.api.http) = { post: "/v1/models/{model_id}:load" body: "*" };
      }

      rpc UpdateModel(UpdateModelRequest) returns (Model) {
        option (google.api.http) = { patch: "/v1/{model.name=models/*}" body: "model" };
      }

      rpc DeleteModel(DeleteModelRequest) returns (google.protobuf.Empty) {
        option (google.api.http) = { delete: "/v1/models/{id}" };
      }

      rpc ListFiles(ListFilesRequest) returns (stream File) {
        option (google.api.http) = { get: "/v1/files/{path=**}" };
      }

      // Talks.
      rpc Talk(stream Model) returns (stream Model);

      rpc Upload(stream Model) returns (Model) {
        option (google.api.http) = { post: "/v1/upload" body: "*" };
      }

      rpc Watch(GetModelRequest) returns (stream Model);

      rpc Plain(google.protobuf.StringValue) returns (google.protobuf.Struct);
    }

    message GetModelRequest {
      // The model's name.
      string name = 1;
      Page page = 2;
      repeated string some_tags = 3 [deprecated = true];
      // Only what is newer.
      google.protobuf.Timestamp since = 4;
      google.protobuf.FieldMask mask = 5;
      google.protobuf.Int64Value limit = 6;
      Kind kind = 7;
      map<string, string> no_map = 8;
      repeated Page no_messages = 9;
      google.protobuf.Struct no_struct = 10;
      uint64 at_least = 11;
    }
    message Page { int32 page_size = 1; string token = 2; Page next = 3; }
    message LoadModelRequest {
      string model_id = 1;
      bool force = 2;
      oneof where { string device = 3; int32 slot = 4; }
    }
    message UpdateModelRequest { Model model = 1; bool dry_run = 2; }
    message DeleteModelRequest { string id = 1; }
    message ListFilesRequest { string path = 1; }
    // A file.
    message File { string path = 1; bytes data = 2; }
    // A model. With weights.
    message Model { string name = 1; map<string, string> labels = 2; }
    // A model is there.
    message ModelLoaded {
      option (protoplane.v1.event) = { key: "acme/models/{name}" retention: RETENTION_DURABLE };
      string name = 1;
    }
    enum Kind { KIND_UNSPECIFIED = 0; KIND_BIG = 1; }
    """,
}


@pytest.fixture
def store(compile_api: CompileApi) -> dict[str, Any]:
    return render(compile_api(STORE), "acme.store.v1")


def render(api: Api, package: str) -> dict[str, Any]:
    document = render_openapi(api, package)
    assert document is not None
    validate(document)
    for reference in references(document):
        resolve(document, reference)
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    return document


def service(methods: str, more: str = "") -> dict[str, str]:
    return {"s.proto": HEAD + f"service S {{ {methods} }} {more}"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


def parameters(operation: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    return {p["name"]: p for p in operation.get("parameters", ()) if p["in"] == where}


def body(operation: dict[str, Any]) -> Any:
    return operation["requestBody"]["content"]["application/json"]["schema"]


def test_the_validator_can_refuse(store: dict[str, Any]) -> None:
    del store["info"]["version"]
    with pytest.raises(OpenAPIValidationError):
        validate(store)


def test_info_and_tags(store: dict[str, Any]) -> None:
    assert store["openapi"].startswith("3.1.")
    assert store["info"] == {
        "title": "acme.store.v1",
        "version": "v1",
        "description": "A store of models.",
    }
    assert store["tags"] == [
        {
            "name": "ModelStore",
            "description": "Keeps models. Loads them too.",
            "x-protoplane-component": "acme/store",
        },
        {"name": "events", "description": "What the component publishes."},
    ]


def test_operations(store: dict[str, Any]) -> None:
    base = "/acme.store.v1.ModelStore"
    assert {(path, verb): op["operationId"] for path, verb, op in operations(store)} == {
        ("/v1/models/{name}", "get"): "ModelStore_GetModel",
        ("/v1/shelves/{name.1}/models/{name.2}", "get"): "ModelStore_GetModel_2",
        ("/v1/models/{model_id}:load", "post"): "ModelStore_LoadModel",
        ("/v1/models/{name}", "patch"): "ModelStore_UpdateModel",
        ("/v1/models/{name}", "delete"): "ModelStore_DeleteModel",
        ("/v1/files/{path}", "get"): "ModelStore_ListFiles",
        (f"{base}/Talk", "post"): "ModelStore_Talk",
        (f"{base}/Upload", "post"): "ModelStore_Upload",
        (f"{base}/Watch", "post"): "ModelStore_Watch",
        (f"{base}/Plain", "post"): "ModelStore_Plain",
        ("/events/{key}", "get"): "events",
    }


def test_get(store: dict[str, Any]) -> None:
    get = store["paths"]["/v1/models/{name}"]["get"]
    assert get["tags"] == ["ModelStore"]
    assert get["summary"] == "Finds one model"
    assert get["description"] == "Finds one model. It has to exist."
    assert get["x-protoplane-idempotency"] == "no_side_effects"
    assert parameters(get, "path") == {
        "name": {
            "name": "name",
            "in": "path",
            "required": True,
            "description": "The model's name.\n\nA part of `name`, which is `models/{name}`.",
            "schema": {"type": "string"},
        }
    }
    assert "requestBody" not in get
    assert get["responses"]["200"] == {
        "description": "A model",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/acme.store.v1.Model"}}
        },
    }


def test_query(store: dict[str, Any]) -> None:
    query = parameters(store["paths"]["/v1/models/{name}"]["get"], "query")
    assert {name: each["schema"] for name, each in query.items()} == {
        "page.pageSize": {
            "type": "integer",
            "format": "int32",
            "minimum": -(2**31),
            "maximum": 2**31 - 1,
        },
        "page.token": {"type": "string"},
        "someTags": {"type": "array", "items": {"type": "string"}},
        "since": {"$ref": "#/components/schemas/google.protobuf.Timestamp"},
        "mask": {"$ref": "#/components/schemas/google.protobuf.FieldMask"},
        "limit": {"$ref": "#/components/schemas/google.protobuf.Int64Value"},
        "kind": {"$ref": "#/components/schemas/acme.store.v1.Kind"},
        "atLeast": {
            "type": ["string", "integer"],
            "format": "uint64",
            "pattern": "^(?:0|[1-9][0-9]{0,19})$",
            "minimum": 0,
            "maximum": 2**64 - 1,
        },
    }
    assert query["someTags"]["deprecated"] is True
    assert query["since"]["description"] == "Only what is newer."


def test_additional_binding(store: dict[str, Any]) -> None:
    get = store["paths"]["/v1/shelves/{name.1}/models/{name.2}"]["get"]
    described = parameters(get, "path")["name.2"]["description"]
    assert described.endswith("which is `shelves/{name.1}/models/{name.2}`.")
    reply = get["responses"]["200"]["content"]["application/json"]["schema"]
    assert reply == {"type": "object", "additionalProperties": {"type": "string"}}


def test_body_is_what_the_path_leaves(store: dict[str, Any]) -> None:
    load = store["paths"]["/v1/models/{model_id}:load"]["post"]
    assert load["deprecated"] is True
    assert not parameters(load, "query")
    schema = Schema(body(load))
    schema.validate({"force": True, "slot": 1})
    assert not schema.is_valid({"modelId": "x"})
    assert not schema.is_valid({"slot": 1, "device": "x"})


def test_body_is_one_field(store: dict[str, Any]) -> None:
    update = store["paths"]["/v1/models/{name}"]["patch"]
    assert body(update) == {"$ref": "#/components/schemas/acme.store.v1.Model"}
    assert list(parameters(update, "query")) == ["dryRun"]


def test_paths_of_one_shape_share_their_names(store: dict[str, Any]) -> None:
    delete = store["paths"]["/v1/models/{name}"]["delete"]
    assert parameters(delete, "path")["name"]["description"] == "The field `id`."


def test_path_over_several_segments(store: dict[str, Any]) -> None:
    path = parameters(store["paths"]["/v1/files/{path}"]["get"], "path")["path"]
    assert "several segments" in path["description"]


def test_streamed_replies(store: dict[str, Any]) -> None:
    http = store["paths"]["/v1/files/{path}"]["get"]["responses"]["200"]["content"]
    assert list(http) == ["text/event-stream"]
    events = http["text/event-stream"]["x-protoplane-events"]
    assert events["message"]["data"] == {"$ref": "#/components/schemas/acme.store.v1.File"}
    assert events["error"]["data"] == {"$ref": "#/components/schemas/Error"}
    Schema(events["end"]["data"]).validate({"metadata": {"a": "b"}})
    watch = store["paths"]["/acme.store.v1.ModelStore/Watch"]["post"]
    both = {"application/json", "application/connect+json"}
    assert set(watch["requestBody"]["content"]) == both
    assert set(watch["responses"]["200"]["content"]) == {
        "text/event-stream",
        "application/connect+json",
    }


@pytest.mark.parametrize("name", ["Talk", "Upload"])
def test_streamed_requests(store: dict[str, Any], name: str) -> None:
    operation = store["paths"][f"/acme.store.v1.ModelStore/{name}"]["post"]
    assert "cannot be called with plain JSON" in operation["description"]
    assert list(operation["requestBody"]["content"]) == ["application/connect+json"]
    assert list(operation["responses"]["200"]["content"]) == ["application/connect+json"]


def test_plain_path(store: dict[str, Any]) -> None:
    plain = store["paths"]["/acme.store.v1.ModelStore/Plain"]["post"]
    assert body(plain) == {"$ref": "#/components/schemas/google.protobuf.StringValue"}
    assert store["components"]["schemas"]["google.protobuf.StringValue"]["type"] == "string"


def test_errors(store: dict[str, Any]) -> None:
    for _, _, operation in operations(store):
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    schema = Schema(store["components"]["schemas"]["Error"])
    schema.validate({"code": "invalid_argument", "message": "no"})
    schema.validate({"code": "canceled", "details": [{"type": "a.B", "value": "AA", "debug": {}}]})
    assert not schema.is_valid({"code": "INVALID_ARGUMENT"})
    assert not schema.is_valid({"message": "no"})


def test_events(store: dict[str, Any]) -> None:
    events = store["paths"]["/events/{key}"]["get"]
    assert set(parameters(events, "header")) == {"Last-Event-ID"}
    stream = events["responses"]["200"]["content"]["text/event-stream"]["x-protoplane-events"]
    assert stream["acme.store.v1.ModelLoaded"] == {
        "summary": "A model is there",
        "key": "acme/models/{name}",
        "data": {"$ref": "#/components/schemas/acme.store.v1.ModelLoaded"},
    }
    gap = Schema(stream["gap"]["data"])
    gap.validate({"asked": "1-5", "oldest": None, "next": "1-9"})
    assert not gap.is_valid({"asked": "1-5"})


def test_same_every_time(compile_api: CompileApi) -> None:
    once, again = (render_openapi(compile_api(STORE), "acme.store.v1") for _ in range(2))
    assert json.dumps(once) == json.dumps(again)


def test_nothing_to_call(compile_api: CompileApi) -> None:
    api = compile_api({"x.proto": 'syntax = "proto3"; package x; message X {} service S {}'})
    assert render_openapi(api, "x") is None


def test_no_version(compile_api: CompileApi) -> None:
    api = compile_api(
        {"x.proto": 'syntax = "proto3"; message X {} service S { rpc M(X) returns (X); }'}
    )
    document = render(api, "")
    assert document["info"]["version"] == "unversioned"
    assert list(document["paths"]) == ["/S/M"]


def test_own_error_message(compile_api: CompileApi) -> None:
    api = compile_api(
        {
            "x.proto": 'syntax = "proto3"; message Error { string mine = 1; }'
            "service S { rpc M(Error) returns (Error); }"
        }
    )
    document = render(api, "")
    schemas = document["components"]["schemas"]
    assert "mine" in schemas["Error"]["properties"]
    response = document["components"]["responses"]["Error"]["content"]["application/json"]
    assert response["schema"] == {"$ref": "#/components/schemas/Connect-Error"}


def test_single_and_spanning_paths_stand_together(compile_api: CompileApi) -> None:
    api = compile_api(
        service(
            """
            rpc One(X) returns (X) { option (google.api.http).get = "/v1/{name}"; }
            rpc All(X) returns (X) { option (google.api.http).get = "/v1/{name=**}"; }
            """,
            "message X { string name = 1; }",
        )
    )
    assert list(render(api, "acme.store.v1")["paths"]) == ["/v1/{name}", "/v1/{name.all}"]


def test_documents_can_be_merged(compile_api: CompileApi, store: dict[str, Any]) -> None:
    """Two packages never mean different schemas by one name, nor different events."""
    text = STORE["acme/store/v1/store.proto"]
    # The annotations are version 1 of their own package.
    text = text.replace("v1", "v2").replace("protoplane/v2", "protoplane/v1")
    text = text.replace("protoplane.v2", "protoplane.v1")
    second = render(compile_api({"acme/store/v2/store.proto": text}), "acme.store.v2")
    for name, schema in second["components"]["schemas"].items():
        assert store["components"]["schemas"].get(name, schema) == schema
    assert set(second["paths"]) & set(store["paths"]) == {"/events/{key}"}


def test_operation_ids_stay_apart(compile_api: CompileApi) -> None:
    api = compile_api(
        {
            "x.proto": """
            syntax = "proto3";
            message X {}
            service A_B { rpc C(X) returns (X); }
            service A { rpc B_C(X) returns (X); rpc B_C_2(X) returns (X); }
            """
        }
    )
    render(api, "")


def test_recursive_query_ends(compile_api: CompileApi) -> None:
    api = compile_api(
        service(
            'rpc M(A) returns (A) { option (google.api.http).get = "/a"; }',
            "message A { B b = 1; int32 x = 2; } message B { A a = 1; int32 y = 2; }",
        )
    )
    get = render(api, "acme.store.v1")["paths"]["/a"]["get"]
    assert list(parameters(get, "query")) == ["b.y", "x"]


def test_custom_verbs(compile_api: CompileApi) -> None:
    api = compile_api(
        service(
            """
            rpc Head(X) returns (X) {
              option (google.api.http).custom = { kind: "HEAD" path: "/x" };
            }
            rpc Any(X) returns (X) {
              option (google.api.http).custom = { kind: "*" path: "/any" };
            }
            rpc Search(X) returns (X) {
              option (google.api.http).custom = { kind: "SEARCH" path: "/x" };
            }
            """,
            "message X {}",
        )
    )
    paths = render(api, "acme.store.v1")["paths"]
    assert set(paths["/x"]) == {"head", "x-search"}
    assert "Any HTTP method" in paths["/any"]["get"]["description"]


def test_a_path_of_two_rpcs(compile_api: CompileApi) -> None:
    rule = 'option (google.api.http) = { post: "/x" body: "*" };'
    rpcs = f"rpc Whole(X) returns (Y) {{ {rule} }} rpc Parts(X) returns (stream Z) {{ {rule} }}"
    messages = "message X {} message Y {} message Z {}"
    [post] = render(compile_api(service(rpcs, messages)), "acme.store.v1")["paths"]["/x"].values()
    assert post["operationId"] == "S_Whole"
    assert post["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    # What takes another request is another operation.
    api = compile_api(service(rpcs.replace("Parts(X)", "Parts(Y)"), messages))
    with pytest.raises(SchemaError, match="is bound to S_Whole already"):
        render_openapi(api, "acme.store.v1")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ('get: "/v1/{nome}"', "nome names no field of acme.store.v1.X; its fields are: name, many"),
        ('get: "/v1/{name.first}"', "name.first names no field"),
        ('get: "/v1/{many}"', "many is no single scalar or enum"),
        ('get: "/v1/{name"', "its braces do not match"),
        ('get: "v1"', "a path starts with '/'"),
        ('get: "/{name}/{name}"', "binds a field twice"),
        ('post: "/v1" body: "nome"', "nome names no field"),
        ('post: "/v1" response_body: "nome"', "nome names no field"),
        ('get: "/taken/{many_x=1}"', "names no field"),
        ('get: "/taken/{other}"', "GET /taken/{other} is bound to S_First already"),
        ('get: "/events/{name}"', "under /events/ a component publishes its events"),
        ('get: "/v1/a*"', "'a*' is no segment"),
        ('get: "/v1/{name=a*}"', "'a*' is no segment"),
    ],
)
def test_faults_say_where(compile_api: CompileApi, rule: str, says: str) -> None:
    api = compile_api(
        service(
            'rpc First(X) returns (X) { option (google.api.http).get = "/taken/{name}"; }\n'
            f"rpc M(X) returns (X) {{ option (google.api.http) = {{ {rule} }}; }}",
            "message X { string name = 1; repeated string many = 2; string other = 3; }",
        )
    )
    with pytest.raises(SchemaError) as caught:
        render_openapi(api, "acme.store.v1")
    assert says in str(caught.value)
    assert str(caught.value).startswith("s.proto:12: ")


@pytest.mark.parametrize(
    ("template", "path", "fields"),
    [
        ("/", "/", ()),
        ("/v1/a", "/v1/a", ()),
        ("/v1/{a}", "/v1/{a}", ("a",)),
        ("/v1/{a=*}/{b.c_d=**}", "/v1/{a}/{b.c_d}", ("a", "b.c_d")),
        ("/v1/{a=x/*/y/**}:go", "/v1/x/{a.1}/y/{a.2}:go", ("a",)),
        ("/v1/{a=fixed}", "/v1/fixed", ("a",)),
        ("/v1/*/x/**", "/v1/{segment.1}/x/{segment.2}", ()),
        ("/v1/*:go", "/v1/{segment.1}:go", ()),
    ],
)
def test_path_templates(template: str, path: str, fields: tuple[str, ...]) -> None:
    parsed = parse_path(template)
    assert (parsed.path, parsed.fields) == (path, fields)
