"""A run's document from a file that may hold anything."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from edgeseg.benchmarks.document import SCHEMA, Document
from edgeseg.benchmarks.errors import BenchmarkError

_MAX_DOCUMENT_BYTES = 1 << 30


def read_document(path: Path) -> Document:
    """Read a run that `edgeseg bench --json` wrote. Raises `BenchmarkError`, one line, for anything else."""
    fix = "name a file that `edgeseg bench --json` wrote"
    try:
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise BenchmarkError(f"{path} is too large", expected=f"at most {_MAX_DOCUMENT_BYTES} bytes", fix=fix)
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}", fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not JSON: {error}", fix=fix) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise BenchmarkError(f"{path} has schema {schema!r}", expected=SCHEMA, fix=fix)
    try:
        return Document.model_validate_json(json.dumps(found))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BenchmarkError(f"{path}: {where}: {first['msg']}", fix="run `edgeseg bench` again") from None
