#> outline
#> targets
#> build-arg=GIVEN=given
# BASE what it stands on
ARG BASE=$NAME:latest
ARG NAME=busybox
# NAME which image
ARG NAME=busybox
ARG UNUSED=1
ARG BASE=$NAME
# unused is not built
FROM busybox AS unused
ARG OF_UNUSED
RUN --mount=type=secret,id=unused true
# tools makes tools
FROM $BASE AS tools
# VERSION of the tools
ARG VERSION=1
ARG NAME
RUN --mount=type=cache,target=/c --mount=type=secret,id=token,required true
FROM --platform=$BUILDPLATFORM busybox AS base
ARG VERSION=2
# final what comes out
FROM base AS final
# VERSION of the result
ARG VERSION=3 GIVEN
ARG UNSET
ARG TARGETARCH
COPY --from=tools /x /x
RUN --mount=type=ssh --mount=type=secret,id=token --mount=type=secret,id=e,env=E --mount=type=ssh,id=k,required true
