"""What is run: networks, and the steps that are timed. Pure torch and torchvision, no pytest.

This file names what there is, without importing torch: the process that plans a run never does.
"""

# Each network's factory, as a reference that a worker can import.
STYLE_NETWORKS = {
    "nin": "models.nin:nin",
    "vgg16": "models.vgg:vgg16",
    "vgg19": "models.vgg:vgg19",
}

OPTIMIZERS = ("adam", "lbfgs")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
STRATEGIES = ("plain", "tiled")
# Those that take the side of a tile.
TILED_STRATEGIES = ("tiled",)
