"""Programs and clients from npm for tests: installed into var/ the first time, at a version that is pinned."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALL_S_MAX = 120


def installed(package: str) -> Path:
    """The folder `node_modules` that holds `package`, which is given with its version: `name@1.2.3`."""
    folder = ROOT / "var" / "npm" / package
    modules = folder / "node_modules"
    if not (modules / package.rpartition("@")[0] / "package.json").exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: tests/install-tools installs it"
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(folder), package]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S_MAX)
    return modules
