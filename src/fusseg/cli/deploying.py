"""Commands of a real federation: serve, join, ledger."""

import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fusseg.cli.progress import Display
from fusseg.cli.running import choose_settings, follow, show_progress, summary
from fusseg.core.errors import ConfigError
from fusseg.features.extraction import Progress
from fusseg.report.gallery import write_report
from fusseg.runs.directory import REPORT, create_run, load_record, save_record
from fusseg.runs.record import describe_command
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import check_resumable, resume_run
from fusseg.runs.saved_state import load_state
from fusseg.runs.warm_start import carry_names, check_start

if TYPE_CHECKING:
    from fusseg.deployment.server.serve import ServeOptions
    from fusseg.deployment.site.join import JoinOptions
    from fusseg.deployment.site.site_disk import SiteSettings


def check_installed() -> None:
    """Refuse to go on without Flower.

    Raises:
        ConfigError: If it is not installed.
    """
    if find_spec("flwr") is None:
        raise ConfigError(
            "this command needs Flower, which is not installed: pip install 'fusseg[flower]'"
        )


def run_serve(
    config_path: Path | None, overrides: Sequence[str], options: "ServeOptions", *, resume: bool
) -> None:
    """Serve a federation to its end, then write the report."""
    check_installed()
    from fusseg.deployment.processes import listen
    from fusseg.deployment.server.serve import check_options, serve
    from fusseg.deployment.server.server_data import prepare_server
    from fusseg.deployment.wire.offer import check_deployable

    run_dir = options.run_dir
    config = choose_settings(config_path, overrides, run_dir)
    if resume:
        config = resume_run(run_dir, config)
        check_resumable(run_dir, config)
    assert config is not None
    _stop_on_terminate()
    with Display() as display, ExitStack() as stack:
        check_deployable(config)
        for event in check_options(config, options):
            display.line(event.text)
        # Before anything slow: two servers on one port would both begin their work.
        sockets = [stack.enter_context(one) for one in listen(options.host, options.port)]
        prepared = follow(prepare_server(config, options.cache), display)
        if not resume:
            check_start(config, prepared.backbone.fingerprint, center=prepared.center)
            create_run(run_dir, config)
            if config.model.start:
                carry_names(Path(config.model.start), run_dir)
        for event in serve(config, options, sockets):
            display.line(event.text)
        record = load_record(run_dir)
        record["command"] = describe_serve(options)
        save_record(run_dir, record)
        write_report(run_dir, config, record, load_state(run_dir), prepared.held_out)
        for line in (*summary(record), *left_out_of_score(record)):
            display.line(line)
        display.line(f"report: {run_dir / REPORT}")


def describe_serve(options: "ServeOptions") -> str:
    """Spell out for the record what repeats a deployment, from within its run directory.

    Paths that were given relative stay so; of others only the name is told.
    """
    words = []
    for option, path in (("--sites", options.sites), ("--keys", options.keys)):
        apart = path.is_absolute() or options.run_dir.is_absolute()
        words += [option, path.name if apart else os.path.relpath(path, options.run_dir)]
    return describe_command("serve", *words)


def left_out_of_score(record: Record) -> list[str]:
    """Say whose counts the score at the sites lacks."""
    from fusseg.deployment.wire.payloads import EVALUATE

    incidents = record["rounds"][-1]["incidents"] if record["rounds"] else []
    missing = sorted(one["client_id"] for one in incidents if one["task"] == EVALUATE)
    if not missing or record["final"] is None:
        return []
    scored = len(record["final"]["sites"])
    return [f"scored at {scored} of {scored + len(missing)} sites; left out: {', '.join(missing)}"]


def run_join(settings: "SiteSettings", options: "JoinOptions") -> None:
    """Take part until stopped."""
    check_installed()
    from fusseg.deployment.site.join import join

    _stop_on_terminate()
    with Display() as display:
        for event in join(settings, options):
            if isinstance(event, Progress):
                show_progress(event, display)
            else:
                display.line(event.text)


def site_folder(name: str) -> Path:
    """Find a site's own folder: that of the user's programs, unless another is given."""
    from platformdirs import user_state_path

    from fusseg.deployment.keys.sites_file import check_site_name

    check_site_name(name)
    return user_state_path("fusseg") / name


def run_dry(settings: "SiteSettings", options: "JoinOptions") -> None:
    """Extract the features under the pinned settings, and print what would be sent."""
    from fusseg.deployment.site.dry_run import describe_sent, rehearse

    with Display() as display:
        messages = follow(rehearse(settings, options), display)
        for line in describe_sent(messages):
            display.line(line)


def run_ledger(folder: Path, site: str | None) -> None:
    """Print what was sent and received, message by message, and the totals."""
    from fusseg.deployment.wire.ledger import read_ledger, total_bytes

    lines, damaged = read_ledger(folder)
    names = sorted({line.site for line in lines})
    if site is not None and site not in names:
        raise ConfigError(f"no message of site {site!r}; sites are {', '.join(names) or 'none'}")
    chosen = [line for line in lines if site is None or line.site == site]
    with Display() as display:
        for line in chosen:
            tensors = ", ".join(
                f"{one.name} {'x'.join(map(str, one.shape)) or '1'} {one.dtype}"
                for one in line.tensors
            )
            fields = ", ".join(f"{name}={value}" for name, value in line.fields.items())
            display.line(
                f"{line.time} {line.site} round {line.round} {line.task} {line.direction}: "
                f"{line.bytes} bytes, SHA-256 {line.sha256[:16]}"
            )
            display.line(f"    tensors: {tensors or 'none'}")
            display.line(f"    fields: {fields}")
        for name, totals in sorted(total_bytes(chosen).items()):
            display.line(
                f"{name}: {totals['to site']:,} bytes to the site, "
                f"{totals['to server']:,} to the server"
            )
        if damaged:
            display.line(f"{damaged} lines could not be read: a crash cut them short")


@dataclass(frozen=True)
class ResumeHint:
    """How an interrupted server goes on."""

    options: "ServeOptions"

    def __str__(self) -> str:
        """Write the command."""
        options = self.options
        words = ["fusseg", "serve", "--resume", "--out", str(options.run_dir)]
        words += ["--sites", str(options.sites), "--keys", str(options.keys)]
        words += ["--host", options.host, "--port", str(options.port)]
        words += ["--cache", str(options.cache)]
        return shlex.join(words)


def _stop_on_terminate() -> None:
    """Let a service manager stop a command in order, as Ctrl-C does."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
