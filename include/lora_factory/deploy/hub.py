"""Target ``hub``: a model repository on a Hugging Face Hub, one for each adapter name.

Users get branch ``main``. A version comes on a branch of its own, is fetched from there and
compared, and only then committed to ``main`` in one commit. ``lora_factory.json`` in a commit
says which version it is; tag ``release-<version>`` keeps every promoted one, the last good one
since before the next one's promotion. The hub draws nothing, so no picture is tried.

The hub is ``HF_ENDPOINT``, the token ``HF_TOKEN``; both come from the environment.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import NewModel, Sha256, Version
from lora_factory.contracts.settings import Settings
from lora_factory.deploy.target import Plan, Promotion, Release, Smoke
from lora_factory.errors import ConfigurationError, ReleaseError, ServiceUnavailable
from lora_factory.models.hub import endpoint

if TYPE_CHECKING:
    from huggingface_hub import GitRefs, HfApi

log = logging.getLogger(__name__)
MAIN, CANDIDATE, RELEASE = "main", "candidate-", "release-"
CARD, LORA, KOHYA, NOTE = (
    "README.md",
    "lora.safetensors",
    "lora.kohya.safetensors",
    "lora_factory.json",
)
PUBLISHED = (CARD, LORA, KOHYA, "ethics.json", "evaluation.json", "samples/*")
"""Of a release folder; lineage and manifests of the data name places of the deployment's own."""
GITS_OWN = ".gitattributes"


class Note(Contract):
    """``lora_factory.json``: what a commit of the repository is."""

    name: str
    version: Version
    base: str
    trigger: str
    files: dict[str, Sha256]
    previous: Version | None = None


