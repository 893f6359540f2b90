#> build-arg=BUILDKIT_CACHE_MOUNT_NS=team
FROM busybox
RUN --mount=type=cache,target=/c --mount=type=cache,target=/d,id=d true
