"""Signals by themselves: what connects, what is called, what is forgotten. Most is asked of Celery's own, too."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
from celery.utils.dispatch import Signal as CelerySignal

from greenworker import signals
from greenworker.signals import Signal

BOTH = pytest.mark.parametrize("signal", [Signal("tested", "x"), CelerySignal(name="tested")], ids=["ours", "celery's"])


class Shop:
    """Its methods are receivers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def hear(self, sender: Any, x: int = 0, **kwargs: Any) -> int:
        self.heard.append((sender, x))
        return x + 1


@pytest.fixture(autouse=True)
def nobody_left(request: pytest.FixtureRequest) -> None:
    """Tests share the signals of the parameters."""
    signal = request.node.callspec.params.get("signal") if hasattr(request.node, "callspec") else None
    if signal is not None:
        signal.receivers = () if isinstance(signal, Signal) else []


@BOTH
def test_called_in_order_with_what_was_sent(signal: Any) -> None:
    first, second = Shop(), Shop()
    signal.connect(first.hear)
    signal.connect(second.hear)
    assert signal.send("me", x=1) == [(first.hear, 2), (second.hear, 2)]
    assert first.heard == second.heard == [("me", 1)]


@BOTH
def test_as_a_decorator_with_options_and_without(signal: Any) -> None:
    heard = []

    @signal.connect
    def plain(sender: Any, **kwargs: Any) -> None:
        heard.append("plain")

    @signal.connect(sender="me", weak=False)
    def for_me(sender: Any, **kwargs: Any) -> None:
        heard.append("for me")

    signal.send("me")
    signal.send("you")
    assert heard == ["plain", "for me", "plain"]


@BOTH
def test_one_sender_alone(signal: Any) -> None:
    shop, sender = Shop(), object()
    signal.connect(shop.hear, sender=sender)
    signal.send(object(), x=1)
    signal.send(sender, x=2)
    assert shop.heard == [(sender, 2)]
    assert signal.has_listeners(sender)
    assert not signal.has_listeners("another")


@BOTH
def test_connected_twice_is_called_once(signal: Any) -> None:
    shop = Shop()
    signal.connect(shop.hear)
    signal.connect(shop.hear)
    for _ in range(2):
        signal.connect(lambda sender, **kwargs: shop.heard.append("by uid"), weak=False, dispatch_uid="mine")
    signal.send("me")
    assert shop.heard == [("me", 0), "by uid"]


@BOTH
def test_disconnected(signal: Any) -> None:
    shop, sender = Shop(), object()
    signal.connect(shop.hear)
    signal.connect(shop.hear, sender=sender, dispatch_uid="mine")
    assert signal.disconnect(shop.hear)
    assert not signal.disconnect(shop.hear)
    assert signal.disconnect(sender=sender, dispatch_uid="mine")
    signal.send(sender)
    assert shop.heard == []


@BOTH
def test_a_receiver_goes_with_its_object(signal: Any) -> None:
    kept, gone = Shop(), Shop()
    signal.connect(kept.hear)
    signal.connect(gone.hear)
    del gone
    gc.collect()
    assert [receiver for receiver, _ in signal.send("me")] == [kept.hear]


def test_nobody_listens_when_the_last_one_has_gone() -> None:
    """Whoever asks for ``receivers`` builds nothing then."""
    signal, shop = Signal("tested"), Shop()
    signal.connect(shop.hear)
    assert signal.receivers
    del shop
    gc.collect()
    assert not signal.receivers


def test_one_that_is_not_weak_is_kept() -> None:
    signal, heard = Signal("tested"), list[str]()
    signal.connect(lambda sender, **kwargs: heard.append(sender), weak=False)
    gc.collect()
    signal.send("me")
    assert heard == ["me"]


@BOTH
def test_one_that_raises_is_logged_and_stops_nobody(signal: Any, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()

    def broken(sender: Any, **kwargs: Any) -> None:
        raise KeyError("on purpose")

    signal.connect(broken)
    signal.connect(shop.hear)
    with caplog.at_level(logging.ERROR):
        [(receiver, raised), _] = signal.send("me")
    assert receiver is broken
    assert isinstance(raised, KeyError)
    assert shop.heard == [("me", 0)]
    assert "on purpose" in caplog.text


@BOTH
def test_arguments_may_be_added_so_a_receiver_takes_any(signal: Any) -> None:
    with pytest.raises(ValueError, match="accept"):
        signal.connect(lambda sender: None)


def test_a_receiver_may_disconnect_itself_and_connect_another() -> None:
    signal, heard = Signal("tested"), list[str]()

    def second(sender: Any, **kwargs: Any) -> None:
        heard.append("second")

    def once(sender: Any, **kwargs: Any) -> None:
        heard.append("once")
        signal.disconnect(once)
        signal.connect(second)

    signal.connect(once)
    signal.send("me")
    signal.send("me")
    assert heard == ["once", "second"]


def test_every_name_is_a_signal_of_celerys() -> None:
    """The same arguments, and where Celery's own list is not complete, the ones it sends (see the conformance test)."""
    import celery.signals

    added = {"task_postrun": {"state"}, "after_task_publish": {"headers"}}
    added["worker_shutting_down"] = {"sig", "how", "exitcode"}
    for name in signals.__all__:
        if name != "Signal":
            theirs = getattr(celery.signals, name)
            assert set(getattr(signals, name).arguments) == theirs.providing_args | added.get(name, set()), name