class HubTarget:
    """See :class:`lora_factory.deploy.target.Target`.

    Args:
        settings: ``hub_namespace`` and ``hub_private`` are used.
        check_stop: called before each request; raises to stop.

    Raises:
        ConfigurationError: no namespace is set.
    """

    name = "hub"

    def __init__(
        self, settings: Settings, *, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        from huggingface_hub import HfApi

        if not settings.hub_namespace:
            msg = "target hub needs LORA_FACTORY_HUB_NAMESPACE and a token in HF_TOKEN"
            raise ConfigurationError(msg)
        self._namespace, self._private = settings.hub_namespace, settings.hub_private
        self._check_stop = check_stop
        self._hub = HfApi(endpoint=endpoint())

    def plan(self, release: Release) -> Plan:
        """See :class:`lora_factory.deploy.target.Target`."""
        repo, version = self._repo(release), release.model.version
        refs = self._refs(repo)
        note = self._note(repo, MAIN) if refs is not None else None
        live = note.version if note else None
        if live == version:
            return Plan(live=live, steps=(f"{repo} has {version} already; compare its bytes",))
        files = len(release_files(release)) + 1
        steps = [
            f"commit {files} files to branch {CANDIDATE}{version} of {repo}",
            "fetch them and compare them with what was sent",
            *([f"tag {MAIN} as {RELEASE}{live}"] if live else []),
            f"commit them to {MAIN}, tag it as {RELEASE}{version}, remove the branch",
        ]
        if refs is None:
            kind = "private" if self._private else "public"
            steps.insert(0, f"make the {kind} repository {repo}")
        return Plan(live=live, steps=tuple(steps))

    def apply(self, release: Release) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        repo, branch = self._repo(release), CANDIDATE + release.model.version
        with self._asking(repo) as hub:
            hub.create_repo(repo, private=self._private, exist_ok=True)
        for left in self._candidates(repo):  # of a run that was killed
            if left != branch:
                self._drop(repo, left)
        with self._asking(repo) as hub:
            hub.create_branch(repo, branch=branch, revision=MAIN, exist_ok=True)
        live = self._note(repo, MAIN)
        self._commit(repo, branch, release, live.version if live else None)

    def smoke(self, release: Release) -> Smoke:
        """Fetch card and weights, and compare; no picture is drawn."""
        started, repo = time.monotonic(), self._repo(release)
        main, version = self._note(repo, MAIN), release.model.version
        live = main is not None and main.version == version
        revision = MAIN if live else CANDIDATE + version
        note = main if live else self._note(repo, revision)
        sent = (version, release.model.sha256)  # a header written anew may give other bytes
        if note is None or (note.version, note.files.get(LORA)) != sent:
            msg = f"smoke test: {repo}@{revision} is not what was sent"
            raise ReleaseError(msg)
        for path, sha256 in note.files.items():
            data = self._read(repo, revision, path)
            if data is None or hashlib.sha256(data).hexdigest() != sha256:
                msg = f"smoke test: {repo}@{revision}: {path} came damaged, or not at all"
                raise ReleaseError(msg)
            if path == CARD:
                _check_card(data, release.model)
        return Smoke(seconds=time.monotonic() - started)

    def promote(self, release: Release) -> Promotion:
        """See :class:`lora_factory.deploy.target.Target`."""
        repo, version = self._repo(release), release.model.version
        live = self._note(repo, MAIN)
        previous = live.previous if live else None
        if live is None or live.version != version:
            if live is not None:
                self._tag(repo, live.version)
                previous = live.version
            self._commit(repo, MAIN, release, previous)
        self._tag(repo, version)
        for branch in self._candidates(repo):
            self._drop(repo, branch)
        return Promotion(endpoint=f"{endpoint()}/{repo}", previous=previous)

    def rollback(self, release: Release, plan: Plan) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        repo, version = self._repo(release), release.model.version
        if self._refs(repo) is None:
            return
        main = self._note(repo, MAIN)
        if main is not None and main.version == version and main.previous is not None:
            self._restore(repo, main.previous, f"Back from {version}; live before: {plan.live}")
        for branch in self._candidates(repo):
            self._drop(repo, branch)

    # -- commits

    def _commit(self, repo: str, branch: str, release: Release, previous: str | None) -> None:
        """Make a branch hold the release and nothing else; one commit, none if it does already."""
        model = release.model
        note = Note(
            name=model.name,
            version=model.version,
            base=model.base,
            trigger=model.trigger,
            files=_hashes(release),
            previous=previous,
        )
        if self._note(repo, branch) == note:
            return
        files: dict[str, Path | bytes] = dict(release_files(release))
        files[NOTE] = note.model_dump_json(indent=1).encode()
        self._replace(repo, branch, files, f"{model.name} {model.version}")

    def _restore(self, repo: str, version: str, why: str) -> None:
        """Make ``main`` hold again what a tag keeps."""
        tag, files = RELEASE + version, dict[str, Path | bytes]()
        with self._asking(repo) as hub:
            paths = hub.list_repo_files(repo, revision=tag)
        for path in paths:
            data = self._read(repo, tag, path)
            if data is not None and path != GITS_OWN:
                files[path] = data
        self._replace(repo, MAIN, files, why)

    def _replace(
        self, repo: str, branch: str, files: Mapping[str, Path | bytes], message: str
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._asking(repo) as hub:
            head = hub.model_info(repo, revision=branch)
        there = {entry.rfilename for entry in head.siblings or ()}
        operations: list[Any] = [
            CommitOperationDelete(path) for path in sorted(there - files.keys() - {GITS_OWN})
        ]
        operations += [CommitOperationAdd(path, content) for path, content in files.items()]
        with self._asking(repo) as hub:
            # Who commits to the branch at the same time makes this one fail
            hub.create_commit(
                repo, operations, commit_message=message, revision=branch, parent_commit=head.sha
            )

    # -- refs and files

    def _refs(self, repo: str) -> GitRefs | None:
        """None: there is no repository yet."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._asking(repo) as hub:
            try:
                return hub.list_repo_refs(repo)
            except RepositoryNotFoundError as err:
                if err.response.status_code == 401 and not _has_token():
                    raise
                return None

    def _candidates(self, repo: str) -> list[str]:
        refs = self._refs(repo)
        names = [branch.name for branch in refs.branches] if refs else []
        return [name for name in names if name.startswith(CANDIDATE)]

    def _drop(self, repo: str, branch: str) -> None:
        with self._asking(repo) as hub:
            hub.delete_branch(repo, branch=branch)

    def _tag(self, repo: str, version: str) -> None:
        with self._asking(repo) as hub:
            hub.create_tag(repo, tag=RELEASE + version, revision=MAIN, exist_ok=True)

    def _note(self, repo: str, revision: str) -> Note | None:
        data = self._read(repo, revision, NOTE)
        if data is None:
            return None
        try:
            return Note.model_validate_json(data)
        except ValidationError as err:
            msg = f"{repo}@{revision}: {NOTE} is not the factory's; remove it, or use another name"
            raise ReleaseError(msg) from err

    def _read(self, repo: str, revision: str, path: str) -> bytes | None:
        """A file's bytes, from the hub and no cache; None: there is no such file or branch."""
        from huggingface_hub import get_session, get_token, hf_hub_url, hf_raise_for_status
        from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

        with self._asking(repo):
            try:
                url = hf_hub_url(repo, path, revision=revision, endpoint=endpoint())
                token = get_token()
                headers = {"authorization": f"Bearer {token}"} if token else {}
                answer = get_session().get(url, headers=headers, follow_redirects=True)
                hf_raise_for_status(answer)
                return bytes(answer.content)
            except (RemoteEntryNotFoundError, RevisionNotFoundError):
                return None

    def _repo(self, release: Release) -> str:
        return f"{self._namespace}/{release.model.name}"

    @contextmanager
    def _asking(self, repo: str) -> Iterator[HfApi]:
        self._check_stop()
        with _errors(repo):
            yield self._hub


def release_files(release: Release) -> dict[str, Path]:
    """Path in the repository → file, of what is published.

    Raises:
        ReleaseError: the release has no card.
    """
    folder = release.folder or release.file.parent
    found = {LORA: release.file}
    for pattern in PUBLISHED:
        for file in sorted(folder.glob(pattern)):
            found.setdefault(file.relative_to(folder).as_posix(), file)
    if CARD not in found:
        msg = f"{release.model.name} has no {CARD}, which the hub needs; evaluate the LoRA again"
        raise ReleaseError(msg)
    return found


def _hashes(release: Release) -> dict[str, str]:
    hashes = {}
    for path, file in release_files(release).items():
        with file.open("rb") as stream:
            hashes[path] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _check_card(data: bytes, model: NewModel) -> None:
    """The metadata that lets users find and load a LoRA."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(data.decode("utf-8")).data
    except (ValueError, yaml.YAMLError) as err:
        msg = f"smoke test: {CARD} has no metadata: {str(err).splitlines()[0]}"
        raise ReleaseError(msg) from err
    if "lora" not in (card.get("tags") or ()) or card.get("instance_prompt") != model.trigger:
        msg = f"smoke test: {CARD} is no card of a LoRA that {model.trigger!r} calls"
        raise ReleaseError(msg)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


@contextmanager
def _errors(repo: str) -> Iterator[None]:
    """Turn what the hub library and its HTTP client raise into the factory's errors."""
    import httpx2
    from huggingface_hub import errors

    where = f"{repo} on {urlsplit(endpoint()).hostname}"
    try:
        yield
    except errors.OfflineModeIsEnabled as err:
        msg = "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can be published"
        raise ConfigurationError(msg) from err
    except errors.HfHubHTTPError as err:
        raise _of_status(err.response.status_code, where) from err
    except (errors.HFValidationError, ValueError) as err:
        msg = f"{where}: refused: {str(err).splitlines()[0][:200]}"
        raise ReleaseError(msg) from err
    except (httpx2.HTTPError, RuntimeError) as err:
        if isinstance(err.__cause__, errors.HfHubHTTPError):  # an upload's error comes wrapped
            raise _of_status(err.__cause__.response.status_code, where) from err
        msg = f"{where}: no answer ({type(err).__name__}); look at the network, try again"
        raise ServiceUnavailable(msg) from err


def _of_status(status: int, where: str) -> Exception:
    if status in {401, 403}:
        msg = f"{where}: access refused ({status}); HF_TOKEN needs write access to the namespace"
        return ConfigurationError(msg)
    if status in {408, 409, 412, 429} or status >= 500:
        return ServiceUnavailable(f"{where}: answered {status}; try again later")
    return ReleaseError(f"{where}: answered {status}")
