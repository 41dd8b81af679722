"""The same pictures answered by Ray's workers and by the built-in way, and whether a lost node loses an answer.

    python benchmarks/cluster.py FOLDER                 # built-in, Ray with one worker, Ray with two: images a second
    python benchmarks/cluster.py FOLDER --kill-node     # two nodes, one of which is killed half-way: the same answers?

FOLDER: pictures. Start-up stands apart: the clock starts when every worker has its model and has answered.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import turns

from melanoma.answer import answering
from melanoma.cluster import QUIET, spreading
from melanoma.inference.inputs import Item, find_pictures
from melanoma.inference.predict import Predictor
from melanoma.inference.words import Answer
from melanoma.machine import limit_cores
from melanoma.parts import Answering

WARM = 128  # pictures before the clock starts: several tasks for each worker
running = ExitStack()  # Ray, as long as this process


def built_in(options: argparse.Namespace) -> turns.Work:
    """Answer by `Predictor.stream`, as `melanoma predict` does."""
    items, predictor = find_pictures([options.folder]), Predictor(options.model)
    return timed(items, lambda some: predictor.stream((one.name, one.read, one.details) for one in some))


def on_ray(options: argparse.Namespace, workers: int) -> turns.Work:
    """Answer by so many workers on this machine, as `melanoma predict --on ray` does."""
    items, predictor = find_pictures([options.folder]), Predictor(options.model)
    limit_cores(workers)
    spread = running.enter_context(spreading("ray", None))
    assert spread is not None
    return timed(items, answering(predictor, spread))


def timed(items: Sequence[Item], answer: Answering) -> turns.Work:
    """Return the work: twice a few pictures, then all of them whenever it is called."""
    warm = iter([items[:WARM], items[:WARM]])
    return lambda: sum(1 for _ in answer(next(warm, items)))


def kill_node(options: argparse.Namespace) -> None:
    """Answer on two nodes with a core each, kill one half-way, and hold the answers against one machine's."""
    os.environ |= QUIET  # read when Ray is imported
    import ray
    from ray.cluster_utils import Cluster

    items, predictor = find_pictures([options.folder]), Predictor(options.model)
    started = time.perf_counter()
    wanted = list(predictor.stream((one.name, one.read, one.details) for one in items))
    print(f"one machine: {len(wanted):,} answers in {time.perf_counter() - started:.1f} s", flush=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        with spreading("ray", cluster.address) as spread:
            assert spread is not None
            started, found = time.perf_counter(), list[Answer]()
            for one in answering(predictor, spread)(items):
                found.append(one)
                if len(found) == len(items) // 2:
                    print(f"a node is killed after {len(found):,} answers", flush=True)
                    cluster.remove_node(lost, allow_graceful=False)
            print(f"two nodes, then one: {len(found):,} answers in {time.perf_counter() - started:.1f} s")
    finally:
        ray.shutdown()
        cluster.shutdown()
    if [one.name for one in found] != [item.name for item in items]:
        sys.exit("an image was lost, or answered twice")
    differing = [one.name for one, other in zip(found, wanted, strict=True) if one != other]
    print(f"each image once; {len(differing):,} answers differ from those of one machine")
    sys.exit(1 if differing else 0)


STACKS: dict[str, turns.Stack] = {
    "built-in": built_in,
    "Ray, one worker": partial(on_ray, workers=1),
    "Ray, two workers": partial(on_ray, workers=2),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark is told."""
    parser.add_argument("folder", help="a folder of pictures")
    parser.add_argument("--model", help="a bundle or a run; by default the one in the box")
    parser.add_argument("--kill-node", action="store_true", help="kill one of two nodes half-way, and compare")


if __name__ == "__main__":
    if "--kill-node" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__)
        add_arguments(parser)
        kill_node(parser.parse_args())
    turns.main(STACKS, unit="images", ours=["Ray, two workers"], description=str(__doc__), arguments=add_arguments)
