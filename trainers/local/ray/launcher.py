"""`python -m trainers.local.ray.launcher`: the entry point of a Ray job over several nodes. It doesn't train itself.

It requests all nodes from Ray at once (as a placement group, so that no job holds some nodes while it waits for
others), and starts node.py on each through an actor. It ends when the first node's attempt ends or another node fails;
Ray then ends the actors. The Python that runs this needs Ray. The actors run in Ray's own Python, which may lack the
trainer's packages, and start the nodes' Python.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from trainers.local.launch import PAUSED, Meeting, die_with_parent, shell_exit_code

NODE = "trainers.local.ray.node"
UNABLE = 3
LOST = 4
WAIT_S = 3600.0
OTHERS_END_S = 10.0  # time for the others to notice a failure, and for the first node to upload its files
SIOCGIFADDR = 0x8915  # netdevice(7)
NAME_BYTES = 15


@dataclass(frozen=True)
class NodesRequest:
    """`gpus` is the number per node, `python` the nodes' interpreter, and `name` the submission, for Ray's lists."""

    nodes: int
    gpus: int
    python: str
    name: str

    @property
    def arguments(self) -> tuple[str, ...]:
        numbers = ("--nodes", str(self.nodes), "--gpus", str(self.gpus))
        return (*numbers, "--python", self.python, "--name", self.name)

    @property
    def bundle(self) -> dict[str, int]:
        """The resources that Ray reserves on each node."""
        resources = {"CPU": 1}
        if self.gpus:
            resources["GPU"] = self.gpus
        return resources


class Member:
    """One node's actor."""

    def address(self) -> str:
        """Returns a free address, host:port, on which the first node can listen."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def train(self, python: str, meeting: Meeting) -> int:
        """Runs this node's process, which ends with this actor, and returns its exit code."""
        import ray

        environment = dict(os.environ)
        # gloo would take the interface of the host's name, which may be the loopback.
        network = find_interface(ray.util.get_node_ip_address())
        if network:
            environment.setdefault("GLOO_SOCKET_IFNAME", network)
        command = [python, "-m", NODE, *meeting.arguments]
        return subprocess.Popen(command, env=environment, preexec_fn=die_with_parent).wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one job on several nodes of the cluster.")
    for name in ("nodes", "gpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("python", "name"):
        parser.add_argument(f"--{name}", required=True)
    request = NodesRequest(**vars(parser.parse_args()))
    if find_spec("ray") is None:
        text = f"A job over {request.nodes} nodes needs Ray in the nodes' Python, and {sys.executable} lacks it. "
        print(f"{text}Install the cluster's version there: pip install ray==…", file=sys.stderr)
        return UNABLE
    return run_on_nodes(request)


def run_on_nodes(request: NodesRequest) -> int:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    group = placement_group([request.bundle] * request.nodes, strategy="STRICT_SPREAD", name=request.name)
    print(f"Waiting for {request.nodes} nodes with {request.bundle} free on each.", flush=True)
    while not group.wait(WAIT_S):
        continue
    actor = ray.remote(Member)
    members = [
        actor.options(
            num_cpus=1,
            num_gpus=request.gpus,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node),
        ).remote()
        for node in range(request.nodes)
    ]
    address = ray.get(members[0].address.remote())
    print(f"All {request.nodes} nodes are ready; they connect at {address}.", flush=True)
    running = {
        member.train.remote(request.python, Meeting(request.nodes, node, address)): node
        for node, member in enumerate(members)
    }
    return wait_for_end(running)


def wait_for_end(running: Mapping[Any, int]) -> int:
    """Returns the exit code of the whole job. `running` maps Ray's references to results to the nodes' numbers."""
    import ray

    left = dict(running)
    while True:
        (result,), _ = ray.wait(list(left), num_returns=1)
        node = left.pop(result)
        code = _exit_code(result, node)
        if node == 0 and code in (0, PAUSED):
            return code
        if code:
            print(f"Node {node} ended with exit code {code}, so all end.", file=sys.stderr, flush=True)
            codes = [code]
            if left:
                others, _ = ray.wait(list(left), num_returns=len(left), timeout=OTHERS_END_S)
                codes += [_exit_code(other, left[other]) for other in others]
            # Nodes that lost the others end with 1, and a killed one with a higher code: the highest is the cause.
            return max(codes)


def _exit_code(result: Any, node: int) -> int:
    import ray

    try:
        return shell_exit_code(int(ray.get(result)))  # negative if node.py itself was killed
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        print(f"Node {node} was lost: {reason}", file=sys.stderr, flush=True)
        return LOST


def find_interface(address: str) -> str | None:
    """Returns the network interface whose first IPv4 address is `address`, or None."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:NAME_BYTES])
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
            except OSError:  # the interface has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


if __name__ == "__main__":
    sys.exit(main())
