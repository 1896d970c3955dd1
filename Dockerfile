# syntax=docker/dockerfile:1
# Two stages: a static binary, and nothing else but certificates and time zones.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
ARG VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The directory is what a volume for SQLite is mounted on; it has to belong to
# the user that the container runs as.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
      go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /out/larkside ./cmd/larkside \
 && mkdir /out/data

FROM scratch
ARG VERSION=devel
LABEL org.opencontainers.image.title="larkside" \
      org.opencontainers.image.description="Adds each Lark user's access token to the calls of the app beside it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/larkside /larkside
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
# SQLite's file and its key live here unless LARKSIDE_DATABASE_URL says otherwise.
WORKDIR /data
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/larkside", "healthcheck"]
ENTRYPOINT ["/larkside"]
