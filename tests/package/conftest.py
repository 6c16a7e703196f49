"""Wheel and sdist of this checkout, and environments with the wheel in them."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from installation import Installation, Packages

MEMORY = Path("/dev/shm")
PLENTY = 8 * 2**30
"""Bytes: an environment takes 2 GiB, and so much again is left to what runs in it."""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("package")


@pytest.fixture(scope="session")
def packages():
    """What `make test-package` has built: once, for all tests."""
    built = Path(os.environ["FUSSEG_PACKAGES"])
    (wheel,), (sdist,) = (built / "both").glob("*.whl"), (built / "both").glob("*.tar.gz")
    (wheel_of_tree,) = (built / "tree").glob("*.whl")
    return Packages(wheel, sdist, wheel_of_tree)


@pytest.fixture(scope="session", params=os.environ.get("FUSSEG_VERSIONS", "newest lowest").split())
def installed(request, packages, tmp_path_factory):
    """The wheel in an empty environment; first without extras, later `with_all` adds them."""
    with room_for(request.param, tmp_path_factory) as root:
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
        (root / "work").mkdir()
        installation = Installation(request.param, root / "venv", packages.wheel, root / "work")
        installation.pip_install()
        yield installation


@contextmanager
def room_for(name, tmp_path_factory):
    """Make a folder for an environment: in memory, if there is plenty.

    It takes 50,000 files, and to delete these takes minutes on some disks.
    """
    if free_memory() < PLENTY:
        root = tmp_path_factory.mktemp(name)
    else:
        root = Path(tempfile.mkdtemp(prefix=f"fusseg-{name}-", dir=MEMORY))
    try:
        yield root
    finally:
        shutil.rmtree(root)


def free_memory():
    """Bytes that a file system in memory has for programs; 0 if there is none."""
    if not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return 0
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return min(shutil.disk_usage(MEMORY).free, 1024 * int(available.split()[1]))


@pytest.fixture(scope="session")
def with_all(installed):
    """The same environment after `pip install 'fusseg[all]'`."""
    installed.pip_install(extra="all")
    return installed
