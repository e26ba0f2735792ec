"""A study that uses every part of the study file, and cards for it."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from search_spaces.identity import Cards, ScaleCard, TaskCard
from search_spaces.study import Study

TEXT = """
schema: 1
name: skin_and_brain
axes:
  model_scale: [resnet20, squeezenet]
  pretraining_source: [random, natural, natural_meanvar, chest_pre]
  data_fraction: [0.05, 0.2, 1.0]
  task: [ham10000, lgg_tumour]
seeds: 5
exclude:
  - {task: lgg_tumour, data_fraction: 0.05, reason: under 3 patients}
scales:
  resnet20: {factory: "mynets:resnet20", input_size: 32, ladder: cifar}
  squeezenet: {factory: "torchvision:squeezenet1_0", input_size: 64, ladder: squeeze}
sources:
  natural:
    by_scale:
      resnet20: {file: cifar.th, state_key: state_dict, strip_prefix: "module.", drop: [linear],
                 normalise: cifar10, contents: [cifar10]}
      squeezenet: {file: squeeze.safetensors, drop: [classifier.1], normalise: imagenet, contents: [imagenet1k]}
  natural_meanvar: {transform: mean_var, of: natural, norm: reset}
  chest_pre: {trial: {task: chest, data_fraction: 1.0, pretraining_source: random, seed: same}}
tasks:
  chest: {manifest: chestphantom, primary: auc_macro}
  ham10000:
    manifest: ham10000
    primary: auc_macro
    evaluate: {test: {}, head_neck: {where: {localization: [face, neck, scalp, ear]}, held_out: true}}
  lgg_tumour:
    manifest: lgg_mri
    where: {site: [DU]}
    primary: auc
    evaluate: {test: {}, site_ht: {manifest: lgg_mri, where: {site: [HT]}, label_map: {tumour: tumour}}}
protocol: {base: finetune, budget: {steps: 300}, global_batch_size: 32, ghost_batch_size: 32, storage_size: 128,
           precision: fp32, imbalance: none, select: best_val}
overrides: [{when: {model_scale: squeezenet}, set: {lr: 0.01}}]
statistics: {baseline: random, primary_fractions: [0.2, 1.0], delta: 0.01, family: study, groups: [sex, age_band]}
execution: {gang: {ranks: 2, cpus_per_rank: 1}, keep_weights: best}
"""


def raw_study(**changes: Any) -> dict[str, Any]:
    """The example as a mapping, with top-level keys replaced."""
    return {**yaml.safe_load(TEXT), **copy.deepcopy(changes)}


def study(**changes: Any) -> Study:
    """The example as a study, with top-level keys replaced."""
    return Study.parse(raw_study(**changes), "example")


def cards() -> Cards:
    """Made-up facts for the example."""
    return Cards(
        scales={
            "resnet20": ScaleCard(input_size=None, factory_sha256="f" * 64),
            "squeezenet": ScaleCard(input_size=224),
            "resnet18": ScaleCard(
                input_size=224,
                revision={"default": "timm/resnet18.a1_in1k", "a1_in1k": "timm/resnet18.a1_in1k"},
                normalise={"default": ((0.5,) * 3, (0.5,) * 3), "a1_in1k": ((0.5,) * 3, (0.5,) * 3)},
            ),
        },
        files={"cifar.th": "1" * 64, "squeeze.safetensors": "2" * 64},
        tasks={
            "chestphantom": TaskCard(manifest_hash="a", kind="multilabel", labels=("effusion", "nodule")),
            "ham10000": TaskCard(manifest_hash="b", kind="multiclass", labels=("bcc", "mel", "nv")),
            "lgg_mri": TaskCard(manifest_hash="c", kind="binary", labels=("tumour",)),
        },
    )
