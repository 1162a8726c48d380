"""What an App opens: its settings, its publisher, its results store; and how an operator's settings meet the code's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from greenworker.app.told_publisher import ToldPublisher
from greenworker.broker.connection import ConnectionOptions
from greenworker.broker.publisher import Publisher, PublisherOptions, make_publisher
from greenworker.errors import SettingsError
from greenworker.results.base import Broker, ResultsOptions, ResultStore, make_results
from greenworker.settings.kinds import Kind
from greenworker.settings.load import load_settings
from greenworker.settings.model import Settings
from greenworker.settings.secrets import mask_url
from greenworker.settings.state import state_directory, with_urls
from greenworker.settings.urls import BROKER_URLS, NO_RESULTS, RESULTS_URL

Value = TypeVar("Value")


def load_app_settings(config: Path | None) -> Settings:
    """The settings of a process that has no command line of its own. Raises SettingsError."""
    return load_settings(config_files=(config,) if config is not None else ())


def connection_options(settings: Settings) -> ConnectionOptions:
    """How to connect to the broker."""
    broker = settings.broker
    return ConnectionOptions(
        connect_timeout=broker.connect_timeout,
        heartbeat=broker.heartbeat,
        tls_ca=broker.tls_ca,
        tls_cert=broker.tls_cert,
        tls_key=broker.tls_key,
        tls_verify=broker.tls_verify,
    )


def open_publisher(settings: Settings) -> Publisher:
    """The publisher for ``[broker] url``."""
    broker = settings.broker
    options = PublisherOptions(
        timeout=broker.publish_timeout,
        connections=broker.publish_connections,
        synchronous=broker.synchronous,
        file_group=broker.file_group,
        lease_timeout=broker.lease_timeout,
    )
    return ToldPublisher(make_publisher(broker.url, connection_options(settings), options))


def results_options(settings: Settings, *, create: bool = False) -> ResultsOptions:
    """How results are kept; ``create`` is for the worker."""
    results = settings.results
    return ResultsOptions(
        expires=results.expires,
        serializer=results.serializer,
        create=create,
        synchronous=settings.broker.synchronous,
        file_group=settings.broker.file_group,
        connecting=replace(connection_options(settings), section="results"),
        connections=results.connections,
        persistent=results.persistent,
        buffer_limit=results.buffer_limit,
        spill_bytes=results.spill_bytes,
        spill_folder=state_directory(settings) if create else None,
    )


def results_store(settings: Settings, publisher: Callable[[], Publisher], *, create: bool = False) -> ResultStore:
    """The store of ``[results] url``, not started. Raises SettingsError for a URL that no store serves."""
    options = results_options(settings, create=create)
    return make_results(settings.results.url, options, Broker(settings.broker.url, publisher))


def open_results(settings: Settings, publisher: Callable[[], Publisher]) -> ResultStore:
    """The store of ``[results] url``, started, for reading: it must be there already."""
    store = results_store(settings, publisher)
    store.start()
    return store


def with_code_values(settings: Settings, broker: str | None, results: str | None) -> Settings:
    """``settings`` with the URLs that the app's code gives, where nothing but the default decided.

    So the operator's word counts over the code's, and a worker and a producer of one app agree where nobody has one.
    Raises SettingsError for a URL that is none.
    """
    results_are_default = settings.origin("results", "url").kind == "default"
    code_broker = broker if settings.origin("broker", "url").kind == "default" else None
    code_results = results if results_are_default else None
    if code_broker is None and code_results is None:
        return settings
    brokers = settings.broker.url if code_broker is None else _parsed(BROKER_URLS, code_broker, "broker")
    store = None if results_are_default else settings.results.url or NO_RESULTS  # None: what follows from the broker
    if code_results is not None:
        store = _parsed(RESULTS_URL, code_results, "results")
    given = replace(
        settings, broker=replace(settings.broker, url=brokers), results=replace(settings.results, url=store)
    )
    return with_urls(given, os.environ)


def _parsed(kind: Kind[Value], text: str, argument: str) -> Value:
    try:
        return kind.parse(text)
    except ValueError as exc:
        raise SettingsError([f"App({argument}=...): expected {exc}; got {mask_url(text)}"]) from None
