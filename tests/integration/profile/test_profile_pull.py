"""profile pull against a hub over HTTP: what comes, what goes on, what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hub_server import git_sha1
from hub_site import CLIP, SD, TOML, Site, weights
from lora_factory import __main__ as cli
from lora_factory.errors import ConfigurationError, ModelError, ServiceUnavailable
from lora_factory.models import cache, pull
from lora_factory.models.cache import snapshot
from lora_factory.models.lock import Lock, LockedModel

BIG = "model.safetensors"
SCORER, SMALL = "image_text_scorer", "small"


def locked(site: Site) -> LockedModel:
    found = site.profile().role(SCORER).locked
    assert found is not None
    return found


def parts(site: Site) -> list[Path]:
    return sorted(site.cache.rglob("*.incomplete"))


def test_only_the_files_a_loader_needs_come_and_are_locked(site: Site) -> None:
    assert site.pull() == {}
    lock = site.lock()
    clip, base = lock.roles[SCORER], lock.bases[SMALL]
    assert (clip.model, clip.revision, clip.commit) == ("org/clip", "main", CLIP)
    assert set(clip.files) == {"config.json", "tokenizer.json", BIG}
    assert clip.files[BIG].sha256 == hashlib.sha256(weights(1, 300_000)).hexdigest()
    assert (base.variant, base.licence) == ("fp16", "openrail")
    assert sorted(base.files) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/model.fp16.safetensors",
    ]
    names = {path.name for path in site.cache.rglob("*") if path.is_symlink()}
    assert not {name for name in names if name.endswith((".bin", ".ckpt", ".md"))}
    for part, entry in site.profile().revisions((SCORER, f"base:{SMALL}")).items():
        assert entry == ("org/clip@" + CLIP if part == SCORER else f"org/sd@{SD}#fp16")


def test_the_hub_librarys_own_functions_find_the_files(site: Site) -> None:
    from huggingface_hub import try_to_load_from_cache

    site.pull()
    found = try_to_load_from_cache("org/clip", BIG, revision=CLIP, cache_dir=site.cache)
    assert isinstance(found, str)
    assert Path(found).read_bytes() == weights(1, 300_000)
    assert Path(found).resolve().name == hashlib.sha256(weights(1, 300_000)).hexdigest()


def test_a_second_pull_asks_nothing(site: Site) -> None:
    site.pull()
    site.hub.seen.clear()
    assert site.pull() == {}
    assert site.hub.seen == []


def test_cut_off_halfway_only_the_missing_bytes_are_asked_for(site: Site) -> None:
    site.hub.faults.cut[BIG] = 100_000
    with pytest.raises(ServiceUnavailable, match="answered 503; try again later"):
        site.pull()
    (part,) = parts(site)
    assert part.stat().st_size == 100_000
    assert site.lock() == Lock()
    with pytest.raises(ModelError, match="profile pull"):
        site.profile().role(SCORER).location()
    site.hub.faults.down = False
    site.hub.seen.clear()
    assert site.pull() == {}
    asked = next(s for s in site.hub.downloads() if s.server == "cdn")
    assert asked.range == "bytes=100000-"
    assert asked.sent == len(weights(1, 300_000)) - 100_000
    fetched = [s.path for s in site.hub.downloads() if s.server == "hub"]
    assert f"/org/clip/resolve/{CLIP}/config.json" not in fetched
    assert not parts(site)
    cache.verify(locked(site))


def test_a_server_without_ranges_sends_it_all_again(site: Site) -> None:
    site.hub.faults.cut[BIG] = 100_000
    with pytest.raises(ServiceUnavailable):
        site.pull()
    site.hub.faults.down, site.hub.faults.no_ranges = False, True
    assert site.pull() == {}
    cache.verify(locked(site))


def test_a_part_with_wrong_bytes_is_found_out(site: Site) -> None:
    site.hub.faults.cut[BIG] = 100_000
    with pytest.raises(ServiceUnavailable):
        site.pull()
    site.hub.faults.down = False
    parts(site)[0].write_bytes(b"?" * 100_000)
    assert "arrived with hash" in site.pull()[f"roles.{SCORER}"]
    assert not parts(site)
    assert site.pull() == {}


def test_a_wrong_hash_is_refused_and_the_rest_comes(site: Site) -> None:
    site.hub.faults.corrupt.add(BIG)
    failed = site.pull()
    assert list(failed) == [f"roles.{SCORER}"]
    assert "arrived with hash" in failed[f"roles.{SCORER}"]
    assert "it was thrown away" in failed[f"roles.{SCORER}"]
    assert not parts(site)
    assert list(site.lock().bases) == [SMALL]
    with pytest.raises(ModelError, match="profile pull"):
        site.profile().role(SCORER).location()


def test_pickles_alone_are_refused(site: Site) -> None:
    del site.hub.repos["org/clip"].files[BIG]
    failed = site.pull()
    assert "weights only as pickle (pytorch_model.bin)" in failed[f"roles.{SCORER}"]
    assert not [s for s in site.hub.downloads() if s.path.endswith(".bin")]


def test_a_profiles_own_hash_is_insisted_on(site: Site) -> None:
    pin = f'[roles.{SCORER}.hashes]\n"{BIG}" = "{"a" * 64}"\n'
    site.write(TOML.replace("[bases.small]", pin + "[bases.small]"))
    assert "model.safetensors is pinned to sha256 aaaaaaaaaaaa…" in site.pull()[f"roles.{SCORER}"]
    small = hashlib.sha256(b"{}").hexdigest()  # one that the hub tells no sha256 of
    pin = f'[roles.{SCORER}.hashes]\n"tokenizer.json" = "{small}"\n'
    site.write(TOML.replace("[bases.small]", pin + "[bases.small]"))
    assert "tokenizer.json has sha256" in site.pull()[f"roles.{SCORER}"]


def test_a_commit_that_the_hub_answers_otherwise_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.hub.repos["org/sd"].branch, site.hub.repos["org/sd"].commit = SD, "4" * 40
    assert f"the hub answers with commit {'4' * 40}" in site.pull()[f"bases.{SMALL}"]


def test_a_locked_model_stays_when_its_branch_moves_until_updated(site: Site) -> None:
    site.pull()
    clip = site.hub.repos["org/clip"]
    clip.commit, clip.files[BIG] = "5" * 40, weights(9, 200_000)
    assert site.pull() == {}
    assert site.lock().roles[SCORER].commit == CLIP
    assert site.pull(update=True) == {}
    assert site.lock().roles[SCORER].commit == "5" * 40
    assert site.profile().role(SCORER).resolve_revision() == "org/clip@" + "5" * 40


def test_the_same_commit_with_other_bytes_is_refused(site: Site) -> None:
    """A mirror that lies: the lock's hash wins."""
    site.pull()
    snapshot(locked(site)).joinpath(BIG).resolve().unlink()
    site.hub.repos["org/clip"].files[BIG] = weights(9, 300_000)
    assert "is pinned to sha256" in site.pull()[f"roles.{SCORER}"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_loaders_refuse_other_bytes_than_the_locks(site: Site, damage: str) -> None:
    site.pull()
    entry = site.profile().role(SCORER)
    blob = snapshot(locked(site)).joinpath(BIG).resolve()
    data = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data[:-1] + (b"" if damage == "cut" else bytes([data[-1] ^ 1])))
    from lora_factory.models.loaders import pretrained

    with pytest.raises(ModelError, match=r"model\.safetensors .*profile pull"):
        pretrained(lambda where: where, entry)
    assert site.pull() == {}
    cache._verified.cache_clear()
    assert pretrained(lambda where: where, entry) == str(snapshot(locked(site)))


