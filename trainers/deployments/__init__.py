"""Tuned models at vendors: on machines that run until somebody stops them, or as adapters, served by the token."""

from __future__ import annotations

from collections.abc import Mapping

from trainers.deployments.coreweave import CoreweaveDeployments
from trainers.deployments.crusoe import CrusoeDeployments
from trainers.deployments.fireworks import FireworksDeployments
from trainers.deployments.fireworks_serverless import FireworksServerless
from trainers.deployments.port import Deployments
from trainers.deployments.tinker import TinkerDeployments
from trainers.deployments.together import TogetherDeployments
from trainers.types import DeployApi, Provider

VENDORS: Mapping[DeployApi, type[Deployments]] = {
    "coreweave": CoreweaveDeployments,
    "crusoe": CrusoeDeployments,
    "fireworks": FireworksDeployments,
    "fireworks_serverless": FireworksServerless,
    "tinker": TinkerDeployments,
    "together": TogetherDeployments,
}


def open_deployments(provider: Provider, key: str) -> Deployments | None:
    """Returns the vendor's deployments, or None if models can't be deployed at this provider."""
    api = provider.deploy_api
    if api is None or not (provider.can("deploy") or provider.can("adapters")):
        return None
    return VENDORS[api](provider, key)
