# `api`, and the commands that need no torch: `migrate`, `secrets`, `dlq`, `prune`, `job`.
#
#     docker build --file deploy/api.Dockerfile --tag dreamforge-api:0.1.0 .
#
# The packages are those of the group `api` in pyproject.toml, in the versions of constraints.txt. They
# are a layer of their own; a change of our sources makes the last layer anew, which is our wheel alone.

FROM python:3.13.14-slim-trixie AS packages
ARG PIP_VERSION=26.3
RUN python -m venv --without-pip /opt/dreamforge \
    && python -m pip --python /opt/dreamforge/bin/python install --no-cache-dir pip==${PIP_VERSION}
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/dreamforge/bin/python -m pip install --constraint constraints.txt --group api \
    && /opt/dreamforge/bin/python -m pip uninstall --yes pip

FROM python:3.13.14-slim-trixie AS wheel
WORKDIR /build
COPY pyproject.toml LICENSE README.md ./
COPY models models
COPY migrations migrations
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.13.14-slim-trixie
LABEL org.opencontainers.image.title="Dream Forge api" \
      org.opencontainers.image.description="HTTP API of a self-hosted render fabric" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# Numbers, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dreamforge
COPY --from=packages /opt/dreamforge /opt/dreamforge
# Without dependencies: those of `pip install dreamforge` are everything, torch and servers included. The pip
# is the base's.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    python -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-deps /wheel/*.whl
ENV PATH=/opt/dreamforge/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
# Empty and not ours: a `.env` is read from the current folder, and there is to be none.
WORKDIR /srv
EXPOSE 8001
# The command becomes the service (`execve`), so signals reach it and nothing stands in between.
ENTRYPOINT ["dreamforge"]
CMD ["api"]
