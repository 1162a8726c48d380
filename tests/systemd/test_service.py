"""The unit under a real systemd: it starts, runs a task for another user, survives a crash, and stops; in one boot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.systemd.container import REPOSITORY, Container, missing

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(120)]
UNIT = REPOSITORY / "systemd" / "greenworker@.service"
EXPOSURE = 1.2  # what the hardening reaches; `systemd-analyze security` gives 9.2 to a usual Celery unit
BOOT_TIMEOUT = 45.0

SHOP = """
import time
from greenworker import App

app = App("shop")

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(seconds):
    time.sleep(seconds)
"""
INI = """
[worker]
app = shop:app
state_directory = /var/lib/greenworker/%s
shutdown_timeout = 1s

[broker]
file_group = greenworker
"""

# The library path is for a Python that is not Debian's and looks for its shared library where it was built.
DROP_IN = """
[Service]
WorkingDirectory=/opt/shop
Environment=LD_LIBRARY_PATH=/opt/python/lib
"""

# A label, then what came of it: one line each in the output, which the tests read.
SCRIPT = """
unit=greenworker@shop.service
journal() { journalctl -u "$1" -o cat --no-pager; }
state() { systemctl show "$1" -P "$2"; }
ready() {
    for _ in $(seq 100); do
        [ "$(journal $unit | grep -c ' ready$')" -ge "$1" ] && return
        [ "$(state $unit ActiveState)" = failed ] && break
        sleep 0.1
    done
    echo "not ready: $(state $unit ActiveState) $(state $unit ExecMainStatus)"
    exit
}
as_producer() {
    runuser -u producer -- env LD_LIBRARY_PATH=/opt/python/lib \\
        /opt/greenworker/bin/greenworker "$@" -C /etc/greenworker/shop.ini 2>&1
}
finish() {
    echo "--- journal"
    journal $unit
    journal greenworker@broken.service
}
trap finish EXIT

useradd --no-create-home --groups greenworker producer
echo "verify: $(systemd-analyze verify $unit 2>&1)"
systemctl start $unit
ready 1 && echo "ready: yes"
echo "user: $(ps -o user= -p "$(state $unit MainPID)")"
echo "folder: $(stat -c '%U:%G %a' /var/lib/greenworker/shop)"
echo "result: $(as_producer call shop.add 2 2 --wait | tail -n 1)"

kill -KILL "$(state $unit MainPID)"
ready 2 && echo "restarted: $(state $unit NRestarts)"
echo "result after it: $(as_producer call shop.add 3 4 --wait | tail -n 1)"

systemctl stop $unit
echo "idle stop: $(state $unit Result) $(state $unit ExecMainStatus) $(state $unit ActiveState)"

systemctl start $unit
ready 3
as_producer call shop.sleep 100 >/dev/null
for _ in $(seq 100); do journal $unit | grep -q shop.sleep && break; sleep 0.1; done
systemctl stop $unit
echo "busy stop: $(state $unit Result) $(state $unit ExecMainStatus) $(state $unit ActiveState)"

systemctl start greenworker@broken.service
for _ in $(seq 100); do [ "$(state greenworker@broken.service ActiveState)" = failed ] && break; sleep 0.1; done
sleep 3  # longer than RestartSec: a restart would have come by now
echo "broken: $(state greenworker@broken.service ExecMainStatus) $(state greenworker@broken.service NRestarts) restarts"
echo "complaint: $(journal greenworker@broken.service | grep -c 'concurency')"

echo "denied: $(journalctl --no-pager -o cat | grep -i -c 'operation not permitted')"
"""


@pytest.fixture(scope="module")
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the script printed; boots once for all tests of this file."""
    if missing():
        yield ""
        return
    with Container(tmp_path_factory.mktemp("systemd")) as container:
        container.install_greenworker()
        container.write("/opt/shop/shop.py", SHOP)
        container.write("/etc/systemd/system/greenworker@.service.d/shop.conf", DROP_IN)
        container.write("/etc/greenworker/shop.ini", INI % "shop")
        container.write("/etc/greenworker/broken.ini", "[worker]\nconcurency = 10\n")
        yield container.boot(SCRIPT, ["greenworker@shop.service", "greenworker@broken.service"], BOOT_TIMEOUT)


@pytest.fixture
def told(request: pytest.FixtureRequest, output: str) -> dict[str, str]:
    """The script's output as label: what came of it. Printed whole, so that a failed test shows it."""
    skip_or_fail(request, missing())
    print(output)
    lines = output.partition("--- journal")[0].splitlines()
    return {label: value for label, _, value in (line.partition(": ") for line in lines)}


def test_verify_has_nothing_to_say(told: dict[str, str]) -> None:
    assert told["verify"] == ""


def test_it_gets_ready_as_its_own_user_with_a_folder_for_its_group(told: dict[str, str]) -> None:
    assert told["ready"] == "yes"
    assert told["user"].startswith("greenwo")  # ps cuts it
    assert told["folder"] == "greenworker:greenworker 2770"


def test_it_runs_a_task_that_another_user_enqueued(told: dict[str, str]) -> None:
    assert told["result"] == "4"


def test_it_is_restarted_after_a_crash(told: dict[str, str]) -> None:
    assert told["restarted"] == "1"
    assert told["result after it"] == "7"


def test_an_idle_stop_is_a_success(told: dict[str, str]) -> None:
    assert told["idle stop"] == "success 0 inactive"


def test_a_stop_that_puts_tasks_back_is_a_success_too(told: dict[str, str]) -> None:
    assert told["busy stop"] == "success 75 inactive"


def test_a_wrong_configuration_is_told_and_not_tried_again(told: dict[str, str]) -> None:
    assert told["broken"] == "78 0 restarts"
    assert told["complaint"] != "0"


def test_the_hardening_denies_nothing_that_is_needed(told: dict[str, str]) -> None:
    assert told["denied"] == "0"


def test_its_exposure_stays_low(request: pytest.FixtureRequest) -> None:
    skip_or_fail(request, missing())
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    overall = next(line for line in done.stdout.splitlines() if "Overall exposure level" in line)
    assert float(overall.split(": ")[1].split()[0]) <= EXPOSURE, done.stdout


def test_stopping_has_more_time_than_a_warm_shutdown_takes() -> None:
    lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if line[:1].isalpha())
    defaults = Path(REPOSITORY / "conf" / "greenworker.ini").read_text()
    assert "#shutdown_timeout = 1m\n" in defaults
    assert int(lines["TimeoutStopSec"]) >= 60 + 15  # close, put back and the last acks come after the 60 s
