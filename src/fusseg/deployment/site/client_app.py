"""The ClientApp: the site's part of a deployment. Flower starts a process for every message."""

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
"""Key of the node configuration that names the site's folder. It never leaves the machine."""

app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """Answer one message of the server; there is an answer whatever happens."""
    return Message(pack(_answer(message, context)), reply_to=message)


def _answer(message: Message, context: Context) -> Packet:
    folder = Path(str(context.node_config[SITE_DIR]))
    try:
        # First, since the script may add entries to the tables. An error in it is not a refusal:
        # its text names a file of this site and must not be sent.
        import_own_script()
        return answer_packet(unpack(message.content), folder)
    except FederationError as error:
        reason = brief(str(error))
        LOG.warning("refused: %s", reason)
        return _excuse(folder, "refused", reason)
    except Exception as error:
        # The server learns only the kind of error: the text may name files of this site.
        log_error("failed", error)
        reason = f"the site failed with {type(error).__name__}; its log says why"
        return _excuse(folder, "failed", reason)


def _excuse(folder: Path, state: str, reason: str) -> Packet:
    packet = Packet({"state": state, "reason": reason})
    try:
        note_sent(folder, packet)
    except Exception:
        # Even if the ledger cannot be written an answer has to be sent: otherwise the server would
        # wait for it.
        LOG.exception("the ledger lacks an answer: %s", reason)
    return packet
