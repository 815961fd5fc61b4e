"""A second implementation of the loss of Gatys et al. 2016, as functions of a state dict, without code of the suite.

The layers' geometry comes from the papers, so that tests find a wrong layer in `models/`.
"""

import torch
import torch.nn.functional as F

VGG = {
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (1, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (1, 512)),
}
NIN = (
    (("conv1", 4, 0), ("cccp1", 1, 0), ("cccp2", 1, 0)),
    (("conv2", 1, 2), ("cccp3", 1, 0), ("cccp4", 1, 0)),
    (("conv3", 1, 1), ("cccp5", 1, 0), ("cccp6", 1, 0)),
    (("conv4", 1, 1), ("cccp7", 1, 0), ("cccp8", 1, 0)),
)
LAYERS = {
    "vgg16": ("relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
    "vgg19": ("relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
    "nin": ("cccp6", ("conv1", "conv2", "conv3", "conv4", "cccp8")),
}


def features(model, state, image):
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=image.dtype).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=image.dtype).reshape(1, 3, 1, 1)
    x, outputs = (image - mean) / std, {}
    if model == "nin":
        for number, block in enumerate(NIN):
            if number:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            for name, stride, padding in block:
                x = F.conv2d(x, state[f"{name}_conv.weight"], state[f"{name}_conv.bias"], stride, padding).clamp(min=0)
                outputs[name] = x
        return outputs
    for block, (depth, _) in enumerate(VGG[model], start=1):
        for within in range(1, depth + 1):
            key = f"conv{block}_{within}"
            x = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1).clamp(min=0)
            outputs[f"relu{block}_{within}"] = x
        x = F.max_pool2d(x, 2)
    return outputs


def loss(model, state, image, content, style, alpha, beta):
    content_layer, style_layers = LAYERS[model]
    of_image, of_content, of_style = (features(model, state, picture) for picture in (image, content, style))
    total = alpha * ((of_image[content_layer] - of_content[content_layer]) ** 2).mean() / 2
    for name in style_layers:
        (_, channels, height, width) = of_image[name].shape
        gram, target = (torch.einsum("bchw,bdhw->cd", x, x) for x in (of_image[name], of_style[name]))
        total = total + beta / 5 * ((gram - target) ** 2).sum() / (4 * channels**2 * (height * width) ** 2)
    return total
