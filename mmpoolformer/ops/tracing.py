"""Whether a model runs, or is looked at by something that rewrites it."""

import torch


def is_traced() -> bool:
    """Tell whether the model is being traced, exported or compiled.

    Then its plain operations are what is wanted: others optimise them.
    """
    if torch.jit.is_tracing():
        return True
    compiler = torch.compiler if hasattr(torch.compiler, 'is_compiling') else None
    return (compiler or torch._dynamo).is_compiling()
