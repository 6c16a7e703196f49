"""Promises 4 and 5: sites that lie, servers that send code, and strangers with the certificate."""

import base64
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from fusseg.deployment import flower
from fusseg.deployment.flower import LoopbackServer
from fusseg.deployment.keys.keys import create_site_key
from fusseg.deployment.processes import free_port, start_process, stop_process
from fusseg.deployment.server.admission import admitted_nodes
from fusseg.deployment.server.edge import FLEET_NAMES

HERE = Path(__file__).parent


def join_as_liar(federation, site, **lies):
    """Let a site join with the lies of `lying_site.py`."""
    federation.start(
        site,
        [sys.executable, str(HERE / "lying_site.py"), "join", *federation.join_arguments(site)],
        PYTHONPATH=f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
        **lies,
    )


def test_sites_that_lie_are_left_out_or_refused_and_the_others_rounds_stand(make_federation):
    federation = make_federation(
        "federation.min_sites=2",
        "federation.round_timeout=60",
        "federation.rounds=4",
        sites=("crude", "east", "false", "north", "south"),
    )
    federation.join("east")
    federation.join("south")
    join_as_liar(federation, "north", FUSSEG_LIES="nan,huge,exit,honest")
    join_as_liar(federation, "crude", FUSSEG_LIES="digits,more-digits,nested,honest")
    join_as_liar(federation, "false", FUSSEG_LIES="honest", FUSSEG_HELLO="sum")
    # A real list of sites with a limit that all keep to.
    sites = federation.keys / "sites.toml"
    sites.write_text(sites.read_text().replace("expires", "max_images = 6\nexpires"))
    federation.serve()
    assert federation.finish() == 0, federation.log("serve")
    check_that_only_liars_are_left_out(federation)
    check_what_is_said_of_lies(federation)
    check_what_is_said_of_absurd_sides(federation)
    check_that_the_false_sum_is_refused(federation)
    model = federation.final_state().model
    assert all(part.isfinite().all() for part in (*model.head.values(), model.centroids))


def check_that_only_liars_are_left_out(federation):
    *rounds, last = federation.record()["rounds"]
    assert len(rounds) == 3
    for entry in rounds:
        assert sorted(one["client_id"] for one in entry["incidents"]) == ["crude", "north"]
        assert [client["client_id"] for client in entry["clients"]] == ["east", "south"]
    # those that lied are not put out for good
    members = [client["client_id"] for client in last["clients"]]
    assert members == ["crude", "east", "north", "south"]


def reasons_for(federation, site):
    """Why a site was left out of each of the rounds but the last, in which it is honest."""
    return [
        next(one["reason"] for one in entry["incidents"] if one["client_id"] == site)
        for entry in federation.record()["rounds"][:-1]
    ]


def check_what_is_said_of_lies(federation):
    reasons = reasons_for(federation, "north")
    assert "not finite" in reasons[0]
    assert "moved by 1e+30" in reasons[1]
    assert "no answer" in reasons[2]


def check_what_is_said_of_absurd_sides(federation):
    reasons = reasons_for(federation, "crude")
    assert "has a side of 99999" in reasons[0]
    assert "Exceeds the limit" in reasons[1]
    assert "RecursionError" in reasons[2]
    assert all(len(reason) <= 500 for reason in reasons)
    # what no check foresaw keeps its traceback, and nothing that was sent is written at length
    log = (federation.run_dir / "flower" / "rounds.log").read_text()
    assert log.count("cannot read the answer of crude\n  File ") == 2
    assert max(map(len, log.splitlines())) < 2000
    assert len(federation.log("serve")) < 10_000


def check_that_the_false_sum_is_refused(federation):
    (refused,) = federation.record()["hello"]["refused"]
    assert refused["client_id"] == "false"
    assert "standard deviations from the other sites'" in refused["reason"]
    assert "false: refused: its mean feature lies" in federation.log("serve")


@pytest.fixture
def running(make_federation):
    """A federation whose only site is at work."""
    federation = make_federation("federation.rounds=60", sites=("east",))
    federation.join_all()
    federation.serve()
    federation.wait_for_event("round 1 of 60")
    return federation


def connect(federation):
    trust = ssl.create_default_context(cafile=str(federation.keys / "ca.crt"))
    return httpx.Client(
        verify=trust, base_url=f"https://localhost:{federation.port}", trust_env=False
    )


