"""Statistics of labels and logits: pure functions of arrays, no files, no plots, no tracking.

Metrics of a run: ``compute_metrics``. Uncertainty: ``patient_influence`` of each run, then ``combined_interval`` of a
cell, ``contrast`` of two, ``linear_contrast`` of any; ``adjust_p_values`` over the family; ``classify`` for the words.
"""

from dashboards.statistics.bootstrap import BootstrapInterval as BootstrapInterval
from dashboards.statistics.bootstrap import bootstrap_draws as bootstrap_draws
from dashboards.statistics.bootstrap import patient_weights as patient_weights
from dashboards.statistics.bootstrap import percentile_interval as percentile_interval
from dashboards.statistics.class_sets import LabelCounts as LabelCounts
from dashboards.statistics.class_sets import count_labels as count_labels
from dashboards.statistics.class_sets import frozen_class_set as frozen_class_set
from dashboards.statistics.contrasts import MIN_SEEDS as MIN_SEEDS
from dashboards.statistics.contrasts import MIN_TEST_PATIENTS as MIN_TEST_PATIENTS
from dashboards.statistics.contrasts import Estimate as Estimate
from dashboards.statistics.contrasts import Runs as Runs
from dashboards.statistics.contrasts import adjust_p_values as adjust_p_values
from dashboards.statistics.contrasts import combined_interval as combined_interval
from dashboards.statistics.contrasts import contrast as contrast
from dashboards.statistics.contrasts import equivalence_p as equivalence_p
from dashboards.statistics.contrasts import linear_contrast as linear_contrast
from dashboards.statistics.contrasts import slope_coefficients as slope_coefficients
from dashboards.statistics.discrimination import auc as auc
from dashboards.statistics.discrimination import auc_macro as auc_macro
from dashboards.statistics.discrimination import quadratic_kappa as quadratic_kappa
from dashboards.statistics.metrics import Metric as Metric
from dashboards.statistics.metrics import compute_metrics as compute_metrics
from dashboards.statistics.metrics import higher_is_better as higher_is_better
from dashboards.statistics.metrics import metric_names as metric_names
from dashboards.statistics.predictions import Predictions as Predictions
from dashboards.statistics.predictions import check_predictions as check_predictions
from dashboards.statistics.predictions import ensemble_logits as ensemble_logits
from dashboards.statistics.seeds import SeedDesign as SeedDesign
from dashboards.statistics.seeds import SeedKey as SeedKey
from dashboards.statistics.seeds import SeedSpread as SeedSpread
from dashboards.statistics.seeds import seed_spread as seed_spread
from dashboards.statistics.uncertainty import Influence as Influence
from dashboards.statistics.uncertainty import PatientIndex as PatientIndex
from dashboards.statistics.uncertainty import index_patients as index_patients
from dashboards.statistics.uncertainty import patient_influence as patient_influence
from dashboards.statistics.uncertainty import patient_variance as patient_variance
from dashboards.statistics.verdicts import Missing as Missing
from dashboards.statistics.verdicts import Verdict as Verdict
from dashboards.statistics.verdicts import classify as classify
from dashboards.statistics.verdicts import what_is_missing as what_is_missing
