# The image of all services in docker-compose.yml except the database, redis and the proxy. Versions
# and hashes are in requirements/image.lock, which does not contain the embedded PostgreSQL.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/image.lock requirements/
RUN python3 -m venv /opt/magnetis \
 && /opt/magnetis/bin/pip install --quiet --require-hashes --no-deps --requirement requirements/image.lock
COPY pyproject.toml README.md LICENSE ./
COPY magnetis_dagster magnetis_dagster
# pip is not needed any more; it is 10 MB of attack surface
RUN /opt/magnetis/bin/pip install --quiet --no-deps --no-build-isolation . \
 && /opt/magnetis/bin/pip uninstall --quiet --yes hatchling editables pip setuptools \
 && find /opt/magnetis -name tests -type d -path '*site-packages/*' -prune -exec rm -rf {} +
# Dagster's Helm chart always runs this command: in this image, it is the webserver with the guard
RUN printf '#!/bin/sh\nexec /opt/magnetis/bin/python3 -m magnetis_dagster.dagster_support.webserver "$@"\n' \
    > /opt/magnetis/bin/dagster-webserver
COPY dagster.yaml deploy/workspace.yaml /opt/dagster/
RUN mkdir /opt/dagster/storage

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 magnetis \
 && useradd --system --uid 10001 --gid 10001 --home-dir /opt/dagster --no-create-home --shell /usr/sbin/nologin magnetis
COPY --from=build /opt/magnetis /opt/magnetis
COPY --from=build --chown=10001:10001 /opt/dagster /opt/dagster
COPY deploy/entrypoint.sh /opt/magnetis/bin/entrypoint
ENV PATH=/opt/magnetis/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DAGSTER_HOME=/opt/dagster DAGSTER_DISABLE_TELEMETRY=1 MAGNETIS_HOME=/tmp/magnetis
WORKDIR /opt/dagster
USER 10001:10001
ENTRYPOINT ["entrypoint"]
CMD ["magnetis", "--help"]
