"""`fieldline edge spool`: what the spool holds, also while the agent runs, as lines for people or as JSON."""

import json
from dataclasses import asdict
from datetime import UTC, datetime

from edge_agent.config import GatewayConfig
from edge_agent.health import Report, read_report
from edge_agent.quarantine import Kept, kept
from edge_agent.spool_check import FINDINGS_MAX, verify
from edge_agent.spool_file import Status, read_status
from telemetry.clock import Clock


def view(config: GatewayConfig, clock: Clock, *, as_json: bool) -> str:
    """The text to print. Raises FieldlineError when there is no spool yet."""
    status = read_status(config.spool.path)
    agent = read_report(config.spool.path)
    damaged = kept(config.spool.path)
    if as_json:
        return json.dumps(
            asdict(status)
            | {"agent": asdict(agent) if agent else None}
            | {"damaged": [asdict(spool) | {"directory": str(spool.directory)} for spool in damaged]}
        )
    return _text([*_lines(config, status, clock.now_ms()), *_damaged(damaged), *_agent(agent)])


def view_check(config: GatewayConfig) -> tuple[str, bool]:
    """`--verify`: the text to print, and whether everything is whole. Raises FieldlineError when there is no spool."""
    status, findings = verify(config.spool.path)
    lines = [] if status is None else [("spool", f"{config.spool.path}, epoch {status.epoch}")]
    lines += [("damaged", finding) for finding in findings[:FINDINGS_MAX]]
    if len(findings) > FINDINGS_MAX:
        lines.append(("damaged", f"... and {len(findings) - FINDINGS_MAX} more"))
    elif not findings and status is not None:
        lines.append(("whole", f"{status.records} records, every one was read"))
    return _text([*lines, *_damaged(kept(config.spool.path))]), not findings


def _text(lines: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<10} {value}" for name, value in lines)


def _damaged(damaged: list[Kept]) -> list[tuple[str, str]]:
    return [
        (
            "set aside",
            f"{spool.directory.name}, {spool.bytes / 1e6:.2f} MB: "
            + (f"delivered ({spool.delivered}); it may be deleted" if spool.delivered else "not delivered yet"),
        )
        for spool in damaged
    ]


def _lines(config: GatewayConfig, status: Status, now_ms: int) -> list[tuple[str, str]]:
    lines = [
        ("gateway", status.gateway),
        ("spool", f"{config.spool.path}, epoch {status.epoch}"),
        ("receipt", f"up to seq {status.mark}: everything before is committed in ClickHouse"),
        ("last seq", str(status.last_seq)),
        ("waiting", f"{status.records} records"),
    ]
    if status.records:
        oldest = datetime.fromtimestamp(status.oldest_at / 1000, UTC)
        age = _span(max(0, now_ms - status.oldest_at) / 1000)
        lines.append(("oldest", f"{oldest:%Y-%m-%d %H:%M:%S} UTC, {age} ago"))
    if status.lost:
        lines.append(("losses", f"{status.lost} records evicted or damaged, declared to the cloud"))
    if status.thinned:
        lines.append(("thinned", f"{status.thinned} readings left out on purpose since the spool was made"))
    share = 100 * status.bytes / config.spool.bytes_max
    limit = f"{share:.1f} % of spool.bytes_max = {config.spool.bytes_max / 1e6:.0f} MB"
    lines.append(("bytes", f"{status.bytes / 1e6:.2f} MB, {limit}"))
    return lines


def _agent(agent: Report | None) -> list[tuple[str, str]]:
    if agent is None:
        return [("agent", "is not running")]
    return [
        ("agent", f"runs as process {agent.pid}"),
        *((f"  {name}", state) for name, state in agent.states.items()),
    ]


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
