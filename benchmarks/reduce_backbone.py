"""Append a linear reduction to an ONNX encoder, fitted on public photographs.

    python benchmarks/reduce_backbone.py ../shared/weights/squeezenet-stride8/model.onnx \
        ../shared/data/pretrain runs/squeezenet-256.onnx --channels 256

The last layers of CNN encoders have many redundant channels. The first principal components of
features of unrelated, public photographs keep most of the information, and training on a quarter of
the channels takes a fifth of the time. The result is a frozen backbone like any other: it is made
without any image of a site. The same photographs, channels and seed give the same file.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

from fusseg.data.images import SUFFIXES, fit_image, load_image
from fusseg.data.items import Item
from fusseg.features.backbones import load_backbone
from fusseg.federation.moments import principal_components, sum_moments

POSITIONS_PER_PHOTO = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--photos-used", type=int, default=500)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in SUFFIXES)
    generator = torch.Generator().manual_seed(arguments.seed)
    drawn = torch.randperm(len(paths), generator=generator)[: arguments.photos_used].sort().values
    backbone = load_backbone(f"onnx:{arguments.encoder}")

    def features() -> Iterator[torch.Tensor]:
        for index in drawn.tolist():
            photo = load_image(Item("photos", paths[index].stem, "", paths[index]))
            size = (arguments.size, arguments.size)
            fitted = torch.from_numpy(fit_image(photo, size, "crop", "bilinear"))
            flat = backbone.extract(fitted[None])[0].flatten(1).T
            yield flat[torch.randperm(len(flat), generator=generator)[:POSITIONS_PER_PHOTO]]

    moments = sum_moments(features(), backbone.feature_dim)
    directions, variances, mean = principal_components(moments, arguments.channels)
    # Components differ a lot in variance, and without the first one most of an image would be
    # lost. A rotation spreads them over all channels, as in an encoder, and changes no cosine.
    rotation, _ = torch.linalg.qr(
        torch.randn(len(directions), len(directions), generator=generator).double()
    )
    directions = rotation @ directions
    covariance = moments.second / moments.count - torch.outer(mean, mean)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    append_projection(arguments.encoder, directions.numpy(), mean.numpy(), arguments.out)
    share = float(variances.sum() / covariance.trace())
    print(
        f"{arguments.out}: {backbone.feature_dim} to {arguments.channels} channels, {share:.1%} of"
    )
    print(f"the variance of {len(drawn)} photographs kept")


def append_projection(encoder: Path, directions: np.ndarray, mean: np.ndarray, out: Path) -> None:
    """Append a 1x1 convolution to the encoder: directions times (features - mean)."""
    model = onnx.load(encoder)
    output = model.graph.output[0]
    weight = directions.astype(np.float32)[:, :, None, None]
    bias = -(directions @ mean).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "reduction.weight"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "reduction.bias"))
    inputs = [output.name, "reduction.weight", "reduction.bias"]
    model.graph.node.append(onnx.helper.make_node("Conv", inputs, ["reduced"], name="reduction"))
    output.name = "reduced"
    output.type.tensor_type.shape.dim[1].dim_value = len(directions)
    onnx.checker.check_model(model)
    out.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
