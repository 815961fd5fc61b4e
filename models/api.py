"""What a tree of models offers, by name, without importing torch: the process that plans a run never does."""

# Each network's factory, as a reference that a worker can import.
STYLE_NETWORKS = {
    "nin": "models.nin:nin",
    "vgg16": "models.vgg:vgg16",
    "vgg19": "models.vgg:vgg19",
}

# The networks that are trained and run as classifiers. Some share a name with a style network, which is cut shorter.
CLASSIFIERS = {
    "alexnet": "models.classifiers:alexnet",
    "basic_cnn": "models.classifiers:basic_cnn",
    "googlenet": "models.classifiers:googlenet",
    "nin": "models.nin:nin_classifier",
    "resnet50": "models.classifiers:resnet50",
    "vgg16": "models.classifiers:vgg16",
}

# What one iteration of a classifier is: `models/steps/classify.py`.
MODES = ("forward", "training")

OPTIMIZERS = ("adam", "lbfgs")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
STRATEGIES = ("plain", "channels_last", "checkpointed", "compiled", "tiled", "streamed", "fastest")
# Those that take the side of a tile, and those of them whose memory is for the tile to choose.
TILED_STRATEGIES = ("tiled", "streamed")
SIZED_TO_BUDGET = ("tiled",)
