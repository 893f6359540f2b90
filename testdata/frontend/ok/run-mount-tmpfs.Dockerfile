FROM busybox AS base
FROM busybox
RUN --mount=type=tmpfs,target=/t one
RUN --mount=type=tmpfs,target=/t,size=1.5m,ro two
RUN --mount=type=tmpfs,target=/t,size=0,from=base,source=x three
