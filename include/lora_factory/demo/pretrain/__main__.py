"""Command line of :mod:`lora_factory.demo.pretrain`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.demo.pretrain import measure, parts
from lora_factory.demo.pretrain.icons import load_icons
from lora_factory.demo.pretrain.loop import OutOfTime, Slice
from lora_factory.errors import FactoryError
from lora_factory.models.loaders import device

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("lora_factory.demo.pretrain")
GOES_ON = 75  # exit status: call again (EX_TEMPFAIL)


class Workshop:
    """The parts as they are finished, on disk under ``made``; each is made once."""

    def __init__(self, packages: Path, made: Path, work: Slice) -> None:
        self.base, self.clip_folder, self._work = made / "emoji-base", made / "emoji-clip", work
        self._told = made / "measures.json"
        icons = load_icons(packages, work.folder / "icons.safetensors")
        self._train, self._held = icons.split()
        log.info("%d icons to learn from, %d held out", len(self._train), len(self._held))

    def run(self) -> None:
        """All four parts.

        Raises:
            OutOfTime: call again.
        """
        tokenizer = self._tokenizer()
        vae = self._vae()
        clip = self._clip(tokenizer)
        self._unet(tokenizer, vae, clip)

    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        folder = self.base / "tokenizer"
        if not folder.is_dir():
            icons = self._train
            parts.make_tokenizer(icons.names, icons.styles, folder).save_pretrained(
                self.clip_folder
            )
        return CLIPTokenizer.from_pretrained(folder)

    def _vae(self) -> Any:
        from diffusers import AutoencoderKL

        held, at = self._held, self._work.device
        return self._part(
            AutoencoderKL,
            self.base / "vae",
            lambda: parts.train_vae(self._train, self._work),
            lambda vae: {"vae_psnr_db": measure.vae_psnr(vae, held, at)},
        )

    def _clip(self, tokenizer: Any) -> Any:
        from transformers import CLIPModel

        held, at = self._held, self._work.device
        return self._part(
            CLIPModel,
            self.clip_folder,
            lambda: parts.train_clip(self._train, tokenizer, self._work),
            lambda clip: measure.clip_recall(clip, tokenizer, held, at),
            marker="model.safetensors",
        )

    def _unet(self, tokenizer: Any, vae: Any, clip: Any) -> None:
        from diffusers import DDIMScheduler

        if (self.base / "unet" / "config.json").is_file():
            return
        drawn, held = (icons.of("noto", "fluent") for icons in (self._train, self._held))
        unet, text = parts.train_unet(drawn, tokenizer, vae, clip, self._work)
        loss = measure.unet_loss(unet, text, tokenizer, vae, held, self._work.device)
        self._tell({"unet_loss": loss})
        text.save_pretrained(self.base / "text_encoder")
        DDIMScheduler(**parts.SCHEDULE).save_pretrained(self.base / "scheduler")
        unet.half().save_pretrained(self.base / "unet")  # last: it says that all is there

    def _part(
        self,
        kind: Any,
        folder: Path,
        train: Callable[[], Any],
        judge: Callable[[Any], dict[str, float]],
        marker: str = "config.json",
    ) -> Any:
        """A finished part from disk, or trained, measured and written."""
        if not (folder / marker).is_file():
            model = train()
            self._tell(judge(model))
            model.save_pretrained(folder)
        return kind.from_pretrained(folder).to(self._work.device).eval()

    def _tell(self, measures: dict[str, float]) -> None:
        known = json.loads(self._told.read_text()) if self._told.is_file() else {}
        self._told.write_text(json.dumps({**known, **measures}, indent=1))
        log.info("on icons held out: %s", measures)


def main(arguments: list[str] | None = None) -> int:
    """0: done. 75: call again. 1: it can't be done, the log says why."""
    parser = argparse.ArgumentParser(prog="python -m lora_factory.demo.pretrain")
    parser.add_argument("packages", type=Path, help="folder of the unpacked npm packages")
    parser.add_argument("made", type=Path, help="folder for models and checkpoints")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long this call may work")
    parser.add_argument("--more", type=float, default=1.0, help="times the recipe's images")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = given.made / "work"
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    work = Slice(folder, lambda: time.monotonic() >= ends, device(), given.more)
    try:
        Workshop(given.packages, given.made, work).run()
    except OutOfTime:
        log.info("time is up; call again to go on")
        return GOES_ON
    except FactoryError as err:
        log.error("%s", err)  # noqa: TRY400 - one line, no traceback
        return 1
    log.info("done: %s", given.made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
