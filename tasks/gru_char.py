"""The model of tasks/gru_lm.py on the characters of tiny Shakespeare: another text, nothing else.

All presets read the same text (tasks/corpus.py), from a data folder, the cache or its mirror.
"""

from dataclasses import replace
from pathlib import Path

from tasks.gru_lm import ADAM, GruLm, GruLmConfig
from tasks.spec import Preset, Target

CHARACTERS = 66  # 65 distinct ones, and <unk>


def preset(name: str, data_dir: Path | None = None) -> Preset:
    """The declared sizes; KeyError for a name that is not one of tasks.PRESETS.

    Seen in PyTorch: 12.4 to 12.8 in `smoke` (three seeds), 8.9 and 9.1 in `quick` (two). The larger two were not run whole.
    The margin is 2 % of what they reach.
    """
    small = GruLmConfig(vocabulary=CHARACTERS, embedding=32, hidden=128)
    large = GruLmConfig(vocabulary=CHARACTERS, embedding=64, hidden=512)
    return {
        "smoke": lambda: Preset(
            task=GruLm("tinyshakespeare", batch_size=16, window=32, steps=200, model=small, data_dir=data_dir),
            warmup_steps=10, blocks=10, most_blocks=10, rounds=2, seeds=1,
            target=Target("perplexity", at_most=15, margin=0.25),
        ),
        "quick": lambda: Preset(
            task=GruLm("tinyshakespeare", batch_size=16, window=32, steps=600, model=small, data_dir=data_dir),
            warmup_steps=20, blocks=20, most_blocks=30, rounds=5, seeds=2,
            target=Target("perplexity", at_most=10.5, margin=0.2),
        ),
        "standard": lambda: Preset(
            task=GruLm("tinyshakespeare", batch_size=32, window=64, steps=300, model=large, data_dir=data_dir),
            warmup_steps=3, blocks=20, rounds=5, seeds=3,
            target=Target("perplexity", at_most=10, margin=0.2),
        ),
        "full": lambda: Preset(
            task=GruLm(
                "tinyshakespeare", batch_size=32, window=64, steps=10 * 490, model=large, data_dir=data_dir,
                optimizer=replace(ADAM, decay_steps=10 * 490),
            ),
            warmup_steps=100, blocks=20, rounds=8, seeds=5, validations=9,
            target=Target("perplexity", at_most=10, margin=0.2),
        ),
    }[name]()  # fmt: skip
