"""Tests have a home of their own: nothing in a person's home or variables makes one pass or fail."""

import json
import os
import pwd
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bot.cli.options import state_folder
from tests.own_home import HOME, is_personal, leave_home
from trainers.client.client import find_key
from trainers.providers.providers import load_providers

# By its path, as a module of scripts it would have two names for mypy.
read_modules = runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "house.py"))["read_modules"]
READ = re.compile(r"os\.environ(?:\.get)?[\[(]\"(\w+)\"(?!\] = )")
# What says how to run, and nothing about a person: the terminal, numbers that a job's parent sets, and the number
# format by which a test run can stand for another processor.
NOT_PERSONAL = {
    "FINETUNE_DTYPE",
    "TERM",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "FINETUNE_SECONDS",
    "FINETUNE_REPO",
    "FINETUNE_EVAL_STEPS",
    "FINETUNE_QUANTIZATION",
}
WHERE = """
import json, os, pathlib
from huggingface_hub.constants import HF_HOME, HF_TOKEN_PATH
import matplotlib
names = [str(pathlib.Path.home()), HF_HOME, HF_TOKEN_PATH, matplotlib.get_configdir(), matplotlib.get_cachedir()]
print(json.dumps([*names, os.path.expanduser("~/.netrc")]))
"""


def test_the_home_is_not_the_persons() -> None:
    home = Path.home()
    assert home == Path(os.environ[HOME]) and home.name.startswith("finetune-home-")
    assert home != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert state_folder().is_relative_to(home)


def test_no_variable_of_the_person_is_left() -> None:
    assert [name for name in os.environ if is_personal(name)] == []
    keyed = [row.provider for row in load_providers() if row.provider.key_env]
    assert len(keyed) >= 8
    assert [provider.key_env for provider in keyed if find_key(os.environ, provider)] == []


@pytest.mark.usefixtures("real_processes")
def test_programs_that_a_test_starts_have_the_same_home() -> None:
    printed = subprocess.run([sys.executable, "-c", WHERE], capture_output=True, text=True, check=True).stdout
    outside = [name for name in json.loads(printed) if not name.startswith(os.environ[HOME])]
    assert outside == []


def test_whatever_a_person_has_set_is_dropped_and_a_child_keeps_its_parents_home(tmp_path: Path) -> None:
    environment = {
        "HOME": "/home/ada",
        "PATH": "/bin",
        "HF_TOKEN": "hf_x",
        "XDG_STATE_HOME": "/home/ada/state",
    }
    environment |= {
        "OPENAI_API_KEY": "sk-x",
        "NETRC": "/home/ada/.netrc",
        "FINETUNE_CONFIG": "/home/ada/f.toml",
    }
    home = leave_home(environment, tmp_path)
    assert home.parent == tmp_path
    assert environment == {"HOME": str(home), HOME: str(home), "PATH": "/bin"}
    assert leave_home(environment, tmp_path) == home


def test_every_variable_that_the_product_reads_is_dropped() -> None:
    names = {name for module in read_modules() for name in READ.findall(module.text)}
    for row in load_providers():
        names |= {name for name in (row.provider.key_env, row.provider.account_env) if name}
    assert len(names) >= 20
    assert sorted(name for name in names - NOT_PERSONAL if not is_personal(name)) == []
