"""Routes for administrators: publish, promote, roll back, retire, download."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from lora_factory.contracts.registry import Deployment, Model, NewModel, Version
from lora_factory.contracts.serving import PromoteRequest
from lora_factory.contracts.specs import Name
from lora_factory.errors import ModelError, SpecError
from lora_factory.serve.engine import AdapterFile
from lora_factory.serve.services import REFUSALS, TARGET, Allowed, Services, Wired

UPLOAD_PATH = "/v1/adapters"
METADATA_BYTES = 64 * 1024
# Described by hand: the body is read only after the key was checked.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["metadata", "lora"],
                    "properties": {
                        "metadata": {"type": "string", "description": "NewModel as JSON"},
                        "lora": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


router = APIRouter(
    prefix="/v1/adapters", dependencies=[Depends(Allowed("admin"))], responses=REFUSALS
)
AdapterName = Annotated[Name, Path()]


@router.post("", status_code=201, openapi_extra=UPLOAD_BODY)
async def publish(request: Request, wired: Wired) -> Model:
    """Publish a version as candidate: form fields ``metadata`` (NewModel) and ``lora``."""
    async with request.form(max_files=1, max_fields=1, max_part_size=METADATA_BYTES) as form:
        metadata, upload = form.get("metadata"), form.get("lora")
        if not isinstance(metadata, str) or not isinstance(upload, UploadFile):
            raise HTTPException(422, "body: needs form fields metadata (JSON) and lora (file)")
        new = _parse(metadata)
        if new.base != wired.config.base.name:
            base = wired.config.base.name
            raise HTTPException(422, f"base: this server draws with {base!r}, not {new.base!r}")
        try:
            received = await wired.folder.receive(upload, new.sha256)
        except SpecError as err:
            raise HTTPException(422, str(err)) from err
    return await _take_in(new, received, wired)


def _parse(metadata: str) -> NewModel:
    try:
        return NewModel.model_validate_json(metadata)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("metadata", *first["loc"]))
        raise HTTPException(422, f"{where}: {first['msg']}") from err


async def _take_in(new: NewModel, received: AdapterFile, wired: Services) -> Model:
    """Load it once to see that it fits the base, then keep it and register it."""
    try:
        ticket = wired.engine.check(received)
        await asyncio.wait_for(asyncio.wrap_future(ticket.future), wired.config.timeout)
        wired.folder.keep(received)
    except ModelError as err:
        raise HTTPException(422, f"lora: {err}") from err
    finally:
        wired.folder.drop(received)
    return await asyncio.to_thread(wired.catalog.publish, new)


@router.get("/{name}/file", response_class=FileResponse)
def download(
    name: AdapterName, wired: Wired, version: Annotated[Version | None, Query()] = None
) -> FileResponse:
    """The ``.safetensors`` of the live version, or of the one named."""
    if version is None:
        live = wired.catalog.live(name, TARGET)
        version = live.version if live else None
    model = wired.catalog.model(name, version) if version else None
    file = wired.folder.find(model.sha256).path if model else None
    if model is None or file is None or not file.is_file():
        raise HTTPException(404, f"no such version of {name} on this server")
    return FileResponse(
        file,
        media_type="application/octet-stream",
        filename=f"{name}-{model.version}.safetensors",
        headers={"x-sha256": model.sha256},
    )


@router.post("/{name}/promote")
def promote(name: AdapterName, body: PromoteRequest, wired: Wired) -> Deployment:
    """Make a published version the live one; it was the live one: nothing changes."""
    model = wired.catalog.model(name, body.version)
    if model is None or model.state == "retired":
        raise HTTPException(404, f"no version {body.version} of {name}; publish it first")
    if not wired.folder.find(model.sha256).path.is_file():
        raise HTTPException(409, f"{name} {body.version} is not on this server; publish it again")
    return wired.catalog.promote(name, body.version, TARGET)


@router.post("/{name}/rollback")
def rollback(name: AdapterName, wired: Wired) -> Deployment:
    """Return to the version before the live one."""
    if wired.catalog.live(name, TARGET) is None:
        raise HTTPException(404, f"no adapter {name} is live")
    return wired.catalog.rollback(name, TARGET)


@router.delete("/{name}", status_code=204)
def retire(
    name: AdapterName, wired: Wired, version: Annotated[Version | None, Query()] = None
) -> None:
    """Withdraw the live version, or the one named."""
    if not wired.catalog.retire(name, TARGET, version):
        raise HTTPException(404, f"no such version of {name}")
