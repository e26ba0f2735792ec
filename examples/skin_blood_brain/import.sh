#!/usr/bin/env bash
# Makes the three tasks of this example from folders that hold ham10000/, chula_rbc12/ and lgg_mri/, each with a
# labels.csv and its images. Usage: bash import.sh FOLDER
set -euo pipefail
data=${1:?usage: bash import.sh FOLDER}
python=${PYTHON:-python}

# patient_id of HAM10000 is the lesion; the source does not tell which lesions belong to one person.
"$python" -m orchestrator.tasks import csv "$data/ham10000/labels.csv" --name ham10000 \
  --grouping lesion --group-columns localization,dx_type --split 0.6,0.1,0.3 --overwrite

# No patients or smears are given; neighbouring image numbers may come from one smear, so blocks of ten stay together.
"$python" -m orchestrator.tasks import csv "$data/chula_rbc12/labels.csv" --name chula_rbc12 \
  --label-column label --label-separator ';' --patient-pattern 'images/(?P<patient>\d\d)\d\.jpg' --grouping block \
  --split 0.6,0.1,0.3 --overwrite

"$python" -m orchestrator.tasks import csv "$data/lgg_mri/labels.csv" --name lgg_mri \
  --label-name tumour --split 0.6,0.15,0.25 --overwrite

for task in ham10000 chula_rbc12 lgg_mri; do "$python" -m orchestrator.tasks check "$task"; done
