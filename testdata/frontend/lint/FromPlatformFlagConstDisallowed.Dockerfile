FROM --platform=linux/arm64 busybox AS a
FROM --platform=linux/amd64 busybox AS build-amd64
COPY --from=a / /
