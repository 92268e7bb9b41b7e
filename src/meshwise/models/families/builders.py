"""The functions that build a family's layers, by the name that its :class:`Family` gives."""

from __future__ import annotations

from collections.abc import Callable

from meshwise.models.families.bailing import BAILING_BUILDERS
from meshwise.models.families.delta import DELTA_BUILDERS
from meshwise.models.families.ernie import ERNIE_BUILDERS
from meshwise.models.families.gemma import GEMMA_BUILDERS
from meshwise.models.families.hunyuan import HUNYUAN_BUILDERS
from meshwise.models.families.irregular import IRREGULAR_BUILDERS
from meshwise.models.families.keys import Reader
from meshwise.models.families.layers import ModelFields
from meshwise.models.families.longcat import LONGCAT_BUILDERS
from meshwise.models.families.minimax import MINIMAX_BUILDERS
from meshwise.models.families.nemotron import NEMOTRON_BUILDERS
from meshwise.models.families.searched import deci, nemotron_nas
from meshwise.models.families.short_convolution import CONVOLUTION_BUILDERS
from meshwise.models.families.sparse import SPARSE_BUILDERS
from meshwise.models.families.state_space import STATE_SPACE_BUILDERS
from meshwise.models.families.step import STEP_BUILDERS
from meshwise.models.families.variants import VARIANT_BUILDERS
from meshwise.models.families.zamba import ZAMBA_BUILDERS

BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    **IRREGULAR_BUILDERS,
    "deci": deci,
    "nemotron_nas": nemotron_nas,
    **NEMOTRON_BUILDERS,
    **STATE_SPACE_BUILDERS,
    **ZAMBA_BUILDERS,
    **CONVOLUTION_BUILDERS,
    **DELTA_BUILDERS,
    **MINIMAX_BUILDERS,
    **BAILING_BUILDERS,
    **VARIANT_BUILDERS,
    **STEP_BUILDERS,
    **SPARSE_BUILDERS,
    **LONGCAT_BUILDERS,
    **HUNYUAN_BUILDERS,
    **GEMMA_BUILDERS,
    **ERNIE_BUILDERS,
}
