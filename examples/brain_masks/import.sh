#!/usr/bin/env bash
# Makes the task of this example from a folder that holds lgg_mri/ with its labels.csv, images and masks.
# Usage: bash import.sh FOLDER
set -euo pipefail
data=${1:?usage: bash import.sh FOLDER}
python=${PYTHON:-python}

"$python" -m orchestrator.tasks import csv "$data/lgg_mri/labels.csv" --name lgg_masks --kind segmentation \
  --mask-column mask --classes tumour --split 0.4,0.15,0.45 --overwrite
"$python" -m orchestrator.tasks check lgg_masks
