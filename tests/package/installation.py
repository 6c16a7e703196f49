"""What was built of this checkout, and virtual environments that have nothing else."""

import email.message
import email.parser
import os
import subprocess
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOISED = tuple(
    word
    for setting in (
        "privacy.secure_sum=true",
        "privacy.noise=image",
        "privacy.feature_norm=1",
        "federation.strategy=pca",
        "federation.keep=last",
        "model.whitening=0",
        "model.init_steps=2",
    )
    for word in ("--set", setting)
)
"""Options of a run with noise in its sums."""
LONG = 540.0
"""Seconds after which a command that should have ended did not."""


def run(*words, cwd, **environment):
    """Run a command without what this process knows of Python, and keep all that it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )


def requirements(*extras):
    """What the package asks for with some extras; an extra that names others is followed."""
    found = list(PROJECT["dependencies"])
    for extra in extras:
        found += PROJECT["optional-dependencies"][extra]
    parsed = [Requirement(line) for line in found]
    own = [one for one in parsed if one.name == PROJECT["name"]]
    others = {str(one): one for one in parsed if one.name != PROJECT["name"]}
    for one in own:
        others |= {str(more): more for more in requirements(*sorted(one.extras))}
    return list(others.values())


def lowest(wanted):
    """Turn every `name>=version` into `name==version`; the highest bound of a name counts."""
    bounds: dict[str, Version] = {}
    for one in wanted:
        name = canonicalize_name(one.name)
        for specifier in one.specifier:
            if specifier.operator == ">=":
                bounds[name] = max(bounds.get(name, Version("0")), Version(specifier.version))
    return [f"{name}=={version}" for name, version in sorted(bounds.items()) if name != "torch"]


def torch_here():
    """The one release of torch that everything here is tested with."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


@dataclass(frozen=True)
class Packages:
    """What was built."""

    wheel: Path
    """Built from the sdist, as `python -m build` does."""
    sdist: Path
    wheel_of_tree: Path
    """Built from the checkout."""

    @property
    def metadata(self) -> email.message.Message:
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
            return email.parser.Parser().parsestr(archive.read(name).decode())


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel, and an empty folder to work in."""

    versions: str
    """`newest` or `lowest`: which of the allowed direct dependencies."""
    prefix: Path
    wheel: Path
    folder: Path

    @property
    def python(self):
        return self.prefix / "bin" / "python"

    def constraints(self, wanted):
        """Write the versions that pip has to take."""
        path = self.prefix.parent / "constraints.txt"
        low = lowest(wanted) if self.versions == "lowest" else []
        path.write_text("\n".join([torch_here(), *low]) + "\n")
        return path

    def pip_install(self, *words, extra="", wanted=None):
        """Install the wheel with an extra, or with --dry-run say what that would take."""
        extras = [extra] if extra else []
        wheel = f"{self.wheel}[{extra}]" if extra else str(self.wheel)
        constraints = self.constraints(requirements(*extras) if wanted is None else wanted)
        pip = [
            self.python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "-q",
            "--no-compile",
        ]
        done = run(*pip, "-c", constraints, *words, wheel, cwd=self.prefix.parent)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def environment(self, **more):
        """A user with an empty home, and the cache in the folder; one thread."""
        home = self.prefix.parent / "home"
        home.mkdir(exist_ok=True)
        cache = self.folder / "cache"
        return {"HOME": str(home), "FUSSEG_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more}

    def fusseg(self, *words, **environment):
        """Run the installed command."""
        command = self.prefix / "bin" / "fusseg"
        return run(command, *words, cwd=self.folder, **self.environment(**environment))

    def code(self, text, *options):
        """Run Python code."""
        return run(self.python, *options, "-c", text, cwd=self.folder, **self.environment())

    def succeed(self, *words, **environment):
        """Run the installed command, which must say nothing on stderr; gives what it printed."""
        done = self.fusseg(*words, **environment)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout
