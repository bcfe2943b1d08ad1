"""The log as other processes see it: `Log` over the local channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commitlog.base import (
    AppendedBatch,
    ClosedWindow,
    NewRecord,
    Position,
    ProducerIdentity,
    TableChange,
    TopicInfo,
)
from commitlog.batch_errors import batch_error
from commitlog.windows import window_from_row, window_to_row
from core.channel import ChannelClient, ChannelError, Handler
from core.errors import BadRequestError


class RemoteLog:
    """`Log` through `<data>/run/edge.sock`. Raises UnavailableError while the edge process is away."""

    def __init__(self, channel: ChannelClient) -> None:
        self._channel = channel

    async def create_topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        """See `Log.create_topic`."""
        return TopicInfo(**await self._channel.call("create_topic", name=name, partitions=partitions))

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        """See `Log.append`."""
        rows = await self._channel.call(
            "append",
            records=[(r.topic, r.key, r.value, list(r.headers), r.partition) for r in records],
            changes=[(c.table, c.key, c.value) for c in changes],
        )
        return [Position(topic=topic, partition=partition, offset=offset) for topic, partition, offset in rows]

    async def append_batch(self, topic: str, partition: int, batch: bytes) -> AppendedBatch:
        """See `Log.append_batch`."""
        try:
            answer = await self._channel.call("append_batch", topic=topic, partition=partition, batch=batch)
        except ChannelError as error:
            raise batch_error(error.remote_code, error) from None
        offset, timestamp_ms = answer
        return AppendedBatch(topic=topic, partition=partition, offset=offset, timestamp_ms=timestamp_ms)

    async def init_producer_id(self) -> ProducerIdentity:
        """See `Log.init_producer_id`."""
        producer_id, epoch = await self._channel.call("init_producer_id")
        return ProducerIdentity(producer_id=producer_id, epoch=epoch)

    async def rows(self, table: str) -> Mapping[str, Any]:
        """See `Log.rows`."""
        result: Mapping[str, Any] = await self._channel.call("rows", table=table)
        return result

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """See `Log.roll`."""
        row = await self._channel.call("roll", topic=topic, reason=reason)
        return None if row is None else window_from_row(row)


def log_handlers(log: Any) -> dict[str, Handler]:
    """The channel verbs that serve a `Log` to `RemoteLog`."""

    async def create_topic(args: Mapping[str, Any]) -> Any:
        info = await log.create_topic(args["name"], args["partitions"])
        return {"name": info.name, "topic_id": info.topic_id, "partitions": info.partitions}

    async def append(args: Mapping[str, Any]) -> Any:
        records = [
            NewRecord(topic=topic, key=key, value=value, headers=[(n, v) for n, v in headers], partition=partition)
            for topic, key, value, headers, partition in args["records"]
        ]
        changes = [TableChange(table=table, key=key, value=value) for table, key, value in args["changes"]]
        return [(p.topic, p.partition, p.offset) for p in await log.append(records, changes)]

    async def append_batch(args: Mapping[str, Any]) -> Any:
        appended = await log.append_batch(args["topic"], args["partition"], args["batch"])
        return appended.offset, appended.timestamp_ms

    async def init_producer_id(args: Mapping[str, Any]) -> Any:
        producer = await log.init_producer_id()
        return producer.producer_id, producer.epoch

    async def rows(args: Mapping[str, Any]) -> Any:
        return await log.rows(args["table"])

    async def roll(args: Mapping[str, Any]) -> Any:
        window = await log.roll(args["topic"], args["reason"])
        return None if window is None else window_to_row(window)

    handlers = {
        "create_topic": create_topic,
        "append": append,
        "append_batch": append_batch,
        "init_producer_id": init_producer_id,
        "rows": rows,
        "roll": roll,
    }
    return {verb: _refusing_bad_arguments(verb, handler) for verb, handler in handlers.items()}


def _refusing_bad_arguments(verb: str, handler: Handler) -> Handler:
    """A handler that says so when its arguments are missing or of other types than the verb takes."""

    async def checked(args: Mapping[str, Any]) -> Any:
        try:
            return await handler(args)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRequestError(f"{verb} does not take these arguments: {error!r}", where="local channel") from error

    return checked
