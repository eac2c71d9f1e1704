"""The distribution: modules, a package, a command, and the modules' types."""

import os
import re
import runpy
import subprocess
from typing import Dict, List, Set

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = [
    "pdpyras",
    "pdpyras_cli",
    "pdpyras_cli_events",
    "pdpyras_cli_options",
    "pdpyras_cli_output",
    "pdpyras_cli_run",
    "pdpyras_cli_session",
    "pdpyras_oauth",
    "pdpyras_outbox",
    "pdpyras_outbox_store",
    "pdpyras_sandbox",
    "pdpyras_tokens",
    "pdpyras_webhooks",
]


def read(name: str) -> str:
    """The text of a file that lies beside this one."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def version() -> str:
    """The version, which is written down in pdpyras.py and only there.

    It is read, not imported: at this moment requests may not be installed.
    """
    found = re.search(
        r"^__version__(?:: str)? = [\"']([^\"']+)", read("pdpyras.py"), re.M
    )
    if not found:
        raise RuntimeError("pdpyras.py: no line of the form __version__ = '…'")
    return found.group(1)


def requirements() -> List[str]:
    """What requirements.txt lists, comments aside."""
    listed = read("requirements.txt").splitlines()
    lines = (line.split("#")[0] for line in listed)
    return [line.strip() for line in lines if line.strip()]


class BuildWithStubs(build_py):
    """Adds a stubs package for each module, cut from its own source.

    Type checkers look for ``py.typed`` in packages only, so that the types of
    a single module would go unseen once it is installed. A package named
    ``MODULE-stubs`` is seen.
    """

    def run(self) -> None:
        """Build as usual, then write the stubs beside the modules."""
        super().run()
        if not getattr(self, "editable_mode", False):
            # It cannot be imported: this directory may be on no path.
            tool = runpy.run_path(os.path.join(HERE, "tools", "stubs.py"))
            for stub, source in self.stubs().items():
                self.mkpath(os.path.dirname(stub))
                with open(stub, "w", encoding="utf-8") as file:
                    file.write(tool["stub"](os.path.join(HERE, source)))

    def get_outputs(self, include_bytecode: bool = True) -> List[str]:
        """All files written; what is not named here would stay behind."""
        outputs: List[str] = list(super().get_outputs(include_bytecode))
        if not getattr(self, "editable_mode", False):
            outputs.extend(self.stubs())
        return outputs

    def stubs(self) -> Dict[str, str]:
        """The path of each stub file, and the source that it is cut from."""
        return {
            os.path.join(
                self.build_lib, module + "-stubs", "__init__.pyi"
            ): module + ".py"
            for module in MODULES
        }


class TrackedSources(sdist):
    """Leaves out of the sdist what git does not track.

    MANIFEST.in selects whole directories, in which a secret may lie about.
    Where there is no checkout, as in an unpacked sdist, what it selects is
    taken as it is.
    """

    def make_distribution(self) -> None:
        """Drop the strays, from the list of sources too, and build."""
        if os.path.exists(".git"):
            generated = self.get_finalized_command("egg_info").egg_info
            tracked = tracked_files()
            self.filelist.files = [
                path
                for path in self.filelist.files
                if path in tracked or os.path.dirname(path) == generated
            ]
            listed = os.path.join(generated, "SOURCES.txt")
            with open(listed, "w", encoding="utf-8") as file:
                file.write("\n".join(self.filelist.files))
        super().make_distribution()


def tracked_files() -> Set[str]:
    """The files of this checkout that git tracks; it must be able to tell."""
    command = ["git", "ls-files", "-z"]
    try:
        listed = subprocess.check_output(command)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            "An sdist of a checkout holds what git tracks, but git does not "
            f"tell: {error}"
        ) from error
    paths = os.fsdecode(listed).split("\0")
    return {os.path.normpath(path) for path in paths if path}


setup(
    name="pdpyras",
    version=version(),
    description="A client for PagerDuty's REST and Events APIs on requests",
    long_description=read("README.rst"),
    long_description_content_type="text/x-rst",
    author="the pdpyras contributors",
    license="MIT",
    keywords="pagerduty api client incidents on-call events",
    py_modules=MODULES,
    packages=["api_toolkit"],
    entry_points={"console_scripts": ["pdpyras = pdpyras_cli:main"]},
    package_data={"api_toolkit": ["py.typed"]},
    python_requires=">=3.6",
    install_requires=requirements(),
    cmdclass={"build_py": BuildWithStubs, "sdist": TrackedSources},
    zip_safe=False,
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.6",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: WWW/HTTP",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
)
