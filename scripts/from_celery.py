"""The table of Celery's names (docs/from_celery.toml) as rows, and docs/from-celery.md made of it.

In the table a name is one of four things: ``same``; ``here``, what stands for it; ``later``, what it comes with;
``absent``, why it is not here. ``note`` says more, ``default`` how the default differs, ``without`` which of Celery's
arguments are not taken, ``test`` which test shows that "the same" is true (``file::function``, without folder and
ending). A key may hold several names, where one answer holds for all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TABLE = REPOSITORY / "docs" / "from_celery.toml"
TUTORIAL = REPOSITORY / "tests" / "support" / "tutorial"
ANSWERS = {"same": "the same", "later": "not yet", "absent": "not here"}


@dataclass(frozen=True, slots=True)
class Row:
    """One answer, for one or several names. ``kind`` is same, here, later or absent, ``answer`` what stands there."""

    names: tuple[str, ...]
    kind: str
    answer: str
    note: str
    default: str
    without: tuple[str, ...]
    test: str

    @property
    def markdown(self) -> str:
        """The row of the page."""
        names = ", ".join(f"`{name}`" for name in self.names)
        cell = self.answer if self.kind == "here" else ANSWERS[self.kind]
        said = {"later": [f"with {self.answer}"], "absent": [self.answer]}.get(self.kind, [])
        said += [self.note] if self.note else []
        said += [f"Default: {self.default}."] if self.default else []
        if self.without:
            said.append(f"Not taken: {', '.join(f'`{name}`' for name in self.without)}.")
        return f"| {names} | {cell} | {' '.join(said)} |"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one heading. ``of`` is what they are names of, as tests/support/celery_names.py lists them."""

    of: str
    title: str
    intro: str
    rows: tuple[Row, ...]


def read_groups(path: Path = TABLE) -> tuple[Group, ...]:
    """All groups of the table. Raises ValueError for a row that is not one of the four things, or has a strange key."""
    return tuple(
        Group(group["of"], group["title"], group.get("intro", ""), tuple(_rows(group["rows"])))
        for group in _read(path)["group"]
    )


def read_changes(path: Path = TABLE) -> tuple[tuple[str, str], ...]:
    """What a project is moved by: texts of its source, and what takes their place, in order."""
    return tuple((change["celery"], change["here"]) for change in _read(path)["change"])


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def _rows(table: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for names, given in table.items():
        kinds = [kind for kind in ("same", "here", "later", "absent") if kind in given]
        strange = given.keys() - {*kinds, "note", "default", "without", "test"}
        if len(kinds) != 1 or strange:
            raise ValueError(f"{names}: expected one of same, here, later, absent, and known keys; got {given}")
        yield Row(
            tuple(names.split()),
            kinds[0],
            str(given[kinds[0]]),
            given.get("note", ""),
            given.get("default", ""),
            tuple(given.get("without", ())),
            given.get("test", ""),
        )


def page_text() -> str:
    """Return docs/from-celery.md."""
    table = _read(TABLE)
    files = {path.name: path.read_text().rstrip() for path in TUTORIAL.rglob("*") if path.suffix in {".py", ".ini"}}
    changes = "\n".join(
        f"| `{old}` | {f'`{new}`' if new else 'nothing'} |" for old, new in read_changes() if "\n" not in old
    )
    parts = [table["page"]["text"].format(changes=changes, **{name.replace(".", "_"): files[name] for name in files})]
    for group in read_groups():
        intro = f"{group.intro}\n\n" if group.intro else ""
        head = "| Celery | here | |\n|---|---|---|"
        parts.append(f"### {group.title}\n\n{intro}" + "\n".join([head, *(row.markdown for row in group.rows)]) + "\n")
    return "\n".join(parts)
