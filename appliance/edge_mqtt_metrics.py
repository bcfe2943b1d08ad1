"""What the MQTT server counts, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ingest.broker.broker import Broker
from ingest.broker.counters import BrokerCounters, BrokerFigures
from wire.mqtt.reasons import PacketType, ReasonCode

_ZERO: Final = {PacketType.SUBACK: "granted-qos-0", PacketType.DISCONNECT: "normal-disconnection"}


def mqtt_metrics(broker: Broker) -> Iterator[Metric]:
    """Everything, as of now."""
    figures, counters = broker.figures(), broker.counters
    yield from _kept(figures)
    yield from _waiting(figures)
    yield from _delivered(counters, figures)
    yield from _ended(counters)
    yield from _reasons(counters)


def _kept(figures: BrokerFigures) -> Iterator[Metric]:
    sessions = GaugeMetricFamily("headrace_mqtt_sessions", "MQTT sessions.", labels=["state"])
    sessions.add_metric(["connected"], figures.connected)
    sessions.add_metric(["away"], figures.away)
    yield sessions
    for name, documentation, value in (
        ("subscriptions", "Subscriptions of all sessions.", figures.subscriptions),
        ("retained_messages", "Retained messages.", figures.retained_messages),
        ("retained_bytes", "What retained messages take in memory.", figures.retained_bytes),
        ("wills", "Wills of clients that are connected, or for whom the delay runs.", figures.wills),
        ("will_bytes", "What wills take in memory.", figures.will_bytes),
        ("state_left_out", "Rows of the state tables that could not be read at the start.", figures.state_left_out),
    ):
        yield GaugeMetricFamily(f"headrace_mqtt_{name}", documentation, value=value)
    yield CounterMetricFamily(
        "headrace_mqtt_retained_refused", "Messages not retained for want of room.", value=figures.retained_refused
    )


def _waiting(figures: BrokerFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "headrace_mqtt_queued_messages",
        "Messages that wait for clients that are away or behind, as last counted.",
        value=figures.queued_messages,
    )
    yield GaugeMetricFamily(
        "headrace_mqtt_queued_bytes", "What their places take, as last counted.", value=figures.queued_bytes
    )


def _delivered(counters: BrokerCounters, figures: BrokerFigures) -> Iterator[Metric]:
    yield CounterMetricFamily("headrace_mqtt_delivered", "Messages sent to subscribers.", value=counters.delivered)
    yield CounterMetricFamily(
        "headrace_mqtt_delivered_again", "Those sent again, with DUP.", value=counters.delivered_again
    )
    undelivered = CounterMetricFamily(
        "headrace_mqtt_undelivered", "Messages not sent to a subscriber.", labels=["reason"]
    )
    for reason, count in (
        ("qos 0", counters.dropped_qos_0),
        ("too large", counters.dropped_too_large),
        ("expired", counters.expired),
        ("lost", counters.lost),
    ):
        undelivered.add_metric([reason], count)
    yield undelivered
    yield CounterMetricFamily(
        "headrace_mqtt_catch_up_slices",
        "Slices of the log read for subscribers that were behind.",
        value=figures.catch_up_slices,
    )
    yield CounterMetricFamily("headrace_mqtt_wills_published", "Wills published.", value=counters.wills)
    yield CounterMetricFamily(
        "headrace_mqtt_wills_dropped", "Wills that could not be published.", value=counters.wills_dropped
    )


def _ended(counters: BrokerCounters) -> Iterator[Metric]:
    ended = CounterMetricFamily("headrace_mqtt_sessions_ended", "Sessions ended by the box.", labels=["reason"])
    ended.add_metric(["expired"], counters.sessions_expired)
    ended.add_metric(["overflowed"], counters.sessions_overflowed)
    ended.add_metric(["behind the log"], counters.sessions_behind)
    yield ended


def _reasons(counters: BrokerCounters) -> Iterator[Metric]:
    reasons = CounterMetricFamily("headrace_mqtt_reasons", "Reasons sent to clients.", labels=["packet", "reason"])
    for (packet_type, number), count in sorted(counters.reasons.items()):
        reasons.add_metric([packet_type.name, reason_name(packet_type, number)], count)
    yield reasons
    disconnects = CounterMetricFamily(
        "headrace_mqtt_client_disconnects", "Reasons of the DISCONNECTs that clients sent.", labels=["reason"]
    )
    for number, count in sorted(counters.disconnects.items()):
        disconnects.add_metric([reason_name(PacketType.DISCONNECT, number)], count)
    yield disconnects


def reason_name(packet_type: PacketType, number: int) -> str:
    """A reason code's name in 5.0, section 2.4, for a label: `not-authorized`."""
    if not number:
        return _ZERO.get(packet_type, "success")
    return ReasonCode(number).name.lower().replace("_", "-")
