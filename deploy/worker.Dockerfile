# `worker`, and the commands about models.
#
#     docker build --file deploy/worker.Dockerfile --tag dreamforge-worker:0.2.0 .
#
# torch, torchvision, CUDA and cuDNN are those of the base image; everything else is locks/worker.txt, by
# its hashes, in a virtual environment over the base's Python. That lock names no torch.
# The base has the torch that constraints.txt pins, built for CUDA 13.0: Turing to Blackwell, driver 580
# or newer. For older cards: --build-arg BASE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime.
ARG BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime

FROM ${BASE} AS packages
ARG SOURCE_DATE_EPOCH
RUN python3 -m venv --system-site-packages --without-pip /opt/dreamforge
WORKDIR /build
COPY locks/worker.txt ./
# The last line: another torch in the environment would hide the base's and add gigabytes, and a torchvision
# of another build than torch's cannot be imported, which breaks transformers too. Compiled by a call of its
# own: what pip compiles has the time of the build in it, and is compared with its source at each start.
RUN python3 -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-compile \
        --require-hashes --no-deps --requirement worker.txt \
    && /opt/dreamforge/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/dreamforge/lib \
    && /opt/dreamforge/bin/python -B -c "import torch, torchvision; assert not torch.__file__.startswith('/opt/dreamforge') and torch.version.cuda, torch.__file__"

FROM ${BASE} AS wheel
ARG SOURCE_DATE_EPOCH
WORKDIR /build
COPY locks/build.txt locks/
RUN python3 -m venv --without-pip /opt/build \
    && python3 -m pip --python /opt/build/bin/python install --no-cache-dir \
        --require-hashes --no-deps --requirement locks/build.txt
COPY pyproject.toml LICENSE README.md ./
COPY docs/licences.md docs/
COPY models models
COPY migrations migrations
COPY src src
RUN python3 -m pip --python /opt/build/bin/python wheel --no-cache-dir --no-build-isolation --no-deps \
        --wheel-dir /wheel .

FROM ${BASE}
ARG SOURCE_DATE_EPOCH
LABEL org.opencontainers.image.title="Dream Forge worker" \
      org.opencontainers.image.description="GPU worker of a self-hosted render fabric" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
# The two folders are there, and ours, so that a new volume mounted on them is ours as well.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dreamforge \
    && install --directory --owner 10001 --group 10001 /models /locks
COPY --from=packages /opt/dreamforge /opt/dreamforge
# A layer of its own, and all that a change of our sources makes anew. The link: the model that ships with
# the project, at a place that does not name Python's version.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    PYTHONDONTWRITEBYTECODE=1 python3 -m pip --python /opt/dreamforge/bin/python install --no-cache-dir --no-compile \
        --no-deps /wheel/*.whl \
    && /opt/dreamforge/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/dreamforge/lib/python3.*/site-packages/api \
        /opt/dreamforge/lib/python3.*/site-packages/cli \
        /opt/dreamforge/lib/python3.*/site-packages/dreamforge_client \
        /opt/dreamforge/lib/python3.*/site-packages/migrations \
        /opt/dreamforge/lib/python3.*/site-packages/runner \
        /opt/dreamforge/lib/python3.*/site-packages/shared \
        /opt/dreamforge/lib/python3.*/site-packages/supervisor \
    && ln --symbolic /opt/dreamforge/lib/python3.*/site-packages/models /opt/dreamforge/models
ENV PATH=/opt/dreamforge/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    DF_MODELS_DIR=/models \
    DF_LOCK_DIR=/locks
USER 10001:10001
WORKDIR /srv
EXPOSE 8002
ENTRYPOINT ["dreamforge"]
CMD ["worker"]
