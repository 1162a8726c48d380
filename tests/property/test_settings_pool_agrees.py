"""The pool found before patching is the pool that the full loader finds."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from greenworker.errors import SettingsError
from greenworker.settings.command_line import add_arguments, parse_arguments, settings_from
from greenworker.settings.pool_name import find_pool

pools = st.sampled_from(["gevent", "eventlet", "threads", "solo", "SOLO", " threads "])
flags = pools.flatmap(
    lambda pool: st.sampled_from(
        [
            ["-P", pool],
            [f"-P{pool}"],
            ["--pool", pool],
            [f"--pool={pool}"],
            [f"--worker-pool={pool}"],
            ["--worker-pool", pool],
        ]
    )
)
others = st.sampled_from(
    [["-c", "5"], ["-Qa,b"], ["--name=-P"], ["-A", "shop:app"], ["-l", "info"], ["--result-backend=none"]]
)
ini = st.one_of(
    st.none(),
    pools.map("[worker]\npool = {}\n".format),
    pools.map("# pool = solo\n[log]\nlevel = info\n[worker]\nconcurrency = 3\nPOOL={}\n".format),
    st.just("[worker]\nconcurrency = 3\n"),
)


@examples(max_examples=60, deadline=None)
@given(
    arguments=st.lists(st.one_of(flags, others), max_size=4),
    variable=st.one_of(st.none(), pools),
    main=ini,
    second=ini,
    drop_in=ini,
    named_by_variable=st.booleans(),
)
def test_both_find_the_same_pool(  # noqa: PLR0917 - hypothesis gives them by name
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[list[str]],
    variable: str | None,
    main: str | None,
    second: str | None,
    drop_in: str | None,
    named_by_variable: bool,
) -> None:
    environ = {"HOME": "/home/someone"}
    if variable is not None:
        environ["GREENWORKER_WORKER_POOL"] = variable
    files = _write(tmp_path_factory.mktemp("config"), {"main.ini": main, "conf.d/a.ini": drop_in, "second.ini": second})
    line = [argument for group in arguments for argument in group]
    if named_by_variable and files:
        environ["GREENWORKER_CONFIG"] = str(files[0])
    else:
        line = [word for file in files for word in ("-C", str(file))] + line

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = settings_from(parse_arguments(parser, line), environ)
    assert find_pool(["worker", *line], environ) == settings.worker.pool


def _write(folder: Path, texts: dict[str, str | None]) -> list[Path]:
    (folder / "conf.d").mkdir()
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text)
    return [folder / name for name in ("main.ini", "second.ini") if texts[name] is not None]


@examples(max_examples=60, deadline=None)
@given(variable=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_what_the_loader_refuses_is_the_default(variable: str) -> None:
    environ = {"HOME": "/home/someone", "GREENWORKER_WORKER_POOL": variable}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    try:
        expected = settings_from(parse_arguments(parser, []), environ).worker.pool
    except SettingsError:
        expected = "gevent"
    assert find_pool([], environ) == expected
