"""What serve, join, ledger and keys say before anything is sent, and where nothing is."""

import socket

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from fusseg.deployment.keys import create_authority, create_server_certificate, create_site_key
from fusseg.deployment.ledger import append_line, describe_message
from fusseg.deployment.offer import HELLO


@pytest.fixture
def keys(tmp_path):
    """Authority, server certificate, and the key of a site, in one folder."""
    folder = tmp_path / "keys"
    create_authority(folder, 10)
    create_server_certificate(folder, ["localhost"], folder, 5)
    (folder / "sites.toml").write_text(create_site_key("north", folder, 5).entry)
    return folder


@pytest.fixture
def serve(cli, keys, tmp_path):
    """Run `fusseg serve` with complete options."""
    return lambda *more: cli(
        "serve", *more, "--keys", keys, "--sites", keys / "sites.toml", "--out", tmp_path / "run"
    )


@pytest.fixture
def join(cli, keys, tmp_path):
    """Run `fusseg join` with complete options, for a server that is not there."""

    def run(data, *more, key="north.key", name="north"):
        arguments = ["join", "localhost:1", "--data", data, "--name", name]
        arguments += ["--key", keys / key, "--ca", keys / "ca.crt"]
        return cli(*arguments, "--state", tmp_path / "state", *more)

    return run


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("federation.strategy=centralized", "'centralized' is a baseline for fusseg run"),
        ("federation.strategy=local", "'local' is a baseline for fusseg run"),
        ("data.partition=iid", "each site holds its own images; set them to 'site'"),
        ("data.layout=synthetic", "every site has a folder of images; set it to 'sites'"),
        ("data.train_list=list.txt", "the server does not know the sites' file names"),
        ('data.train_sites=["east"]', "site 'east' of data.train_sites is not in"),
        ('data.held_out_sites=["north"]', "it cannot train and be held out"),
        ("evaluation.at_sites=true", "set one of them only"),
    ],
)
def test_a_server_refuses_what_sites_cannot_do(
    override, said, serve, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    code, _, err = serve(config, "--set", override)
    assert code == 2
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_server_needs_its_keys_and_its_list(serve, keys, make_sites, make_config):
    config = make_config(make_sites())
    (keys / "server.key").chmod(0o644)
    assert "chmod 600" in serve(config)[2]
    (keys / "server.key").chmod(0o600)
    (keys / "sites.toml").write_text("")
    assert "[sites.NAME]" in serve(config)[2]
    (keys / "sites.toml").unlink()
    assert "sites.toml" in serve(config)[2]
    (keys / "server.crt").unlink()
    assert "server.crt" in serve(config)[2]


def test_a_server_whose_key_and_certificate_differ_writes_nothing(
    serve, keys, make_sites, make_config, tmp_path
):
    create_server_certificate(keys, ["localhost"], tmp_path / "other", 5)
    (tmp_path / "other" / "server.key").replace(keys / "server.key")
    code, _, err = serve(make_config(make_sites()))
    assert code == 2
    assert (
        f"error: server.key does not belong to server.crt in {keys}; make both anew with fusseg "
        "keys server"
    ) in err
    assert not (tmp_path / "run").exists()


def test_a_server_whose_certificate_no_site_would_trust_writes_nothing(
    serve, keys, make_sites, make_config, tmp_path
):
    create_authority(tmp_path / "other", 10)
    (tmp_path / "other" / "ca.crt").replace(keys / "ca.crt")
    code, _, err = serve(make_config(make_sites()))
    assert code == 2
    assert f"error: server.crt is not signed by ca.crt in {keys}; make it anew" in err
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_named_and_few_sites_are_warned_of(
    serve, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = ["--host", "127.0.0.1", "--port", str(port), "--set", "federation.min_sites=3"]
        code, out, err = serve(config, *more)
    assert code == 2
    assert f"error: port {port} of 127.0.0.1 is taken; choose another --port" in err
    assert "federation.min_sites is 3, " in out + err
    assert "lists 1 that may join: rounds wait for 3 sites; add the others to the file" in out + err
    # so that the corrected command can use it
    assert not (tmp_path / "run").exists()


def test_a_server_goes_on_with_a_run_that_is_there_only(serve):
    assert "no run to resume" in serve("--resume")[2]


def test_a_dry_run_shows_what_would_be_sent_and_connects_to_nobody(
    join, make_sites, make_config, tmp_path
):
    root = make_sites()
    config = make_config(root, held_out=(), more='strategy = "consensus"\nlloyd_rounds = 2')
    code, out, _ = join(root / "north", "--dry-run", "--config", config)
    assert code == 0
    assert "hello: " in out
    assert "tensor feature_sum: " in out
    assert "train: " in out
    assert "3 times" in out
    # the head's weights, the centroids, and two numbers per centroid
    assert "tensor linear.weight: 8x" in out
    assert "tensor centroids: 2x8 float32, 64 bytes" in out
    assert "tensor counts: 2 int64, 16 bytes" in out
    assert "lloyd: " in out
    assert "tensor sums: 2x8 float64, 128 bytes" in out
    assert "and nothing else; nothing was sent now" in out
    assert not (tmp_path / "state" / "ledger.jsonl").exists()


def test_a_dry_run_shows_counts_where_the_site_would_be_scored(join, make_sites, make_config):
    root = make_sites()
    config = make_config(root, held_out=(), more="[evaluation]\nat_sites = true")
    _, out, _ = join(root, "--dry-run", "--config", config)
    assert "tensor confusion: 2x2 int64, 32 bytes" in out


def test_a_site_is_looked_at_before_the_server_is_asked(join, keys, cli, make_sites, tmp_path):
    root = make_sites()
    code, _, err = join(root / "north", "--dry-run")
    assert (code, "--dry-run needs --config" in err) == (2, True)
    assert "is no site" in join(tmp_path)[2]
    (keys / "north.key").chmod(0o640)
    assert "chmod 600" in join(root / "north")[2]
    assert "missing.key" in join(root / "north", key="missing.key")[2]
    (keys / "north.key").chmod(0o600)
    arguments = ["--name", "north", "--key", keys / "north.key", "--ca", keys / "ca.crt"]
    arguments += ["--state", tmp_path / "state"]
    for address in ("server", "server:", "server:x", ":8443", "server:70000"):
        _, _, err = cli("join", address, "--data", root / "north", *arguments)
        assert f"the server must be HOST:PORT, got '{address}'" in err


def test_a_key_is_its_owners(join, keys, make_sites):
    root = make_sites()
    code, _, err = join(root, "--dry-run", "--config", "none.toml", name="south")
    assert code == 2
    assert "error: this key is north's, --name says south; " in err
    assert "north.key goes with --name north" in err
    # without the file beside it nobody knows
    (keys / "north.pub").unlink()
    assert "none.toml" in join(root, "--dry-run", "--config", "none.toml", name="south")[2]


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("onnx:nope.onnx", "ONNX file 'nope.onnx' does not exist"),
        ("./nope", "backbone folder './nope' does not exist"),
        ("filterbnk", "did you mean 'filterbank'"),
    ],
)
def test_a_backbone_is_looked_for_before_the_server_is_asked(
    backbone, said, join, make_sites, tmp_path
):
    code, _, err = join(make_sites() / "north", "--backbone", backbone)
    assert code == 2
    assert f"error: --backbone {backbone}: " in err
    assert said in err
    assert not (tmp_path / "state").exists()


