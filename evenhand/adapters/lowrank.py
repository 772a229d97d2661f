"""A lean forward and backward for PEFT's plain LoRA on linear layers: ``y = x W^T + b + scale (x A^T) B^T``.

PEFT adds about ten operations a layer and step to the frozen layer's own, most of them small: scaling, adding, and
their backward. Here the addition is folded into the products (``addmm``, with the scale as its ``alpha``), which leaves
two in the forward and four in the backward:

    h  = x A^T           y += scale h B^T
    gh = g B             dx = g W + scale gh A       dA = scale gh^T x       dB = scale g^T h

No gradient of the frozen ``W`` is made. PEFT keeps modules, parameters, scales and switches: only the class of a layer
changes, and whatever is not plain (several adapters, DoRA, dropout, merged weights, hooks, torch.compile, another kind
of layer or of number) goes PEFT's own way. Letters: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn import functional

from evenhand.adapters.narrow import Factors, NarrowFactors

HOOKS = "_lean_hooks"  # attribute of a model whose layers are lean


class _LowRank(torch.autograd.Function):
    """The formulas of the file's head; all tensors come in one precision, A and B in that or in their own."""

    @staticmethod
    def forward(
        ctx: Any,  # Any: torch's own record of a call
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        a_RI, b_OR = a_RI.to(x.dtype), b_OR.to(x.dtype)
        x_NI = x.reshape(-1, x.shape[-1])
        h_NR = a_RI.mm(x_NI.t()).t()  # the same product, in the order that is faster on a CPU
        y_NO = functional.linear(x_NI, weight_OI, bias_O).addmm_(h_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, h_NR, weight_OI, a_RI, b_OR)
        ctx.scale = scale
        return y_NO.view(*x.shape[:-1], y_NO.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # Any: as above
        x_NI, h_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        g_NO = grad.reshape(-1, grad.shape[-1])
        gh_NR = g_NO.mm(b_OR)
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = g_NO.mm(weight_OI).addmm_(gh_NR, a_RI, alpha=ctx.scale)
            dx = dx_NI.view(*grad.shape[:-1], dx_NI.shape[-1])
        # With beta=0 the first argument gives the shape alone: its values are not read.
        da_RI = torch.addmm(a_RI, gh_NR.t(), x_NI, beta=0, alpha=ctx.scale) if ctx.needs_input_grad[3] else None
        db_OR = torch.addmm(b_OR, g_NO.t(), h_NR, beta=0, alpha=ctx.scale) if ctx.needs_input_grad[4] else None
        return dx, None, None, da_RI, db_OR, None


class LeanLinear(Linear):  # type: ignore[misc]  # PEFT has no types
    """PEFT's LoRA linear layer with the forward of this file where it applies. PEFT asks for subclasses of its own."""

    narrow: Factors | None = None  # the factors in autocast's precision, during a forward of the whole model

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # Any: PEFT's own signature
        """What PEFT's forward gives, up to the order of the additions."""
        # Without gradients nothing is to be saved, and what PEFT gives is what stock diffusers gives, to the last bit.
        if args or kwargs or self.merged_adapters or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]  # PEFT has no types
        if self._disable_adapters:
            return self.base_layer(x)  # type: ignore[no-any-return]  # PEFT has no types
        name = self._plain_adapter()
        dtype = None if name is None else self._dtype(x, name)
        if name is None or dtype is None:
            return super().forward(x)  # type: ignore[no-any-return]  # PEFT has no types
        base = self.base_layer
        weight_OI, bias_O = base.weight, base.bias
        if not x.dtype == weight_OI.dtype == dtype:  # what autocast would do
            x, weight_OI, bias_O = x.to(dtype), weight_OI.to(dtype), None if bias_O is None else bias_O.to(dtype)
        a_RI, b_OR = self.narrow or (self.lora_A[name].weight, self.lora_B[name].weight)
        result: torch.Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]  # torch does not type it
            x, weight_OI, bias_O, a_RI, b_OR, self.scaling[name]
        )
        return result

    def factors(self) -> Factors | None:
        """A and B, where the next forward with gradients will use them in the formulas of this file."""
        name = None if self.merged_adapters or self._disable_adapters else self._plain_adapter()
        return None if name is None else (self.lora_A[name].weight, self.lora_B[name].weight)

    def _plain_adapter(self) -> str | None:
        """The one active adapter, where it is LoRA without more on an ordinary linear layer; None otherwise."""
        active = self.active_adapters
        if len(active) != 1 or active[0] not in self.lora_A:
            return None
        name: str = active[0]
        if name in self.lora_variant or self.lora_bias[name] or not isinstance(self.scaling[name], float | int):
            return None
        if type(self.lora_dropout[name]) is not torch.nn.Identity:
            return None
        layers = (self.base_layer, self.lora_A[name], self.lora_B[name])
        if any(type(layer) is not torch.nn.Linear or _is_hooked(layer) for layer in layers):
            return None
        return name

    def _dtype(self, x: torch.Tensor, name: str) -> torch.dtype | None:
        """The precision of the products: autocast's where it is on, else the one that all tensors share, else None."""
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        of_weights = (self.base_layer.weight.dtype, self.lora_A[name].weight.dtype, self.lora_B[name].weight.dtype)
        return x.dtype if of_weights == (x.dtype, x.dtype, x.dtype) else None


def _is_hooked(layer: torch.nn.Module) -> bool:
    """Whether somebody counts on the layer itself being called: sharded weights are gathered by such hooks."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or "forward" in layer.__dict__


def lean_layers(module: torch.nn.Module) -> int:
    """Give the LoRA linear layers in ``module`` the lean forward; says how many there are that did not have it."""
    layers = [layer for layer in module.modules() if type(layer) is Linear]
    for layer in layers:
        layer.__class__ = LeanLinear
    if layers:
        _remove_hooks(module)
        narrow = NarrowFactors([layer for layer in module.modules() if type(layer) is LeanLinear])
        module.__dict__[HOOKS] = [
            module.register_forward_pre_hook(narrow.give),
            module.register_forward_hook(narrow.take, always_call=True),
        ]
    return len(layers)


def plain_layers(module: torch.nn.Module) -> int:
    """Give them PEFT's own forward back."""
    layers = [layer for layer in module.modules() if type(layer) is LeanLinear]
    for layer in layers:
        layer.__class__ = Linear
    _remove_hooks(module)
    return len(layers)


def _remove_hooks(module: torch.nn.Module) -> None:
    for hook in module.__dict__.pop(HOOKS, []):
        hook.remove()
