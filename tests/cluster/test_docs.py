"""Every object that docs/cluster.md names is made by the manifests; tests/test_documents.py tries its commands."""

from __future__ import annotations

import re
import shlex

import pytest

from cluster.fill import template
from tests import documents
from tests.cluster.kube import MADE_BY_HAND, OPERATOR
from tests.conftest import ROOT
from tests.documents import parse

TEXT = (ROOT / "docs" / "cluster.md").read_text()


def commands() -> list[str]:
    return documents.commands(TEXT)


def ours() -> list[list[str]]:
    return documents.ours(TEXT)


def test_a_wrong_option_would_be_seen() -> None:
    assert len(ours()) == 6
    with pytest.raises(Exception, match="No such option"):
        parse("cluster.render", ["--study", "demo", "--workers", "1:1", "--name-space", "lab"])


def test_objects_that_are_named_exist() -> None:
    objects = [o for made in template().values() for o in made]
    kinds = {"deploy": "Deployment", "svc": "Service"}
    named = {match for line in commands() for match in re.findall(r"\b(deploy|svc)/([a-z]+)\b", line)}
    assert named == {("deploy", "toolbox"), ("deploy", "mlflow"), ("svc", "mlflow")}
    assert all(any((o["kind"], o["metadata"]["name"]) == (kinds[kind], name) for o in objects) for kind, name in named)
    for secret, keys in MADE_BY_HAND.items():
        for key in keys:
            assert any(f"generic {secret} --from-literal={key}=" in line for line in commands())


def test_links_and_folders_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"apply -k (cluster/\S+)", TEXT))


def test_jobs_may_be_sent_from_another_machine() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    [head] = [line for line in commands() if line.startswith("ray start --head")]
    given = scripts.start.make_context("start", shlex.split(head, comments=True)[2:]).params
    assert given["dashboard_host"] == "0.0.0.0", "Ray's own default takes jobs from the head alone"


def test_the_toolbox_is_given_what_travels_with_the_study() -> None:
    [asked] = [n for n, line in enumerate(commands()) if "deploy/toolbox" in line and "orchestrator.sweep" in line]
    assert re.search(r"-- env \w+=\S+ python -m orchestrator\.sweep status /data/my_study\.yaml", commands()[asked])
    assert any(re.search(r"tar -c my_study\.yaml \w+\.py \|.* -C /data$", line) for line in commands()[:asked])


def test_kind_has_the_image_and_the_operator_before_the_manifests() -> None:
    [loaded] = [n for n, line in enumerate(commands()) if "kind load" in line]
    image = commands()[loaded].rpartition(" ")[2]
    assert any(line.startswith("docker build") and f" -t {image} " in line for line in commands()[:loaded])
    [applied] = [n for n, line in enumerate(commands()) if "apply -k cluster/manifests/overlays/laptop-kind" in line]
    between = commands()[loaded + 1 : applied]
    assert any(line.startswith(f"helm install {OPERATOR} ") and "--version 1.7" in line for line in between)
