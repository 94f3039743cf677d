"""The plan of Module.load_state_dict() for each name of a checkpoint, before a tensor is read.

A module and all above it are transparent if load_state_dict() hands the tensors to them unseen: no
hook and no method of their own looks at them. Only the names of transparent modules are planned.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch.nn.modules.batchnorm import _NormBase

from runai_model_streamer._dtensor import is_dtensor, local_of, local_part
from runai_model_streamer._formats.safetensors.dtypes import torch_dtype
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.into import has_plain_memory, same_device, span_of
from runai_model_streamer._spans import Along

_EXTRA_STATE = "_extra_state"
_NOTHING = torch.nn.Module()
# The second adds a counter that old checkpoints lack, and looks at no tensor.
_TRANSPARENT = {torch.nn.Module._load_from_state_dict, _NormBase._load_from_state_dict}


@dataclasses.dataclass
class Plan:
    """Each name of the checkpoint is in one of the four."""

    in_place: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """Can be read straight into the module's own tensor."""
    copied: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """Is copied into the module's own tensor, of the same number of elements, and nothing else."""
    given: set[str] = dataclasses.field(default_factory=set)
    """load_state_dict() needs the tensor."""
    unread: set[str] = dataclasses.field(default_factory=set)
    """Nothing uses the values of the tensor."""
    warned: set[str] = dataclasses.field(default_factory=set)
    """Those of the unread ones that torch warns of, since the module's own is on "meta"."""
    own: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """The module's own tensors, of names that are not unread. load_state_dict() leaves the module
    as it is when it is given these."""
    certain: bool = False
    """True if no hook and no method of the module's own uses the following."""
    mismatch: bool = False
    """True if load_state_dict() refuses a shape."""
    unexpected: bool = False
    """True if there are names that the module does not have."""
    missing: set[str] = dataclasses.field(default_factory=set)
    """Names of the module that the checkpoint does not have."""
    parts: dict[str, list[Along]] = dataclasses.field(default_factory=dict)
    """The parts of the DTensors of the module that this rank holds."""


def make_plan(
    model: torch.nn.Module,
    found: Mapping[str, SafetensorMetadata],
    device: torch.device,
    assign: bool,
) -> Plan:
    """The plan for `found`, by name, of which the tensors are read to `device`."""
    plan = Plan()
    walk = _Walk(model)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    for name, tensor in found.items():
        owner = walk.owner_of(name)
        if owner is None:
            plan.given.add(name)
            continue
        module, local = owner
        if local == _EXTRA_STATE and _takes_extra_state(module):
            plan.given.add(name)
            continue
        own = walk.state_of(module).get(local)
        if own is None:
            plan.unread.add(name)
            plan.unexpected |= not walk.is_below_none(name)
        elif torch.nn.parameter.is_lazy(own) or _takes_first(own, tensor):
            plan.given.add(name)
        elif not _shapes_fit(own, tensor):
            plan.unread.add(name)
            plan.mismatch = True
        elif own.is_meta and (_is_plain(own) or is_dtensor(own)) and not (assign or swaps):
            plan.unread.add(name)
            plan.warned.add(name)  # and torch copies nothing
        else:
            plan.own[name] = own
            part = local_part(own) if is_dtensor(own) else None
            if part is not None:
                plan.parts[name] = part
            if assign or swaps or not _can_write(own):
                plan.given.add(name)
            elif _reads_straight(own, tensor, device):
                plan.in_place[name] = own
            elif is_dtensor(own):
                plan.given.add(name)
            else:
                plan.copied[name] = own
    _leave_shared(plan)
    plan.certain = walk.is_transparent() and not swaps and all(map(_is_usual, plan.own.values()))
    plan.missing = {name for name in walk.expected() if name not in found}
    return plan


