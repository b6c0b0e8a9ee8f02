"""The operator's key pair: one EC P-256 key signs releases and the manifests of images.

A folder of keys holds

==============  ========================================================================
``signing.key``  private key, PEM (PKCS 8), readable by its owner alone
``signing.pub``  public key, PEM: checks a release (``verify --key``)
``chain.pem``    signing certificate and the one that issued it, for C2PA
``trust.pem``    the issuing certificate alone: trust anchor of images (``verify --trust``)
==============  ========================================================================

The issuer's private key is thrown away after use: nobody can issue a second certificate in
its name. C2PA refuses a signing certificate that issued itself, hence the two. An operator
with a certificate of a public authority puts that key and chain in the folder instead.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError

log = logging.getLogger(__name__)
PRIVATE, PUBLIC, CHAIN, TRUST = "signing.key", "signing.pub", "chain.pem", "trust.pem"
# Without a time-stamping authority an image is valid only as long as its certificate is.
VALID = timedelta(days=5 * 365)
C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")  # C2PA 2.2, section 14.5.1


@dataclass(frozen=True)
class SigningKey:
    """A private key that was read and found usable.

    ``fingerprint`` is the hex sha256 of the public key's PEM, as a release's signature
    carries it.
    """

    path: Path
    private_pem: str = field(repr=False)
    public_pem: str
    chain_pem: str
    fingerprint: str


def make_keys(folder: Path, organisation: str = "LoRA Factory") -> SigningKey:
    """Make a key pair and its certificates.

    Args:
        folder: made where it is missing; nothing in it is overwritten.
        organisation: name that the certificates carry.

    Raises:
        ConfigurationError: the folder has a key already, or can't be written.
    """
    issuer, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _root(issuer, organisation)
    leaf = _leaf(own.public_key(), issuer, root, organisation)
    pem = serialization.Encoding.PEM
    private = own.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = own.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / PRIVATE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(private)
        (folder / PUBLIC).write_bytes(public)
        (folder / CHAIN).write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
        (folder / TRUST).write_bytes(root.public_bytes(pem))
    except FileExistsError:
        msg = f"{folder / PRIVATE} exists already; move it away to make another"
        raise ConfigurationError(msg) from None
    except OSError as err:
        msg = f"keys can't be written to {folder}: {err.strerror}; choose another folder"
        raise ConfigurationError(msg) from err
    return load_key(folder / PRIVATE)


def load_key(path: Path) -> SigningKey:
    """Read a private key and the chain beside it.

    Raises:
        ConfigurationError: a file is missing, or is no EC P-256 key or certificate for it.
    """
    try:
        private = path.read_bytes()
        key = serialization.load_pem_private_key(private, None)
        chain = (path.parent / CHAIN).read_bytes()
        leaf = x509.load_pem_x509_certificates(chain)[0]
        if path.stat().st_mode & 0o077:
            log.warning("%s can be read by others; chmod 600 it", path)
    except OSError as err:
        msg = f"signing key: {err.filename}: {err.strerror}; `python -m lora_factory keys make`"
        raise ConfigurationError(msg) from err
    except (ValueError, TypeError) as err:
        msg = f"signing key {path} or {CHAIN} beside it is no unencrypted PEM; make keys anew"
        raise ConfigurationError(msg) from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        msg = f"signing key {path} is no EC P-256 key; `python -m lora_factory keys make`"
        raise ConfigurationError(msg)
    public = _public_pem(key.public_key())
    if _public_pem(leaf.public_key()) != public:
        msg = f"{path.parent / CHAIN} does not begin with the certificate of {path.name}"
        raise ConfigurationError(msg)
    return SigningKey(path, private.decode(), public.decode(), chain.decode(), fingerprint(public))


def configured_key(settings: Settings) -> SigningKey | None:
    """The key at ``LORA_FACTORY_SIGNING_KEY``; None where none is set.

    Raises:
        ConfigurationError: one is set and can't be used.
    """
    return None if settings.signing_key is None else load_key(settings.signing_key.expanduser())


def read_public_key(path: Path) -> bytes:
    """A public key's PEM, from a file of that or of a certificate.

    Raises:
        ConfigurationError: the file is neither, or missing.
    """
    try:
        data = path.read_bytes()
        if b"BEGIN CERTIFICATE" in data:
            return _public_pem(x509.load_pem_x509_certificates(data)[0].public_key())
        return _public_pem(serialization.load_pem_public_key(data))
    except (OSError, ValueError, TypeError) as err:
        msg = f"{path} holds no public key and no certificate in PEM; give signing.pub"
        raise ConfigurationError(msg) from err


def fingerprint(public_pem: bytes) -> str:
    """Hex sha256 of a public key's PEM."""
    return hashlib.sha256(public_pem).hexdigest()


def _public_pem(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _root(issuer: ec.EllipticCurvePrivateKey, organisation: str) -> x509.Certificate:
    name = _name(organisation, "issuer")
    builder = _certificate(name, name, issuer.public_key())
    return (
        builder
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .sign(issuer, hashes.SHA256())
    )


def _leaf(
    public: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    organisation: str,
) -> x509.Certificate:
    # Readers that follow C2PA before 2.2 know emailProtection only.
    purposes = x509.ExtendedKeyUsage([C2PA_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    return (
        _certificate(_name(organisation, "image and release signer"), root.subject, public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(purposes, critical=True)
        .add_extension(above, critical=False)
        .sign(issuer, hashes.SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509
        .CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + VALID)
        .add_extension(identifier, critical=False)
    )


def _name(organisation: str, what: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
        x509.NameAttribute(NameOID.COMMON_NAME, f"{organisation} {what}"[:64]),
    ])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )
