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
# libgcc_s is all that the program needs beside the C library of the final image.
RUN cargo build --release --locked --package "$(cat /package)" --bin "$(cat /package)" \
    && mkdir -p /image/data \
    && strip -o /image/service "target/release/$(cat /package)" \
    && cp --parents "/lib/$(uname -m)-linux-gnu/libgcc_s.so.1" /image

# ----------------------------------------------------------------- what runs
# No shell, no package manager; nonroot is user 65532.
FROM gcr.io/distroless/base-nossl-debian12:nonroot AS runtime
COPY --from=build /image/lib/ /lib/
COPY --from=build /image/service /service
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
