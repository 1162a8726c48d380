"""Who counts over whom, and that each row of the table means the same on every way in."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from greenworker.settings import table
from greenworker.settings.command_line import add_arguments, parse_arguments, settings_from
from greenworker.settings.load import load_settings
from greenworker.settings.model import Settings
from tests.support.settings_examples import companions, text_for

HOME = {"HOME": "/home/someone"}


def value(settings: Settings, row: table.Row) -> object:
    return getattr(getattr(settings, row.section), row.key)


def from_flags(arguments: list[str], environ: dict[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return settings_from(parse_arguments(parser, arguments), environ or HOME)


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_every_row_means_the_same_on_every_way_in(row: table.Row, tmp_path: Path) -> None:
    text, others = text_for(row, tmp_path), companions(row, tmp_path)
    beside = [f"--{section}-{key}={other}".replace("_", "-", 2) for (section, key), other in others.items()]
    environ = {table.ROW_BY_NAME[name].variable: other for name, other in others.items()}
    ini = tmp_path / "shop.ini"
    ini.write_text(f"[{row.section}]\n{row.key} = {text}\n")

    expected = value(load_settings(overrides={(row.section, row.key): text, **others}, environ=HOME), row)
    assert expected != row.default
    assert expected == value(load_settings(config_files=[ini], overrides=others, environ=HOME), row)
    assert expected == value(load_settings(overrides=others, environ={**HOME, row.variable: text}), row)
    for flag in row.flags:
        assert expected == value(from_flags([flag, text], {**HOME, **environ}), row), flag
    assert beside == [] or expected == value(from_flags([f"{row.flag}={text}"], {**HOME, **environ}), row)


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_every_row_without_a_value_has_its_default(row: table.Row) -> None:
    settings = load_settings(environ=HOME)
    if row.key != "url":
        assert value(settings, row) == row.default
    assert settings.origin(row.section, row.key).is_default


@pytest.mark.parametrize("row", [row for row in table.ROWS if row.default is None], ids=lambda row: row.name)
def test_an_empty_value_switches_an_optional_setting_off_again(row: table.Row, tmp_path: Path) -> None:
    ini = tmp_path / "shop.ini"
    ini.write_text(f"[{row.section}]\n{row.key} = {text_for(row, tmp_path)}\n")
    settings = load_settings(
        config_files=[ini],
        environ={**HOME, row.variable: ""},
        overrides={("broker", "url"): "amqps://h", **companions(row, tmp_path)},
    )
    assert value(settings, row) is None


def test_names_are_unique() -> None:
    flags = [flag for row in table.ROWS for flag in row.flags]
    assert len(set(flags)) == len(flags)
    assert len(table.ROW_BY_VARIABLE) == len(table.ROWS)


def test_precedence_and_origin(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "first.ini", tmp_path / "b" / "second.ini"
    for file, number in ((first, 1), (second, 2)):
        (file.parent / "conf.d").mkdir(parents=True)
        file.write_text(f"[worker]\nconcurrency = {number}\nname = {file.stem}\n")
    drop_in = first.parent / "conf.d" / "10.ini"

    def load(environ: dict[str, str] | None = None, override: str | None = None) -> tuple[int, str]:
        settings = load_settings(
            config_files=[first, second],
            environ={**HOME, **(environ or {})},
            overrides={("worker", "concurrency"): override} if override else {},
        )
        return settings.worker.concurrency, str(settings.origin("worker", "concurrency"))

    assert load() == (2, f"{second}:2")
    drop_in.write_text("[worker]\nconcurrency = 10\n")
    assert load() == (2, f"{second}:2")
    assert load_settings(config_files=[second, first], environ=HOME).worker.concurrency == 10
    late = second.parent / "conf.d" / "late.ini"
    late.write_text("[worker]\n\nconcurrency = 11\n")
    assert load() == (11, f"{late}:3")
    environ = {"GREENWORKER_WORKER_CONCURRENCY": "20"}
    assert load(environ) == (20, "environment: GREENWORKER_WORKER_CONCURRENCY")
    assert load(environ, "30") == (30, "command line")
    assert load_settings(environ=HOME).origin("worker", "concurrency").is_default


def test_drop_ins_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    main = tmp_path / "shop.ini"
    main.write_text("[worker]\nname = main\n")
    folder = tmp_path / "conf.d"
    folder.mkdir()
    for name in ("20.ini", "10.ini", "9.ini", ".99.ini", "99.ini~"):
        (folder / name).write_text(f"[worker]\nname = {name}\n")
    assert load_settings(config_files=[main], environ=HOME).worker.name == "9.ini"
    (folder / "9.ini").unlink()
    assert load_settings(config_files=[main], environ=HOME).worker.name == "20.ini"


def test_drop_ins_of_one_folder_follow_its_last_named_file(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.ini").write_text("[worker]\nname = drop-in\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.ini").write_text(f"[worker]\nname = {name}\n")
    assert (
        load_settings(config_files=[tmp_path / "one.ini", tmp_path / "two.ini"], environ=HOME).worker.name == "drop-in"
    )


def test_the_variable_names_a_file_only_where_no_flag_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.ini").write_text(f"[worker]\nname = {name}\n")
    environ = {**HOME, "GREENWORKER_CONFIG": str(tmp_path / "one.ini")}
    assert load_settings(environ=environ).worker.name == "one"
    assert load_settings(environ=environ, config_files=[tmp_path / "two.ini"]).worker.name == "two"


def test_queues_are_read_and_merged_key_by_key(tmp_path: Path) -> None:
    first, second = tmp_path / "a.ini", tmp_path / "b.ini"
    first.write_text(
        "[queue mail]\nweight = 3\ntype = quorum\narguments = x-max-length=10, x-overflow=reject-publish\n"
    )
    second.write_text("[queue mail]\nweight = 5\n[queue a/b]\narguments = x-single-active-consumer=true\n")
    settings = load_settings(config_files=[first, second], environ=HOME)
    mail = settings.queues["mail"]
    assert (mail.weight, mail.type, mail.durable) == (5, "quorum", True)
    assert mail.arguments == {"x-max-length": 10, "x-overflow": "reject-publish"}
    assert settings.queues["a/b"].arguments == {"x-single-active-consumer": True}
    assert str(settings.origin("queue mail", "weight")) == f"{second}:2"


@pytest.mark.parametrize(
    "text",
    [
        "amqp://u:100%25@h//",
        "amqp://u:p@[::1]:5672//",
        "amqp://u:a;b@h//",
        "amqp://h//v;host",
    ],
)
def test_urls_with_characters_that_ini_files_often_choke_on(tmp_path: Path, text: str) -> None:
    ini = tmp_path / "shop.ini"
    ini.write_text(f"[broker]\nurl = {text}\n")
    assert load_settings(config_files=[ini], environ=HOME).broker.url == (text,)


def test_a_hash_in_a_url_means_itself(tmp_path: Path) -> None:
    ini = tmp_path / "shop.ini"
    ini.write_text("[broker]\nurl = amqp://u:a#b@h//v#1\n")
    assert load_settings(config_files=[ini], environ=HOME).broker.url == ("amqp://u:a%23b@h//v%231",)


@pytest.mark.parametrize(
    "text",
    ["amqp://a/ amqp://b/", "amqp://a/;amqp://b/", "amqp://a/ ; amqp://b/", "\n  amqp://a/\n  # spare\n  amqp://b/"],
)
def test_a_failover_list(tmp_path: Path, text: str) -> None:
    ini = tmp_path / "shop.ini"
    ini.write_text(f"[broker]\nurl = {text}\n")
    assert load_settings(config_files=[ini], environ=HOME).broker.url == ("amqp://a/", "amqp://b/")


def test_loading_takes_nothing_from_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENWORKER_WORKER_NAME", "wrong")
    assert load_settings(environ=HOME).worker.name == "greenworker@%h"
    assert load_settings().worker.name == "wrong"
