"""The GPUs of this machine, as NVIDIA's management library tells of them: no CUDA context is made for it."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def device_memory_bytes() -> list[int]:
    """Memory of each GPU, in the library's order, which is the one of the bus; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
    except pynvml.NVMLError as error:
        log.warning("the memory of the GPUs is not known: %s", error)
        return []
    finally:
        pynvml.nvmlShutdown()