def test_a_ledger_is_printed_message_by_message(cli, tmp_path):
    fields = {"task": HELLO, "round": 0, "state": "done", "num_images": 6}
    append_line(tmp_path, describe_message("north", "to server", {}, fields))
    hostile = {"task": "\x1b[2Jx", "round": 1}
    append_line(tmp_path, describe_message("south", "to site", {}, hostile))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"time": "cut sho')
    code, out, _ = cli("ledger", tmp_path)
    assert code == 0
    assert "north round 0 hello to server: 25 bytes" in out
    assert "num_images=6" in out
    assert "south: 13 bytes to the site, 0 to the server" in out
    assert "1 lines could not be read" in out
    # what the other end wrote moves no cursor
    assert "\x1b" not in out
    assert "\\x1b[2Jx" in out
    _, out, _ = cli("ledger", tmp_path, "--site", "south")
    assert "north" not in out
    code, _, err = cli("ledger", tmp_path, "--site", "nobody")
    assert code == 2
    assert "error: no message of site 'nobody'; sites are north, south\n" in err


def test_a_simulated_run_has_no_ledger(cli, tmp_path):
    code, _, err = cli("ledger", tmp_path)
    assert code == 2
    assert "only deployments send something" in err


def test_keys_say_where_they_belong(cli, tmp_path):
    _, out, _ = cli("keys", "ca", "--out", tmp_path / "authority")
    assert "Keep ca.key offline" in out
    out_dir = tmp_path / "server"
    cli("keys", "server", "fed.example.org", "--ca", tmp_path / "authority", "--out", out_dir)
    assert sorted(path.name for path in out_dir.iterdir()) == ["ca.crt", "server.crt", "server.key"]
    _, out, _ = cli("keys", "site", "hamburg", "--out", tmp_path / "site")
    assert "[sites.hamburg]" in out
    code, _, err = cli("keys", "site", "hamburg", "--out", tmp_path / "site")
    assert (code, "hamburg.key" in err) == (2, True)
