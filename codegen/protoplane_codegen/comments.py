"""Comments and line numbers of a schema, by descriptor path."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from protoplane_codegen.api import Location

# Words to tools, not to readers.
_DIRECTIVES = ("buf:lint:", "@exclude", "clang-format")


class Comments:
    """What the source of one file says beside its declarations.

    Args:
        file: Its descriptor, with source code info where the compiler gave it.
    """

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file.name
        self._locations = {
            tuple(location.path): location for location in file.source_code_info.location
        }

    def doc(self, path: tuple[int, ...]) -> str:
        """Comment of the element at ``path``: the one above it, else the one behind it."""
        location = self._locations.get(path)
        if location is None:
            return ""
        return _clean(location.leading_comments) or _clean(location.trailing_comments)

    def file_doc(self) -> str:
        """Comment above the syntax or edition statement."""
        for path in ((12,), (14,)):
            location = self._locations.get(path)
            if location is not None:
                parts = [*location.leading_detached_comments, location.leading_comments]
                text = "\n\n".join(filter(None, map(_clean, parts)))
                if text:
                    return text
        return ""

    def location(self, path: tuple[int, ...]) -> Location:
        """Where the element at ``path`` stands."""
        found = self._locations.get(path)
        return Location(self._file, found.span[0] + 1 if found else 0)


def _clean(comment: str) -> str:
    lines = [line.removeprefix(" ").rstrip() for line in comment.splitlines()]
    kept = [line for line in lines if not line.lstrip().startswith(_DIRECTIVES)]
    return "\n".join(kept).strip()
