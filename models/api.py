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

# The timed units of work, by the key that benchmarks name them with: the class, or the function that chooses one. A
# key travels to the workers and is looked up there, so that with --against each revision finds its own class.
STEPS = {
    "classify": "models.steps.classify:classify",
    "convolution": "models.steps.device_limits:Convolution",
    "copy": "models.steps.device_limits:Copy",
    "data_parallel_training": "models.steps.distributed.data_parallel:DataParallelTraining",
    "elements": "models.steps.device_limits:Elements",
    "generation": "models.steps.generation:Generation",
    "images": "models.steps.device_limits:Images",
    "input_pipeline": "models.steps.input_pipeline:PictureInput",
    "launch": "models.steps.device_limits:Launch",
    "matrix_product": "models.steps.device_limits:Product",
    "middle_shard": "models.steps.distributed.sharded:MiddleShard",
    "sharded_style_iteration": "models.steps.distributed.sharded:ShardedStyleIteration",
    "style_forward": "models.steps.style:StyleForward",
    "style_forward_backward": "models.steps.style:StyleForwardBackward",
    "style_iteration": "models.steps.style:StyleIteration",
    "transfer": "models.steps.device_limits:Transfer",
}
