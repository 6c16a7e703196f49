"""The operator's own script: the processes of `serve` and `join` import it too.

A script may add entries to the tables and then call the program (docs/extending.md). The processes
that train are started by Flower and have another main module. Environment variables tell them
which script to import, as `multiprocessing` tells its workers. No message and no bundle of Flower
can name a script.
"""

import os
import runpy
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import brief

SCRIPT, MODULE = "FUSSEG_OWN_SCRIPT", "FUSSEG_OWN_MODULE"
"""Environment variables: the file, and its dotted name if it was started with `python -m`."""
RUN_NAME = "__mp_main__"
"""Value of `__name__` in the script: as in workers of `multiprocessing`, not `__main__`."""
_PACKAGE = Path(__file__).parents[1]


def own_variables() -> dict[str, str]:
    """Return the variables that tell child processes the script of this process.

    Returns:
        Empty for the installed program, for `python -m fusseg` and if there is no file; also for a
        `__main__.py`, which `multiprocessing` does not import either, since few of them check
        their `__name__`.
    """
    main = sys.modules["__main__"]
    file, name = getattr(main, "__file__", None), _dotted_name(main)
    if file is None or name.rpartition(".")[2] == "__main__":
        return {}
    # Not resolved: a script may look at the name it was called by.
    path = Path(file).absolute()
    if path.resolve().is_relative_to(_PACKAGE) or _is_installed(path.resolve()):
        return {}
    return {SCRIPT: str(path)} | ({MODULE: name} if name else {})


def import_own_script(variables: Mapping[str, str] = os.environ) -> None:
    """Import the script that the variables name, if they name one.

    Code under `if __name__ == "__main__"` does not run. Modules beside the script are found as
    if it had been started.

    Args:
        variables: Environment variables of this process.

    Raises:
        ConfigError: If the script cannot be imported; the text names the file.
    """
    script, name = variables.get(SCRIPT), variables.get(MODULE, "")
    if not script:
        return
    _find_beside(Path(script), name)
    try:
        if name:
            content = runpy.run_module(name, run_name=RUN_NAME, alter_sys=True)
        else:
            content = runpy.run_path(script, run_name=RUN_NAME)
    except SystemExit as error:
        raise ConfigError(
            f"{script} ended its process when it was imported; put what only the command does "
            'under if __name__ == "__main__":'
        ) from error
    except Exception as error:
        reason = brief(f"{type(error).__name__}: {error}")
        raise ConfigError(
            f"cannot import {script}, which this machine's command was started with: {reason}; "
            "fix the file, then start the command again"
        ) from error
    # Classes of the script are looked up by the name of their module.
    module = ModuleType(RUN_NAME)
    module.__dict__.update(content)
    sys.modules[RUN_NAME] = module


def _dotted_name(main: ModuleType) -> str:
    """Return NAME of `python -m NAME`; empty for `python FILE`."""
    return getattr(main.__spec__, "name", None) or ""


def _find_beside(script: Path, name: str) -> None:
    """Put the folder first on Python's path that is there when the script is started."""
    # For a script Python resolves links; for a module it uses the folder of the top-level name.
    folder = script.parents[name.count(".")] if name else script.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _is_installed(path: Path) -> bool:
    """Tell whether a file is part of the installation, as the program `fusseg` is."""
    try:
        own = files("fusseg") or []
    except PackageNotFoundError:
        return False
    return any(Path(str(one.locate())).resolve() == path for one in own if one.name == path.name)
