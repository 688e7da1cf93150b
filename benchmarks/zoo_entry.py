"""Adds a trained network to the zoo: weights and model card in src/transpike/zoo/weights.

    python benchmarks/zoo_entry.py network weights.pt --network cifar-resnet20-conv --dataset cifar10 \\
        --preparation cos --activation qcfs:levels=4 -o net.safetensors
    transpike run cos-cifar10 --only resnet20-qcfs --network resnet20-qcfs=net.safetensors -o runs/zoo
    python benchmarks/zoo_entry.py card net.safetensors --name cifar10-resnet20-qcfs-4 \\
        --record runs/zoo/result.json --row-network resnet20-qcfs --training training.json
    python benchmarks/zoo_entry.py spiking tuned.safetensors --name cifar10-resnet20-time-2 --ann net.safetensors \\
        --training training.json --record results/through-time/cifar10-resnet20-time-2.json

`network` makes a checkpoint of a plain state_dict; what `transpike train` or `transpike run` wrote is one. `card`
takes the accuracies from the record of a run that was given the network. `spiking` evaluates a network that was trained
through time, `plain` at T = 1, 2, 4 and 8, and the ANN that it came from, and writes record and card. training.json has
the fields of `tp.zoo.TrainingFacts`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

import transpike as tp
from transpike.activations import ACTIVATIONS, ActivationSettings
from transpike.conversion.config import read_value
from transpike.data import load_data
from transpike.experiments.model_cards import card_accuracies, network_of_weights
from transpike.experiments.record import read_record
from transpike.serialization.digest import digest
from transpike.serialization.environment import environment
from transpike.serialization.json_records import to_json, write_json

STEPS = (1, 2, 4, 8)


def activation(words: str) -> ActivationSettings | None:
    """``qcfs:levels=4`` to settings; empty is ReLU."""
    if not words:
        return None
    name, *settings = words.split(":")
    return ACTIVATIONS[name](**{key: read_value(text) for key, _, text in (each.partition("=") for each in settings)})


def make_network(given: argparse.Namespace) -> None:
    preparation = tp.data.Preparation(given.preparation)
    data = load_data(given.dataset, given.data, preparation=preparation)
    network = network_of_weights(given.weights, given.network, data, activation(given.activation))
    tp.save(network, given.output)


def make_card(given: argparse.Namespace) -> None:
    network = tp.load_ann(given.checkpoint)
    add(network, given, *card_accuracies(read_record(given.record), given.row_network, network))


def make_spiking_card(given: argparse.Namespace) -> None:
    snn, ann = tp.load(given.checkpoint), tp.load_ann(given.ann)
    own, its = tp.describe(given.checkpoint), tp.describe(given.ann)
    if (own.info, own.activation) != (its.info, its.activation):
        raise SystemExit(f"{given.checkpoint} was not converted from {given.ann}: {own.info}, {its.info}")
    inputs = own.info.inputs
    assert inputs is not None
    test = tp.data.loader(load_data(inputs.dataset, given.data, like=inputs).test, limit=given.images)
    report = tp.evaluate(snn, test, steps=max(STEPS), at=STEPS, progress=True)
    with torch.no_grad():
        right = sum(int((ann(images).argmax(1) == labels).sum()) for images, labels in test)
    record = {
        "checkpoint": given.checkpoint.name,
        "digest": digest(snn),
        "trained": str(snn.trained),
        "ann": digest(ann),
        "ann_top1": 100 * right / report.images,
        "report": to_json(report),
        "environment": to_json(environment()),
    }
    write_json(given.record, record)
    accuracy = tp.zoo.ScheduleAccuracy(
        str(snn.trained),
        report.schedule,
        {row.steps: row.top1 for row in report.rows},
        {row.steps: row.latency.pipeline_steps for row in report.rows},
    )
    add(snn, given, report.images, 100 * right / report.images, (accuracy,))


def add(
    network: nn.Module,
    given: argparse.Namespace,
    images: int,
    ann: float,
    schedules: tuple[tp.zoo.ScheduleAccuracy, ...],
) -> None:
    """Writes weights and card."""
    contents = tp.describe(given.checkpoint)
    info = contents.info
    assert info.source is not None
    assert info.inputs is not None
    card = tp.zoo.ModelCard(
        name=given.name,
        network=info.source.name,
        activation=contents.activation,
        dataset=info.inputs.dataset,
        mean=info.inputs.mean,
        std=info.inputs.std,
        training=tp.zoo.TrainingFacts(**json.loads(given.training.read_text(encoding="utf-8"))),
        test_images=images,
        ann_top1=ann,
        schedules=schedules,
        record=given.record_name or given.record.name,
        licence=given.licence,
        through_time=contents.through_time,
    )
    made = tp.zoo.add(network, card, given.folder)
    print(f"{made.name}: ANN {made.ann_top1:.2f} % of {images:,} images, SHA-256 {made.sha256}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    network = commands.add_parser("network", help="a checkpoint of a plain state_dict")
    network.add_argument("weights")
    network.add_argument("--network", required=True, help="a name of `transpike models`")
    network.add_argument("--dataset", required=True)
    network.add_argument("--data", type=Path, help="folder with the data sets (default: $TRANSPIKE_DATA)")
    network.add_argument("--preparation", default="standard", choices=[each.value for each in tp.data.Preparation])
    network.add_argument("--activation", default="", help="for example qcfs:levels=4 (default: ReLU)")
    network.add_argument("--output", "-o", type=Path, required=True)
    network.set_defaults(run=make_network)
    card = commands.add_parser("card", help="weights and card of an ANN for the zoo")
    card.add_argument("checkpoint", type=Path)
    card.add_argument("--record", type=Path, required=True, help="result.json of a run that was given the checkpoint")
    card.add_argument("--row-network", required=True, help="NAME of --network in that run")
    card.set_defaults(run=make_card)
    spiking = commands.add_parser("spiking", help="record, weights and card of a network trained through time")
    spiking.add_argument("checkpoint", type=Path)
    spiking.add_argument("--ann", type=Path, required=True, help="checkpoint of the ANN that it was converted from")
    spiking.add_argument("--record", type=Path, required=True, help="file to write what was measured into")
    spiking.add_argument("--data", type=Path, help="folder with the data sets (default: $TRANSPIKE_DATA)")
    spiking.add_argument("--images", type=int, help="test images (default: all)")
    spiking.set_defaults(run=make_spiking_card)
    for command in (card, spiking):
        command.add_argument("--name", required=True, help="for example cifar10-resnet20-qcfs-4")
        command.add_argument("--training", type=Path, required=True, help="JSON, the fields of tp.zoo.TrainingFacts")
        command.add_argument("--record-name", help="what the record is called in results/ (default: its file name)")
        command.add_argument("--licence", default="MIT")
        command.add_argument("--folder", type=Path, help="default: the library's own")
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