def test_a_profile_that_asks_for_another_revision_is_not_the_locked_one(site: Site) -> None:
    site.pull()
    site.write(TOML.replace('revision = "main"', f'revision = "{"6" * 40}"'))
    with pytest.raises(ModelError, match=f"org/clip@{'6' * 40} is not on this machine"):
        site.profile().role(SCORER).location()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "org/none"}, "has no such model, or it is private"),
        ({"revision": "v9"}, "no such revision or file"),
        ({"gated": True}, "is gated: accept its terms on 127.0.0.1 and set HF_TOKEN"),
        ({"status": 404}, "answered 404; correct the profile"),
    ],
)
def test_what_a_hub_refuses_is_said_of_each_model(
    site: Site, change: dict[str, Any], message: str
) -> None:
    if "gated" in change:
        site.hub.repos["org/clip"].gated = True
    elif "status" in change:
        site.hub.faults.status = change["status"]
    else:
        ((field, value),) = change.items()
        old = {"model": "org/clip", "revision": "main"}[field]
        site.write(TOML.replace(f'{field} = "{old}"', f'{field} = "{value}"'))
    failed = site.pull()
    assert message in failed[f"roles.{SCORER}"]
    assert "\n" not in failed[f"roles.{SCORER}"]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (500, ServiceUnavailable, "answered 500; try again later"),
        (429, ServiceUnavailable, "answered 429"),
        (403, ConfigurationError, "refuses access .403.; correct HF_TOKEN"),
    ],
)
def test_a_hub_that_answers_nobody_ends_the_pull(
    site: Site, status: int, error: type[Exception], message: str
) -> None:
    site.hub.faults.status = status
    with pytest.raises(error, match=message):
        site.pull()


