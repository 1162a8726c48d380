"""What print-config shows reads back as the same settings, whatever was set; kinds read back what they write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from greenworker.settings import table
from greenworker.settings.load import load_settings
from greenworker.settings.printing import settings_text
from tests.support.settings_examples import companions, text_for

ENVIRON = {"STATE_DIRECTORY": "/srv/state dir"}


@examples(max_examples=50, deadline=None)
@given(chosen=st.sets(st.sampled_from([row for row in table.ROWS if not row.secret]), max_size=12))
def test_settings_print_and_read_back(tmp_path_factory: pytest.TempPathFactory, chosen: set[table.Row]) -> None:
    folder = tmp_path_factory.getbasetemp()
    overrides = {}
    for row in chosen:
        overrides[row.section, row.key] = text_for(row, folder)
        overrides.update(companions(row, folder))
    if {row.key for row in chosen} >= {"queues", "exclude_queues"}:
        overrides["worker", "queues"] = "alpha, left"
    settings = load_settings(overrides=overrides, environ=ENVIRON)
    ini = folder / "again.ini"
    ini.write_text(settings_text(settings), encoding="utf-8")
    assert load_settings(config_files=[ini], environ=ENVIRON) == settings


@examples(max_examples=50, deadline=None)
@given(
    queue=st.from_regex(r"[a-z][a-z.\-/]{0,20}", fullmatch=True),
    arguments=st.dictionaries(
        st.from_regex(r"x-[a-z\-]{3,12}", fullmatch=True).filter(
            lambda name: name not in ("x-queue-type", "x-max-priority")
        ),
        st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.from_regex(r"[a-z.\-]{1,10}", fullmatch=True)),
        max_size=4,
    ),
    weight=st.integers(1, 1000),
)
def test_queues_print_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, queue: str, arguments: dict[str, object], weight: int
) -> None:
    ini = tmp_path_factory.getbasetemp() / "queues.ini"
    written = ", ".join(f"{name}={str(value).lower()}" for name, value in arguments.items())
    ini.write_text(f"[queue {queue}]\nweight = {weight}\narguments = {written}\n", encoding="utf-8")
    settings = load_settings(config_files=[ini], environ=ENVIRON)
    ini.write_text(settings_text(settings), encoding="utf-8")
    again = load_settings(config_files=[ini], environ=ENVIRON)
    assert again.queues == settings.queues
    assert again.queues[queue].weight == weight


@pytest.mark.parametrize("row", (*table.ROWS, *table.NAMED_ROWS), ids=lambda row: row.name)
def test_kinds_read_back_their_default(row: table.Row) -> None:
    text = "" if row.default is None else row.kind.format(row.default)
    assert row.default in (None, (), "", {}) or row.kind.parse(text) == row.default
