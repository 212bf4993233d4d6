# The two images of Bakehouse: the operator, which holds no engine, and the worker, which bakes.
#
#   docker build --target operator -t bakehouse-operator .
#   docker build --target worker   -t bakehouse-worker .
#
# compile everything in a Rust image. Binaries that are there already (a release, or the tests of e2e/, which must not compile twice)
# are used with `--build-arg BINARIES=prebuilt`, from a build context that holds bakehouse-operator, bakehouse, libonnxruntime.so and
# LICENSE. Stages that a target does not need are skipped, so neither way asks for the files of the other.
#
# The final images need glibc, libgcc and, for ONNX Runtime, libstdc++; no shell and no writable root. They run as user 65532.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
# Debian 12, as the base: a binary must not need a younger glibc than the image that it runs in.
ARG RUST=docker.io/library/rust:1.95-bookworm
ARG BINARIES=compiled

FROM ${RUST} AS source
WORKDIR /source
COPY . .

FROM source AS compiled-operator
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target,id=operator \
    cargo build --locked --release --no-default-features --features operator --target-dir /target && \
    mkdir /out && cp /target/release/bakehouse /out/bakehouse-operator && cp LICENSE /out/

FROM source AS compiled-worker
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target,id=worker \
    cargo build --locked --release --target-dir /target && \
    mkdir /out && cp /target/release/bakehouse LICENSE /out/ && cp "$(XDG_CACHE_HOME=/tmp/cache scripts/ort.sh)" /out/libonnxruntime.so

FROM scratch AS prebuilt-operator
COPY bakehouse-operator LICENSE /out/

FROM scratch AS prebuilt-worker
COPY bakehouse libonnxruntime.so LICENSE /out/

# COPY --from takes no variable, FROM does.
FROM ${BINARIES}-operator AS binaries-operator
FROM ${BINARIES}-worker AS binaries-worker

FROM ${BASE} AS operator
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bakehouse-operator" \
      org.opencontainers.image.description="Gives each BakeJob a worker, and tells in its status what came of it" \
      org.opencontainers.image.source="https://github.com/bakehouse-dev/bakehouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binaries-operator /out/bakehouse-operator /usr/local/bin/bakehouse
COPY --from=binaries-operator /out/LICENSE /licenses/LICENSE
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/bakehouse"]
CMD ["operator"]

FROM ${BASE} AS worker
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bakehouse-worker" \
      org.opencontainers.image.description="Bakes one ONNX model: smaller, faster, proven to keep its quality" \
      org.opencontainers.image.source="https://github.com/bakehouse-dev/bakehouse" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binaries-worker /out/libonnxruntime.so /usr/local/lib/libonnxruntime.so
COPY --from=binaries-worker /out/LICENSE /licenses/LICENSE
# Last, as it changes most: the library's layer is kept.
COPY --from=binaries-worker /out/bakehouse /usr/local/bin/bakehouse
ENV BAKEHOUSE_ORT_LIB=/usr/local/lib/libonnxruntime.so
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/bakehouse"]
CMD ["worker"]
