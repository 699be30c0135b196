"""The columns of a sample, and of a unit in the plan; the contract with whoever reads a run."""

from __future__ import annotations

import pyarrow as pa

from raygen.store.request import SCHEMA_VERSION

VERSION_KEY = b"raygen.schema"
"""Of a file's metadata."""

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""The image type of Hugging Face datasets: the bytes of a PNG file, and no path."""

_META = {VERSION_KEY: str(SCHEMA_VERSION).encode()}

SAMPLES = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("node", pa.string(), nullable=False),  # as the command line takes it: layer:channel[@row,column]
        pa.field("layer", pa.string(), nullable=False),
        pa.field("channel", pa.int32(), nullable=False),
        pa.field("class_name", pa.string()),  # null where the node is no class
        pa.field("chain", pa.int32(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("image", IMAGE, nullable=False),
        pa.field("image_low", pa.float32(), nullable=False),  # the pixel value (0..1 of a photograph) shown as 0
        pa.field("image_high", pa.float32(), nullable=False),  # the pixel value shown as 255
        pa.field("score", pa.float32(), nullable=False),
        pa.field("potential", pa.float64(), nullable=False),  # U = -b f(x) + |z|^2/2, without constants
        pa.field("top_channel", pa.int32(), nullable=False),  # of the layer: responds most to this image
        pa.field("tilt", pa.float32(), nullable=False),  # b
        pa.field("contrast", pa.float32(), nullable=False),  # |b A A' grad f|^2 / trace(A A') over the node's draws
        pa.field("acceptance_rate", pa.float32(), nullable=False),  # of the chain, after warm-up
        pa.field("step_size", pa.float32(), nullable=False),
        pa.field("gradients", pa.int64(), nullable=False),  # of the chain, warm-up included
        pa.field("divergences", pa.int32(), nullable=False),  # of the chain, after warm-up
        pa.field("r_hat", pa.float32(), nullable=False),  # rank-normalised split R-hat of the node's score
        pa.field("r_hat_nested", pa.float32()),  # nested R-hat of the node's score; null without superchains
        pa.field(
            "ess_bulk", pa.float32(), nullable=False
        ),  # bulk effective sample size of the node's score, all chains
        pa.field("ess_tail", pa.float32()),  # of the 5 % and 95 % quantiles of the node's score
        pa.field("e_bfmi", pa.float32()),  # least energy Bayesian fraction of missing information of a chain
        pa.field("converged", pa.bool_(), nullable=False),
        pa.field("trajectories", pa.int64()),  # of each of the node's chains, after warm-up
        # Why no more trajectories were made: converged, or budget; null in a run without a budget.
        pa.field("stop_reason", pa.string()),
        pa.field("log_z", pa.float64()),  # log E_q[exp(b f)] of the node; null if not asked for, NaN if not found
        pa.field("log_z_error", pa.float32()),  # its standard error
        pa.field("log_z_ess", pa.float32()),  # effective sample size of its weights, 0 to the number of chains
        pa.field("log_z_gradients", pa.int64()),  # spent on it, per chain; not in gradients
        pa.field("seed", pa.int64(), nullable=False),
        # Why the node was not sampled: its score is constant, or has no gradient. Then these are the reference's draws.
        pa.field("dead", pa.string()),
        pa.field("ancestor", pa.int32()),  # chain of the node from whose start this one comes; others with resampling
        # Lambda, the communication barrier between the reference and the node, as the rise of the tilt showed it.
        pa.field("barrier", pa.float32()),
        pa.field("reference", pa.string()),  # the kind that was tilted, such as "bounded power-law"
        pa.field("views", pa.int32()),  # over which the score is the mean; 1 is the image itself
        pa.field("plain_score", pa.float32()),  # f of the image alone; null where that is the score
        # The image of the chain's mean position over the last part of its trajectories: no draw. In the row of the
        # chain's last draw, null in the others.
        pa.field("mean", IMAGE),
        pa.field("mean_low", pa.float32()),  # the pixel value shown as 0
        pa.field("mean_high", pa.float32()),  # the pixel value shown as 255
        pa.field("mean_score", pa.float32()),  # f of this image
        # Steps uphill to this image, which is a mode of the density then, and no draw from it; null for a draw.
        pa.field("mode_steps", pa.int32()),
    ],
    metadata=_META,
)

PLAN = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("layer", pa.string(), nullable=False),
        pa.field("nodes", pa.list_(pa.string()), nullable=False),  # as in the samples' column node
        pa.field("chains", pa.int32(), nullable=False),  # of each node
    ],
    metadata=_META,
)
