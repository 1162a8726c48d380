"""The generated files: complete, harmless as they stand, and up to date in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from greenworker.settings import table
from greenworker.settings.load import load_settings
from greenworker.settings.reference import ini_text, page_text

REPOSITORY = Path(__file__).resolve().parents[3]
ENVIRON = {"STATE_DIRECTORY": "/s"}


def test_reading_the_ini_as_it_stands_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "greenworker.ini").write_text(ini_text())
    settings = load_settings(config_files=[tmp_path / "greenworker.ini"], environ=ENVIRON)
    assert settings == load_settings(environ=ENVIRON)
    assert settings.origins == {}


def test_every_key_can_be_uncommented_and_is_its_default(tmp_path: Path) -> None:
    (tmp_path / "greenworker.ini").write_text(re.sub(r"(?m)^#(?! )(?=.)", "", ini_text()))
    settings = load_settings(config_files=[tmp_path / "greenworker.ini"], environ=ENVIRON)
    defaults = load_settings(environ=ENVIRON)
    assert (settings.worker, settings.task, settings.broker) == (defaults.worker, defaults.task, defaults.broker)
    assert settings.results == defaults.results
    assert set(settings.origins) == {(row.section, row.key) for row in table.ROWS} | {
        (f"{section.name} {section.example}", row.key) for section in table.NAMED_SECTIONS for row in section.rows
    }


def test_the_page_has_every_name_of_every_setting() -> None:
    page = page_text()
    for row in table.ROWS:
        assert f"### `{row.key}`" in page
        assert f"`{row.variable}`" in page
        assert all(f"`{flag}`" in page for flag in row.flags)
    assert all(f"### `{row.key}`" in page for row in table.NAMED_ROWS)


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "generate", "--check"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_shows_the_difference_and_changes_nothing(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "generate"
    script.parent.mkdir()
    script.write_text((REPOSITORY / "scripts" / "generate").read_text())
    for needed in ("greenworker", "scripts/from_celery.py", "docs/from_celery.toml", "tests"):
        (tmp_path / needed).parent.mkdir(exist_ok=True)
        (tmp_path / needed).symlink_to(REPOSITORY / needed)
    ini = tmp_path / "conf" / "greenworker.ini"
    ini.parent.mkdir()
    ini.write_text(ini_text().replace("#concurrency = 1000", "#concurrency = 9"))

    def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script, *arguments], capture_output=True, text=True, timeout=30, check=False
        )

    checked = generate("--check")
    assert checked.returncode == 1
    assert "-#concurrency = 9\n+#concurrency = 1000\n" in checked.stdout
    assert "concurrency = 9\n" in ini.read_text()
    assert generate().returncode == 0
    assert ini.read_text() == ini_text()
    assert generate("--check").returncode == 0


def test_the_development_file_is_valid() -> None:
    settings = load_settings(config_files=[REPOSITORY / "conf" / "development.ini"], environ=ENVIRON)
    assert (settings.worker.pool, settings.worker.concurrency, settings.log.format) == ("gevent", 1000, "text")
    assert settings.broker.url == ("sqlite:////s/broker.db",)
