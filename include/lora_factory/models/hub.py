"""What a hub offers of a model, and which of its files a loader needs. Never a pickle.

The hub is ``HF_ENDPOINT`` (the public one by default), the token ``HF_TOKEN``; both come from the
environment, and the token is never logged. Calls go through ``huggingface_hub``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field

from lora_factory.contracts.base import Contract
from lora_factory.errors import ConfigurationError, ModelError, ServiceUnavailable

if TYPE_CHECKING:
    from lora_factory.models.profiles import ModelRef

PUBLIC = "https://huggingface.co"
TIMEOUT = 30.0  # seconds for an answer about a repository
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
COMMIT = re.compile(r"[0-9a-f]{40}")
COMPONENTS: dict[str, dict[str, bool]] = {
    "sd1": {
        "tokenizer": False,
        "scheduler": False,
        "text_encoder": True,
        "unet": True,
        "vae": True,
    },
    "sdxl": {
        "tokenizer": False,
        "tokenizer_2": False,
        "scheduler": False,
        "text_encoder": True,
        "text_encoder_2": True,
        "unet": True,
        "vae": True,
    },
}
"""Family → subfolders of a base that are needed, and whether they hold weights."""
# diffusers wrote "name-00001-of-00002.fp16.safetensors" once, "name.fp16-00001-of-…" later.
WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?P<before>\.[a-z0-9_]+)?"
    r"(?P<shard>-\d{5}-of-\d{5})?(?P<after>\.[a-z0-9_]+)?\.safetensors"
)
PLAIN = re.compile(r"[^/]+\.(?:json|txt|model)")
# sentence-transformers keeps what follows the encoder in folders such as 1_Pooling.
MODULE = re.compile(r"\d+_[A-Za-z]+/(?:config\.json|model\.safetensors)")


class HubFile(Contract):
    """A file of a repository: its size, and the one hash the hub tells of it."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field("", description="Of the bytes, where they are in large-file storage")
    git_sha1: str = Field("", description="git's object id of the bytes, where they are in git")

    @property
    def etag(self) -> str:
        """The hub library's name of the bytes in its cache."""
        return self.sha256 or self.git_sha1


class Listing(Contract):
    """A repository at one commit."""

    model: str
    commit: str
    licence: str = ""
    files: tuple[HubFile, ...]


