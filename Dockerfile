# The image of every service of docker-compose.yml but the database and the proxy: code location, webserver, daemon, migration,
# sandbox. Versions and hashes come from requirements/image.lock, which has no embedded PostgreSQL.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/image.lock requirements/
RUN python3 -m venv /opt/magnetis \
 && /opt/magnetis/bin/pip install --quiet --require-hashes --no-deps --requirement requirements/image.lock
COPY pyproject.toml README.md LICENSE ./
COPY magnetis_dagster magnetis_dagster
# pip is of no use behind this line, and 10 MB of attack surface
RUN /opt/magnetis/bin/pip install --quiet --no-deps --no-build-isolation . \
 && /opt/magnetis/bin/pip uninstall --quiet --yes hatchling editables pip setuptools \
 && find /opt/magnetis -name tests -type d -path '*site-packages/*' -prune -exec rm -rf {} +
# Dagster's Helm chart names this command and can name no other: in this image it is the webserver behind the guard
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
