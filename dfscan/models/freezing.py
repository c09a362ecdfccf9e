"""Which parameters of a network learn.

A *layer* here is a module that holds parameters itself: a convolution, a dense layer, a
normalisation. Activations, pooling and dropout do not count (in Keras they do), and layers stand in
the order in which the network defines them, which is the order of ``network.modules()``.
"""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfscan.errors import ConfigError, did_you_mean
from dfscan.models.heads import TimmClassifier

_LAST = "last:"


def unfreeze(network: nn.Module, what: str | tuple[str, ...]) -> tuple[int, int]:
    """Let a part of a network learn and freeze the rest; the numbers of parameters that learn, of all.

    Wrap in DistributedDataParallel afterwards, and make the optimiser afterwards: both look at what
    learns when they are made. For a network that is wrapped already, its inside is changed.

    :param what: ``all``; ``head``; ``last:N``, the N last layers, the head's among them; or names of
        modules as in ``network.named_modules()`` (``("model.layer4.2",)``), the head with them.
    :raises ConfigError: another word, an unknown module, or more layers than there are.
    """
    inner = _inside(network)
    chosen = _chosen(inner, what)
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    total = sum(p.numel() for p in inner.parameters())
    return sum(p.numel() for p in inner.parameters() if p.requires_grad), total


def train_mode(network: nn.Module) -> None:
    """``network.train()``, but frozen normalisations keep their running statistics.

    One without parameters is frozen where everything before the head is.
    """
    network.train()
    head = {p for module in head_of(network) for p in module.parameters()}
    body = [p for p in network.parameters() if p not in head]
    for module in network.modules():
        if getattr(module, "running_mean", None) is None:
            continue
        if not any(p.requires_grad for p in list(module.parameters()) or body):
            module.eval()


def head_of(network: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that turn features into the logit."""
    inner = _inside(network)
    if isinstance(inner, TimmClassifier):
        return inner.head_modules()
    return (inner.get_submodule("classifier"),)


def _chosen(network: nn.Module, what: str | tuple[str, ...]) -> list[nn.Parameter]:
    if what == "all":
        return list(network.parameters())
    head = [p for module in head_of(network) for p in module.parameters()]
    if what == "head":
        return head
    if isinstance(what, str):
        return _last(network, what)
    named = dict(network.named_modules())
    for name in what:
        if name not in named or not name:
            raise ConfigError(f"unfreeze: unknown module {name!r}: {did_you_mean(name, named)}")
    return head + [p for name in what for p in named[name].parameters()]


def _last(network: nn.Module, what: str) -> list[nn.Parameter]:
    number = what.removeprefix(_LAST)
    layers = [own for m in network.modules() if (own := list(m.parameters(recurse=False)))]
    if not what.startswith(_LAST) or not number.isdecimal() or not 0 < int(number) <= len(layers):
        raise ConfigError(
            f"unfreeze: got {what!r}; allowed: all, head, last:1 to last:{len(layers)}, or a list of "
            "modules"
        )
    return [parameter for layer in layers[-int(number) :] for parameter in layer]


def _inside(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network