def endpoint() -> str:
    """Base URL of the hub."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC).rstrip("/")


def ask(model: str, revision: str) -> Listing:
    """What the hub has of a model at a revision.

    Raises:
        ModelError: no such model or revision, gated, or the answer has no hashes.
        ConfigurationError: the token is refused, or offline mode is on.
        ServiceUnavailable: the hub didn't answer.
    """
    from huggingface_hub import HfApi

    with hub_errors(model, revision):
        info = HfApi(endpoint=endpoint()).model_info(
            model, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
    card = info.card_data
    files = tuple(
        HubFile(
            path=found.rfilename,
            size=found.size or 0,
            sha256=found.lfs.sha256 if found.lfs is not None else "",
            git_sha1="" if found.lfs is not None else found.blob_id or "",
        )
        for found in info.siblings or []
    )
    return Listing(
        model=model,
        commit=info.sha or "",
        licence=_plain(card.get("license")) if card is not None else "",
        files=files,
    )


def choose(listing: Listing, entry: ModelRef) -> list[HubFile]:
    """The files that loading ``entry`` needs, by path.

    Raises:
        ModelError: there are no weights in safetensors, a part is missing, or a path or hash
            can't be used.
    """
    family = getattr(entry, "family", None)
    if family is None:
        chosen = [
            file
            for file in listing.files
            if PLAIN.fullmatch(file.path) or MODULE.fullmatch(file.path)
        ]
        chosen += _weights(listing, "", entry.variant)
    else:
        chosen = [file for file in listing.files if file.path == "model_index.json"]
        for folder, heavy in COMPONENTS[family].items():
            plain = [
                file
                for file in listing.files
                if file.path.startswith(f"{folder}/")
                and PLAIN.fullmatch(file.path.removeprefix(f"{folder}/"))
            ]
            if not plain:
                msg = f"model {_name(listing)} has no {folder}/, which family {family} needs"
                raise ModelError(msg)
            chosen += plain
            if heavy:
                chosen += _weights(listing, f"{folder}/", entry.variant)
    for file in chosen:
        _usable(file, listing)
    return sorted({file.path: file for file in chosen}.values(), key=lambda file: file.path)


def _weights(listing: Listing, prefix: str, variant: str) -> list[HubFile]:
    """Safetensors of one folder in one variant: a single file, or all shards."""
    single: list[HubFile] = []
    shards: list[HubFile] = []
    variants: set[str] = set()
    for file in listing.files:
        found = WEIGHTS.fullmatch(file.path.removeprefix(prefix))
        if not file.path.startswith(prefix) or found is None:
            continue
        its = (found["before"] or found["after"] or "").removeprefix(".")
        variants.add(its or "none")
        if its == variant:
            (shards if found["shard"] else single).append(file)
    if single or shards:
        return single[:1] or shards
    where = f"model {_name(listing)}" + (f", {prefix.rstrip('/')}" if prefix else "")
    if variants:
        msg = (
            f"{where}: no safetensors of variant {variant or 'none'}; there is: "
            f"{', '.join(sorted(variants))}; set the profile's variant"
        )
        raise ModelError(msg)
    pickles = [
        file.path
        for file in listing.files
        if file.path.startswith(prefix)
        and "/" not in file.path.removeprefix(prefix)
        and file.path.endswith(PICKLES)
    ]
    if pickles:
        msg = (
            f"{where}: weights only as pickle ({pickles[0]}), which can run code and is refused; "
            "choose a model or a revision with safetensors"
        )
        raise ModelError(msg)
    msg = f"{where}: holds no weights in safetensors; choose another model or revision"
    raise ModelError(msg)


def _usable(file: HubFile, listing: Listing) -> None:
    parts = file.path.split("/")
    odd = "\\" in file.path or not file.path.isprintable()
    if not all(parts) or {".", ".."} & set(parts) or odd:
        msg = f"model {_name(listing)} lists a file {file.path!r} that leads elsewhere; refused"
        raise ModelError(msg)
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", file.etag):
        msg = f"model {_name(listing)}: the hub tells no hash of {file.path}; nothing can verify it"
        raise ModelError(msg)


def _plain(word: object) -> str:
    """A word of a model card: printable, of bounded length."""
    return "".join(char for char in str(word or "") if char.isprintable())[:100]


def _name(listing: Listing) -> str:
    return f"{listing.model}@{listing.commit[:12]}"


@contextmanager
def hub_errors(model: str, revision: str) -> Iterator[None]:
    """Turn what the hub library and its HTTP client raise into the factory's errors."""
    import httpx2
    from huggingface_hub import errors

    host = urlsplit(endpoint()).hostname
    what = f"model {model}@{revision}"
    try:
        yield
    except errors.GatedRepoError as err:
        msg = f"{what} is gated: accept its terms on {host} and set HF_TOKEN"
        raise ModelError(msg) from err
    except errors.RepositoryNotFoundError as err:
        msg = (
            f"{what}: {host} has no such model, or it is private; correct the profile, or HF_TOKEN"
        )
        raise ModelError(msg) from err
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as err:
        msg = f"{what}: no such revision or file on {host}; correct the profile's revision"
        raise ModelError(msg) from err
    except errors.OfflineModeIsEnabled as err:
        msg = "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can be pulled; unset it"
        raise ConfigurationError(msg) from err
    except errors.HFValidationError as err:
        msg = f"{what} is no name of a model on a hub; correct the profile"
        raise ConfigurationError(msg) from err
    except errors.HfHubHTTPError as err:
        raise _of_status(err.response.status_code, what, host) from err
    except httpx2.HTTPError as err:
        msg = (
            f"{what}: {host} did not answer ({type(err).__name__}); look at the network, try again"
        )
        raise ServiceUnavailable(msg) from err
    except OSError as err:
        raise _of_disk(err, what, host) from err


def _of_status(status: int, what: str, host: str | None) -> Exception:
    if status in {401, 403}:
        return ConfigurationError(f"{what}: {host} refuses access ({status}); correct HF_TOKEN")
    if status in {408, 429} or status >= 500:
        return ServiceUnavailable(f"{what}: {host} answered {status}; try again later")
    return ModelError(f"{what}: {host} answered {status}; correct the profile")


def _of_disk(err: OSError, what: str, host: str | None) -> Exception:
    if err.errno in {errno.ENOSPC, errno.EDQUOT}:
        msg = f"{what}: the disk of the model cache is full; free some space, then pull again"
        return ConfigurationError(msg)
    if err.errno is not None:
        msg = f"{what}: the model cache can't be written ({err.strerror}); set HF_HOME"
        return ConfigurationError(msg)
    # The hub library's own, about sizes.
    return ServiceUnavailable(f"{what}: {host} sent less or more than it said; pull again")
