"""The table of all settings: a dataclass a section, a field a setting, each with its kind, default, flags and help.

This is the single place: flags, INI keys, environment variables, conf/greenworker.ini and the reference page all come
from these fields (``table`` lists them as rows). To add a setting, add a field. Objects of these classes are frozen;
secrets are left out of their ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from greenworker import units
from greenworker.settings.columns import optional, setting
from greenworker.settings.kinds import Arguments, Boolean, Choice, Duration, Integer, Names, Number, Size, Text
from greenworker.settings.origin import DEFAULT_ORIGIN, Origin
from greenworker.settings.urls import BROKER_URLS, RESULTS_URL

POOLS = ("gevent", "eventlet", "threads", "solo")
SERIALIZERS = ("json", "yaml", "msgpack", "pickle")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _one_word(metavar: str, expected: str) -> Text:
    return Text(metavar, expected, r"\S{1,255}")


_FILE = Text("FILE", "the path of a file", r"[^\n\0]{1,4096}")
_STEPS = Names(
    "MODULE:CLASS,...",
    "names such as package.module:Class separated by commas",
    r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*",
)
_RELEASES = Names(
    "NAME,...",
    "django, sqlalchemy:package.module:Session or package.module:function, separated by commas",
    r"django|(sqlalchemy:)?[A-Za-z_][\w.]*:[A-Za-z_][\w.]*",
)
_DELAY = Duration(minimum=units.MILLISECOND)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The worker process: what it runs, how much at once, and how it ends."""

    app: str | None = optional(
        Text("MODULE:APP", "module:attribute, such as shop.tasks:app", r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?"),
        "The App whose tasks are run, as module:attribute.",
        flags=("-A", "--app"),
    )
    pool: str = setting(
        "gevent",
        Choice(POOLS),
        "What tasks run on: green threads, native threads, or one at a time.",
        flags=("-P", "--pool"),
    )
    concurrency: int = setting(
        1_000, Integer(1, 1_000_000), "Slots in the pool: tasks that run at once.", flags=("-c", "--concurrency")
    )
    queues: tuple[str, ...] = setting(("celery",), Names(), "Queues to take tasks from.", flags=("-Q", "--queues"))
    exclude_queues: tuple[str, ...] = setting(
        (), Names(), "Queues to leave out of queues.", flags=("-X", "--exclude-queues")
    )
    queue_order: str = setting(
        "shared",
        Choice(("shared", "weighted", "strict")),
        "How queues share the slots: as messages come, by the weight in [queue NAME], or the first in the list first.",
    )
    name: str = setting(
        "greenworker@%h",
        _one_word("NAME", "one word; %h stands for the host's name, %n for its first part, %d for the rest"),
        "This node's name in remote control and logs; %h is the host's name, %n its first part, %d the rest.",
        flags=("-n", "--name", "--hostname"),
    )
    shutdown_timeout: float = setting(
        60.0, Duration(), "How long a warm shutdown waits for running tasks before it puts them back on the broker."
    )
    prefetch_multiplier: float = setting(
        2.0, Number(1, 1_000), "Messages taken from the broker in advance, as a multiple of concurrency."
    )
    deferred_limit: int = setting(
        1_000,
        Integer(0, 1_000_000),
        "Tasks held in the process for their ETA or a rate limit; those beyond it wait on the broker.",
    )
    reuse_greenlets: bool = setting(
        True,
        Boolean(),
        "Run one task after another on the same greenlet or thread (faster). Say no for code that leans on "
        "threading.local, where the pool is eventlet or threads: the next task would find there what one left behind. "
        "gevent needs no such care: it drops a greenlet on which anything was left.",
    )
    strict: bool = setting(
        False, Boolean(), "Refuse to start when a module was imported before patching, or a driver blocks the loop."
    )
    release: tuple[str, ...] = setting(
        (),
        _RELEASES,
        "What is given back after every task, in its slot: django (database connections, to its pool if "
        "there is one), sqlalchemy:package.module:Session (a scoped_session), or a function of your own as "
        "package.module:function.",
    )
    steps: tuple[str, ...] = setting((), _STEPS, "Boot steps of your own for the Worker blueprint.")
    state_directory: str | None = optional(
        Text("FOLDER", "the absolute path of a folder", r"/[^\n\0]{0,4095}"),
        "Folder of the embedded broker and other state that outlives the process.",
        default_note="$STATE_DIRECTORY (systemd), else $XDG_DATA_HOME/greenworker, else ~/.local/share/greenworker",
    )
    max_body_bytes: int = setting(
        128 * units.MIB,
        Size(units.KIB, 16 * units.GIB),
        "Largest message body; larger ones go to the dead-letter queue.",
    )

    @property
    def taken_queues(self) -> tuple[str, ...]:
        """The queues that tasks are taken from: ``queues`` without ``exclude_queues``, in order."""
        return tuple(name for name in self.queues if name not in self.exclude_queues)


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """The connection to the broker while messages are consumed."""

    steps: tuple[str, ...] = setting((), _STEPS, "Boot steps of your own for the Consumer blueprint.")


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What holds for every task that does not say otherwise."""

    acks_late: bool = setting(
        True, Boolean(), "Acknowledge when the task is done: it runs again if the process dies. No: when it starts."
    )
    time_limit: float | None = optional(_DELAY, "A task is stopped after this time.", default_note="no limit")
    soft_time_limit: float | None = optional(
        _DELAY, "SoftTimeLimitExceeded is raised in the task after this time; it may catch it.", default_note="no limit"
    )
    max_retries: int = setting(3, Integer(0, 1_000_000), "Retries before a task fails with the error it retried for.")
    default_retry_delay: float = setting(180.0, Duration(), "Wait before a retry that names no time of its own.")
    ignore_result: bool = setting(False, Boolean(), "Store no results.")
    track_started: bool = setting(False, Boolean(), "Store the state STARTED when a task begins.")
    default_queue: str = setting(
        "celery",
        Text("NAME", "the name of a queue", r"[^\s,]{1,200}"),
        "Queue of tasks that are sent without naming one.",
    )
    serializer: str = setting("json", Choice(SERIALIZERS), "How arguments of sent tasks are written.")
    compression: str | None = optional(
        Choice(("gzip", "zlib", "bz2", "zstd")), "How bodies of sent tasks are compressed.", default_note="none"
    )
    always_eager: bool = setting(
        False, Boolean(), "Run tasks where they are sent, at once, without a broker: for tests and debugging."
    )
    eager_propagates: bool = setting(
        False, Boolean(), "A task that fails where it is run eagerly raises there, at once, and not at get()."
    )


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where messages come from: RabbitMQ, Redis, or the broker embedded in greenworker."""

    url: tuple[str, ...] = setting(
        (),
        BROKER_URLS,
        "Broker, or several to fail over to. A password is safer in a file than on the command line.",
        flags=("-b", "--broker"),
        secret=True,
        default_note="the embedded broker: broker.db in the state folder",
    )
    accept: tuple[str, ...] = setting(
        ("json",),
        Names(expected=f"any of {', '.join(SERIALIZERS)}, separated by commas", pattern="|".join(SERIALIZERS)),
        "Serializers accepted from others. Name pickle only where every producer may run code here.",
    )
    connect_timeout: float = setting(5.0, _DELAY, "Time allowed to one try to connect.")
    heartbeat: float = setting(
        30.0, Duration(), "A connection silent for this long is given up; 0 switches heartbeats off."
    )
    reconnect_delay: float = setting(0.1, _DELAY, "First wait before connecting again; doubled at each failure.")
    reconnect_delay_max: float = setting(30.0, _DELAY, "Longest wait before connecting again.")
    tls_ca: str | None = optional(
        _FILE, "Certificates that the broker's is checked against.", default_note="the system's"
    )
    tls_cert: str | None = optional(_FILE, "Certificate to show to the broker.")
    tls_key: str | None = optional(_FILE, "Private key of tls_cert.")
    tls_verify: bool = setting(True, Boolean(), "Check the broker's certificate and name.")
    publish_timeout: float = setting(10.0, _DELAY, "Time allowed to publish a message and have it confirmed.")
    publish_connections: int = setting(4, Integer(1, 1_000), "Connections kept for publishing.")
    file_group: str | None = optional(
        Text("GROUP", "the name of a group", r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}"),
        "Group that may also use the embedded broker's files.",
        default_note="the user alone",
    )
    synchronous: str = setting(
        "normal",
        Choice(("normal", "full")),
        "What the embedded broker's messages survive: normal, a killed process; full, loss of power (slower).",
    )
    lease_timeout: float = setting(
        60.0,
        Duration(minimum=units.SECOND),
        "A dead worker's messages go to others after this time (Redis and the embedded broker).",
    )
    visibility_timeout: float = setting(
        units.HOUR,
        Duration(minimum=units.SECOND),
        "On Redis, messages that a Celery worker has taken go to others after this time: what the Celery workers "
        "beside this one have as their visibility_timeout. greenworker's own are renewed while they are in hand.",
    )


@dataclass(frozen=True, slots=True)
class ResultsSettings:
    """Where results of tasks are kept."""

    url: str | None = optional(
        RESULTS_URL,
        "Results store; none keeps no results.",
        flags=("--result-backend",),
        secret=True,
        default_note="results.db beside the embedded broker; none with any other broker",
    )
    expires: float = setting(units.DAY, Duration(minimum=units.SECOND), "Results are deleted after this time.")
    serializer: str = setting("json", Choice(SERIALIZERS), "How results are written.")
    connections: int = setting(
        10, Integer(2, 1_000), "Connections to Redis at most, however many tasks store results or wait for them."
    )
    persistent: bool = setting(False, Boolean(), "Results sent over rpc:// survive a restart of the broker.")
    buffer_limit: int = setting(
        1_000, Integer(1, 1_000_000), "Results that wait in memory while the store is away; acks wait with them."
    )
    spill_bytes: int = setting(
        64 * units.MIB,
        Size(0, 1_024 * units.GIB),
        "Results beyond buffer_limit wait in a file of this size in the state folder, each counted as 4 KiB at least. "
        "When that is full too, no new tasks are taken.",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how."""

    level: str = setting("INFO", Choice(LEVELS), "Least serious level that is logged.", flags=("-l", "--loglevel"))
    format: str = setting("auto", Choice(("text", "json", "auto")), "auto is text on a terminal and json elsewhere.")
    tasks: str = setting("INFO", Choice(LEVELS), "Level of the two lines a task: received, done.")
    color: str = setting("auto", Choice(("auto", "yes", "no")), "Colours in text logs; auto is yes on a terminal.")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """One queue: how it is declared and served. Its section is [queue NAME]; it is set in INI files alone."""

    type: str = setting("classic", Choice(("classic", "quorum")), "RabbitMQ's queue type.")
    durable: bool = setting(True, Boolean(), "The queue outlives a restart of the broker.")
    exchange: str = setting(
        "",
        _one_word("NAME", "the name of an exchange"),
        "Exchange it is bound to.",
        default_note="the default exchange",
    )
    exchange_type: str = setting("direct", Choice(("direct", "topic", "fanout", "headers")), "Type of that exchange.")
    routing_key: str = setting(
        "", _one_word("KEY", "a routing key"), "Key it is bound with.", default_note="the queue's name"
    )
    max_priority: int | None = optional(
        Integer(1, 255), "Highest priority of its messages.", default_note="no priorities"
    )
    weight: int = setting(1, Integer(1, 1_000), "Share of the slots where [worker] queue_order is weighted.")
    arguments: Mapping[str, Any] = setting(
        MappingProxyType({}), Arguments(), "Further arguments of the declaration.", default_note="none"
    )
    dead_letter: bool = setting(True, Boolean(), "Messages no task can be made of go to NAME.dead.")
    declare: bool = setting(True, Boolean(), "Declare the queue; no where it must exist already.")


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """Where tasks go whose names match PATTERN, in which * stands for any characters and ? for one.

    Its section is [route PATTERN]; it is set in INI files alone. Of several patterns that match, the one counts that
    spells out the most of the name; of equal ones the first. What a call or App(router=...) says counts over it.
    """

    queue: str | None = optional(
        Text("NAME", "the name of a queue", r"[^\s,]{1,200}"),
        "Queue that they are sent to.",
        default_note="the task's own, else [task] default_queue",
    )
    priority: int | None = optional(
        Integer(0, 255), "Priority that they are sent with.", default_note="the task's own, else none"
    )


def _no_queues() -> Mapping[str, QueueSettings]:
    return MappingProxyType({})


def _no_routes() -> Mapping[str, RouteSettings]:
    return MappingProxyType({})


def _no_origins() -> Mapping[tuple[str, str], Origin]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process. ``load_settings`` makes it, and fills in the broker's and results' URLs."""

    worker: WorkerSettings = field(default_factory=WorkerSettings)
    consumer: ConsumerSettings = field(default_factory=ConsumerSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    results: ResultsSettings = field(default_factory=ResultsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    queues: Mapping[str, QueueSettings] = field(default_factory=_no_queues)
    routes: Mapping[str, RouteSettings] = field(default_factory=_no_routes)
    origins: Mapping[tuple[str, str], Origin] = field(default_factory=_no_origins, repr=False, compare=False)

    def origin(self, section: str, key: str) -> Origin:
        """Return who gave ``[section] key``; the section of a queue is ``queue NAME``."""
        return self.origins.get((section, key), DEFAULT_ORIGIN)
