# syntax=docker/dockerfile:1
#
# Airflow with onnx-fleet, for every service of docker-compose.yaml and every pod of deploy/kubernetes. The slim image holds
# Airflow alone, so that what is installed is what requirements.txt pins, and no provider of the full image is left beside
# versions it cannot use.
FROM apache/airflow:slim-3.3.2-python3.11

# requirements-gpu.txt makes the image of GPU workers.
ARG REQUIREMENTS=requirements.txt
# Where torch comes from: this index has it without CUDA. For GPU workers leave it empty: PyPI's torch brings CUDA.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

# requirements-kubernetes.txt brings the KubernetesExecutor, beside the others.
ARG EXECUTOR_REQUIREMENTS=

COPY requirements.txt requirements-gpu.txt requirements-kubernetes.txt /tmp/onnx-fleet/
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--extra-index-url ${TORCH_INDEX_URL}} \
      -r /tmp/onnx-fleet/${REQUIREMENTS} ${EXECUTOR_REQUIREMENTS:+-r /tmp/onnx-fleet/${EXECUTOR_REQUIREMENTS}}

COPY --chown=airflow:root pyproject.toml README.md LICENSE /tmp/onnx-fleet/
COPY --chown=airflow:root include/onnx_fleet /tmp/onnx-fleet/include/onnx_fleet
RUN pip install --no-cache-dir --no-deps --no-build-isolation /tmp/onnx-fleet

COPY dags /opt/airflow/dags
COPY plugins /opt/airflow/plugins
# The catalogue, the fleet's own recipes and its corpora; docker-compose.yaml mounts the folder over it.
COPY include /opt/airflow/include

# Python finds the recipes by a folder of links: include/ itself has the library's source too, which is installed already.
ENV PYTHONPATH=/opt/airflow/fleet
RUN mkdir -p /opt/airflow/fleet && ln -s ../include/recipes ../include/sinks ../include/corpora /opt/airflow/fleet/
# A new named volume takes the owner of the folder that it is mounted on.
RUN mkdir -p /opt/airflow/work /opt/airflow/lock /opt/airflow/hub-cache
