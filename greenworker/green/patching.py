"""Makes the standard library green, and finds what will block all the same.

Rule of this file: it is imported before anything is patched, so it imports nothing itself that touches sockets, locks
or threads. The libraries are imported inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

from greenworker.errors import PatchError

GREEN_POOLS = ("gevent", "eventlet")
POOLS = (*GREEN_POOLS, "threads", "solo")

# Patched in place by both libraries: `import socket` before patching is harmless, `from socket import socket` is not.
PATCHED_MODULES = (
    "_thread", "os", "queue", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time",
)  # fmt: skip


class Finding(NamedTuple):
    """One thing that may block every task of the process: where, what, and what mends it."""

    module: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.module}: {self.problem}; {self.remedy}"


class Audit(NamedTuple):
    """What ``patch`` found. ``early`` are standard modules that were imported before and patched in place: harmless."""

    pool: str
    findings: tuple[Finding, ...] = ()
    early: tuple[str, ...] = ()


class Driver(NamedTuple):
    """A library that waits for the network in C, where no patch reaches.

    ``mended_by``: modules whose presence says that its own green mode was chosen.
    """

    module: str
    remedy: str
    mended_by: tuple[str, ...] = ()


DRIVERS = (
    Driver("psycopg2", "install psycogreen: greenworker switches it on"),
    Driver("MySQLdb", "use PyMySQL, which is Python and is patched"),
    Driver("_mysql_connector", "connect with use_pure=True"),
    Driver("confluent_kafka", "use kafka-python, or call it with poll(0) and time.sleep between"),
    Driver(
        "grpc",
        "call grpc.experimental.{pool}.init_{pool}() before the first channel is made",
        ("grpc.experimental.gevent", "grpc.experimental.eventlet"),
    ),
    Driver("cx_Oracle", "use oracledb in its thin mode"),
    Driver("oracledb", "do not call init_oracle_client(): the thin mode is Python and is patched"),
    Driver("pyodbc", "run its tasks in a worker with the pool 'threads'"),
    Driver("pymssql", "hand pymssql.set_wait_callback() a green wait, or run its tasks with the pool 'threads'"),
    Driver("ibm_db", "run its tasks in a worker with the pool 'threads'"),
    Driver("pylibmc", "use pymemcache, which is Python and is patched"),
    Driver("pycurl", "use requests or httpx, which are Python and are patched"),
    Driver("zmq", "import zmq.green in its place", ("zmq.green",)),
)


def patch(pool: str, app_module: str | None = None) -> Audit:
    """Patch the process for ``pool`` and tell what was imported too early for it.

    ``app_module``: the app's module (``shop.tasks``), which must not have been imported yet. Pools without green
    threads patch nothing and find nothing. Raises ValueError for a name that is no pool's.
    """
    if pool not in POOLS:
        raise ValueError(f"no pool is called {pool!r}; there are: {', '.join(POOLS)}")
    if pool not in GREEN_POOLS:
        return Audit(pool)
    before = dict(sys.modules)
    unpatched = {name: dict(vars(before[name])) for name in PATCHED_MODULES if name in before}
    findings = [*_app_findings(app_module, before), *_thread_findings(before)]
    findings += _patch_gevent() if pool == "gevent" else _patch_eventlet()
    findings += _capture_findings(before, unpatched)
    return Audit(pool, tuple(findings), tuple(name for name in unpatched if name not in ALWAYS_LOADED))


# The interpreter has these before any code of ours runs.
ALWAYS_LOADED = ("_thread", "os", "time")


def blocking_drivers(pool: str) -> tuple[Finding, ...]:
    """The loaded libraries that block the whole process while they wait. Call it when the app has been imported."""
    if pool not in GREEN_POOLS:
        return ()
    return tuple(
        Finding(driver.module, "waits for the network in C and blocks every task", driver.remedy.format(pool=pool))
        for driver in DRIVERS
        if driver.module in sys.modules
        and not any(name in sys.modules for name in driver.mended_by)
        and not _waits_green(driver.module)
    )


def check(findings: Iterable[Finding], strict: bool) -> None:
    """Raise PatchError that names every finding, if there are any and ``strict`` is on."""
    lines = [str(finding) for finding in findings]
    if lines and strict:
        raise PatchError("not everything is green, and [worker] strict is on:\n" + "\n".join(lines))


def _patch_gevent() -> list[Finding]:
    """Patch with gevent; its own warnings become findings."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from gevent import monkey

        monkey.patch_all()
    _mend_psycopg2()
    return [
        Finding("gevent", " ".join(str(warning.message).split()), "import it after patching")
        for warning in caught
        if issubclass(warning.category, monkey.MonkeyPatchWarning)
    ]


