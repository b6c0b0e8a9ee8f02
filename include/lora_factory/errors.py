"""Every exception the factory raises on purpose.

::

    FactoryError
    ├── PermanentError            trying again gives the same: the task fails at once
    │   ├── SpecError             what a user asked for can't be done (conf, spec, request)
    │   ├── ConfigurationError    the deployment is set up wrongly (store, profile, secret)
    │   ├── ModelError            a model is missing, damaged, or of the wrong family
    │   ├── DataError             the data can't be used (nothing left, nothing reachable)
    │   ├── ArtifactError         an artifact is missing, unfinished or damaged
    │   ├── TrainingError         training diverged (NaN) or can't go on
    │   └── ReleaseError          a release failed its smoke test and was rolled back
    └── TransientError            trying again later may work: the task is retried
        ├── ServiceUnavailable    catalog, store, frontier or serving app did not answer
        ├── LeaseHeld             another process works on the same artifact
        └── Interrupted           asked to stop (SIGTERM); progress is kept

A message says what happened, to what, and what to do, in one line.
"""

from __future__ import annotations


class FactoryError(Exception):
    """Root of the tree; never raised itself."""

    transient: bool = False


class PermanentError(FactoryError):
    """Trying again can't help."""


class SpecError(PermanentError):
    """A request (run conf, stage spec, API body) can't be carried out as written."""


class ConfigurationError(PermanentError):
    """The deployment's configuration is missing or wrong."""


class ModelError(PermanentError):
    """A model is missing, damaged, or not of the shape its role needs."""


class DataError(PermanentError):
    """The data can't be used."""


class ArtifactError(PermanentError):
    """An artifact is missing, unfinished, or its bytes don't match its manifest."""


class TrainingError(PermanentError):
    """Training diverged or can't go on."""


class ReleaseError(PermanentError):
    """A release failed and was rolled back."""


class TransientError(FactoryError):
    """Trying again later may help."""

    transient = True


class ServiceUnavailable(TransientError):
    """A service the stage needs did not answer."""


class LeaseHeld(TransientError):
    """Another live process holds the lease on this artifact key."""


class Interrupted(TransientError):
    """The stage was asked to stop and has written what a retry needs to go on."""
