"""ClickHouse's and the network's errors as sentences with a next step. Pure; decides nothing."""

import re
import ssl
from collections.abc import Sequence

import urllib3.exceptions
from clickhouse_connect.driver.exceptions import ProgrammingError

from ingest.clickhouse.address import DATABASE, Address
from telemetry.errors import FieldlineError

UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
_WRONG_LOGIN = {192, 193, 194, 516}
_DENIED = 497


def explain(error: Exception, where: Address) -> FieldlineError:
    """The error as a sentence with a next step."""
    code = getattr(error, "code", None)
    if code in _WRONG_LOGIN:
        name = where.username or "default"
        return FieldlineError(
            f"ClickHouse at {where.shown} refused the login of user {name}. Check user and password in the URL."
        )
    if code == _DENIED:
        said = server_text(error)
        return FieldlineError(f"ClickHouse at {where.shown} says: {said} Grant the right, or use another user.")
    if code == UNKNOWN_DATABASE and where.database == DATABASE:
        return FieldlineError(
            f"ClickHouse at {where.shown} has no database {DATABASE} yet. Run `fieldline analytics migrate`."
        )
    if code == UNKNOWN_DATABASE:
        return FieldlineError(
            f"ClickHouse at {where.shown} has no database {where.database}. Correct the end of the URL."
        )
    if code is not None:
        return FieldlineError(f"ClickHouse at {where.shown} says: {server_text(error)}")
    not_sent = isinstance(error, ProgrammingError)
    return FieldlineError(_refused_here(error, where) if not_sent else _transport_sentence(error, where))


def server_text(error: Exception) -> str:
    """ClickHouse's own message as one paragraph, without what the driver and the exception class add."""
    return clean(str(error))


def clean(message: str) -> str:
    """`Code: 47. DB::Exception: Unknown … (NAME) (version …)` and the like, down to what a person reads."""
    text = re.split(r"\s*(?:Stack trace:|\(for url )", message, maxsplit=1)[0]
    text = re.sub(r"\s*\(version [^()]*(?:\([^()]*\))?\)\s*$", "", text)
    text = re.sub(r"^.*?\bDB::(?:\w+::)*\w*Exception:\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\bDB::(?:\w+::)*\w*Exception:\s*", "", text)
    return re.sub(r"\s+", " ", text).strip()


def _refused_here(error: Exception, where: Address) -> str:
    """What the driver did not even send: mostly a setting that this user may not change."""
    said, name = clean(str(error)).rstrip("."), where.username or "default"
    return f"ClickHouse at {where.shown} does not take this from user {name}: {said}. Use another user."


def _transport_sentence(error: Exception, where: Address) -> str:
    causes = _causes(error)
    if any(isinstance(cause, urllib3.exceptions.SSLError | ssl.SSLError) for cause in causes):
        detail = next((str(c) for c in causes if isinstance(c, ssl.SSLError)), str(causes[-1]))
        return (
            f"TLS to ClickHouse at {where.shown} failed: {detail}."
            " If its certificate is from a private CA, add ?ca_file=/path/ca.pem to the URL;"
            " if it has none, use http://."
        )
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return f"The host {where.host} of the ClickHouse URL is unknown. Check its spelling and the DNS."
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return (
            f"No ClickHouse listens at {where.shown}."
            " Start the embedded one with `fieldline clickhouse run`, or set CLICKHOUSE_URL."
        )
    if any(isinstance(cause, urllib3.exceptions.TimeoutError | TimeoutError) for cause in causes):
        return (
            f"ClickHouse at {where.shown} did not answer in time. Check that it runs and that no firewall is between."
        )
    if any(isinstance(cause, urllib3.exceptions.HTTPError | OSError) for cause in causes):
        return (
            f"The connection to ClickHouse at {where.shown} failed: {_reason(causes)}."
            " Check that it runs, and that http or https in the URL is what it speaks."
        )
    return _answer_sentence(error, where)


def _answer_sentence(error: Exception, where: Address) -> str:
    said = clean(str(error)).partition(", e.what()")[0].rstrip(".")
    if "DB::Exception" in str(error):  # the client library asks for what a server of 2018 does not have
        return (
            f"ClickHouse at {where.shown} does not understand what it is asked first: {said}."
            " It is too old for Fieldline; upgrade it to the current LTS version or newer."
        )
    return f"What answers at {where.shown} is no ClickHouse: {said}. Check host and port in the URL."


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, by `raise from`, by context, and by urllib3's `reason`."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        cause = todo.pop(0)
        if isinstance(cause, BaseException) and cause not in found:
            found.append(cause)
            todo += [cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
            todo += [argument for argument in cause.args if isinstance(argument, BaseException)]
    return found


def _reason(causes: Sequence[BaseException]) -> str:
    system = next((c for c in causes if isinstance(c, OSError) and c.strerror), None)
    if system is not None:
        return str(system.strerror)
    return re.sub(r"^\S*HTTPS?Connection(?:Pool)?\([^)]*\):?\s*", "", str(causes[-1])).rstrip(".")