def _patch_eventlet() -> list[Finding]:
    """Patch with eventlet, psycopg2 included, which it does by itself."""
    import warnings

    with warnings.catch_warnings():
        # eventlet warns at import that its maintainers are retiring it. Whoever runs this pool has chosen it, and a
        # worker that warns at every start teaches people not to read warnings; the reference page for `pool` says it.
        warnings.simplefilter("ignore")
        import eventlet
        from eventlet import patcher

    # Taken while epoll is still there, so that `original` can hand out a selector later: eventlet makes its originals
    # by importing the module again, and by then the patched `select` has no epoll.
    patcher.original("selectors")
    eventlet.monkey_patch()
    return []


def _mend_psycopg2() -> None:
    """psycopg2 has a hook for green waits; psycogreen fills it for gevent. Either may not be installed."""
    if "psycopg2" in sys.modules:
        _switch_psycogreen_on()
    else:
        sys.meta_path.insert(0, _Psycopg2Finder())


def _switch_psycogreen_on() -> None:
    try:
        from psycogreen.gevent import patch_psycopg
    except ImportError:
        return
    patch_psycopg()


class _Psycopg2Finder:
    """Mends psycopg2 when somebody imports it. To import it here would cost every worker 5 MB, and most in vain."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of the import system: what the other finders found, made to mend the module once it is there."""
        if name != "psycopg2":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            _call_after_loading(spec.loader, _switch_psycogreen_on)
        return spec


def _call_after_loading(loader: Any, call: Callable[[], None]) -> None:
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        load(module)
        call()

    loader.exec_module = exec_module


def _waits_green(module: str) -> bool:
    """Whether a driver that can wait green has been told to."""
    if module == "psycopg2":
        from psycopg2.extensions import get_wait_callback

        return get_wait_callback() is not None
    if module == "oracledb":
        return bool(sys.modules[module].is_thin_mode())
    return False


def _app_findings(app_module: str | None, before: Mapping[str, ModuleType]) -> Iterator[Finding]:
    if app_module is not None and app_module in before:
        yield Finding(app_module, "the app was imported before patching", "start it with `greenworker worker -A`")


def _thread_findings(before: Mapping[str, ModuleType]) -> Iterator[Finding]:
    if "threading" not in before:
        return
    for thread in before["threading"].enumerate():
        if thread is not before["threading"].main_thread():
            yield Finding("threading", f"the thread {thread.name!r} was started before patching", "start it later")


def _capture_findings(
    before: Mapping[str, ModuleType], unpatched: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """Modules outside the standard library that keep something unpatched under a name of their own."""
    replaced = {
        id(old): f"{module}.{name}"
        for module, names in unpatched.items()
        for name, old in names.items()
        if callable(old) and vars(before[module]).get(name) is not old
    }
    lock_types = _native_lock_types(unpatched)
    for module_name, module in sorted(before.items()):
        if _is_exempt(module_name) or not isinstance(module, ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                problem = f"was imported before patching and keeps the unpatched {replaced[id(value)]} as {name!r}"
                yield Finding(module_name, problem, "import it after patching")
            elif isinstance(value, lock_types):
                problem = f"was imported before patching and keeps the lock {name!r}, which blocks every task"
                yield Finding(module_name, problem, "import it after patching")


def _native_lock_types(unpatched: Mapping[str, Mapping[str, Any]]) -> tuple[type, ...]:
    names = unpatched["_thread"]
    return tuple(names[name] for name in ("LockType", "RLock") if isinstance(names.get(name), type))


def _is_exempt(module: str) -> bool:
    """Standard modules (the libraries know them) and the libraries themselves (they keep the originals on purpose)."""
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in (*GREEN_POOLS, "greenlet")