def test_a_stranger_with_the_certificate_can_do_nothing(running, tmp_path):
    before = dict(admitted_nodes(running.run_dir / "flower" / "nodes.json"))
    _check_paths(running)
    _check_fleet_without_key(running, before)
    _check_commands(running, tmp_path)
    _check_foreign_superexec(running, tmp_path)
    _check_foreign_site(running, tmp_path)
    assert admitted_nodes(running.run_dir / "flower" / "nodes.json") == before
    # and the federation goes on
    done = len(running.record()["rounds"])
    running.wait_for(lambda: len(running.record()["rounds"]) > done)


def _check_paths(federation):
    """Nothing but the Fleet API is there, however it is spelled."""
    with connect(federation) as client:
        for path in (
            "/v1/control/start-run",
            "/v1/control/register-node",
            "/v1/control/list-nodes",
            "/v1/control/stream-logs",
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/v1/fleet/unregister-node",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet//pull-messages",
            "/docs",
            "/openapi.json",
        ):
            assert client.post(path, content=b"").status_code in (400, 403), path
            assert client.get(path).status_code in (400, 403, 405), path


def _check_fleet_without_key(federation, nodes):
    """Without a site's private key no call of the Fleet API is answered."""
    node = Node(node_id=nodes["east"])
    stranger = create_site_key("east", federation.folder / "stranger", 5)
    bodies = {
        "pull-messages": PullMessagesRequest(node=node),
        "push-messages": PushMessagesRequest(node=node),
        "pull-object": PullObjectRequest(node=node, object_id="0" * 64),
    }
    with connect(federation) as client:
        for name in FLEET_NAMES:
            body = bodies.get(name, bodies["pull-messages"]).SerializeToString()
            headers = sign(stranger.private_key)
            answer = client.post(f"/v1/fleet/{name}", content=body, headers=headers)
            assert answer.status_code in (400, 401, 403, 422), (name, answer.status_code)
        # the site itself, whose key is in the list, is heard
        body = SendNodeHeartbeatRequest(node=node, heartbeat_interval=30.0).SerializeToString()
        for key, status in ((federation.keys / "east.key", 200), (stranger.private_key, 401)):
            headers = sign(key)
            answer = client.post("/v1/fleet/send-node-heartbeat", content=body, headers=headers)
            assert answer.status_code == status


def sign(path):
    """Headers as a site's own process would write them."""
    key = load_ssh_private_key(path.read_bytes(), None)
    stamp = now().isoformat()
    parts = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: public_key_to_bytes(key.public_key()),
        FLEET_HTTP_SIGNATURE_HEADER: sign_message(key, stamp.encode("ascii")),
    }
    encoded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return {**encoded, TIMESTAMP_HEADER: stamp, "content-type": "application/protobuf"}


def _check_commands(federation, tmp_path):
    """Flower's own commands fail through the edge: submit, register, list."""
    home = tmp_path / "commands"
    stranger = LoopbackServer(home, federation.port, federation.keys / "ca.crt")
    flower.write_connection(stranger)
    for attempt in (
        lambda: flower.submit_run(stranger),
        lambda: flower.register_site(stranger, "evil", public_key(tmp_path)),
        lambda: flower.list_nodes(stranger),
        lambda: flower.stop_run(stranger, 1),
    ):
        with pytest.raises(flower.FederationError):
            attempt()


def public_key(folder):
    return create_site_key("evil", folder / "evil", 5).public_key.read_text()


def _check_foreign_superexec(federation, tmp_path):
    """A SuperExec of a stranger gets no task, through the edge or past it."""
    inner = int(
        (federation.run_dir / "flower" / "config.toml")
        .read_text()
        .split("127.0.0.1:")[1][:5]
        .strip('"\n ')
    )
    processes, logs = [], []
    for port in (federation.port, inner):
        logs.append(tmp_path / f"superexec-{port}.log")
        home = tmp_path / f"home-{port}"
        home.mkdir()
        command = [
            *(sys.executable, "-c"),
            "from flwr.supercore.cli import flower_superexec as main; main()",
            *("--runtime-api-address", f"127.0.0.1:{port}"),
            *("--root-certificates", str(federation.keys / "ca.crt")),
        ]
        variables = flower.environment(home, Path(sys.executable).parent)
        processes.append(start_process(command, variables, logs[-1], tmp_path))
    time.sleep(8)
    for process in processes:
        stop_process(process)
    for log in logs:
        assert "flwr-serverapp" not in log.read_text()
        assert "Start `flwr-serverapp`" not in log.read_text()


