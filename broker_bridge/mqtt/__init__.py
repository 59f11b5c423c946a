"""MQTT 3.1.1 and 5, ours: pure bytes (`codec`, `controls`, `properties`, `encode`), one connection (`client`), `tls`.

Own because throughput and custody need what no client library gives together: acknowledgement when *we*
say so, whole socket reads as parallel lists instead of an object per message, and TCP backpressure.
The numbers in comments and errors are those of "MQTT Version 3.1.1", OASIS Standard, 2014-10-29, and, where they
say MQTT 5, of "MQTT Version 5.0", OASIS Standard, 2019-03-07.
"""
