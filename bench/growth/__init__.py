"""How the parts grow: `python -m bench growth`, or one curve at a time, `growth-messages` and so on.

  messages   per second, from 1 to the limit, the whole pipeline
  devices    10 to 100,000 at one agent
  gateways   1 to 10,000 at one ingest worker
  series     1,000 to 1,000,000, the whole pipeline
  backlog    1 to 100 million readings in a spool

Each takes a few minutes on 2 cores; with FULL=1 in the environment the longest points are measured, too. The tables go
to var/growth.json, the pictures where `--pictures` says; docs/growth.md shows both and how to read them.
"""

import os

FULL = os.environ.get("FULL", "") not in ("", "0")
