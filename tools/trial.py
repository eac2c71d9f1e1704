"""Install from a trial index what was just uploaded to it, as users will.

Usage: python tools/trial.py REPOSITORY

REPOSITORY is the index's name in ~/.pypirc, or one that twine knows. The
release in dist/ is installed from there into two environments: an empty one,
and one that holds the newest release of the regular index. It must import in
both. The first failure ends the trial, with status 1.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import venv

from packaging.version import Version
from twine.utils import DEFAULT_CONFIG_FILE, get_config

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# An index takes a while until it offers what it was given.
ATTEMPTS = 6
PAUSE = 10  # seconds
IMPORT = "import pdpyras, pdpyras_sandbox, api_toolkit.connector; "


def built_version() -> Version:
    """The version of the wheel in dist/."""
    (wheel,) = glob.glob(os.path.join(ROOT, "dist", "*.whl"))
    return Version(os.path.basename(wheel).split("-")[1])


def index_url(repository: str) -> str:
    """Where pip finds what twine uploads to this repository."""
    upload_url = get_config(DEFAULT_CONFIG_FILE)[repository]["repository"]
    return re.sub("legacy/*$", "simple/", upload_url or "")


class Environment:
    """A new virtual environment in a directory."""

    def __init__(self, directory: str) -> None:
        venv.create(directory, with_pip=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.directory = directory
        self.python = os.path.join(directory, scripts, "python")

    def run(self, *arguments: str) -> str:
        """What its Python prints; out of sight of this checkout."""
        return subprocess.check_output(
            [self.python, *arguments],
            cwd=self.directory,
            universal_newlines=True,
        )

    def install(self, *arguments: str) -> None:
        """Install what these arguments of ``pip install`` say."""
        pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
        self.run(*pip, "install", *arguments)

    def try_release(self, version: Version, index: str) -> None:
        """Install this version from this index, and import it."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.install(
                    "--no-deps", "--no-cache-dir", "--index-url", index,
                    f"pdpyras=={version}",
                )  # fmt: skip
                break
            except subprocess.CalledProcessError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE)
        found = self.run("-c", IMPORT + "print(pdpyras.__version__)").strip()
        if Version(found) != version:
            raise RuntimeError(f"{version} was installed, {found} imported")


def main() -> None:
    """Try the release in both environments."""
    version, index = built_version(), index_url(sys.argv[1])
    for state in ("empty", "upgraded"):
        with tempfile.TemporaryDirectory() as directory:
            environment = Environment(os.path.join(directory, "venv"))
            # Not from the trial index, where anybody may have put anything
            # under these names.
            environment.install("-r", os.path.join(ROOT, "requirements.txt"))
            if state == "upgraded":
                environment.install("--no-deps", "pdpyras")
            environment.try_release(version, index)
            print(f"{state} environment: {version} installs and imports")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"The trial failed: {error}")
