"""Rows of Together's second API (projects, endpoints, deployments, models that it serves) with every field that its own
package requires. Stores nothing; `tests/clients/test_vendor_types.py` holds them against that package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PROJECT = "p1"
PROJECT_PATH = f"projects/{PROJECT}"
REPLICAS = {"minReplicas": 1, "maxReplicas": 1}


def endpoint(number: str, name: str, created: str, deployments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"acme/{name}",
        "projectId": PROJECT,
        "endpointType": "ENDPOINT_TYPE_DEDICATED",
        "visibility": "VISIBILITY_PRIVATE",
        "createdAt": created,
        "updatedAt": created,
        "etag": "1",
        "deployments": list(deployments),
        "trafficSplit": [],
    }


def deployment_summary(number: str, name: str, model: str, state: str, created: str) -> dict[str, Any]:
    """Returns a deployment as its endpoint shows it."""
    return {
        "id": number,
        "name": name,
        "model": _revision(model),
        "modelId": _last(model),
        "state": state,
        "createdAt": created,
        "autoscaling": REPLICAS,
        "estimatedEffectiveTrafficShare": 0.0,
        "trafficMode": "TRAFFIC_MODE_LIVE",
    }


def deployment(
    number: str, name: str, endpoint_id: str, sent: dict[str, Any], state: str, created: str
) -> dict[str, Any]:
    """Returns a deployment as the answer to its create shows it, where the state is one level down."""
    model = str(sent["model"])
    config = str(sent["config"])
    return {
        "id": number,
        "name": name,
        "endpointId": endpoint_id,
        "projectId": PROJECT,
        "model": _revision(model),
        "modelId": _last(model),
        "modelRevisionId": "1",
        "config": config,
        "configId": _last(config),
        "hardware": "1x H100",
        "autoscaling": sent["autoscaling"],
        "inactiveTimeout": sent["inactiveTimeout"],
        "status": {"state": state, "message": ""},
        "trafficMode": "TRAFFIC_MODE_LIVE",
        "createdAt": created,
        "updatedAt": created,
        "etag": "1",
    }


def supported_model(name: str, created: str, profiles: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"sm-{name}",
        "name": name,
        "displayName": name,
        "displayType": "chat",
        "publisher": "acme",
        "baseModel": "",
        "baseModelId": "",
        "capabilities": ["CAPABILITY_CHAT"],
        "inputModalities": ["MODALITY_TEXT"],
        "outputModalities": ["MODALITY_TEXT"],
        "products": ["PRODUCT_DEDICATED"],
        "status": "SUPPORTED_MODEL_STATUS_SUPPORTED",
        "createdAt": created,
        "updatedAt": created,
        "deploymentProfiles": list(profiles),
    }


def profile(gpus: int) -> dict[str, Any]:
    """Returns one of the ways in which a model is served. Its name may be another than the base's."""
    config = f"c{gpus}"
    return {
        "profileId": config,
        "config": f"projects/x/configs/{config}",
        "certifiedConfigRevisionId": config,
        "certifiedModelRevisionId": "",
        "gpuType": "H100",
        "gpuCount": gpus,
        "model": "",
        "modelName": "",
        "parallelism": f"TP{gpus}",
        "performanceBenchmarks": {},
        "quantization": "",
        "adapterMode": "ADAPTER_MODE_FIXED",
    }


def instance_type(gpus: int, cents: int) -> dict[str, Any]:
    return {
        "id": f"{gpus}x-h100",
        "name": f"{gpus} x H100",
        "description": "",
        "gpuType": "H100",
        "gpuCount": gpus,
        "gpuMemoryGib": 80,
        "priceCentsPerHour": cents,
        "regions": [{"name": "us-central-1"}],
    }


def registered_model(number: str) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"acme/{number}",
        "projectId": PROJECT,
        "organizationId": "org-1",
        "visibility": "VISIBILITY_PRIVATE",
        "weights": {},
    }


def _revision(model: str) -> str:
    return f"{model}/revisions/1"


def _last(name: str) -> str:
    _, _, last = name.rpartition("/")
    return last
