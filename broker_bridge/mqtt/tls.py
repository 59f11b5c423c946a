"""TLS contexts from the files that a config names."""

import ssl
from pathlib import Path

from telemetry.errors import ConfigError


def client_context(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    """Verify the broker against `ca_file` (None: the system's certificates), present `cert_file` if given.

    PEM files; the key may be in the certificate's file. Raises ConfigError, naming the file.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use tls.ca_file {ca_file}: {_why(error)}") from error
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file)
        except (OSError, ssl.SSLError) as error:
            files = f"tls.cert_file {cert_file} with tls.key_file {key_file or cert_file}"
            raise ConfigError(f"cannot use {files}: {_why(error)}") from error
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it must be PEM, and a key must belong to its certificate ({error.reason or error.strerror})"
    return error.strerror or str(error)
