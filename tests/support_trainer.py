"""open_clip's own trainer, on CPUs, with a tiny model: one epoch, and every caption that it tokenized.

    python tests/support_trainer.py SEEN --dataset-type webdataset --train-data 'out/{00000000..00000003}.tar' …

Imports nothing of pairsieve, so that it also runs in an environment that holds open_clip alone.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
FIXED = ["--model", "tiny", "--device", "cpu", "--precision", "fp32", "--epochs", "1", "--warmup", "0"]
FIXED += ["--save-frequency", "0", "--log-every-n-steps", "1"]


def main(seen: str, arguments: list[str]) -> None:
    """Train; each caption becomes a line of JSON in ``seen``."""
    import open_clip
    import torch
    from open_clip_train import main as trainer

    class Tokenizer:
        """open_clip's, which writes down what it is given: in loader processes too."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, texts: Any, *rest: Any) -> Any:
            lines = "".join(json.dumps(text) + "\n" for text in ([texts] if isinstance(texts, str) else texts))
            file = os.open(seen, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, lines.encode())
            os.close(file)
            return self.inner(texts, *rest)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.json"
        path.write_text(json.dumps(CONFIG))
        open_clip.add_model_config(path)
        make = trainer.get_tokenizer
        trainer.get_tokenizer = lambda *a, **k: Tokenizer(make(*a, **k))
        trainer.main([*FIXED, "--logs", str(Path(folder) / "logs"), *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