def _check_foreign_site(federation, tmp_path):
    """A site whose key is in no list is refused, whatever name it gives itself."""
    create_site_key("east", tmp_path / "foreign", 5)
    arguments = federation.join_arguments("east")
    arguments[arguments.index("--key") + 1] = str(tmp_path / "foreign" / "east.key")
    arguments[arguments.index("--state") + 1] = str(tmp_path / "foreign-state")
    command = [sys.executable, "-m", "fusseg", "join", *arguments]
    federation.start("foreign", command)
    federation.wait_for(lambda: "the connection ended" in federation.log("foreign"))
    foreign = federation.processes.pop("foreign")
    foreign.terminate()
    foreign.wait()
    assert "the server does not know the key" in federation.log("foreign")
    assert not (tmp_path / "foreign-state" / "offer.json").exists()


EVIL_SERVER = """
from pathlib import Path
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
import time

app = ServerApp()


@app.main()
def main(grid, context):
    while not list(grid.get_node_ids()):
        time.sleep(0.5)
    content = RecordDict({"fields": ConfigRecord({"task": "hello"})})
    messages = [
        Message(content, node, MessageType.QUERY, ttl=60) for node in grid.get_node_ids()
    ]
    replies = grid.send_and_receive(messages, timeout=60)
    Path("MARKER").with_name("replies.txt").write_text(
        "".join(str(reply.error.reason if reply.has_error() else "content") for reply in replies)
    )
"""
EVIL_CLIENT = """
from pathlib import Path
from flwr.clientapp import ClientApp
Path("MARKER").write_text("the server's code ran at the site")
app = ClientApp()


@app.query()
def query(message, context):
    raise ValueError
"""


def test_code_that_a_server_sends_is_not_run_at_a_site(make_federation, tmp_path):
    federation = make_federation(sites=("east",))
    marker = tmp_path / "marker.txt"
    app = tmp_path / "evil-app"
    (app / "evil").mkdir(parents=True)
    (app / "evil" / "__init__.py").write_text("")
    (app / "evil" / "server_app.py").write_text(EVIL_SERVER.replace("MARKER", str(marker)))
    (app / "evil" / "client_app.py").write_text(EVIL_CLIENT.replace("MARKER", str(marker)))
    own = (flower.APP / "pyproject.toml").read_text()
    for room in ("server", "site"):
        own = own.replace(f"fusseg.deployment.{room}", "evil")
    (app / "pyproject.toml").write_text(own)
    # a server without the safeguards of fusseg serve: apps run as they come
    server = LoopbackServer(tmp_path / "home", free_port(), federation.keys / "ca.crt")
    server.home.mkdir()
    flower.write_connection(server)
    keys = federation.keys
    command = flower.superlink_command(
        server, keys / "server.crt", keys / "server.key", tmp_path / "unused"
    )
    place = command.index("--isolation")
    command = command[:place] + command[place + 4 :]
    variables = flower.environment(server.home, Path(sys.executable).parent)
    process = start_process(command, variables, tmp_path / "superlink.log", tmp_path)
    try:
        federation.wait_for(lambda: healthy(server))
        flower.register_site(server, "east", (keys / "east.pub").read_text())
        federation.join("east", port=server.port)
        code = "from flwr.cli.app import app; app()"
        subprocess.run(
            [sys.executable, "-c", code, "run", str(app), flower.CONNECTION],
            env=variables,
            check=True,
            capture_output=True,
        )
        replies = tmp_path / "replies.txt"
        federation.wait_for(replies.exists)
    finally:
        stop_process(process)
    assert "not the one of the installed fusseg" in replies.read_text()
    assert not marker.exists()


def healthy(server):
    trust = ssl.create_default_context(cafile=str(server.authority))
    try:
        with httpx.Client(verify=trust, trust_env=False) as client:
            return client.get(f"https://{server.address}/health").is_success
    except httpx.TransportError:
        return False
