"""Which source serves a broker URL."""

from __future__ import annotations

from collections.abc import Callable

from greenworker.broker.connection import (
    SQLITE_SCHEME,
    ConnectionOptions,
    check_driver,
    database_path,
    is_amqp,
    is_redis,
    scheme_of,
)
from greenworker.broker.delivery import Delivery
from greenworker.broker.source import Source, SourceOptions
from greenworker.green.base import LoopWaiter

__all__ = ["SourceOptions", "make_source"]


def make_source(
    url: str,
    connecting: ConnectionOptions,
    on_delivery: Callable[[Delivery], None],
    waiter: LoopWaiter,
    options: SourceOptions,
) -> Source:
    """Connect to ``url`` and return its source, which owns ``waiter`` from then on and closes it.

    Raises BrokerError (LoginRefusedError where trying again is no use), or StateFolderError for the embedded broker.
    """
    try:
        return _make(url, connecting, on_delivery, waiter, options)
    except BaseException:
        waiter.close()  # nobody else will
        raise


def _make(
    url: str,
    connecting: ConnectionOptions,
    on_delivery: Callable[[Delivery], None],
    waiter: LoopWaiter,
    options: SourceOptions,
) -> Source:
    if is_amqp(url):
        from greenworker.broker.amqp.source import AmqpSource

        return AmqpSource.connect(url, connecting, on_delivery, waiter, options)
    if scheme_of(url) == SQLITE_SCHEME:
        from greenworker.broker.sqlite.source import SqliteOptions, SqliteSource

        own = SqliteOptions(
            lease_timeout=options.lease_timeout,
            synchronous=options.synchronous,
            file_group=options.file_group,
            strict_order=options.strict_order,
        )
        return SqliteSource(database_path(url), on_delivery, waiter, options=own)
    if is_redis(url):
        check_driver(url)
        from greenworker.broker.redis.source import RedisSource

        return RedisSource(url, connecting, on_delivery, waiter, options)
    from greenworker.broker.kombu import KombuSource

    return KombuSource.connect(url, connecting, on_delivery, waiter)
