FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM
RUN a
FROM --platform=$BUILDPLATFORM busybox
ARG TARGETOS TARGETARCH TARGETVARIANT
COPY --from=build / /
#> platform=linux/amd64
#> platform=linux/arm/v6
