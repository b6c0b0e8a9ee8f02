"""Keys: made once, closed to others, and refused when they are of no use."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError
from lora_factory.guard.provenance.keys import (
    C2PA_SIGNING,
    configured_key,
    load_key,
    make_keys,
    read_public_key,
)


def test_a_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    key = make_keys(tmp_path / "keys", "Example Studio")
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    assert key.private_pem not in repr(key)
    assert load_key(key.path) == key


def test_certificates_are_what_c2pa_asks_for(tmp_path: Path) -> None:
    leaf, root = x509.load_pem_x509_certificates(make_keys(tmp_path, "Studio").chain_pem.encode())
    leaf.verify_directly_issued_by(root)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert C2PA_SIGNING in usage
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    before = make_keys(tmp_path)
    with pytest.raises(ConfigurationError, match="exists already"):
        make_keys(tmp_path)
    assert load_key(before.path) == before


def test_none_configured_is_none(tmp_path: Path) -> None:
    assert configured_key(Settings()) is None
    key = make_keys(tmp_path)
    assert configured_key(Settings(signing_key=key.path)) == key


def test_a_key_that_is_configured_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        configured_key(Settings(signing_key=tmp_path / "none.key"))
    key = make_keys(tmp_path / "a")
    key.path.write_text("not a key")
    with pytest.raises(ConfigurationError, match="no unencrypted PEM"):
        load_key(key.path)
    key.path.write_bytes(_pem(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(ConfigurationError, match="no EC P-256"):
        load_key(key.path)
    key.path.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ConfigurationError, match=r"chain\.pem does not begin"):
        load_key(key.path)
    (key.path.parent / "chain.pem").unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        load_key(key.path)


def test_readable_by_others_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = make_keys(tmp_path)
    key.path.chmod(0o644)
    load_key(key.path)
    assert "chmod 600" in caplog.text


def test_a_public_key_is_read_from_key_or_certificate(tmp_path: Path) -> None:
    key = make_keys(tmp_path)
    assert read_public_key(tmp_path / "signing.pub").decode() == key.public_pem
    assert read_public_key(tmp_path / "chain.pem").decode() == key.public_pem
    with pytest.raises(ConfigurationError, match="no public key"):
        read_public_key(key.path)
    with pytest.raises(ConfigurationError, match="no public key"):
        read_public_key(tmp_path / "missing")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
