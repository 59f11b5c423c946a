"""Puts a peer into var/peers/NAME, with the registries' ordinary clients, in the versions that its folder names.

A peer with a requirements.txt gets a virtual environment of its own, one with a package.json is installed by npm. What
is there already, in the same versions, is used. Node-RED runs on the Node.js that its package.json names, not on the
machine's.
"""

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers.peer import Peer
from telemetry.errors import FieldlineError

INSTALL_S_MAX = 600
NODE = f"node-linux-{ {'x86_64': 'x64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }"
"""The package that carries a Node.js for this machine."""
STAMP = "installed-from"


def install(peer: Peer, root: Path) -> Path:
    """Where it is. Raises FieldlineError, a sentence that says what is missing."""
    where = root.resolve() / peer.name
    for manifest, how in (("requirements.txt", _with_pip), ("package.json", _with_npm)):
        source = peer.folder / manifest
        if source.exists():
            stamp = where / STAMP
            if not stamp.exists() or stamp.read_text() != source.read_text():
                print(f"Installing {peer.title} into {where} ...", flush=True)
                shutil.rmtree(where, ignore_errors=True)
                where.mkdir(parents=True)
                how(source, where)
                stamp.write_text(source.read_text())
    return where


def _with_pip(requirements: Path, where: Path) -> None:
    _run([sys.executable, "-m", "venv", str(where)], "Python's venv module (Debian: python3-venv)")
    pip = [str(where / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "-r", str(requirements)], "a package index that pip can reach")


def _with_npm(manifest: Path, where: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FieldlineError("npm is missing. Install it (Debian: npm), or name the other peers on the command line.")
    shutil.copy(manifest, where / "package.json")
    node = f"{NODE}@{json.loads(manifest.read_text())['engines']['node']}"
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--save-exact")
    _run([npm, "install", "--prefix", str(where), *options, node], "a package registry that npm can reach")


def _run(command: Sequence[str], needs: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FieldlineError(f"{command[0]} could not be run to its end: {error}. It needs {needs}.") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise FieldlineError(f"It needs {needs}; {Path(command[0]).name} said: {' / '.join(last)}")


def versions(peer: Peer, where: Path) -> Mapping[str, str]:
    """Of its packages, as they are installed."""
    if (peer.folder / "package.json").exists():
        manifests = {name: where / "node_modules" / name / "package.json" for name in peer.packages}
        return {name: json.loads(path.read_text())["version"] for name, path in manifests.items()}
    if (peer.folder / "requirements.txt").exists():
        packages = [str(path) for path in where.glob("lib/python*/site-packages")]
        return {
            each.name: each.version
            for each in importlib.metadata.distributions(path=packages)
            if each.name in peer.packages
        }
    return {name: importlib.metadata.version(name) for name in peer.packages}
