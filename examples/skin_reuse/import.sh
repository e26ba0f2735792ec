#!/usr/bin/env bash
# Makes the task of this example from a folder that holds ham10000/ with labels.csv and images.
# Usage: bash import.sh FOLDER
set -euo pipefail
data=${1:?usage: bash import.sh FOLDER}
python=${PYTHON:-python}

# patient_id of HAM10000 is the lesion; the source does not tell which lesions belong to one person.
"$python" -m orchestrator.tasks import csv "$data/ham10000/labels.csv" --name ham10000 \
  --grouping lesion --group-columns localization,dx_type --split 0.6,0.1,0.3 --overwrite
"$python" -m orchestrator.tasks check ham10000
