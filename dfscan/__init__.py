"""dfscan finds deepfakes in large video archives.

Every verb of the command line is a function here, with the same name and the same
configuration keys as keyword arguments, returning a small result object::

    import dfscan

    dfscan.extract("/data/dfdc", out="faces", stride={"real": 30, "fake": 100})
    dfscan.train("faces", out="run", epochs=10)
    dfscan.score("/videos", model="run", out="verdicts.parquet")
    dfscan.calibrate("run", "verdicts.parquet", labels="truth.csv", out="mine.safetensors")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "annotate",
    "calibrate",
    "evaluate",
    "export",
    "extract",
    "import_model",
    "init",
    "inspect",
    "list_models",
    "purge",
    "quickstart",
    "report",
    "score",
    "stress",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from dfscan.api import (
        annotate,
        calibrate,
        evaluate,
        export,
        extract,
        import_model,
        init,
        inspect,
        list_models,
        purge,
        quickstart,
        report,
        score,
        stress,
        train,
        verify,
    )


def __getattr__(name: str) -> Any:
    """Import a verb on first use: ``import dfscan`` itself loads neither torch nor ray."""
    if name in __all__:
        return getattr(import_module("dfscan.api"), name)
    raise AttributeError(f"module 'dfscan' has no attribute {name!r}")
