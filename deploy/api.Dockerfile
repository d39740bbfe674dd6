# `api`, and the commands that need no torch: `migrate`, `secrets`, `dlq`, `prune`, `job`.
#
#     docker build --file deploy/api.Dockerfile --tag dreamforge-api:0.2.0 .
#
# The packages are those of locks/api.txt, by their hashes. They are a layer of their own; a change of our
# sources makes the last layer anew, which is our wheel alone. With --build-arg SOURCE_DATE_EPOCH=… the
# same sources make the same image (docs/release.md).

FROM python:3.13.14-slim-trixie AS packages
ARG SOURCE_DATE_EPOCH
RUN python -m venv --without-pip /opt/dreamforge
WORKDIR /build
COPY locks/api.txt ./
# Compiled by a call of its own: what pip compiles has the time of the build in it, and is compared with
# its source at each start.
RUN python -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-compile \
        --require-hashes --no-deps --requirement api.txt \
    && /opt/dreamforge/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/dreamforge/lib

FROM python:3.13.14-slim-trixie AS wheel
ARG SOURCE_DATE_EPOCH
WORKDIR /build
COPY locks/build.txt locks/
RUN python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build/bin/python install --no-cache-dir \
        --require-hashes --no-deps --requirement locks/build.txt
COPY pyproject.toml LICENSE README.md ./
COPY docs/licences.md docs/
COPY models models
COPY migrations migrations
COPY src src
RUN python -m pip --python /opt/build/bin/python wheel --no-cache-dir --no-build-isolation --no-deps \
        --wheel-dir /wheel .

FROM python:3.13.14-slim-trixie
ARG SOURCE_DATE_EPOCH
LABEL org.opencontainers.image.title="Dream Forge api" \
      org.opencontainers.image.description="HTTP API of a self-hosted render fabric" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
# Numbers, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dreamforge
COPY --from=packages /opt/dreamforge /opt/dreamforge
# Without dependencies: those of `pip install dreamforge` are everything, torch and servers included. The pip
# is the base's.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    PYTHONDONTWRITEBYTECODE=1 python -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-compile \
        --no-deps /wheel/*.whl \
    && /opt/dreamforge/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/dreamforge/lib/python3.*/site-packages/api \
        /opt/dreamforge/lib/python3.*/site-packages/cli \
        /opt/dreamforge/lib/python3.*/site-packages/dreamforge_client \
        /opt/dreamforge/lib/python3.*/site-packages/migrations \
        /opt/dreamforge/lib/python3.*/site-packages/runner \
        /opt/dreamforge/lib/python3.*/site-packages/shared \
        /opt/dreamforge/lib/python3.*/site-packages/supervisor
ENV PATH=/opt/dreamforge/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
# Empty and not ours: a `.env` is read from the current folder, and there is to be none.
WORKDIR /srv
EXPOSE 8001
# The command becomes the service (`execve`), so signals reach it and nothing stands in between.
ENTRYPOINT ["dreamforge"]
CMD ["api"]
