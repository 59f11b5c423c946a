"""What `session_id` keeps between the requests of a client: its SET and USE statements.

Every statement has a connection of its own, so a session is the list of statements to repeat there first, and
needs no lock. Pure; time is an argument. Limits: `SESSIONS_MAX` (the one that was used longest ago goes),
`STATEMENTS_MAX` per session (it refuses the next one), and the session's idle time.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from ingest.clickhouse.statement import StatementError

SESSIONS_MAX = 10_000
STATEMENTS_MAX = 200


@dataclass(slots=True)
class _Session:
    ends_s: float
    statements: list[str] = field(default_factory=list)


class Sessions:
    """By session id; the one that was used longest ago comes first. Only those with statements are kept."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def use(self, name: str, timeout_s: float, now_s: float) -> tuple[str, ...]:
        """The statements to run first; from now on the session ends after `timeout_s` without use."""
        session = self._sessions.get(name)
        if session is None:
            return ()
        if session.ends_s <= now_s:
            del self._sessions[name]
            return ()
        session.ends_s = now_s + timeout_s
        self._sessions.move_to_end(name)
        return tuple(session.statements)

    def learn(self, name: str, statement: str, timeout_s: float, now_s: float) -> None:
        """A SET or USE has succeeded; to be called before that is answered. Raises StatementError."""
        session = self._sessions.setdefault(name, _Session(now_s + timeout_s))
        if statement in session.statements:
            session.statements.remove(statement)
        if len(session.statements) >= STATEMENTS_MAX:
            raise StatementError(
                373, "SESSION_IS_LOCKED", f"Session {name} has {STATEMENTS_MAX} settings. Begin another."
            )
        session.statements.append(statement)
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
