"""Compares PodMonitors and PrometheusRules with models that are generated from the Prometheus operator's CRDs.

Reads YAML documents from standard input. Each is read into its model and written again: what the CRD does not have is
missing then.
"""

import importlib
import sys

import yaml

models = importlib.import_module("cloudcoil.models.prometheus_operator.v1")
failed = False
for document in yaml.safe_load_all(sys.stdin):
    model = getattr(models, document["kind"])
    try:
        again = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        print(f"{document['kind']}: {error}")
        failed = True
        continue
    if again != document:
        print(f"{document['kind']}: the CRD has not all of it; it has: {again}")
        failed = True
sys.exit(failed)
