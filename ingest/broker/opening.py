"""CONNECT: who is let in, and which session it opens or resumes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from ingest.broker.authorizer import Authorizer, Client
from ingest.broker.ending import Ending, bounded_expiry_s
from ingest.broker.publisher import Publisher
from ingest.broker.queue import QueueLimits
from ingest.broker.rows import Row
from ingest.broker.sender import Sender
from ingest.broker.session import MqttSession, Outlet
from ingest.broker.shared import Shared
from ingest.broker.state import session_row
from ingest.broker.wills import KeptWill, kept
from ingest.settings import MqttSettings
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.errors import PublishRefusedError
from wire.mqtt.packets import Connect
from wire.mqtt.properties import NEVER_EXPIRES_S
from wire.mqtt.reasons import ReasonCode

TAKEN_OVER: Final = "taken over"


class RefusedError(Exception):
    """A CONNECT that is not accepted, and why."""

    def __init__(self, reason_code: ReasonCode, what: str) -> None:
        super().__init__(what)
        self.reason_code = reason_code
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A CONNECT that is accepted. `durable`: its answer has to wait for a commit."""

    session: MqttSession
    session_present: bool
    durable: bool


class Opening:
    """See the module."""

    def __init__(
        self,
        shared: Shared,
        authorizer: Authorizer,
        publisher: Publisher,
        sender: Sender,
        ending: Ending,
        queue_limits: QueueLimits,
    ) -> None:
        self._shared = shared
        self._book = shared.book
        self._wills = shared.wills
        self._settings = shared.settings
        self._authorizer = authorizer
        self._publisher = publisher
        self._sender = sender
        self._ending = ending
        self._queue_limits = queue_limits

    def connect(self, connect: Connect, client_id: str, peer: str, outlet: Outlet) -> Opened:
        """Open or resume the session of a client id. Raises RefusedError.

        A connection that the client id already has is ended first [MQTT-3.1.4-2] [MQTT5-3.1.4-3].
        """
        client = Client(client_id=client_id, username=connect.username, peer=peer)
        will = self._checked(connect, client)
        before = known = self._book.by_client_id.get(client_id)
        if before is None and len(self._book) >= self._settings.max_sessions:
            raise RefusedError(ReasonCode.QUOTA_EXCEEDED, f"{len(self._book)} sessions are kept: mqtt.max_sessions")
        if before is not None and before.connection is not None:
            before.connection.end(TAKEN_OVER, ReasonCode.SESSION_TAKEN_OVER)
            before = self._book.by_client_id.get(client_id)  # it may have ended with its connection
        expiry_s = _expiry_s(connect, self._settings)
        forgets = known is not None and known.durable and (before is None or connect.clean_session)
        if before is not None and connect.clean_session:
            self._ending.end_session(before)
            before = None
        session = before or self._new_session(connect, client_id)
        present = before is not None
        changes: list[Row] = []
        if present and session.level != connect.protocol_level:
            self._shared.tree.generation += 1  # publications make its packets anew
        session.level, session.expiry_s, session.username = connect.protocol_level, expiry_s, connect.username
        session.ended_ms = None
        session.connection = outlet
        self._book.connected += 1
        if session.durable:
            changes.append(session_row(session))
        changes += self._replace_will(client_id, will)
        self._shared.change(changes)
        return Opened(session=session, session_present=present, durable=bool(changes) or forgets)

    def opened(self, session: MqttSession) -> None:
        """The CONNACK is on its way: what was not acknowledged is to be sent again [MQTT-4.4.0-1] [MQTT5-4.4.0-1]."""
        if session.has_queue and session.durable:
            self._sender.released(session, session.queue.reconnected(session.receive_maximum))
            session.keeps_up = False

    def _checked(self, connect: Connect, client: Client) -> KeptWill | None:
        """The will of a CONNECT that may be accepted. Raises RefusedError."""
        if connect.properties.authentication_method is not None:
            raise RefusedError(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")
        if not self._authorizer.may_connect(client, connect.password):
            raise RefusedError(ReasonCode.NOT_AUTHORIZED, "not authorized")
        if connect.will is None:
            return None
        will = kept(connect.will, client.client_id, connect.username)
        try:
            self._publisher.route(client, will.topic)
        except PublishRefusedError as error:
            raise RefusedError(error.reason_code, f"its will: {error.what}") from error
        if not self._wills.has_room(will):
            raise RefusedError(ReasonCode.QUOTA_EXCEEDED, f"all wills together take {self._wills.size_bytes} bytes")
        return will

    def _new_session(self, connect: Connect, client_id: str) -> MqttSession:
        session = MqttSession(
            client_id,
            level=connect.protocol_level,
            expiry_s=_expiry_s(connect, self._settings),
            created_ms=self._shared.log.now_ms(),
            username=connect.username,
            limits=self._queue_limits,
        )
        self._book.add(session)
        return session

    def _replace_will(self, client_id: str, will: KeptWill | None) -> list[Row]:
        discarded = self._wills.discard(client_id)  # one that waited: the client is back in time [MQTT5-3.1.3-9]
        if will is not None:
            return [self._wills.keep(will)]
        return [] if discarded is None else [discarded]


def assigned_client_id() -> str:
    """A client id for a client that has none [MQTT-3.1.3-6] [MQTT5-3.1.3-6]."""
    return f"auto-{secrets.token_hex(8)}"


def _expiry_s(connect: Connect, settings: MqttSettings) -> int:
    """How long the session is kept after its connection; in 3.1.1 as long as any is [MQTT-3.1.2-5]."""
    if connect.protocol_level == LEVEL_5:
        return bounded_expiry_s(connect.properties.session_expiry_interval_s or 0, settings)
    return 0 if connect.clean_session else bounded_expiry_s(NEVER_EXPIRES_S, settings)
