"""The command `fusseg serve`: the server of a federation of sites on other machines."""

import os
import shlex
from contextlib import ExitStack
from pathlib import Path

from fusseg.cli.progress import Display, follow
from fusseg.cli.stopping import stop_on_terminate
from fusseg.cli.summaries import describe_run
from fusseg.config.schema import Config
from fusseg.deployment.processes import listen
from fusseg.deployment.server.serve import ServeOptions, check_options, serve
from fusseg.deployment.server.server_data import prepare_server
from fusseg.deployment.wire.offer import check_deployable
from fusseg.deployment.wire.payloads import EVALUATE
from fusseg.report.gallery import write_report
from fusseg.runs.directory import REPORT, create_run, load_record, save_record
from fusseg.runs.record import describe_command
from fusseg.runs.record_form import Record
from fusseg.runs.resuming import check_resumable, resume_run
from fusseg.runs.saved_state import load_state
from fusseg.runs.warm_start import carry_names, check_start


def run_serve(config: Config | None, options: ServeOptions, *, resume: bool) -> None:
    """Serve a federation until it ends, then write the report.

    Args:
        config: Settings; None: those of the resumed run.
        options: Run directory, keys, sites and address.
        resume: Continue the run in the directory.

    Raises:
        FussegError: If the settings, the data or the run directory cannot be used.
    """
    run_dir = options.run_dir
    if resume:
        config = resume_run(run_dir, config)
        check_resumable(run_dir, config)
    assert config is not None
    stop_on_terminate()
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
        for line in (*describe_run(record), *left_out_of_score(record)):
            display.line(line)
        display.line(f"report: {run_dir / REPORT}")


def describe_serve(options: ServeOptions) -> str:
    """Write the command for the record that repeats a deployment from within its run directory.

    Paths that were given as relative paths stay relative; of others only the name is written.
    """
    words = []
    for option, path in (("--sites", options.sites), ("--keys", options.keys)):
        apart = path.is_absolute() or options.run_dir.is_absolute()
        words += [option, path.name if apart else os.path.relpath(path, options.run_dir)]
    return describe_command("serve", *words)


def resume_command(options: ServeOptions) -> str:
    """Write the command that continues an interrupted server."""
    words = ["fusseg", "serve", "--resume", "--out", str(options.run_dir)]
    words += ["--sites", str(options.sites), "--keys", str(options.keys)]
    words += ["--host", options.host, "--port", str(options.port)]
    words += ["--cache", str(options.cache)]
    return shlex.join(words)


def left_out_of_score(record: Record) -> list[str]:
    """Name the sites that are missing from the score, if any."""
    incidents = record["rounds"][-1]["incidents"] if record["rounds"] else []
    missing = sorted(one["client_id"] for one in incidents if one["task"] == EVALUATE)
    if not missing or record["final"] is None:
        return []
    scored = len(record["final"]["sites"])
    return [f"scored at {scored} of {scored + len(missing)} sites; left out: {', '.join(missing)}"]
