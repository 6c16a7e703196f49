"""A site that runs other code than it should: run as `fusseg join` would be.

The word of each round in FUSSEG_LIES says what it does: `nan`, `huge`, `exit`, `honest`, or which
sides every tensor has by its header: a word of SIDES.
FUSSEG_HELLO is `sum` where it tells a false sum of features before round 1.
"""

import os
import sys
from dataclasses import replace

import torch

SIDES = {
    "digits": ",".join(["9" * 4000] * 8),
    "more-digits": "9" * 5000,
    "nested": "[" * 200_000 + "]" * 200_000,
}


def write_sides(text):
    """Let Flower write other sides into the header of every tensor."""
    from flwr.app import Array
    from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body

    honest = Array.deflate

    def deflate(array):
        body = honest(array).split(b"\x00", 1)[1]
        head, rest = body.split(b'"shape": [')
        body = head + b'"shape": [' + text.encode() + b"]" + rest[rest.index(b"]") + 1 :]
        return add_header_to_object_body(object_body=body, obj=array)

    Array.deflate = deflate


def main():
    """Stand in for `flwr-clientapp`."""
    from fusseg.deployment.own_app import run_client_app
    from fusseg.deployment.site import client_app

    honest = client_app.answer_packet

    def lie(packet, folder):
        answered = honest(packet, folder)
        if "feature_sum" in answered.tensors and os.environ.get("FUSSEG_HELLO") == "sum":
            count = answered.fields["feature_count"]
            total = torch.full_like(answered.tensors["feature_sum"], 1000.0 * count)
            return replace(answered, tensors={"feature_sum": total})
        if packet.fields["task"] != "train":
            return answered
        words = os.environ["FUSSEG_LIES"].split(",")
        word = words[min(int(packet.fields["round"]), len(words)) - 1]
        if word == "exit":
            os._exit(1)
        if word in SIDES:
            write_sides(SIDES[word])
        tensors = dict(answered.tensors)
        if word == "nan":
            tensors["centroids"] = torch.full_like(tensors["centroids"], float("nan"))
        elif word == "huge":
            tensors["head.linear.weight"] = torch.full_like(tensors["head.linear.weight"], 1e30)
        return replace(answered, tensors=tensors)

    client_app.answer_packet = lie
    run_client_app()


if __name__ == "__main__":
    from fusseg.cli import app
    from fusseg.deployment import flower

    link_programs = flower.link_programs
    flower.link_programs = lambda folder, command, _: link_programs(
        folder, command, "lying_site:main"
    )
    sys.argv[0] = "fusseg"
    app.main()
