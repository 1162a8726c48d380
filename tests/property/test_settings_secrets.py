"""No secret value reaches an error, print-config, a repr or a log: over all rows marked secret, and misspelt ones."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenworker.cli import check_config, print_config
from greenworker.errors import SettingsError
from greenworker.settings import table
from greenworker.settings.command_line import parse_arguments
from greenworker.settings.load import load_settings
from greenworker.settings.secrets import mask_url

SECRETS = [row for row in table.ROWS if row.secret]
HOME = {"HOME": "/home/someone"}
MARK = "Hunter2Sw0rdfish"  # cannot come up by chance
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF), max_size=8)
secrets = st.builds("{}{}{}".format, printable, st.just(MARK), printable)
urls = st.one_of(
    secrets.map("amqp://user:{}@host:5672//".format),
    secrets.map("amqp://user:{}".format),
    secrets.map(lambda secret: f"amqps://{secret.replace(':', '')}@host/v"),  # before a ':' stands a user's name
    secrets.map("redis://host/0?password={}".format),
    secrets.map("amqp://user:12#{}@host".format),
    secrets.map("amqp://user:12/{}@host".format),
    secrets.map("amqp://a/ ; amqp://u:{}@b/".format),
    secrets.map("ampq://user:{}@host".format),
    secrets.map("sqlite://{}@relative".format),
    secrets,
)


def outcome(arguments: list[str], environ: dict[str, str], command: object) -> str:
    """All that a command shows: output, errors, logs."""
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger().addHandler(handler)
    previous = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    parser = argparse.ArgumentParser(prog="greenworker")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        for name in table.ROW_BY_VARIABLE:
            patch.delenv(name, raising=False)
        for name, text in environ.items():
            patch.setenv(name, text)
        try:
            command.configure(parser)  # type: ignore[attr-defined]
            command.run(parse_arguments(parser, arguments))  # type: ignore[attr-defined]
        except (SettingsError, SystemExit) as error:
            shown.write(f"{error} {error!r}")
        finally:
            logging.getLogger().removeHandler(handler)
            logging.getLogger().setLevel(previous)
    return shown.getvalue()


@pytest.mark.parametrize("row", SECRETS, ids=lambda row: row.name)
@pytest.mark.parametrize("command", [check_config, print_config])
@settings(max_examples=40, deadline=None)  # five commands an example
@given(url=urls)
def test_no_way_in_shows_a_secret(
    tmp_path_factory: pytest.TempPathFactory, row: table.Row, command: object, url: str
) -> None:
    ini = tmp_path_factory.getbasetemp() / "secret.ini"
    ini.write_text(f"[{row.section}]\n{row.key} = {url}\n", encoding="utf-8")
    for arguments, environ in (
        (["-C", str(ini)], {}),
        ([f"{row.flag}={url}"], {}),
        ([f"{row.flag}x={url}"], {}),
        ([], {row.variable: url}),
        ([], {f"{row.variable}S": url}),
    ):
        shown = outcome(arguments, {**HOME, **environ}, command)
        assert shown
        assert MARK not in shown


@pytest.mark.parametrize("row", SECRETS, ids=lambda row: row.name)
@settings(max_examples=60, deadline=None)
@given(
    url=urls,
    fault=st.sampled_from(["{0} {1}", "{0}: {1}", "{0}x = {1}", "accept = json\n  {0} = {1}", "[wroker]\n{0} = {1}"]),
)
def test_no_faulty_line_shows_a_secret(
    tmp_path_factory: pytest.TempPathFactory, row: table.Row, url: str, fault: str
) -> None:
    ini = tmp_path_factory.getbasetemp() / "faulty.ini"
    ini.write_text(f"[{row.section}]\n{fault.format(row.key, url)}\n", encoding="utf-8")
    shown = outcome(["-C", str(ini)], HOME, check_config)
    assert "faulty.ini:" in shown
    assert MARK not in shown


@pytest.mark.parametrize("row", SECRETS, ids=lambda row: row.name)
def test_repr_of_settings_has_no_secret(row: table.Row, tmp_path: Path) -> None:
    text = f"amqp://user:{MARK}@host//" if row.section == "broker" else f"sqlite:////srv/{MARK}.db"
    loaded = load_settings(overrides={(row.section, row.key): text}, environ=HOME)
    assert MARK in str(getattr(getattr(loaded, row.section), row.key))
    assert MARK not in repr(loaded)
    assert MARK not in str(loaded)


@settings(deadline=None)
@given(
    password=secrets,
    scheme=st.sampled_from(["amqp", "redis", "a+b"]),
    tail=st.sampled_from(["", "/", "//v", ":5672/v?x=1"]),
)
def test_mask_url_hides_any_password(password: str, scheme: str, tail: str) -> None:
    masked = mask_url(f"{scheme}://user:{password}@host{tail}")
    assert MARK not in masked
    assert masked.startswith(f"{scheme}://user:***@host")
