"""The nouns every other package shares: pure, no network, imports nothing of ours.

One word per idea (see ARCHITECTURE.md, Glossary): device, gateway, reading, spool, epoch, seq, batch,
trunk, receipt, ledger, dead letter, loss, partition.
"""
