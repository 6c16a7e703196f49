"""A deployment in this process: Flower's messages, and a site's app that answers them at once."""

import json
import re

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fusseg.config.file import load_config
from fusseg.deployment.server.admission import NODES
from fusseg.deployment.server.server_rounds import FLOWER
from fusseg.deployment.site import client_app
from fusseg.deployment.site.site_data import prepare_site, remember_features
from fusseg.deployment.site.site_disk import (
    Preparation,
    SiteSettings,
    load_offer,
    save_preparation,
    save_settings,
)
from fusseg.runs.directory import create_run
from fusseg.runs.train import run_experiment

SITES = ("east", "north", "south")
FAST = ("federation.round_timeout=5", "federation.wait_timeout=5")


def carried(reply, tamper=None):
    """A message as Flower carries it: in bytes, object by object, and read again by Flower."""
    objects = get_all_nested_objects(reply)
    contents = {number: one.deflate() for number, one in objects.items()}
    for number, one in objects.items() if tamper else ():
        contents[number] = tamper(type(one).__name__, contents[number])
    return inflate_object_from_contents(reply.object_id, contents)


class LoopbackGrid(Grid):
    """Hands every message to the site's app at once; replies come in reverse order."""

    def __init__(self, folders, lies=None, tampers=None):
        self.nodes = dict(enumerate(folders, 10))
        self.lies = lies or {}
        self.tampers = tampers or {}
        self.offline = set()
        self._replies = {}
        self._count = 0

    def set_run(self, run):
        raise AssertionError

    @property
    def run(self):
        raise AssertionError

    def create_message(self, *args, **settings):
        raise AssertionError

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError

    def get_node_ids(self):
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._count}"
            ids.append(message.metadata.message_id)
            folder = self.nodes[message.metadata.dst_node_id]
            reply = self._answer(message, folder)
            if reply is not None:
                fields = message.content["fields"]
                place = folder.name, fields["round"] if fields["task"] == "train" else 0
                self._replies[ids[-1]] = reply, self.tampers.get(place)
        return ids

    def pull_messages(self, message_ids):
        # The last first, as if the first had taken longest.
        found = [one for one in message_ids if one == next(reversed(self._replies), None)]
        return [carried(*self._replies.pop(one)) for one in found]

    def _answer(self, message, folder):
        context = Context(0, 1, {client_app.SITE_DIR: str(folder)}, RecordDict(), {})
        reply = client_app.app(message, context)
        prepare(folder)
        lie = self.lies.get(folder.name)
        return reply if lie is None else lie(message, reply)


def prepare(folder):
    """What `fusseg join` does beside the answers: extract the features of an offer."""
    offer = load_offer(folder)
    if offer is None or (folder / "features.json").exists():
        return
    settings = SiteSettings(**json.loads((folder / "site.json").read_text()))
    stages = prepare_site(settings, offer)
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            remember_features(folder, offer, stop.value)
            break
    save_preparation(folder, Preparation(offer.digest, "ready"))


def hurry(monkeypatch):
    """Let this process be one of Flower's, and pauses short."""
    for name, number in (("run_id", 0), ("node_id", 1), ("task_id", 0)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", number)
    for name in (
        "asking._POLL_SECONDS",
        "asking_all._LOOK_SECONDS",
        "asking_all._PAUSE_SECONDS",
        "greeting._PAUSE_SECONDS",
        "exchange.RETRY_SECONDS",
        "secure_exchange.RETRY_SECONDS",
        "sum_reveal.RETRY_SECONDS",
    ):
        monkeypatch.setattr(f"fusseg.deployment.server.{name}", 0.01)


def federation_in(tmp_path, root, make_config):
    """Give what makes a run directory, the configuration in it, and a folder per joined site."""

    def make(*overrides, held_out=("west",), name="deploy"):
        config = load_config(make_config(root, held_out=held_out), [*FAST, *overrides])
        run_dir = tmp_path / name
        create_run(run_dir, config)
        (run_dir / FLOWER).mkdir()
        nodes = {
            site: {"node": number, "public_key": site} for number, site in enumerate(SITES, 10)
        }
        (run_dir / FLOWER / NODES).write_text(json.dumps(nodes))
        folders = []
        for site in SITES:
            folder = tmp_path / name / "sites" / site
            folder.mkdir(parents=True)
            settings = SiteSettings(site, str(root / site), str(tmp_path / "cache"))
            save_settings(folder, settings)
            folders.append(folder)
        return run_dir, config, folders

    return make


def events(run_dir):
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def simulated(config, tmp_path):
    run_dir = tmp_path / "simulated"
    for _ in run_experiment(config, run_dir, tmp_path / "cache"):
        pass
    return run_dir


def content_bytes(line):
    """Bytes of a message's tensors and numbers, without what names the exchange."""
    named = {"run", "offer", "task", "place", "version", "state", "plan", "head"}
    if line.direction == "to server":
        named.add("round")
    numbers = [name for name in line.fields if name not in named]
    return sum(tensor.bytes for tensor in line.tensors) + 8 * len(numbers)


def edit(run_dir, key, value):
    """Write another value for a key that stands once in the configuration."""
    path = run_dir / "config.toml"
    text, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", path.read_text())
    assert times == 1
    path.write_text(text)
