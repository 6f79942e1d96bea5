# docker build --target manager -t notification-manager .
# docker build --target datastorage -t notification-datastorage .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X kubernaut.ai/notification/internal/version.linked=${VERSION}" -o /bin/ ./cmd/manager ./cmd/datastorage

FROM gcr.io/distroless/static:nonroot AS datastorage
COPY --from=build /bin/datastorage /datastorage
USER 65532:65532
ENTRYPOINT ["/datastorage"]

FROM gcr.io/distroless/static:nonroot AS manager
COPY --from=build /bin/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
