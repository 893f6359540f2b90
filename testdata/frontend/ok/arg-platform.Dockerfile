#> platform=linux/arm/v7
#> build-arg=TARGETVARIANT=v6
FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM
ARG TARGETVARIANT
ARG BUILDARCH
ARG TARGETSTAGE
RUN echo $TARGETARCH
FROM busybox AS out
COPY --from=build /x /x
