"""A whole federation on this machine: server and three sites as processes of their own.

    python examples/deploy_demo.py runs

writes generated scenes as image files, makes keys, runs `fusseg serve` and three `fusseg join` with
TLS on, runs the same configuration simulated, and says whether the two models are the same to the
last bit.
"""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fusseg.data.synthetic.scenes import Scene, draw_scene

SITES, HELD_OUT, IMAGES_PER_SITE = ("tank", "tunnel", "yard"), "hall", 16
CONFIG = Path(__file__).parent / "deploy.toml"
FUSSEG = [sys.executable, "-m", "fusseg"]


def write_scenes(root: Path) -> None:
    """Write the images of all sites, and masks for the one that is scored."""
    for site in (*SITES, HELD_OUT):
        for index in range(IMAGES_PER_SITE):
            image, mask = draw_scene(Scene("pipes", site, index, 0))
            save(image, root / site / "images" / f"{index:05d}.png")
            if site == HELD_OUT:
                save(mask, root / site / "masks" / f"{index:05d}.png")
    (root / "classes.toml").write_text('names = ["background", "pipe"]\n')


def save(pixels: np.ndarray, path: Path) -> None:
    """Write one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_keys(folder: Path) -> None:
    """Make authority, server certificate and one key per site, and list the sites."""
    keys = [*FUSSEG, "keys"]
    subprocess.run([*keys, "ca", "--out", folder], check=True)
    subprocess.run([*keys, "server", "localhost", "--ca", folder, "--out", folder], check=True)
    entries = []
    for site in SITES:
        command = [*keys, "site", site, "--out", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        start = next(n for n, line in enumerate(lines) if line.strip() == f"[sites.{site}]")
        entries.append("\n".join(line.strip() for line in lines[start : start + 3]))
    (folder / "sites.toml").write_text("\n\n".join(entries) + "\n")


def join(site: str, address: str, runs: Path) -> "subprocess.Popen[bytes]":
    """Start one site."""
    keys = runs / "keys"
    command = [*FUSSEG, "join", address, "--data", runs / "scenes" / site, "--name", site]
    command += ["--key", keys / f"{site}.key", "--ca", keys / "ca.crt", "--once"]
    command += ["--state", runs / "sites" / site, "--cache", runs / "sites" / f"cache-{site}"]
    with (runs / f"{site}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def free_port() -> int:
    """Find a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(runs: Path) -> int:
    """Run the demo; 0 where the two models are the same."""
    runs.mkdir(parents=True, exist_ok=True)
    write_scenes(runs / "scenes")
    make_keys(runs / "keys")
    port = free_port()
    sites = [join(site, f"localhost:{port}", runs) for site in SITES]
    settings = ["--set", f'data.root="{runs}/scenes"', "--cache", runs / "cache-server"]
    try:
        command = [*FUSSEG, "serve", CONFIG, "--out", runs / "deploy", *settings]
        command += ["--sites", runs / "keys" / "sites.toml", "--keys", runs / "keys"]
        subprocess.run([*command, "--host", "127.0.0.1", "--port", str(port)], check=True)
        for site in sites:
            site.wait(60)
    finally:
        for site in sites:
            site.terminate()
    subprocess.run(
        [*FUSSEG, "run", CONFIG, "--out", runs / "deploy-simulated", *settings], check=True
    )
    deployed, simulated = (
        (runs / name / "state.safetensors") for name in ("deploy", "deploy-simulated")
    )
    same = same_model(deployed, simulated)
    print(f"deployed and simulated model are {'identical' if same else 'DIFFERENT'}")
    return 0 if same else 1


def same_model(left: Path, right: Path) -> bool:
    """Whether two states hold the same tensors to the last bit."""
    from safetensors.numpy import load_file

    first, second = load_file(left), load_file(right)
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() for name in first
    )


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")))
