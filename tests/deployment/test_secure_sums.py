"""Promise: with secure sums the server holds sums, and no site's head, sums, counts or loss."""

import re
from pathlib import Path

import numpy as np
import torch
from recorded import check_that_every_request_is_in_the_ledger, join_through_proxy

from fusseg.config.file import load_config
from fusseg.federation import simulation
from fusseg.runs.train import run_experiment

SETTINGS = (
    "privacy.secure_sum=true",
    "federation.strategy=lloyd",
    "federation.rounds=1",
    "federation.teach=true",
    "teach.shrinkage=0.1",
)
"""A head, sums of codes and class statistics, in few exchanges: each takes two trips of seconds."""


def test_the_server_learns_sums_and_ends_in_the_bits_of_the_simulation(
    make_federation, same_bits, tmp_path, monkeypatch
):
    federation = make_federation(*SETTINGS)
    roster = federation.keys / "sites.toml"
    recorded = join_through_proxy(federation, tmp_path, "--roster", str(roster))
    federation.serve()
    federation.wait_for_event("round 1 of")
    memory = [content for process in server_processes(federation) for content in regions(process)]
    federation.check_that_secrets_are_for_their_owner_only()
    assert federation.finish() == 0, federation.log("serve")
    federation.stop()

    secrets, sums = simulate(federation, tmp_path, monkeypatch)
    found = federation.final_state()
    assert same_bits(found.model, sums.model)
    assert torch.equal(found.taught.classifier.weight, sums.taught.classifier.weight)
    check_that_every_request_is_in_the_ledger(federation, recorded)
    sent = [path.read_bytes() for path in recorded.glob("*.requests")]
    files = [path.read_bytes() for path in federation.run_dir.rglob("*") if path.is_file()]
    assert held(memory, secrets) == []
    for content in (*sent, *files):
        # In messages and files a tensor may begin anywhere.
        assert held([content[start:] for start in range(8)], secrets) == []
    # What should be found is found: the memory is that of the server, and the search works.
    assert held(memory, patterns("sum", found.model.head["linear.weight"]))
    check_that_nothing_secret_is_left(federation)


def simulate(federation, tmp_path, monkeypatch):
    """Simulate the run; what no server must hold, and the final state."""
    secrets = []

    def spy(update, rules, terms):
        for name, part in update.parts.items():
            secrets.extend(patterns(f"{name} of {update.client_id}", part))
        if update.loss is not None:
            loss = torch.tensor([update.loss], dtype=torch.float64).numpy().tobytes()
            secrets.append((f"loss of {update.client_id}", loss))
        term = make_term(update, rules, terms)
        secrets.extend(patterns(f"term of {update.client_id}", term))
        return term

    make_term = simulation.make_term
    monkeypatch.setattr(simulation, "make_term", spy)
    monkeypatch.chdir(federation.folder)
    config = load_config(federation.folder / "config.toml", federation.overrides)
    for event in run_experiment(config, tmp_path / "simulated", tmp_path / "cache"):
        last = event
    assert len({name.rpartition(" ")[2] for name, _ in secrets}) == 3
    kinds = {name.partition(" ")[0] for name, _ in secrets}
    assert {"head.linear.weight", "loss", "term", "sums", "first", "second"} <= kinds, kinds
    return secrets, last.saved.state


def patterns(name, tensor):
    """Bytes by which a tensor would be recognized: pieces of 64 bytes that are not mostly zero."""
    content = tensor.contiguous().numpy().tobytes()
    starts = range(0, len(content) - 63, max(64, len(content) // 8 // 64 * 64))
    pieces = [content[start : start + 64] for start in starts]
    # Pieces of which few bytes differ, as of a tensor of zeros, could be anything's.
    return [(name, piece) for piece in pieces if len(set(piece)) > 24]


def held(memory, secrets):
    """Names of the secrets that stand in memory, where tensors begin at multiples of 8 bytes."""
    words = np.array([int.from_bytes(secret[:8], "little") for _, secret in secrets], np.uint64)
    table = np.zeros(2**16, dtype=bool)
    table[words & 0xFFFF] = True
    found = []
    for content in memory:
        aligned = np.frombuffer(content, np.uint64, len(content) // 8)
        near = np.flatnonzero(table[aligned & 0xFFFF])
        for place in near[np.isin(aligned[near], words)]:
            here = content[8 * place : 8 * place + 64]
            found += [name for name, secret in secrets if here.startswith(secret)]
    return found


def server_processes(federation):
    """The processes of the server, all started by the first one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        number, _, rest = path.read_text().partition(" (")
        parents[int(number)] = int(rest.rpartition(") ")[2].split()[1])
    found = {federation.processes["serve"].pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    commands = [Path(f"/proc/{number}/cmdline").read_bytes() for number in found]
    assert any(b"serverapp" in command for command in commands)
    return found


def regions(process):
    """The writable memory of a process."""
    home = Path("/proc") / str(process)
    lines = (home / "maps").read_text().splitlines()
    with (home / "mem").open("rb", buffering=0) as memory:
        for line in lines:
            begin, end, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if not rights.startswith("rw") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            try:
                memory.seek(int(begin, 16))
                yield memory.read(int(end, 16) - int(begin, 16))
            except OSError:
                # Gone since, or not of this process alone.
                continue


def check_that_nothing_secret_is_left(federation):
    """After the run no site holds a secret of its sums; all of it was its owner's only."""
    for site in federation.sites:
        (home,) = federation.state(site).glob("runs/*/sums")
        for path in home.iterdir():
            assert path.stat().st_mode & 0o077 == 0 or path.name == "lock", path
        assert {path.name for path in home.iterdir()} == {"lock", "revealed.json"}