class _Walk:
    """The modules below one, by their names."""

    def __init__(self, model: torch.nn.Module) -> None:
        loads = type(model).load_state_dict is torch.nn.Module.load_state_dict
        usual = loads and "load_state_dict" not in vars(model) and _is_transparent(model)
        # None: not transparent. A second None: there is no module.
        self._known: dict[str, tuple[torch.nn.Module | None] | None] = {
            "": (model,) if usual else None
        }
        self._model = model

        self._states: dict[int, dict[str, torch.Tensor]] = {}

    def state_of(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The parameters and the persistent buffers of `module` itself."""
        if id(module) not in self._states:
            self._states[id(module)] = dict(_local_state(module))
        return self._states[id(module)]

    def _at(self, prefix: str) -> tuple[torch.nn.Module | None] | None:
        if prefix not in self._known:
            above, _, local = prefix.rpartition(".")
            parent = self._at(above)
            if parent is None or parent[0] is None:
                self._known[prefix] = parent
            else:
                modules = parent[0]._modules  # of TorchScript: no dict
                child = modules[local] if local in modules else None  # noqa: SIM401
                self._known[prefix] = (child,) if child is None or _is_transparent(child) else None
        return self._known[prefix]

    def owner_of(self, name: str) -> tuple[torch.nn.Module, str] | None:
        """The module that handles `name`, and the name there; None if that is not known."""
        prefix, _, local = name.rpartition(".")
        at = self._at(prefix)
        if at is None:
            return None
        return (_NOTHING if at[0] is None else at[0]), local

    def is_below_none(self, name: str) -> bool:
        """True if `name` is of a child that is registered as None, whose names torch ignores."""
        module: torch.nn.Module | None = self._model
        for part in name.split(".")[:-1]:
            if module is None:
                return True
            if part not in module._modules:
                return False
            module = module._modules[part]
        return module is None

    def _all(self) -> Iterator[tuple[str, torch.nn.Module]]:
        return self._model.named_modules(remove_duplicate=False)

    def is_transparent(self) -> bool:
        return self._known[""] is not None and all(
            _is_transparent(module)
            and not module._load_state_dict_post_hooks
            and not _takes_extra_state(module)
            for _, module in self._all()
        )

    def expected(self) -> Iterator[str]:
        for prefix, module in self._all():
            start = prefix + "." if prefix else ""
            for name, _ in _local_state(module):
                if name != "num_batches_tracked" or not isinstance(module, _NormBase):
                    yield start + name


def _is_transparent(module: torch.nn.Module) -> bool:
    return (
        type(module)._load_from_state_dict in _TRANSPARENT
        and "_load_from_state_dict" not in vars(module)
        and not module._load_state_dict_pre_hooks
    )


def _local_state(module: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    tensors = itertools.chain(module._parameters.items(), module._buffers.items())
    return (
        (name, tensor)
        for name, tensor in tensors
        if tensor is not None and name not in module._non_persistent_buffers_set
    )


def _takes_extra_state(module: torch.nn.Module) -> bool:
    return type(module).set_extra_state is not torch.nn.Module.set_extra_state


def _can_write(own: torch.Tensor) -> bool:
    if is_dtensor(own):
        return local_part(own) is not None and _can_write(local_of(own))
    if own.is_inference() and not torch.is_inference_mode_enabled():
        return False
    return _is_plain(own) and has_plain_memory(own)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _is_usual(own: torch.Tensor) -> bool:
    """True if torch takes its own values for it."""
    if is_dtensor(own):
        own = local_of(own)
    return _is_plain(own) and own.is_contiguous() and not own.is_inference()


def _shapes_fit(own: torch.Tensor, tensor: SafetensorMetadata) -> bool:
    # torch 0.3 had no tensors without dimensions.
    shape = tensor.get_torch_shape()
    return shape == tuple(own.shape) or (shape == (1,) and own.dim() == 0)


def _takes_first(own: torch.Tensor, tensor: SafetensorMetadata) -> bool:
    """True if torch gives `own`, which has no dimensions, the first of several elements."""
    return own.dim() == 0 and len(tensor.shape) == 1 and _takes_first_of_many()


@functools.cache
def _takes_first_of_many() -> bool:
    """As torch 2.3 does. Later versions refuse tensors of more than one element."""
    module = torch.nn.Module()
    module.register_buffer("scalar", torch.zeros((), device="cpu"))
    try:
        module.load_state_dict({"scalar": torch.zeros(2, device="cpu")})
    except RuntimeError:
        return False
    return True


def _reads_straight(own: torch.Tensor, tensor: SafetensorMetadata, device: torch.device) -> bool:
    # A dtype that torch lacks is refused when the file is read, with its path.
    if own.dtype != torch_dtype(tensor.dtype) or tuple(own.shape) != tensor.get_torch_shape():
        return False
    view = own._is_view() and not is_dtensor(own)  # torch may refuse it
    own = local_of(own)
    return not view and same_device(own.device, device) and own.is_contiguous()


def _leave_shared(plan: Plan) -> None:
    """Leaves names whose memory overlaps to load_state_dict(): there, the last one counts."""
    written = plan.in_place | plan.copied
    memory = ((name, local_of(tensor)) for name, tensor in written.items())
    spans = sorted((*span_of(tensor), name) for name, tensor in memory if tensor.numel())
    shared: set[str] = set()
    reach, last = 0, ""
    for start, end, name in spans:
        if start < reach:
            shared |= {name, last}
        if end > reach:
            reach, last = end, name
    for name in shared:
        plan.in_place.pop(name, None)
        plan.copied.pop(name, None)
        plan.given.add(name)
