"""What a power cut can leave of a folder, worked out from a recorded run.

A run is recorded as the file-system calls that it made (strace). They are replayed into a model that knows, for each
file, the bytes that were synced, and for each folder the changes of names that were. Of the rest a power cut may keep
anything: `crash_states` yields what the folder can look like if the power fails after any prefix of the calls. POSIX
promises no more, and ext4 was seen to make use of it: a link renamed, its folder synced, and a file of no bytes
behind it. After "All File Systems Are Not Created Equal" (ALICE, OSDI 2014).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHANGES = (
    "openat,open,creat,write,pwrite64,pwritev,writev,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "fsync,fdatasync,syncfs,sync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir"
)


@dataclass(frozen=True)
class Call:
    """One successful call: its name, its strings and paths as bytes decoded one to one, and the flags."""

    name: str
    arguments: tuple[str, ...]


Tree = dict[str, bytes | str | None]
"""Relative path to a file's bytes, a link's target, or None for a folder."""


@dataclass(eq=False)
class _Node:
    kind: str
    data: bytes = b""
    synced: bytes = b""
    children: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True)
class _NameChange:
    """One atomic change of names in `folder`: names to nodes, None for a name that goes."""

    folder: _Node
    names: tuple[tuple[str, _Node | None], ...]


_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (\d+)(?:<.*>)?$")
_RESUMED = re.compile(r"^\d+ +<\.\.\. \w+ resumed>")
_TOKEN = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?|(AT_FDCWD|\d+)<((?:[^>\\]|\\x[0-9a-f]{2})*)>|([\w|]+)')


def read_calls(trace: Path) -> list[Call]:
    """Return the successful calls of a recording by `strace -f -y -xx -s BIG`."""
    calls = []
    begun: dict[str, str] = {}
    for line in trace.read_text(encoding="ascii").splitlines():
        process = line.partition(" ")[0]
        if line.endswith("<unfinished ...>"):  # another process called something meanwhile
            begun[process] = line[: -len("<unfinished ...>")]
            continue
        if resumed := _RESUMED.match(line):
            line = begun.pop(process) + line[resumed.end() :]
        found = _LINE.match(line)
        if found:
            arguments = tuple(_argument(token) for token in _TOKEN.finditer(found[2]))
            calls.append(Call(found[1], arguments))
    return calls


def _argument(token: re.Match[str]) -> str:
    text = next(group for group in (token[1], token[3], token[4]) if group is not None)
    return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), text)


class Model:
    """The folder at `root` as the running system sees it, and what of it is safe."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = _scan(root)
        self._pending: list[_NameChange] = []
        self._safe = _copy_names(self._top, {})

    def apply(self, call: Call) -> bool:
        """Replay one call. Returns whether it changed anything below the root."""
        action = getattr(self, f"_{call.name}", None)
        inside = any(self._below(word) is not None for word in call.arguments)
        if not inside:
            return False
        assert action is not None, f"a call that the model does not know: {call}"
        return bool(action(*call.arguments))

    # Calls, with `-y` giving the path of each descriptor.

    def _openat(self, folder: str, path: str, flags: str, *_: str) -> bool:
        if "O_CREAT" not in flags and "O_TRUNC" not in flags:
            return False
        parent, name = self._parent(folder, path)
        node = parent.children.get(name)
        if node is None:
            self._change(parent, (name, _Node("file")))
        elif "O_TRUNC" in flags and node.data:
            node.data = b""
        else:
            return False
        return True

    def _write(self, path: str, data: str, *_: str) -> bool:
        self._node(path).data += data.encode("latin-1")
        return True

    def _pwrite64(self, path: str, data: str, _size: str, offset: str) -> bool:
        node, at = self._node(path), int(offset)
        node.data = node.data[:at].ljust(at, b"\0") + data.encode("latin-1") + node.data[at + len(data) :]
        return True

    def _ftruncate(self, path: str, size: str) -> bool:
        node = self._node(path)
        node.data = node.data[: int(size)].ljust(int(size), b"\0")
        return True

    def _fsync(self, path: str) -> bool:
        node = self._node(path)
        if node.kind == "file":
            node.synced = node.data
        else:
            kept = []
            for change in self._pending:
                if change.folder is node:
                    _apply(self._safe, change)
                else:
                    kept.append(change)
            self._pending = kept
        return True

    _fdatasync = _fsync

    def _rename(self, old: str, new: str) -> bool:
        return self._renameat("/", old, "/", new)

    def _renameat(self, old_folder: str, old: str, new_folder: str, new: str, *_: str) -> bool:
        (source, old_name), (target, new_name) = self._parent(old_folder, old), self._parent(new_folder, new)
        assert source is target, "a rename between folders is two changes that a power cut can part"
        self._change(source, (old_name, None), (new_name, source.children[old_name]))
        return True

    _renameat2 = _renameat

    def _symlink(self, target: str, path: str) -> bool:
        return self._symlinkat(target, "/", path)

    def _symlinkat(self, target: str, folder: str, path: str) -> bool:
        parent, name = self._parent(folder, path)
        link = target.encode("latin-1")
        self._change(parent, (name, _Node("link", link, link)))
        return True

    def _unlink(self, path: str) -> bool:
        return self._unlinkat("/", path)

    def _unlinkat(self, folder: str, path: str, *_: str) -> bool:
        parent, name = self._parent(folder, path)
        self._change(parent, (name, None))
        return True

    _rmdir = _unlink

    def _mkdir(self, path: str, *_: str) -> bool:
        return self._mkdirat("/", path)

    def _mkdirat(self, folder: str, path: str, *_: str) -> bool:
        parent, name = self._parent(folder, path)
        self._change(parent, (name, _Node("folder")))
        return True

    # What can be left.

    def trees(self) -> Iterator[Tree]:
        """Yield what a power cut can leave now.

        Of the changes of names that are not synced: every prefix in their order (a journal), and those of one folder
        alone (no journal). Of the bytes that are not: none, half, all.
        """
        folders = list({id(change.folder): change.folder for change in self._pending}.values())
        subsets: list[Sequence[_NameChange]] = [self._pending[:size] for size in range(len(self._pending) + 1)]
        subsets += [[change for change in self._pending if change.folder is folder] for folder in folders]
        for subset in subsets:
            safe = _copy_names(self._top, self._safe)
            for change in subset:
                _apply(safe, change)
            for share in (0.0, 0.5, 1.0):
                yield _tree(self._top, safe, share)

    def _change(self, folder: _Node, *names: tuple[str, _Node | None]) -> None:
        change = _NameChange(folder, names)
        self._pending.append(change)
        for name, node in names:
            if node is None:
                folder.children.pop(name, None)
            else:
                folder.children[name] = node

    def _below(self, path: str) -> str | None:
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else None

    def _node(self, path: str) -> _Node:
        relative = self._below(path)
        if relative is None:
            return _Node("file")  # outside: nothing that counts
        node = self._top
        for part in filter(None, relative.split("/")):
            node = node.children[part]
        return node

    def _parent(self, folder: str, path: str) -> tuple[_Node, str]:
        whole = path if path.startswith("/") else f"{folder}/{path}"
        parent, _, name = whole.rpartition("/")
        if self._below(whole) is None:
            return _Node("folder"), name
        return self._node(parent), name