def test_no_network_and_offline_mode(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match=r"127.0.0.1 did not answer \(ConnectError\)"):
        site.pull()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"HF_HUB_OFFLINE .* is set"):
        site.pull()


def test_disk_space_is_checked_before_and_a_full_disk_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000_000))
    monkeypatch.setattr(pull, "SPARE", 299_900_000)
    with pytest.raises(ConfigurationError, match=r"kB to download, 300\.0 MB free; free some"):
        site.pull()
    assert site.hub.downloads() == []
    monkeypatch.undo()


def test_a_disk_that_fills_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ConfigurationError, match="disk of the model cache is full"):
        site.pull()


def test_a_path_that_leads_elsewhere_is_refused(site: Site, tmp_path: Path) -> None:
    files = site.hub.repos["org/sd"].files
    files["unet/../../../../../evil.json"] = b"{}"
    site.pull()
    assert not list(tmp_path.rglob("evil.json"))
    site.hub.repos["org/clip"].files["..json"] = b"{}"  # a name, not a way
    assert site.pull(update=True) == {}


def test_the_token_goes_to_the_hub_alone_and_into_no_log(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    site.hub.repos["org/clip"].gated = True
    caplog.set_level(logging.WARNING, logger="httpx2")  # as the command line has it
    caplog.set_level(logging.DEBUG, logger="lora_factory")
    assert site.pull() == {}
    assert {s.authorization for s in site.hub.seen if s.server == "hub"} == {"Bearer hf_verysecret"}
    assert {s.authorization for s in site.hub.seen if s.server == "cdn"} == {None}
    assert "verysecret" not in caplog.text
    assert "signature" not in caplog.text
    assert "profile pull" in caplog.text
    assert "kB" in caplog.text


def test_only_some(site: Site) -> None:
    assert site.pull(only=[SMALL]) == {}
    assert not site.lock().roles
    assert site.pull(only=[f"roles.{SCORER}"]) == {}
    assert list(site.lock().bases) == [SMALL]
    with pytest.raises(ConfigurationError, match=r"pulls no 'unet'; it pulls: roles\.image_text"):
        site.pull(only=["unet"])


def test_shards_and_variants(site: Site) -> None:
    files = site.hub.repos["org/sd"].files
    del files["unet/diffusion_pytorch_model.fp16.safetensors"]
    failed = site.pull()
    expected = "unet: no safetensors of variant fp16; there is: none; set the profile's variant"
    assert expected in failed[f"bases.{SMALL}"]
    for number in (1, 2):
        name = f"unet/diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors"
        files[name] = weights(30 + number, 20_000)
    files["unet/diffusion_pytorch_model.safetensors.index.fp16.json"] = b"{}"
    assert site.pull() == {}
    assert len([p for p in site.lock().bases[SMALL].files if p.startswith("unet/")]) == 4


def test_git_ids_are_gits() -> None:
    data = b"what is up, doc?"  # the example of the git book, chapter 10.2
    assert git_sha1(data) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_the_files_git_id_is_gits(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(b"what is up, doc?")
    assert cache.git_sha1_of(tmp_path / "doc") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


# -- the command


def check(site: Site, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command in a process of its own, where the hub library reads the environment."""
    command = [sys.executable, "-m", "lora_factory", "profile", *arguments, "--json"]
    done = subprocess.run(
        command, env=environment(site), capture_output=True, text=True, check=False
    )
    assert "verysecret" not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def environment(site: Site) -> dict[str, str]:
    """Of such a process."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("include")),
        "LORA_FACTORY_PROFILES": str(site.settings.profiles),
        "HF_ENDPOINT": site.hub.url,
        "HF_HUB_CACHE": str(site.cache),
        "HF_TOKEN": "hf_verysecret",
    }


def test_the_command_pulls_and_checks(site: Site) -> None:
    status, found = check(site, "pull", "mine")
    assert status == 0
    assert found["usable"]
    scorer = found["models"][0]
    assert (scorer["commit"], scorer["files"], scorer["state"]) == (CLIP, "safetensors", "complete")
    assert scorer["size"] == sum(f.size for f in site.lock().roles[SCORER].files.values())


@pytest.mark.chaos
def test_a_killed_pull_is_gone_on_from(site: Site) -> None:
    """The library keeps whole chunks of 10 MiB: two of them."""
    big = weights(1, 35_000_000)
    site.hub.repos["org/clip"].files[BIG] = big
    site.hub.faults.stall[BIG] = 25_000_000
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_factory", "profile", "pull", "mine"], env=environment(site)
    )
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in parts(site)) < 20_971_520:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    site.hub.faults.stall.clear()
    site.hub.seen.clear()
    status, found = check(site, "pull", "mine")
    assert (status, found["usable"]) == (0, True)
    ranges = [s.range for s in site.hub.downloads() if s.range is not None]
    assert ranges == ["bytes=20971520-"] * 2  # of the hub, and of the CDN it names
    assert check(site, "check", "mine")[1]["models"][0]["state"] == "verified"


