#> platform=linux/arm64
#> build-arg=P=linux/s390x
ARG P=linux/amd64
FROM --platform=$P busybox AS a
RUN x
FROM --platform=${BUILDPLATFORM} busybox AS b
ARG BUILDPLATFORM TARGETPLATFORM
RUN y
FROM busybox
COPY --from=a a a
COPY --from=b b b
