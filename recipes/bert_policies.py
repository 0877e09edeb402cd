"""Which tensors of a BERT are not int8: recipes for `jaxq.quantize`, by name.

The residual stream (the sums of a block's input and output, and LayerNorm, which reads them) is what int8 hurts: a few
of its channels are many times as large as the rest (Bondarenko et al. 2021), which `bert.bounded` puts an end to. Each
matmul is int8 in all of them.
"""

from __future__ import annotations

from jaxq import Recipe, Rule

# The sites of LayerNorm and of the residual additions, as `jaxq.recipes.bert` spells them.
NORM = ("mean*", "sub*", "mul*", "table*", "*norm*")
RESIDUAL = ("add*",)
WIDE = ("mean*", "sub*", "mul*", "*norm*", "add*")

POLICIES = {
    # Deviations from a mean lie on both sides of 0: as they are, their variance's product takes them.
    "int8": Recipe(name="bert-int8", rules=(Rule("sub*", symmetric=True),)),
    "int16": Recipe(name="bert-int16", rules=tuple(Rule(site, activation_bits=16) for site in WIDE)),
    "float": Recipe(name="bert-float", rules=tuple(Rule(site, float=True) for site in (*NORM, *RESIDUAL))),
}
DEFAULT = "int8"  # within half a point of a float model trained as long, without a float op
