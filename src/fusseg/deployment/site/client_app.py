"""The site's half of a deployment: one process of Flower's for every message."""

import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.own_script import import_own_script
from fusseg.deployment.site.answering import answer_packet, note_sent
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.refusals import log_error

LOG = logging.getLogger(__name__)
SITE_DIR = "site-dir"
"""Key of the node's own configuration: the site's folder. It never leaves the machine."""

app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """Answer one message of the server; whatever happens, there is an answer."""
    return Message(pack(_answer(message, context)), reply_to=message)


def _answer(message: Message, context: Context) -> Packet:
    folder = Path(str(context.node_config[SITE_DIR]))
    try:
        # Before anything is looked up in a table that it may have added to. What is wrong with it
        # is no refusal: the text names a file of this site, and stays here.
        import_own_script()
        return answer_packet(unpack(message.content), folder)
    except FederationError as error:
        reason = brief(str(error))
        LOG.warning("refused: %s", reason)
        return _excuse(folder, "refused", reason)
    except Exception as error:
        # The server learns the kind of error only: its text may name files of this site.
        log_error("failed", error)
        reason = f"the site failed with {type(error).__name__}; its log says why"
        return _excuse(folder, "failed", reason)


def _excuse(folder: Path, state: str, reason: str) -> Packet:
    packet = Packet({"state": state, "reason": reason})
    try:
        note_sent(folder, packet)
    except Exception:
        # Where not even the ledger can be written an answer has to go out all the same: the server
        # would wait for it for ever.
        LOG.exception("the ledger lacks an answer: %s", reason)
    return packet
