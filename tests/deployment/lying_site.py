"""A site that runs other code than it should: run as `fusseg join` would be.

The word of each round in FUSSEG_LIES says what it does: `nan`, `huge`, `none`, `exit` or `honest`.
"""

import os
import sys
from dataclasses import replace

import torch


def main():
    """Stand in for `flwr-clientapp`."""
    from fusseg.deployment import client_app, client_process

    honest = client_app.answer_packet

    def lie(packet, folder):
        answered = honest(packet, folder)
        if packet.fields["task"] != "train":
            return answered
        words = os.environ["FUSSEG_LIES"].split(",")
        word = words[min(int(packet.fields["round"]), len(words)) - 1]
        if word == "exit":
            os._exit(1)
        tensors = dict(answered.tensors)
        if word == "nan":
            tensors["centroids"] = torch.full_like(tensors["centroids"], float("nan"))
        elif word == "huge":
            tensors["linear.weight"] = torch.full_like(tensors["linear.weight"], 1e30)
        return replace(answered, tensors=tensors)

    client_app.answer_packet = lie
    client_process.main()


if __name__ == "__main__":
    from fusseg.cli import app
    from fusseg.deployment import flower

    link_programs = flower.link_programs
    flower.link_programs = lambda folder, command, _: link_programs(folder, command, "lying_site")
    sys.argv[0] = "fusseg"
    app.main()
