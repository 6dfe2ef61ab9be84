(
    "The PyPI torchvision is a CUDA build. Beside a CPU torch its binary does not load, and `import "
    "torchvision` stops\n"
    "because the two operators that it decorates are unknown. torch calls `declare` at the end of every "
    "`import torch`."
)

from importlib.metadata import version


def declare():
    "Declare `nms` and `qnms` where torch is a CPU build and torchvision is not; otherwise do nothing."
    import torch

    if not torch.__version__.endswith("+cpu") or "+" in version("torchvision"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declare.library = library  # a collected library takes its schemas with it
