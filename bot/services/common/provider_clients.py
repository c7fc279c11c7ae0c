"""Opens the clients of the providers in the settings: those that train and answer, those that run models by the hour,
and those that list what they bill."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bot.settings import Settings
from trainers.client.client import Trainer, find_key
from trainers.client.dialects import open_trainer
from trainers.client.vendor_bills import Billing, find_billing_key
from trainers.deployments import open_deployments
from trainers.deployments.port import Deployments


def open_trainers(settings: Settings, own_keys: Mapping[str, str]) -> Mapping[str, Trainer]:
    """Opens a client for every provider whose key is set, or that needs none. `own_keys` are the keys of trainers that
    this process has started, by their address."""
    trainers = {}
    for row in settings.providers:
        address = row.provider.base_url
        key = own_keys.get(address) or find_key(os.environ, row.provider)
        if key and address:
            trainers[row.name] = open_trainer(row.provider, key)
    return trainers


def open_all_deployments(settings: Settings) -> Mapping[str, Deployments]:
    """Opens a client for every provider that runs models by the hour and whose key is set."""
    opened = {}
    for row in settings.providers:
        key = find_key(os.environ, row.provider)
        deployments = open_deployments(row.provider, key) if key else None
        if deployments:
            opened[row.name] = deployments
    return opened


def open_all_billing(settings: Settings) -> Mapping[str, Billing]:
    """Opens a client for every provider that lists what it bills and whose administrator's key is set."""
    opened = {}
    for row in settings.providers:
        key = find_billing_key(os.environ, row.provider)
        if key:
            opened[row.name] = Billing(row.provider, key)
    return opened
