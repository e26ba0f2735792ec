"""A study's experiment and parent run in MLflow: found, or made once, whoever else makes them at the same moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from dashboards import tracking
from dashboards.tracking import RecordArtifact, RecordTag
from orchestrator.notes import experiment_note, study_note
from orchestrator.redact import public_study
from search_spaces.exceptions import UserError
from search_spaces.identity import digest
from search_spaces.ingested import IngestedStudy
from search_spaces.names import SCHEMA_VERSION, Role, Tag
from search_spaces.study import Study
from search_spaces.uris import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


def ensure_experiment(client: MlflowClient, uri: str, study: Study | IngestedStudy) -> str:
    """Id of the study's experiment.

    Args:
        client: Connected.
        uri: As ``tracking.resolve_tracking_uri`` gives it.
        study: Its name is the experiment's.

    Raises:
        UserError: The experiment was deleted in MLflow.
        MlflowException: MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    name = study.name
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = {Tag.NOTE: experiment_note(study), "mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, tracking.artifact_root(uri, name), tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # another driver was faster
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"MLflow experiment {name!r} (id {experiment.experiment_id}) at {hide_password(uri)} was "
            f"deleted; restore it (mlflow experiments restore -x {experiment.experiment_id}) or rename the study"
        )
    return str(experiment.experiment_id)


def ensure_parent(client: MlflowClient, experiment_id: str, study: Study | IngestedStudy) -> str:
    """Run id of the earliest parent; after two drivers made one each, both take the same.

    Raises:
        UserError: The experiment holds results of others and this study does not, or the other way round.
        MlflowException: MLflow cannot be reached.
    """
    found = tracking.find_parents(client, experiment_id)
    origin = {RecordTag.ORIGIN: RecordTag.INGESTED} if isinstance(study, IngestedStudy) else {}
    if not found:
        tags = {Tag.SCHEMA: str(SCHEMA_VERSION), Tag.STUDY: study.name, Tag.ROLE: str(Role.STUDY), **origin}
        tags[Tag.NOTE] = study_note(study, {})
        client.create_run(experiment_id, tags=tags, run_name=f"study {study.name}")
        found = tracking.find_parents(client, experiment_id)
    if found[0].data.tags.get(RecordTag.ORIGIN) != origin.get(RecordTag.ORIGIN):
        kinds = ("results of others", "trials that were run here")
        there, wanted = kinds if not origin else kinds[::-1]
        raise UserError(f"the record of study {study.name!r} holds {there}, not {wanted}; give the study another name")
    return str(found[0].info.run_id)


def log_study(client: MlflowClient, parent_id: str, study: Study | IngestedStudy) -> None:
    """Keep the study file with the parent run, and each version of it."""
    written = public_study(study.model_dump(mode="json", by_alias=True, exclude_unset=True))
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
    client.log_text(parent_id, text, RecordArtifact.STUDY)
    client.log_text(parent_id, text, f"{RecordArtifact.STUDY_VERSIONS}/{digest(text)}.yaml")
