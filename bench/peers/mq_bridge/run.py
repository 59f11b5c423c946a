"""Runs one mq-bridge route until it is stopped: python run.py ROUTE.yaml."""

import logging
import sys

import mq_bridge

logging.basicConfig(level=logging.INFO)
mq_bridge.init_logging("info")
mq_bridge.Route.from_file(sys.argv[1], "readings").run()
