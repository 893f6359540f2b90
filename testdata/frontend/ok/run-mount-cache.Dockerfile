#> build-arg=BUILDKIT_CACHE_MOUNT_NS=
#> context=files=directory
FROM busybox AS base
FROM busybox
ARG TARGETARCH
WORKDIR /w
RUN --mount=type=cache,target=/root/.cache/ one
RUN --mount=type=cache,target=rel,id=x-$TARGETARCH,sharing=locked two
RUN --mount=type=CACHE,dst=/c,sharing=Private,mode=0700,uid=1,gid=2,ro three
RUN --mount=type=cache,target=/d,from=base,source=/etc four
RUN --mount=type=cache,target=/e,from=base five
RUN --mount=type=cache,target=/f,from=files,source=seed six
RUN --mount=type=cache,target=/g,from=scratch seven
