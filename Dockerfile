# syntax=docker/dockerfile:1
# Two stages: deploy/image/rootfs.sh makes the root file system, the second takes
# it and nothing else. There is no shell in it, and no package manager.
#
#   docker build -t larkside --build-arg VERSION=v1.2.3 --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker buildx build --platform linux/amd64,linux/arm64 …
#
# For the same bytes each time, name the build image by digest, since a tag moves
# (docker buildx imagetools inspect golang:1.26.8-bookworm shows it), and let
# BuildKit write the layers' times anew:
#
#   SOURCE_DATE_EPOCH=0 docker buildx build --output type=oci,dest=larkside.tar,rewrite-timestamp=true \
#     --build-arg GO_IMAGE=golang:1.26.8-bookworm@sha256:… .
#
# Docker itself has not built it yet, since no daemon was there. test/deploy runs
# rootfs.sh on the files that .dockerignore lets in, and starts the program in the
# root file system that it makes, with the image's user and read-only.

ARG GO_IMAGE=golang:1.26.8-bookworm
FROM --platform=$BUILDPLATFORM $GO_IMAGE AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=devel
ARG REVISION=unknown
RUN TARGETOS="$TARGETOS" TARGETARCH="$TARGETARCH" VERSION="$VERSION" REVISION="$REVISION" \
    deploy/image/rootfs.sh /out

FROM scratch
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="larkside" \
      org.opencontainers.image.description="Adds each Lark user's access token to the calls of the app beside it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="scratch"
COPY --from=build /out/rootfs/ /
# A volume for SQLite is mounted there; it has to belong to the user that the
# container runs as.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
# SQLite's file and its key live here unless LARKSIDE_DATABASE_URL says otherwise.
WORKDIR /data
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/larkside", "healthcheck"]
ENTRYPOINT ["/larkside"]
