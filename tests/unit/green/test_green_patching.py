"""Patching and its audit, each in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from greenworker.errors import PatchError
from greenworker.green.patching import Finding, blocking_drivers, check, patch
from tests.support.greenproc import GREEN_POOLS, run_patched, run_python

green_pools = pytest.mark.parametrize("pool", GREEN_POOLS)


@green_pools
def test_a_clean_start_patches_everything_without_a_finding_or_a_word(pool: str) -> None:
    run_python(
        f"""
        import contextlib, io, sys
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            from greenworker.green.patching import patch
            light = set(sys.modules) & {{"socket", "ssl", "threading", "select", "queue", "selectors", "logging"}}
            audit = patch({pool!r})
        assert not light, light
        assert audit.findings == () and audit.early == (), audit
        import ssl, socket, threading, time
        for thing in (socket.socket, ssl.SSLContext.wrap_socket, time.sleep):
            assert thing.__module__.startswith({pool!r}), thing
        assert said.getvalue() == "", said.getvalue()
        """,
        env={"PYTHONWARNINGS": "error"} if pool == "gevent" else {},
    )


@green_pools
def test_standard_modules_imported_early_are_told_but_are_no_finding(pool: str) -> None:
    run_python(
        f"""
        import socket, threading, queue
        from greenworker.green.patching import patch
        audit = patch({pool!r})
        assert {{"socket", "threading", "queue"}} <= set(audit.early), audit
        assert audit.findings == (), audit
        """
    )


@green_pools
def test_early_modules_that_keep_unpatched_things_are_named(pool: str, tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import threading\nfrom socket import socket, create_connection\nfrom time import sleep as nap\n"
        "LOCK = threading.Lock()\nimport time\n"
    )
    (tmp_path / "shop.py").write_text("import json\n")
    out = run_python(
        f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import early, shop
        from greenworker.green.patching import patch
        for finding in patch({pool!r}, "shop").findings: print(finding)
        """
    )
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("shop: the app was imported before patching")], out
    for name in ("socket.socket", "socket.create_connection", "time.sleep as 'nap'", "the lock 'LOCK'"):
        assert sum(name in line and line.startswith("early: ") for line in lines) == 1, (name, out)
    assert not [line for line in lines if "early.time" in line or "json" in line], out


@green_pools
def test_a_thread_started_before_patching_is_named(pool: str) -> None:
    out = run_python(
        f"""
        import threading
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, args=(5,), name="sampler", daemon=True); thread.start()
        from greenworker.green.patching import patch
        for finding in patch({pool!r}).findings: print(finding)
        """
    )
    assert "the thread 'sampler' was started before patching" in out


def test_gevents_own_warning_about_ssl_becomes_a_finding() -> None:
    out = run_python(
        """
        import ssl
        class Context(ssl.SSLContext): pass
        from greenworker.green.patching import patch
        audit = patch("gevent")
        for finding in audit.findings: print(finding.module, finding.problem)
        print("ssl" in audit.early)
        """
    )
    assert out.splitlines()[-1] == "True"


@green_pools
def test_loaded_drivers_that_block_in_c_are_named_with_what_mends_them(pool: str, tmp_path: Path) -> None:
    for name in ("MySQLdb", "grpc", "zmq", "confluent_kafka"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "zmq" / "green.py").write_text("")
    out = run_patched(
        pool,
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        from greenworker.green.patching import blocking_drivers
        assert blocking_drivers(POOL) == ()
        import MySQLdb, grpc, zmq.green
        for finding in blocking_drivers(POOL): print(finding)
        """,
    )
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["MySQLdb", "grpc"]
    assert "use PyMySQL" in lines[0]
    assert f"grpc.experimental.{pool}.init_{pool}()" in lines[1]


@green_pools
def test_psycopg2_is_made_green(pool: str) -> None:
    pytest.importorskip("psycopg2")
    if pool == "gevent":
        pytest.importorskip("psycogreen")
    run_patched(
        pool,
        """
        import sys
        assert POOL == "eventlet" or "psycopg2" not in sys.modules, "5 MB for an app that may not use it"
        import psycopg2
        from psycopg2.extensions import get_wait_callback
        from greenworker.green.patching import blocking_drivers
        assert get_wait_callback() is not None
        assert "psycopg2" not in [finding.module for finding in blocking_drivers(POOL)]
        """,
    )


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_pools_without_green_threads_patch_nothing(pool: str) -> None:
    assert patch(pool).findings == ()
    assert blocking_drivers(pool) == ()
    assert "gevent" not in sys.modules
    assert "eventlet" not in sys.modules


def test_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no pool is called 'gevnt'; there are: gevent, eventlet, threads, solo"):
        patch("gevnt")


def test_strict_makes_findings_an_error_that_names_each() -> None:
    findings = (Finding("a", "blocks", "mend it"), Finding("b", "keeps a lock", "import it later"))
    check(findings, strict=False)
    check((), strict=True)
    with pytest.raises(PatchError, match=r"(?s)strict is on:\na: blocks; mend it\nb: keeps a lock; import it later"):
        check(findings, strict=True)
