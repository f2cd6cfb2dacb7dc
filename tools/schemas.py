"""Runs buf over the schemas in proto/ without a network.

    python tools/schemas.py lint        # style and comments
    python tools/schemas.py breaking    # against the last commit
    python tools/schemas.py image FILE  # the image alone, for `buf generate FILE` and the like

buf would fetch google.api from its registry. This fetches nothing: protoc compiles proto/ against
the schemas in the installed wheels (googleapis-common-protos, grpcio-tools, protovalidate) into a
buf image. The image marks whatever is not ours as an import: buf reads it and does not judge it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from protoplane_base import ProtoplaneError
from protoplane_codegen.compiler import compile_schemas, find_schemas

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".build"

# What makes a FileDescriptorSet a buf image: field 8042 of each file (buf.alpha.image.v1), a
# message whose field 1 says that the file is an import. Tag (8042 << 3 | 2), length 2, {1: true}.
IS_IMPORT = bytes([0xD2, 0xF6, 0x03, 0x02, 0x08, 0x01])


class Skipped(Exception):  # noqa: N818
    """There is nothing to compare with; the message says why."""


class Failed(Exception):  # noqa: N818
    """A tool refused the schemas and has said so itself, or the message says it."""


def build_image(proto_root: Path, image: Path) -> None:
    """Compiles every schema under a root into a buf image.

    Args:
        proto_root: folder that imports are relative to.
        image: file to write.

    Raises:
        ProtoplaneError: there is no schema, or protoc refused one.
    """
    ours = find_schemas(proto_root)
    files = compile_schemas(proto_root, ours)
    for file in files.file:
        if file.name not in ours:
            file.MergeFromString(IS_IMPORT)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(files.SerializeToString(deterministic=True))


def lint() -> bool:
    """Lints proto/ by buf.yaml; True when there is nothing to complain about."""
    image = BUILD / "schemas.binpb"
    build_image(ROOT / "proto", image)
    return _buf("lint", str(image))


def breaking(against: str | None) -> bool:
    """Compares proto/ with what it was; True when nothing that others rely on is broken.

    Args:
        against: the revision to compare with. By default the last commit: HEAD where proto/ has
            uncommitted changes, else the commit before it.

    Raises:
        Skipped: there is no such commit, or it holds no schemas.
    """
    commit = against or _last_commit()
    before = BUILD / "before"
    shutil.rmtree(before, ignore_errors=True)
    listed = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", "proto/")
    if listed is None:
        raise Skipped(f"there is no commit {commit}")
    names = [name for name in listed.decode().split("\0") if name.endswith(".proto")]
    if not names:
        raise Skipped(f"{commit} has no schemas in proto/")
    for name in names:
        content = _git("cat-file", "blob", f"{commit}:{name}")
        if content is None:
            raise Failed(f"git cannot read {commit}:{name}")
        (before / name).parent.mkdir(parents=True, exist_ok=True)
        (before / name).write_bytes(content)
    build_image(before / "proto", BUILD / "schemas-before.binpb")
    build_image(ROOT / "proto", BUILD / "schemas.binpb")
    print(f"compared with {commit}")
    return _buf(
        *("breaking", str(BUILD / "schemas.binpb")),
        *("--against", str(BUILD / "schemas-before.binpb")),
        "--exclude-imports",
    )


def _last_commit() -> str:
    if shutil.which("git") is None:
        raise Skipped("there is no git here")
    changed = _git("status", "--porcelain", "--untracked-files=all", "--", "proto")
    if changed is None:
        raise Skipped("this is not a git checkout")
    if _git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise Skipped("there is no commit yet")
    if changed.strip():
        return "HEAD"
    if _git("rev-parse", "--verify", "--quiet", "HEAD~1") is None:
        raise Skipped("there is no commit before HEAD (the first one, or a shallow clone)")
    return "HEAD~1"


def _git(*arguments: str) -> bytes | None:
    """The output of a git command, or None when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    return None if done.returncode else done.stdout


def _buf(*arguments: str) -> bool:
    """Runs buf on images and prints what it finds with paths as they are in the checkout."""
    beside = Path(sys.executable).with_name("buf")
    buf = str(beside) if beside.exists() else shutil.which("buf")
    if buf is None:
        raise Failed("buf is not installed: pip install buf-bin")
    done = subprocess.run(
        [buf, *arguments, "--config", str(ROOT / "buf.yaml"), "--error-format", "json"],
        cwd=ROOT,
        env={**os.environ, "BUF_CACHE_DIR": str(BUILD / "buf")},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        finding: dict[str, Any] = json.loads(line)
        place = "proto"  # what is gone has no place
        if "path" in finding:
            place = f"proto/{finding['path']}:{finding['start_line']}:{finding['start_column']}"
        print(f"{place}: {finding['message']} [{finding['type']}]")
    sys.stdout.flush()
    if done.stderr:
        print(done.stderr.rstrip(), file=sys.stderr)
    return done.returncode == 0


def main() -> int:
    """Runs one of the commands; 0 when all is well or there was nothing to do."""
    parser = argparse.ArgumentParser(description="buf over proto/, without a network")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lint", help="style and comments, by buf.yaml")
    compare = commands.add_parser("breaking", help="what would break those who use the schemas")
    compare.add_argument("--against", metavar="REV", help="the commit to compare with")
    only = commands.add_parser("image", help="write the buf image and do nothing else")
    only.add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "lint":
            return 0 if lint() else 1
        if options.command == "breaking":
            return 0 if breaking(options.against) else 1
        build_image(ROOT / "proto", options.file)
    except Skipped as reason:
        print(f"skipped: {reason}")
    except (Failed, ProtoplaneError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
