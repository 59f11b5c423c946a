"""MQTT 3.1.1, ours: `codec` (pure bytes), `client` (one connection on asyncio), `tls`.

Own because throughput and custody need what no client library gives together: acknowledgement when *we*
say so, whole socket reads as parallel lists instead of an object per message, and TCP backpressure.
The numbers in comments and errors are those of "MQTT Version 3.1.1", OASIS Standard, 2014-10-29.
"""