_Names = dict[_Node, dict[str, _Node]]


def crash_states(root: Path, calls: Sequence[Call]) -> Iterator[tuple[int, Tree]]:
    """Yield (number of calls made, tree) for every distinct tree that a power cut during `calls` can leave.

    `root` holds what was there before the first call.
    """
    model, seen = Model(root), set()
    for count, call in enumerate([None, *calls]):
        if call is not None and not model.apply(call):
            continue
        for tree in model.trees():
            key = hash(frozenset(tree.items()))
            if key not in seen:
                seen.add(key)
                yield count, tree


def lay_out(tree: Tree, root: Path) -> None:
    """Make `tree` real in the empty folder `root`."""
    for name in sorted(tree):
        path, content = root / name, tree[name]
        if content is None:
            path.mkdir()
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


def _scan(path: Path) -> _Node:
    if path.is_symlink():
        target = str(path.readlink()).encode()
        return _Node("link", target, target)
    if path.is_dir():
        return _Node("folder", children={child.name: _scan(child) for child in path.iterdir()})
    data = path.read_bytes()
    return _Node("file", data, data)


def _copy_names(top: _Node, safe: _Names) -> _Names:
    """Return a copy of `safe`, or, from an empty one, the names below `top` as they are."""
    if safe:
        return {folder: dict(names) for folder, names in safe.items()}
    found: _Names = {top: dict(top.children)}
    for child in top.children.values():
        if child.kind == "folder":
            found.update(_copy_names(child, {}))
    return found


def _apply(names: _Names, change: _NameChange) -> None:
    entries = names.setdefault(change.folder, {})
    for name, node in change.names:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _tree(top: _Node, names: _Names, share: float) -> Tree:
    tree: Tree = {}

    def walk(folder: _Node, prefix: str) -> None:
        for name, node in names.get(folder, {}).items():
            path = prefix + name
            if node.kind == "folder":
                tree[path] = None
                walk(node, path + "/")
            elif node.kind == "link":
                tree[path] = node.data.decode()
            elif share == 1.0 or node.data == node.synced:
                tree[path] = node.data
            else:
                tree[path] = node.synced if share == 0 else node.data[: int(len(node.data) * share)]

    walk(top, "")
    return tree
