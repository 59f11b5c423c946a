"""Errors are sentences with a next step: what happened, and what the reader can do about it."""


class FieldlineError(Exception):
    """Base of every error this project raises on purpose; its text is shown to the user as it is."""


class ConfigError(FieldlineError):
    """A config file or option that cannot be used; names the file and the key."""


class SpoolFullError(FieldlineError):
    """The spool has reached a limit; the sender must wait."""


class SpoolCorruptError(Exception):
    """The spool's file is damaged. Not a FieldlineError: nobody but the agent's outermost loop can deal with it."""


class WireError(FieldlineError):
    """A message on the trunk that cannot be accepted; the text says which rule it breaks."""
