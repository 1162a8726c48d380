"""Which INI files are read, in which order, and their text.

Standard library only, and nothing that touches sockets or threads: this runs before patching.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG_FLAGS = ("-C", "--config")
CONFIG_VARIABLE = "GREENWORKER_CONFIG"
DROP_IN_FOLDER = "conf.d"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file's text, or (``text`` None) why it cannot be read: ``problem``, at ``line`` where there is one."""

    path: Path
    text: str | None
    problem: str = ""
    line: int | None = None


def read_files(named: Sequence[str | os.PathLike[str]], environ: Mapping[str, str]) -> tuple[SourceFile, ...]:
    """Read the named files, else the one that GREENWORKER_CONFIG names; later ones count over earlier ones.

    The ``*.ini`` in the folder ``conf.d`` beside a file follow it, sorted by name; where several files stand in one
    folder, they follow the last of them.
    """
    paths = [Path(path) for path in named]
    if not paths and environ.get(CONFIG_VARIABLE):
        paths = [Path(environ[CONFIG_VARIABLE])]
    sources: list[SourceFile] = []
    for index, path in enumerate(paths):
        sources.append(_read(path))
        if path.parent not in (later.parent for later in paths[index + 1 :]):
            sources.extend(_read_drop_ins(path.parent / DROP_IN_FOLDER))
    return tuple(sources)


def _read_drop_ins(folder: Path) -> list[SourceFile]:
    try:
        names = sorted(path.name for path in folder.iterdir())
        names = [name for name in names if name.endswith(".ini") and not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [SourceFile(folder, None, _cannot_read(error))]
    return [_read(folder / name) for name in names]


def _read(path: Path) -> SourceFile:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return SourceFile(path, None, _cannot_read(error))
    try:
        return SourceFile(path, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return SourceFile(path, None, "expected UTF-8 text, got bytes that are none; save the file as UTF-8", line)


def _cannot_read(error: OSError | ValueError) -> str:
    reason = (
        (error.strerror or "unknown reason") if isinstance(error, OSError) else "its name is not one a file can have"
    )
    advice: dict[type[Exception], str] = {
        FileNotFoundError: "; name a file that exists with -C/--config or GREENWORKER_CONFIG",
        PermissionError: "; make it readable to the user who runs this",
        IsADirectoryError: "; name a file in it",
    }
    return f"cannot read: {reason}{advice.get(type(error), '')}"
