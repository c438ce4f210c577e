"""What sources have in common about their URLs: credentials stay out of sight, parameters are checked."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from edgeseg.runtime.errors import SourceError

PIPELINE_PREFIX = "gst:"

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
"""A quoted value in a pipeline, quotes included."""
_ELEMENT = re.compile(r"[a-z][a-z0-9_]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MISTYPED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[^/]*:[^/]*@|[^@]*@[^/]*/")
"""A scheme without its `//`, or a host with a user."""
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def scheme_of(url: str) -> str | None:
    """Return the scheme in lower case; None for what has no `://`."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else None


def redact(url: str) -> str:
    """Return `url` without what may be secret: user and password, and the values of its query.

    Everything up to the last `@` counts as user and password, as passwords with a `/` are met in the field. Where a `?`
    stands before it, either may be the query's, and nothing is shown. Of a `gst:` pipeline only the elements' names are
    left. Files, cameras, `csi://` and `synthetic://` come back as they are; what may be a mistyped URL does not, since
    that is shown when it is refused.
    """
    text = url.strip()
    if is_pipeline(text):
        return _redact_pipeline(text)
    scheme = scheme_of(text)
    if scheme in ("synthetic", "csi") or (scheme is None and not _MISTYPED.match(text)):
        return url
    front, at, rest = text.rpartition("@")
    start = f"{scheme}://" if scheme else ""
    if "?" in front:
        return f"{start}***"
    return f"{start}***@{_redact_query(rest)}" if at else _redact_query(text)


def is_pipeline(url: str) -> bool:
    """Return whether `url` is a pipeline of the user's own."""
    return url[: len(PIPELINE_PREFIX)].lower() == PIPELINE_PREFIX


def _redact_pipeline(url: str) -> str:
    bare = QUOTED.sub("", url[len(PIPELINE_PREFIX) :])
    parts = re.split(r"\s+!\s+", bare.strip())
    # An open quote, or a first word that is no element, may be a part of a password.
    names = [part.split()[0] if part.split() else "" for part in parts]
    if any(quote in bare for quote in "\"'"):
        return f"{PIPELINE_PREFIX}***"
    return PIPELINE_PREFIX + " ! ".join(name if _ELEMENT.fullmatch(name) else "***" for name in names)


def _redact_query(text: str) -> str:
    place, mark, query = text.partition("?")
    return place + mark + re.sub(r"[^&;]+", lambda part: part[0].partition("=")[0] + "=***", query)


def parse_query(url: str, query: str, known: Collection[str]) -> dict[str, str]:
    """Split `a=1&b=2`. Raises `SourceError` for a parameter that is unknown, repeated or without a value."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise SourceError(f"source {url} has parameters that cannot be read", expected="name=value&...") from None
    for name, value in pairs:
        if name not in known:
            raise SourceError(f"source {url} has an unknown parameter {name!r}", expected=f"of {', '.join(known)}")
        if not value:
            raise SourceError(f"source {url} gives no value for {name!r}")
    if len(dict(pairs)) != len(pairs):
        raise SourceError(f"source {url} gives a parameter twice")
    return dict(pairs)


def parse_size_hw(url: str, text: str) -> tuple[int, int]:
    """Turn `640x480` into (480, 640). Raises `SourceError` outside 16 to 8192 pixels a side."""
    match = _SIZE.fullmatch(text)
    if not match or not all(16 <= int(side) <= 8192 for side in match.groups()):
        raise SourceError(f"source {url} has size {text!r}", expected="WIDTHxHEIGHT, 16 to 8192 pixels a side")
    return int(match[2]), int(match[1])


def parse_number(url: str, name: str, text: str, low: float, high: float, *, whole: bool = False) -> float:
    """Turn `text` into a number from `low` to `high`. Raises `SourceError` for anything else."""
    try:
        value: float = int(text) if whole else float(text)
        if low <= value <= high:
            return value
    except ValueError:
        pass
    kind = "a whole number" if whole else "a number"
    raise SourceError(f"source {url} has {name} {text!r}", expected=f"{kind} from {low:g} to {high:g}")
