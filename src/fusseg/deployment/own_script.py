"""The operator's own script: what `serve` or `join` was started with, its processes import too.

A script that adds entries to the tables and ends with the program (docs/extending.md) is known to
the command it was started as. Flower starts the processes that train, which have another main
module. They are told of the script by variables of their own, as `multiprocessing` tells its
workers; no message and no bundle of Flower's can name one.
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
"""Variables of a process: the file, and its dotted name where it was started as `python -m`."""
RUN_NAME = "__mp_main__"
"""What `__name__` is in the script: as in the workers of `multiprocessing`, not `__main__`."""
_PACKAGE = Path(__file__).parents[1]


def own_variables() -> dict[str, str]:
    """Name the script of this process for those it starts, in variables.

    Returns:
        Empty for the installed program, `python -m fusseg` and where there is no file; also for a
        `__main__.py`, which `multiprocessing` does not import either: few of them ask for their
        `__name__`.
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

    What stands under `if __name__ == "__main__"` does not run. Modules beside the script are found
    as they are when it is started.

    Args:
        variables: Of this process.

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
            f"{script} ended its process when it was imported; what only the command does has to "
            'stand under if __name__ == "__main__":'
        ) from error
    except Exception as error:
        reason = brief(f"{type(error).__name__}: {error}")
        raise ConfigError(
            f"cannot import {script}, which this machine's command was started with: {reason}; "
            "mend the file, then start the command again"
        ) from error
    # Classes of the script are looked up by the name of their module.
    module = ModuleType(RUN_NAME)
    module.__dict__.update(content)
    sys.modules[RUN_NAME] = module


def _dotted_name(main: ModuleType) -> str:
    """Find the name in `python -m NAME`; empty for `python FILE`."""
    return getattr(main.__spec__, "name", None) or ""


def _find_beside(script: Path, name: str) -> None:
    """Put first on Python's path the folder that a started script has there."""
    # Python follows links to the script, but for a module takes the folder its name begins in.
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
