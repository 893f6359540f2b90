FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETARCH
RUN GOARCH=$TARGETARCH build
FROM debian
COPY --from=build /out /out
RUN native
#> platform=linux/amd64
#> platform=linux/arm64