def command(site: Site, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("LORA_FACTORY_PROFILES", str(site.settings.profiles))
    return cli.main(["profile", *arguments])


def test_check_tells_what_is_here(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(site, monkeypatch, "check", "mine") == 1
    out = capsys.readouterr().out
    assert "main is a branch or tag; `profile pull` locks it" in out
    assert "profile mine: 0 of 2 usable" in out
    assert command(site, monkeypatch, "check", "mine", "--online", "--json") == 1
    online = json.loads(capsys.readouterr().out)["models"]
    assert [model["licence"] for model in online] == ["mit", "openrail"]
    assert online[0]["size"] > 290_000
    site.pull()
    assert command(site, monkeypatch, "check", "mine") == 0
    out = capsys.readouterr().out
    assert f"main → {CLIP[:12]}" in out
    assert out.count("verified") == 2
    snapshot(locked(site)).joinpath(BIG).resolve().write_bytes(b"short")
    assert command(site, monkeypatch, "check", "mine", "--quick") == 1
    assert "model.safetensors has 5 bytes" in capsys.readouterr().out


def test_check_names_pickles_and_families(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.hub.repos["org/clip"].files[BIG]
    assert command(site, monkeypatch, "check", "mine", "--online") == 1
    assert "pickle, refused" in capsys.readouterr().out
    assert command(site, monkeypatch, "pull", "mine") == 1
    assert "refused" in capsys.readouterr().out
    assert command(site, monkeypatch, "check", "embedded") == 0
    assert "7 of 7 usable" in capsys.readouterr().out
