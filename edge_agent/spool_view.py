"""`fieldline edge spool`: what the spool holds, also while the agent runs, as lines for people or as JSON."""

import json
from dataclasses import asdict
from datetime import UTC, datetime

from edge_agent.config import GatewayConfig
from edge_agent.health import Report, read_report
from edge_agent.spool_file import Status, read_status
from telemetry.clock import Clock


def view(config: GatewayConfig, clock: Clock, *, as_json: bool) -> str:
    """The text to print. Raises FieldlineError when there is no spool yet."""
    status = read_status(config.spool.path)
    agent = read_report(config.spool.path)
    if as_json:
        return json.dumps(asdict(status) | {"agent": asdict(agent) if agent else None})
    return "\n".join(f"{name:<10} {value}" for name, value in _lines(config, status, agent, clock.now_ms()))


def _lines(config: GatewayConfig, status: Status, agent: Report | None, now_ms: int) -> list[tuple[str, str]]:
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
    share = 100 * status.bytes / config.spool.bytes_max
    limit = f"{share:.1f} % of spool.bytes_max = {config.spool.bytes_max / 1e6:.0f} MB"
    lines.append(("bytes", f"{status.bytes / 1e6:.2f} MB, {limit}"))
    if agent is None:
        lines.append(("agent", "is not running"))
    else:
        lines.append(("agent", f"runs as process {agent.pid}"))
        lines += [(f"  {name}", state) for name, state in agent.states.items()]
    return lines


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
