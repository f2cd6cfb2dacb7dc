"""``protoc-gen-protoplane``: the plugin that protoc and buf start.

It speaks the plugin protocol on standard input and output: a ``CodeGeneratorRequest`` in, a
``CodeGeneratorResponse`` out. Beside it the request must run protoc's own ``python`` and ``pyi``
generators, whose modules the generated code imports.
Source: https://protobuf.dev/reference/cpp/api-docs/google.protobuf.compiler.plugin.pb/.
"""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from protoplane_codegen.errors import GenerateError, SchemaError
from protoplane_codegen.outputs import Outputs
from protoplane_codegen.read import read
from protoplane_codegen.render.files import render_files


def respond(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Answer a request; a fault of the schemas becomes the response's ``error``."""
    response = CodeGeneratorResponse(
        supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2024,
    )
    try:
        files = render_files(read(request), Outputs.parse(request.parameter))
    except (SchemaError, GenerateError) as error:
        response.error = str(error)
        return response
    for name, content in sorted(files.items()):
        response.file.add(name=name, content=content)
    return response


def main() -> None:
    """Run as a plugin."""
    if sys.stdin.isatty():
        sys.exit("protoc or buf starts this plugin; to run it yourself: protoplane generate --help")
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(respond(request).SerializeToString())
