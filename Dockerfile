# syntax=docker/dockerfile:1.7
#
# One image a service:
#   docker build -t qaservice-eventstore:1.0 --build-arg="SERVICE=eventstore" .
# SERVICE is eventstore, projection, projector or monolith.

ARG SERVICE=monolith
ARG RUST_VERSION=1.95

# ------------------------------------------------------------------ building
FROM rust:${RUST_VERSION}-bookworm AS chef
RUN cargo install cargo-chef --version 0.1.78 --locked
WORKDIR /build

# What the dependencies are, without our own sources: changes seldom.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
ARG SERVICE
COPY --from=plan /build/recipe.json recipe.json
RUN case "$SERVICE" in \
      monolith) echo monolith ;; \
      eventstore|projection|projector) echo "$SERVICE-svc" ;; \
      *) echo "SERVICE must be eventstore, projection, projector or monolith, not '$SERVICE'" >&2; exit 1 ;; \
    esac > /package
# The layer of the dependencies.
RUN cargo chef cook --release --locked --package "$(cat /package)" --recipe-path recipe.json
COPY . .
# The program and the four libraries that it is linked with: the rest of the C library
# would be a third of the image.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN cargo build --release --locked --package "$(cat /package)" --bin "$(cat /package)" \
    && mkdir -p /image/data /image/root \
    && strip -o /image/root/service "target/release/$(cat /package)" \
    && ldd /image/root/service | grep -o '/[^ ]*' | xargs -I{} cp --parents --dereference {} /image/root

# ----------------------------------------------------------------- what runs
# No shell, no package manager; nonroot is user 65532.
FROM gcr.io/distroless/static-debian12:nonroot AS runtime
COPY --from=build /image/root/ /
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 CMD ["/service", "--health"]
ENTRYPOINT ["/service"]

FROM runtime AS image-eventstore
ENV IP_PORT=:8080
EXPOSE 8080

FROM runtime AS image-projection
ENV IP_PORT=:8081
EXPOSE 8081

FROM runtime AS image-projector
ENV IP_PORT=:8082
EXPOSE 8082

FROM runtime AS image-monolith
ENV IP_PORT=:8080,:8081 DATA_DIR=/data
COPY --from=build --chown=65532:65532 /image/data /data
VOLUME /data
EXPOSE 8080 8081

# hadolint ignore=DL3006
FROM image-${SERVICE}
